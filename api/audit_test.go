package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// fakeAudit answers with what a test put there and keeps what it was asked.
type fakeAudit struct {
	mu      sync.Mutex
	err     error
	page    apitype.AuditPage
	check   apitype.AuditCheck
	file    apitype.AuditExportCheck
	export  string
	breaks  error // after the export
	who     keystore.Person
	since   *uint64
	limit   int
	given   string // the export that was to be checked
	refused map[string]int
	enter   chan struct{} // not nil: an export says that it began
	leave   chan struct{} // and waits for this
}

func (f *fakeAudit) AuditPage(_ context.Context, p keystore.Person, since *uint64, limit int) (apitype.AuditPage, error) {
	f.who, f.since, f.limit = p, since, limit
	return f.page, f.err
}

func (f *fakeAudit) AuditVerify(context.Context) (apitype.AuditCheck, error) { return f.check, f.err }

func (f *fakeAudit) AuditExport(_ context.Context, w io.Writer) error {
	if f.enter != nil {
		f.enter <- struct{}{}
		<-f.leave
	}
	_, err := io.WriteString(w, f.export)
	return errors.Join(err, f.breaks)
}

func (f *fakeAudit) AuditVerifyExport(_ context.Context, r io.Reader) (apitype.AuditExportCheck, error) {
	b, err := io.ReadAll(r)
	f.given = string(b)
	if err != nil {
		return apitype.AuditExportCheck{Wrong: err.Error()}, nil
	}
	return f.file, f.err
}

func (f *fakeAudit) AuditRefused(kind Kind, status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused[fmt.Sprint(kind, " ", status)]++
}

func (f *fakeAudit) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused[what]
}

func sampleAudit() *fakeAudit {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &fakeAudit{
		page: apitype.AuditPage{Last: 9, Next: 8, Items: []apitype.AuditEntry{
			{Position: 7, Time: now, Kind: "release", ID: hash(1).String(), Name: "demo/db", Person: key.GeneratePerson().Public().String(),
				Node: nodeID(1).String(), Request: hash(5).String(), Detail: "generation 7", RequestID: "r1", Hash: hash(3).String()},
			{Position: 8, Time: now, Kind: "strangers", Hash: hash(4).String()},
		}},
		check: apitype.AuditCheck{Intact: true, Node: nodeID(0).String(), First: 1, Last: 9, Hash: hash(3).String(), Witnessed: 8, Asked: 2, Answered: 1,
			Peers: []apitype.AuditPeer{{Node: nodeID(1).String(), Name: "n2", Online: true, Position: 8, Signed: now, Theirs: 4, TheirsSigned: now},
				{Node: nodeID(2).String(), Contradiction: apitype.AuditTheirs, Proof: [][]byte{{1}, {2}}}}},
		file:    apitype.AuditExportCheck{Intact: true, Node: nodeID(1).String(), Last: 9, Hash: hash(3).String(), Signed: now, Heads: 2},
		export:  "{\"keymesh\":\"audit log\"}\n{\"end\":0}\n",
		refused: map[string]int{},
	}
}

func TestAuditPage(t *testing.T) {
	e := newEnv(t)
	var got apitype.AuditPage
	e.ok(req{path: apitype.PathAudit + "?since=6&limit=2&as=other"}, 200, &got)
	if len(got.Items) != 2 || got.Items[0] != e.audit.page.Items[0] || got.Last != 9 || got.Next != 8 {
		t.Errorf("%+v", got)
	}
	if e.audit.since == nil || *e.audit.since != 6 || e.audit.limit != 2 || e.audit.who.Key.Public() != e.other.Key.Public() {
		t.Errorf("asked since %v, limit %d", e.audit.since, e.audit.limit)
	}
	e.audit.page.Items = nil
	r := e.ok(req{path: apitype.PathAudit}, 200, nil)
	if e.audit.since != nil || e.audit.limit != 100 || strings.Contains(string(r.body), "null") {
		t.Errorf("asked since %v, limit %d: %s", e.audit.since, e.audit.limit, r.body)
	}
	for _, q := range []string{"since=-1", "since=x", "since=1&since=2", "limit=0", "limit=1001", "limit=x", "unknown=1"} {
		e.want(req{path: apitype.PathAudit + "?" + q}, apitype.Invalid)
	}
	e.want(req{path: apitype.PathAudit + "?as=nobody"}, apitype.Unprocessable)
}

func TestAuditVerifyAndExport(t *testing.T) {
	e := newEnv(t)
	var got apitype.AuditCheck
	if e.ok(req{path: apitype.PathAuditVerify}, 200, &got); !got.Intact || got.Witnessed != 8 || len(got.Peers) != 2 || len(got.Peers[1].Proof) != 2 {
		t.Errorf("%+v", got)
	}
	e.audit.check = apitype.AuditCheck{Wrong: "entry 3", Node: nodeID(0).String(), Hash: hash(3).String()}
	if e.ok(req{path: apitype.PathAuditVerify}, 200, &got); got.Intact || got.Wrong != "entry 3" {
		t.Errorf("%+v", got)
	}
	r := e.ok(req{path: apitype.PathAuditExport}, 200, nil)
	if string(r.body) != e.audit.export || r.header.Get("Content-Type") != apitype.TypeAudit {
		t.Errorf("%q, %s", r.body, r.header.Get("Content-Type"))
	}
	var file apitype.AuditExportCheck
	export := strings.Repeat("x", 2*apitype.MaxBody) // more than another body may have
	e.ok(req{method: "POST", path: apitype.PathAuditVerify, body: export, header: http.Header{"Content-Type": {apitype.TypeAudit}}}, 200, &file)
	if e.audit.given != export || file != e.audit.file {
		t.Errorf("%d bytes arrived: %+v", len(e.audit.given), file)
	}
}

// TestAuditExportBreaks: what broke off is never taken for the whole.
func TestAuditExportBreaks(t *testing.T) {
	e := newEnv(t)
	e.audit.breaks = errors.New("the disk is gone")
	resp, err := e.unix.Get("http://keymesh" + apitype.PathAuditExport)
	if err != nil {
		return // it broke before anything was sent
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer ended well: %q", b)
	}
}

// TestAuditRefusals gets every documented refusal of these paths.
func TestAuditRefusals(t *testing.T) {
	e := newEnv(t)
	lines := http.Header{"Content-Type": {apitype.TypeAudit}}
	all := []req{{path: apitype.PathAudit}, {path: apitype.PathAuditVerify}, {path: apitype.PathAuditExport},
		{method: "POST", path: apitype.PathAuditVerify, body: "x", header: lines}}
	for _, good := range all {
		change := func(f func(*req)) req {
			q := good
			f(&q)
			return q
		}
		e.want(change(func(q *req) { q.path += "?nothing=1" }), apitype.Invalid)
		e.want(change(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		e.want(change(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
		fillSlots(e.server, func() { e.want(good, apitype.RateLimited) })
		if good.path != apitype.PathAuditExport {
			e.audit.err = errors.New("no")
			e.want(good, apitype.Internal)
			e.audit.err = nil
		}
		if good.path != apitype.PathAudit && good.path != apitype.PathAuditExport {
			e.audit.err = context.DeadlineExceeded
			e.want(good, apitype.Timeout)
			e.audit.err = nil
		}
	}
	if e.audit.count("tcp 401") != 4 || e.audit.count("unix 403") != 4 {
		t.Errorf("noted: %v", e.audit.refused)
	}
	e.audit.err = apitype.NewProblem(apitype.Damaged, "entry 3")
	if p := e.want(req{path: apitype.PathAudit}, apitype.Damaged); !strings.Contains(p.Detail, "entry 3") {
		t.Errorf("%q", p.Detail)
	}
	e.audit.err = nil
	upload := req{method: "POST", path: apitype.PathAuditVerify, body: "{}"}
	e.want(upload, apitype.MediaType) // JSON
	upload.header = http.Header{"Content-Type": {"text/plain"}}
	e.want(upload, apitype.MediaType)
	e.server.cfg.Audit = nil
	for _, q := range all {
		e.want(q, apitype.Unavailable)
	}
}

// TestAuditUploadIsBounded without sending a gibibyte.
func TestAuditUploadIsBounded(t *testing.T) {
	u := &untilDone{ctx: t.Context(), r: strings.NewReader("abc"), n: apitype.MaxAuditExport - 2}
	if n, err := u.Read(make([]byte, 3)); n != 0 || err == nil || !u.long {
		t.Errorf("%d, %v, %+v", n, err, u)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u = &untilDone{ctx: ctx, r: strings.NewReader("abc")}
	if n, err := u.Read(make([]byte, 3)); n != 0 || !errors.Is(err, context.Canceled) || u.err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestAuditExportsAtOnce: the fifth has to wait.
func TestAuditExportsAtOnce(t *testing.T) {
	e := newEnv(t)
	e.audit.enter, e.audit.leave = make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for range maxStreams {
		all.Go(func() {
			if resp, err := e.unix.Get("http://keymesh" + apitype.PathAuditExport); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
		<-e.audit.enter
	}
	e.want(req{path: apitype.PathAuditExport}, apitype.RateLimited)
	close(e.audit.leave)
	all.Wait()
	e.audit.enter = nil
	e.ok(req{path: apitype.PathAuditExport}, 200, nil)
}
