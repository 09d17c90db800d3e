package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
)

// fakeIdentities answers with what a test put there and keeps what it was asked.
type fakeIdentities struct {
	err    error
	panic  any
	kit    apitype.Kit
	asked  apitype.KitRequest
	text   []byte // of asked, copied
	who    string
	person apitype.PersonInfo
	file   apitype.PersonFile
	pass   []byte
	name   string
}

func (f *fakeIdentities) begin() error {
	if f.panic != nil {
		panic(f.panic)
	}
	return f.err
}

func (f *fakeIdentities) Kit(_ context.Context, person string, r apitype.KitRequest) (apitype.Kit, error) {
	f.who, f.asked, f.text = person, r, bytes.Clone(r.Text)
	out := f.kit
	if r.Act == apitype.KitMake {
		out.Text, out.Page = apitype.Bytes(marker), apitype.Bytes(marker)
	}
	return out, f.begin()
}

func (f *fakeIdentities) ListPersons(context.Context) []apitype.PersonInfo {
	_ = f.begin()
	return []apitype.PersonInfo{f.person}
}

func (f *fakeIdentities) NewPerson(_ context.Context, name string) (apitype.PersonInfo, error) {
	f.name = name
	return f.person, f.begin()
}

func (f *fakeIdentities) ExportPerson(_ context.Context, r apitype.PersonExport) (apitype.PersonFile, error) {
	f.name, f.pass = r.Name, bytes.Clone(r.Passphrase)
	return f.file, f.begin()
}

func (f *fakeIdentities) ImportPerson(_ context.Context, r apitype.PersonImport) (apitype.PersonInfo, error) {
	f.name, f.pass = r.Name, bytes.Clone(r.Passphrase)
	return f.person, f.begin()
}

func identityEnv(t *testing.T) (*env, *fakeIdentities) {
	t.Helper()
	owner := key.GeneratePerson().Public().String()
	f := &fakeIdentities{
		kit: apitype.Kit{Kind: "kit", Network: key.NetworkID{1}.String(), Owner: owner, Name: "owner", Made: time.Now(), Current: true,
			Nodes: []apitype.KitNode{{Node: nodeID(1).String(), Addrs: []string{"10.0.0.1:1"}}, {Node: nodeID(2).String()}}},
		person: apitype.PersonInfo{Name: "owner", Person: owner, Default: true, Recovery: owner, Code: true},
		file:   apitype.PersonFile{File: apitype.Bytes(marker), Name: "owner", Person: owner},
	}
	return newEnv(t, func(e *env) { e.server.cfg.Identities = f }), f
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// identityWrites are the paths that take a body, each with a good one.
func identityWrites() map[string]req {
	return map[string]req{
		apitype.PathKit:          {method: "POST", path: apitype.PathKit, body: `{"act":"make"}`},
		apitype.PathPersons:      {method: "POST", path: apitype.PathPersons, body: `{"name":"anna"}`},
		apitype.PathPersonExport: {method: "POST", path: apitype.PathPersonExport, body: `{"name":"anna","passphrase":"` + b64("correct horse") + `"}`},
		apitype.PathPersonImport: {method: "POST", path: apitype.PathPersonImport, body: `{"file":"` + b64("f") + `","passphrase":"` + b64("correct horse") + `"}`},
	}
}

func TestKitOverTheAPI(t *testing.T) {
	e, f := identityEnv(t)
	var got apitype.Kit
	e.ok(req{method: "POST", path: apitype.PathKit + "?as=other", body: `{"act":"make"}`}, 200, &got)
	if string(got.Text) != marker || f.who != "other" || len(got.Nodes) != 2 || got.Nodes[1].Addrs == nil {
		t.Errorf("%+v for %q", got.Nodes, f.who)
	}
	e.ok(req{method: "POST", path: apitype.PathKit, body: `{"act":"rotate"}`}, 200, &got)
	if f.asked.Act != apitype.KitRotate {
		t.Errorf("asked %q", f.asked.Act)
	}
	e.ok(req{method: "POST", path: apitype.PathKit, body: `{"act":"erase","text":"` + b64("the kit") + `"}`}, 200, &got)
	if string(f.text) != "the kit" || f.asked.Act != apitype.KitErase {
		t.Errorf("asked %q with %q", f.asked.Act, f.text)
	}
	for _, body := range []string{`{"act":"burn"}`, `{"act":"check"}`, `{"act":"list"}`, `{"act":"erase"}`, `{"act":"make","text":"` + b64("x") + `"}`,
		`{"act":"check","text":"` + b64(strings.Repeat("x", maxKitBody+1)) + `"}`} {
		f.asked.Act = ""
		e.want(req{method: "POST", path: apitype.PathKit, body: body}, apitype.Unprocessable)
		if f.asked.Act != "" {
			t.Errorf("%.40s reached the node", body)
		}
	}
	if log := e.log.String(); strings.Contains(log, marker) || strings.Contains(log, b64(marker)) {
		t.Error("the log holds a kit")
	}
}

func TestPersonsOverTheAPI(t *testing.T) {
	e, f := identityEnv(t)
	var list apitype.Persons
	e.ok(req{path: apitype.PathPersons}, 200, &list)
	var p apitype.PersonInfo
	e.ok(identityWrites()[apitype.PathPersons], 201, &p)
	if len(list.Items) != 1 || p != f.person || f.name != "anna" {
		t.Error("another person")
	}
	var file apitype.PersonFile
	e.ok(identityWrites()[apitype.PathPersonExport], 200, &file)
	if string(file.File) != marker || string(f.pass) != "correct horse" || f.name != "anna" {
		t.Error("another export")
	}
	f.pass = nil
	e.ok(identityWrites()[apitype.PathPersonImport], 201, &p)
	if string(f.pass) != "correct horse" {
		t.Error("another import")
	}
	big := `{"file":"` + b64(strings.Repeat("x", maxKitBody+1)) + `","passphrase":"` + b64("correct horse") + `"}`
	e.want(req{method: "POST", path: apitype.PathPersonImport, body: big}, apitype.Unprocessable)
	if log := e.log.String(); strings.Contains(log, "correct horse") || strings.Contains(log, b64("correct horse")) {
		t.Error("the log holds a passphrase")
	}
}

// TestIdentityRefusals gets every documented refusal of these paths.
func TestIdentityRefusals(t *testing.T) {
	e, f := identityEnv(t)
	for path, good := range identityWrites() {
		change := func(f func(*req)) req {
			q := good
			f(&q)
			return q
		}
		e.want(change(func(q *req) { q.body = `{"unknown":1}` }), apitype.Invalid)
		e.want(change(func(q *req) { q.body = strings.Repeat(" ", apitype.MaxBody+1) }), apitype.TooLarge)
		e.want(change(func(q *req) { q.noType = true }), apitype.MediaType)
		e.want(change(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		e.want(change(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
		f.err = apitype.NewProblem(apitype.Unprocessable, "no")
		e.want(good, apitype.Unprocessable)
		f.err = errors.New("the disk is gone")
		e.want(good, apitype.Internal)
		f.err = nil
		e.server.cfg.Identities = nil
		e.want(good, apitype.Unavailable)
		e.server.cfg.Identities = f
		fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
		e.want(change(func(q *req) { q.method, q.body = http.MethodDelete, "" }), apitype.Method)
		_ = path
	}
	list := req{path: apitype.PathPersons}
	e.want(req{path: apitype.PathPersons + "?x=1"}, apitype.Invalid)
	e.want(req{path: apitype.PathPersons, tcp: true, noToken: true}, apitype.Unauthorized)
	e.want(req{path: apitype.PathPersons, host: "evil.example"}, apitype.Forbidden)
	fillSlots(e.server, func() { e.want(list, apitype.RateLimited) })
	f.panic = "boom"
	e.want(list, apitype.Internal)
	f.panic = nil
	e.server.cfg.Identities = nil
	e.want(list, apitype.Unavailable)
}

// fillSlots makes the server busy for the time of f.
func fillSlots(s *Server, f func()) {
	for range cap(s.slots) {
		s.slots <- struct{}{}
	}
	f()
	for range cap(s.slots) {
		<-s.slots
	}
}
