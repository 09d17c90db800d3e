package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"keymesh/api/apitype"
)

// unreachable are documented answers that no test of this package gets, with
// the reason.
var unreachable = map[string]string{
	"POST /api/v1/secrets/{name}/refresh 503":  "a job begins while its listener ends",
	"POST /api/v1/secrets/{name}/rehearse 503": "a job begins while its listener ends",
	"POST /api/v1/secrets/{name}/verify 503":   "a job begins while its listener ends",
	"POST /api/v1/secrets/{name}/repair 503":   "a job begins while its listener ends",
	"POST /api/v1/secrets/{name}/reshare 503":  "a job begins while its listener ends",
	"POST /api/v1/peers/{id}/drain 503":        "a job begins while its listener ends",
	"POST /api/v1/peers/{id}/replace 503":      "a job begins while its listener ends",
	"POST /api/v1/audit/verify 413":            "it takes a body of 1 GiB; see TestAuditUploadIsBounded",
}

// covered are the documented answers that tests got.
var covered = struct {
	sync.Mutex
	hit map[string]bool
}{hit: map[string]bool{}}

var document = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPIDocument)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

func loadDocument(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return doc
}

// contract holds an answer to openapi.yaml: the status is documented there, and
// headers and body are of the documented form. An answer to something that is
// not documented (a path that does not exist, a method that is not known) must
// be a documented problem.
func contract(t *testing.T, r *http.Request, a result) {
	t.Helper()
	doc := loadDocument(t)
	pattern, _ := route(r.Method, r.URL.EscapedPath())
	item := doc.Paths.Value(pattern)
	var op *openapi3.Operation
	if item != nil {
		op = item.GetOperation(r.Method)
	}
	if op == nil {
		if a.status != 404 && a.status != 405 && a.status != 403 && a.status != 401 {
			t.Errorf("%s %s is not documented and answers %d", r.Method, pattern, a.status)
		}
		visit(t, doc, "Problem", a.body)
		return
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: r,
			Route:   &routers.Route{Spec: doc, Path: pattern, PathItem: item, Method: r.Method, Operation: op},
		},
		Status: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		t.Errorf("%s %s: the answer %d is not as documented: %v\n%.500s", r.Method, pattern, a.status, err, a.body)
		return
	}
	covered.Lock()
	defer covered.Unlock()
	covered.hit[fmt.Sprintf("%s %s %d", r.Method, pattern, a.status)] = true
}

func visit(t *testing.T, doc *openapi3.T, schema string, body []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Errorf("not JSON: %.200q", body)
		return
	}
	if err := doc.Components.Schemas[schema].Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("not a %s: %v", schema, err)
	}
}

// documented returns every "METHOD path status" of the document.
func documented(doc *openapi3.T) (out []string) {
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				out = append(out, method+" "+path+" "+status)
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestMain fails a full run in which some documented answer was never seen.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	full := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.fuzz").Value.String() == "" &&
		flag.Lookup("test.list").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
	if doc, err := document(); code == 0 && full && err == nil {
		for _, d := range documented(doc) {
			why, listed := unreachable[d]
			switch {
			case !covered.hit[d] && !listed:
				fmt.Fprintln(os.Stderr, "openapi.yaml: no test got", d)
				code = 1
			case covered.hit[d] && listed:
				fmt.Fprintf(os.Stderr, "openapi.yaml: %s is listed as unreachable (%s) and was reached\n", d, why)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// TestContractCanFail plants answers that break the document.
func TestContractCanFail(t *testing.T) {
	doc := loadDocument(t)
	item := doc.Paths.Value("/api/v1/secrets/{name}")
	good := `{"name":"a","id":"` + hash(1).String() + `","gen":1,"n":5,"k":3,"w":4,"acked":4,"seats":[],"created":true}`
	for name, c := range map[string]struct {
		status int
		media  string
		body   string
		want   bool
	}{
		"good":              {201, "application/json", good, true},
		"undocumented":      {418, "application/json", good, false},
		"media type":        {201, "text/html", good, false},
		"missing member":    {201, "application/json", strings.Replace(good, `"acked":4,`, "", 1), false},
		"wrong pattern":     {201, "application/json", strings.Replace(good, hash(1).String(), "xyz", 1), false},
		"null list":         {201, "application/json", strings.Replace(good, "[]", "null", 1), false},
		"wrong type":        {201, "application/json", strings.Replace(good, `"gen":1`, `"gen":"1"`, 1), false},
		"unknown problem":   {409, "application/problem+json", `{"type":"urn:x","title":"t","status":409,"exit_code":9}`, false},
		"missing header":    {201, "application/json", good, false},
		"problem in a good": {201, "application/problem+json", `{"type":"urn:keymesh:problem:conflict","title":"t","status":409,"exit_code":9}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{"Content-Type": {c.media}, "X-Request-Id": {"r"}}
			if name == "missing header" {
				h.Del("X-Request-Id")
			}
			r, _ := http.NewRequest("PUT", "http://keymesh/api/v1/secrets/a", nil)
			in := &openapi3filter.ResponseValidationInput{
				RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: &routers.Route{Spec: doc, PathItem: item, Method: "PUT", Operation: item.Put}},
				Status:                 c.status, Header: h, Body: io.NopCloser(strings.NewReader(c.body)),
				Options: &openapi3filter.Options{IncludeResponseStatus: true},
			}
			if err := openapi3filter.ValidateResponse(context.Background(), in); (err == nil) != c.want {
				t.Errorf("validation says %v", err)
			}
		})
	}
}

// TestDocumentNamesEveryEndpoint holds the document and the routes together.
func TestDocumentNamesEveryEndpoint(t *testing.T) {
	doc := loadDocument(t)
	if doc.OpenAPI != "3.1.0" || !doc.IsOpenAPI31OrLater() {
		t.Errorf("version %q", doc.OpenAPI)
	}
	var routes, docs []string
	for pattern, methods := range newEnv(t).server.routes {
		for m := range methods {
			routes = append(routes, m+" "+pattern)
		}
	}
	for path, item := range doc.Paths.Map() {
		for m := range item.Operations() {
			docs = append(docs, m+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(docs)
	if !slices.Equal(routes, docs) {
		t.Errorf("routes:   %q\ndocument: %q", routes, docs)
	}
}

// TestDocumentHasEveryMember holds the schemas and the Go types together, both
// ways.
func TestDocumentHasEveryMember(t *testing.T) {
	doc := loadDocument(t)
	types := map[string]any{
		"Problem": apitype.Problem{}, "PeerState": apitype.PeerState{}, "Bad": apitype.Bad{}, "Seat": apitype.Seat{},
		"PutRequest": apitype.PutRequest{}, "Policy": apitype.Policy{}, "KOf": apitype.KOf{}, "Delay": apitype.Delay{}, "PutResult": apitype.PutResult{},
		"RecoverRequest": apitype.RecoverRequest{}, "Recovered": apitype.Recovered{}, "DeleteResult": apitype.DeleteResult{},
		"Listed": apitype.Listed{}, "Page": apitype.Page{}, "Margin": apitype.Margin{}, "Info": apitype.Info{},
		"Version": apitype.Version{}, "Peer": apitype.Peer{}, "Peers": apitype.Peers{}, "InviteRequest": apitype.InviteRequest{}, "Removed": apitype.Removed{}, "Ping": apitype.Ping{},
		"Invite": apitype.Invite{}, "Person": apitype.Person{}, "Storage": apitype.Storage{}, "AuditState": apitype.AuditState{}, "Check": apitype.Check{},
		"Secrets": apitype.Secrets{}, "Status": apitype.Status{}, "State": state{},
		"Contact": apitype.Contact{}, "Contacts": apitype.Contacts{}, "NewContact": apitype.NewContact{}, "PolicyTest": apitype.PolicyTest{},
		"PolicyVerdict": apitype.PolicyVerdict{}, "Way": apitype.Way{}, "Alone": apitype.Alone{},
		"Pending": apitype.Pending{}, "Request": apitype.Request{}, "Said": apitype.Said{}, "Requests": apitype.Requests{}, "Word": apitype.Word{}, "Heard": apitype.Heard{},
		"Job": apitype.Job{}, "ReshareRequest": apitype.ReshareRequest{}, "Refreshed": apitype.Refreshed{}, "Verified": apitype.Verified{}, "Repaired": apitype.Repaired{}, "RepairRequest": apitype.RepairRequest{}, "Moved": apitype.Moved{}, "MoveProgress": apitype.MoveProgress{}, "MoveResult": apitype.MoveResult{}, "ReplaceRequest": apitype.ReplaceRequest{}, "Rehearsal": apitype.Rehearsal{}, "Approver": apitype.Approver{},
		"Ask": apitype.Ask{}, "ReceiptRequest": apitype.ReceiptRequest{}, "Receipt": apitype.Receipt{}, "Release": apitype.Release{},
		"KitRequest": apitype.KitRequest{}, "Kit": apitype.Kit{}, "KitNode": apitype.KitNode{}, "KitSecret": apitype.KitSecret{}, "PersonInfo": apitype.PersonInfo{},
		"AuditEntry": apitype.AuditEntry{}, "AuditPage": apitype.AuditPage{}, "AuditCheck": apitype.AuditCheck{}, "AuditPeer": apitype.AuditPeer{},
		"AuditExportCheck": apitype.AuditExportCheck{}, "Event": apitype.Event{},
		"Persons": apitype.Persons{}, "NewPerson": apitype.NewPerson{}, "PersonExport": apitype.PersonExport{},
		"PersonFile": apitype.PersonFile{}, "PersonImport": apitype.PersonImport{},
	}
	for name, s := range doc.Components.Schemas {
		v, ok := types[name]
		if !ok {
			if s.Value.Properties != nil {
				t.Errorf("schema %s has no Go type in this test", name)
			}
			continue
		}
		in := map[string]bool{}
		for p := range s.Value.Properties {
			in[p] = true
		}
		for _, sub := range s.Value.AllOf {
			for p := range sub.Value.Properties {
				in[p] = true
			}
		}
		members := map[string]bool{}
		collect(reflect.TypeOf(v), members)
		if !reflect.DeepEqual(in, members) {
			t.Errorf("schema %s has %v\nthe Go type has %v", name, in, members)
		}
	}
}

func collect(t reflect.Type, into map[string]bool) {
	for f := range t.Fields() {
		if f.Anonymous {
			collect(f.Type, into)
			continue
		}
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
			into[name] = true
		}
	}
}

func TestDocumentListsEveryProblemType(t *testing.T) {
	var want []any
	for _, k := range apitype.Kinds() {
		want = append(want, string(k.Type))
	}
	got := loadDocument(t).Components.Schemas["Problem"].Value.Properties["type"].Value.Enum
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the document has %v\nthe table %v", got, want)
	}
}

func TestDocumentIsServed(t *testing.T) {
	e := newEnv(t)
	r := e.ok(req{path: apitype.PathOpenAPI}, 200, nil)
	if !bytes.Equal(r.body, openAPIDocument) {
		t.Error("another document")
	}
	if strings.Contains(string(r.body), "/metrics") {
		t.Error("the document promises what this version does not have")
	}
}
