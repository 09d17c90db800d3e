package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// fakeSecrets answers with what a test put there and keeps what it was asked.
type fakeSecrets struct {
	mu        sync.Mutex
	err       error
	panic     any
	block     chan struct{} // not nil: Put waits for it or for the context
	entered   chan struct{} // not nil: a blocking Put says that it began
	puts      int
	value     []byte // of the last put, copied
	alias     []byte // the same, not copied
	name      string
	who       keystore.Person
	putO      keystore.PutOptions
	recO      keystore.RecoverOptions
	delO      keystore.DeleteOptions
	listO     keystore.ListOptions
	put       keystore.PutResult
	rec       keystore.Recovered
	del       keystore.DeleteResult
	page      keystore.Page
	info      keystore.Info
	sum       keystore.Counts
	refreshed *keystore.Refreshed
	ver       keystore.Verified
	rep       keystore.Repaired
	repO      keystore.RepairOptions
	moved     *keystore.Moved
	moves     []keystore.MoveProgress // told before the end
	moveFrom  key.NodeID
	moveTo    key.NodeID
	drained   map[key.NodeID]bool
}

func (f *fakeSecrets) Move(ctx context.Context, p keystore.Person, from, to key.NodeID, progress func(keystore.MoveProgress)) (*keystore.Moved, error) {
	for _, at := range f.moves {
		progress(at)
	}
	f.mu.Lock()
	f.moveFrom, f.moveTo = from, to
	block := f.block
	f.mu.Unlock()
	if block != nil {
		f.entered <- struct{}{}
		select {
		case <-block:
		case <-ctx.Done():
			return f.moved, ctx.Err()
		}
	}
	return f.moved, f.begin(p, "")
}

func (f *fakeSecrets) Drain(_ context.Context, p keystore.Person, node key.NodeID, on bool) error {
	f.drained = map[key.NodeID]bool{node: on}
	return f.begin(p, "")
}

func (f *fakeSecrets) Verify(_ context.Context, p keystore.Person, name string, _ time.Duration) (*keystore.Verified, error) {
	err := f.begin(p, name)
	return &f.ver, err
}

func (f *fakeSecrets) Repair(_ context.Context, p keystore.Person, name string, o keystore.RepairOptions) (*keystore.Repaired, error) {
	err := f.begin(p, name)
	f.repO = o
	return &f.rep, err
}

func (f *fakeSecrets) begin(p keystore.Person, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.who, f.name = p, name
	if f.panic != nil {
		panic(f.panic)
	}
	return f.err
}

func (f *fakeSecrets) Refresh(_ context.Context, p keystore.Person, name string, _ time.Duration) (*keystore.Refreshed, error) {
	return f.refreshed, f.begin(p, name)
}

func (f *fakeSecrets) Reshare(ctx context.Context, p keystore.Person, name string, o keystore.PutOptions) (keystore.PutResult, error) {
	return f.Put(ctx, p, name, nil, o)
}

func (f *fakeSecrets) Put(ctx context.Context, p keystore.Person, name string, value []byte, o keystore.PutOptions) (keystore.PutResult, error) {
	f.mu.Lock()
	f.puts++
	f.value, f.alias, f.putO = bytes.Clone(value), value, o
	block := f.block
	f.mu.Unlock()
	if block != nil {
		f.entered <- struct{}{}
		select {
		case <-block:
		case <-ctx.Done():
			return keystore.PutResult{}, ctx.Err()
		}
	}
	return f.put, f.begin(p, name)
}

func (f *fakeSecrets) Plan(_ context.Context, p keystore.Person, name string, size int, o keystore.PutOptions) (keystore.PutResult, error) {
	f.putO = o
	return f.put, f.begin(p, name)
}

func (f *fakeSecrets) Recover(_ context.Context, p keystore.Person, name string, o keystore.RecoverOptions) (keystore.Recovered, error) {
	f.recO = o
	return f.rec, f.begin(p, name)
}

func (f *fakeSecrets) Delete(_ context.Context, p keystore.Person, name string, o keystore.DeleteOptions) (keystore.DeleteResult, error) {
	f.delO = o
	return f.del, f.begin(p, name)
}

func (f *fakeSecrets) List(_ context.Context, p keystore.Person, o keystore.ListOptions) (keystore.Page, error) {
	f.listO = o
	return f.page, f.begin(p, "")
}

func (f *fakeSecrets) Info(_ context.Context, p keystore.Person, name string) (keystore.Info, error) {
	return f.info, f.begin(p, name)
}

func (f *fakeSecrets) Summary(_ context.Context, p keystore.Person) (keystore.Counts, error) {
	return f.sum, f.begin(p, "")
}

type fakeMesh struct {
	status  apitype.Mesh
	peers   []apitype.Peer
	ready   bool
	invite  apitype.Invite
	err     error
	panic   any
	invited apitype.InviteRequest
	removed key.NodeID
}

func (f *fakeMesh) Status(context.Context) apitype.Mesh {
	if f.panic != nil {
		panic(f.panic)
	}
	return f.status
}

func (f *fakeMesh) Peers(context.Context) []apitype.Peer {
	if f.panic != nil {
		panic(f.panic)
	}
	return f.peers
}

func (f *fakeMesh) Remove(_ context.Context, id key.NodeID) error {
	f.removed = id
	return f.err
}

func (f *fakeMesh) Ping(_ context.Context, id key.NodeID) (time.Duration, error) {
	f.removed = id
	return 1500 * time.Microsecond, f.err
}

func (f *fakeMesh) Ready(context.Context) bool { return f.ready }
func (f *fakeMesh) Invite(_ context.Context, r apitype.InviteRequest) (apitype.Invite, error) {
	f.invited = r
	return f.invite, f.err
}

// nodeID is the id of the i-th node of a test.
func nodeID(i byte) key.NodeID { return key.NodePublic{1: i}.ID() }

func hash(i byte) key.Hash { return key.Hash{1: i, 31: 7} }

const marker = "hunter2-MARKER"

var testToken = []byte("test-token-0123456789")

// env is a server on both kinds of listener, with its fakes.
type env struct {
	t       *testing.T
	secrets *fakeSecrets
	asks    *fakeRequests
	mesh    *fakeMesh
	audit   *fakeAudit
	server  *Server
	log     *syncBuffer
	person  keystore.Person
	other   keystore.Person
	socket  string
	addr    string
	stop    context.CancelFunc // of both listeners
	unix    *http.Client
	tcp     *http.Client
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newEnv(t *testing.T, change ...func(*env)) *env {
	t.Helper()
	e := &env{t: t, secrets: sampleSecrets(), asks: sampleRequests(), mesh: sampleMesh(), audit: sampleAudit(), log: &syncBuffer{}}
	e.person = keystore.Person{Name: "me", Key: key.GeneratePerson()}
	e.other = keystore.Person{Name: "other", Key: key.GeneratePerson()}
	var err error
	e.server, err = New(Config{
		Secrets: e.secrets, Requests: e.asks, Mesh: e.mesh, Audit: e.audit, Version: apitype.Version{Version: "v0-test", Protocol: 1}, Token: testToken,
		Persons: func(name string) (keystore.Person, bool) {
			switch name {
			case "":
				return e.person, true
			case "other":
				return e.other, true
			}
			return keystore.Person{}, false
		},
		Log:   slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Hosts: []string{"node.example"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(e)
	}
	e.start()
	return e
}

func (e *env) start() {
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	e.socket = filepath.Join(e.t.TempDir(), "api.sock")
	ul, err := net.Listen("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	e.addr = tl.Addr().String()
	var wg sync.WaitGroup
	for _, l := range []struct {
		net.Listener
		kind Kind
	}{{ul, Unix}, {tl, TCP}} {
		wg.Go(func() {
			if err := e.server.Serve(ctx, l.Listener, l.kind); err != nil {
				e.t.Errorf("Serve(%s) = %v", l.kind, err)
			}
		})
	}
	ut := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}}
	tt := &http.Transport{}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	e.unix, e.tcp = &http.Client{Transport: ut, CheckRedirect: stay}, &http.Client{Transport: tt, CheckRedirect: stay}
	e.t.Cleanup(func() {
		ut.CloseIdleConnections()
		tt.CloseIdleConnections()
		cancel()
		wg.Wait()
	})
}

// req is one request of a test. Zero values are sensible ones.
type req struct {
	method, path, body string
	header             http.Header
	host               string
	tcp                bool
	noToken            bool
	noType             bool
}

type result struct {
	status int
	header http.Header
	body   []byte
}

// problem returns the body as a problem.
func (r result) problem(t *testing.T) apitype.Problem {
	t.Helper()
	var p apitype.Problem
	if ct := r.header.Get("Content-Type"); ct != apitype.TypeProblemJSON {
		t.Fatalf("status %d with content type %q: %.200s", r.status, ct, r.body)
	}
	if err := json.Unmarshal(r.body, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// do sends a request, and holds the answer to the document and to the rules
// that every answer follows.
func (e *env) do(q req) result {
	e.t.Helper()
	if q.method == "" {
		q.method = http.MethodGet
	}
	base, client := "http://keymesh", e.unix
	if q.tcp {
		base, client = "http://"+e.addr, e.tcp
	}
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	r, err := http.NewRequest(q.method, base+q.path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	for k, v := range q.header {
		r.Header[k] = v
	}
	if q.host != "" {
		r.Host = q.host
	}
	if q.body != "" && !q.noType && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.tcp && !q.noToken && r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+string(testToken))
	}
	resp, err := client.Do(r)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	out := result{resp.StatusCode, resp.Header, b}
	always(e.t, out)
	contract(e.t, r, out)
	return out
}

// always are the rules for every answer.
func always(t *testing.T, r result) {
	t.Helper()
	if got := r.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("status %d: Cache-Control %q", r.status, got)
	}
	if r.header.Get(apitype.HeaderID) == "" {
		t.Errorf("status %d without %s", r.status, apitype.HeaderID)
	}
	for k := range r.header {
		if strings.HasPrefix(k, "Access-Control-") {
			t.Errorf("status %d with %s", r.status, k)
		}
	}
	if r.header.Get("Content-Type") != apitype.TypeProblemJSON {
		if r.status >= 300 || r.status == 202 && r.header.Get("Location") == "" {
			t.Errorf("status %d is no problem: %.200s", r.status, r.body)
		}
		return
	}
	p := r.problem(t)
	k, ok := apitype.KindOf(p.Type)
	if !ok || k.Status != r.status || p.Status != r.status || k.Exit != p.Exit || k.Title != p.Title {
		t.Errorf("status %d with a problem that is not in the table: %+v", r.status, p)
	}
	if p.RequestID != r.header.Get(apitype.HeaderID) {
		t.Errorf("the problem's request id is %q, the header's %q", p.RequestID, r.header.Get(apitype.HeaderID))
	}
	// interface.md fixes the exit code of a status; 202 is in doubt.
	if want := apitype.ExitStatus(p.Status); p.Exit != want && p.Status != 202 {
		t.Errorf("status %d has exit code %d, not %d", p.Status, p.Exit, want)
	}
}

// want fails unless the answer is a problem of this type.
func (e *env) want(q req, typ apitype.Type) apitype.Problem {
	e.t.Helper()
	r := e.do(q)
	p := r.problem(e.t)
	if p.Type != typ {
		e.t.Errorf("%s %.80s: problem %s (%s), want %s", q.method, q.path, p.Type, p.Detail, typ)
	}
	return p
}

// ok fails unless the answer has this status, and decodes it.
func (e *env) ok(q req, status int, out any) result {
	e.t.Helper()
	r := e.do(q)
	if r.status != status {
		e.t.Fatalf("%s %.80s: status %d, want %d: %.300s", q.method, q.path, r.status, status, r.body)
	}
	if out != nil {
		if err := json.Unmarshal(r.body, out); err != nil {
			e.t.Fatal(err)
		}
	}
	return r
}

func sampleSeats(states ...string) (out []keystore.SeatState) {
	for i, s := range states {
		out = append(out, keystore.SeatState{Node: nodeID(byte(i)), Name: "n" + string(rune('1'+i)), Operator: "op", X: uint8(i + 1), State: s})
	}
	return out
}

func sampleSecrets() *fakeSecrets {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := keystore.Listed{Name: "demo/db", ID: hash(1), Gen: 7, K: 3, N: 5, W: 4, Acked: 5, Size: 7, Labels: map[string]string{"env": "prod"}, Created: created, Expires: created.AddDate(1, 0, 0), Margin: 2}
	five := sampleSeats("committed", "committed", "committed", "committed", "pending")
	return &fakeSecrets{
		put:  keystore.PutResult{Name: "demo/db", ID: hash(1), Manifest: hash(2), Gen: 7, N: 5, K: 3, W: 4, Acked: 4, Seats: five, Notes: []string{"w was lowered"}},
		rec:  keystore.Recovered{Name: "demo/db", ID: hash(1), Manifest: hash(2), Gen: 7, Value: []byte(marker), Used: []key.NodeID{nodeID(0), nodeID(1), nodeID(2)}, Bad: []keystore.BadRow{{Node: nodeID(3), Name: "n4", Why: "x is 0"}}, Policy: "any of the owner, ..."},
		del:  keystore.DeleteResult{Name: "demo/db", ID: hash(1), Gen: 7, Seats: sampleSeats("deleted", "deleted"), Done: true},
		page: keystore.Page{Items: []keystore.Listed{l}, Next: "cursor-2", Silent: []key.NodeID{nodeID(4)}},
		info: keystore.Info{Listed: l, Manifest: hash(2), Owner: key.GeneratePerson().Public(), Description: "the demo database", Policy: "the owner", Keep: 1, Repair: "owner", Seats: five, Standby: []key.NodeID{nodeID(8)}, Generations: []uint64{6, 7}, Pending: []uint64{8}, LosesIf: "3 of 5 are lost", LeaksIf: "3 of 5 collude", StuckIf: "3 of 5 are off", Loses: 3, Leaks: 3, Stuck: 3},
		sum:  keystore.Counts{Secrets: 3},
	}
}

func sampleMesh() *fakeMesh {
	self := apitype.Peer{Node: nodeID(0).String(), Name: "n1", Operator: "op", Roles: []string{"holder", "client"}, Self: true, Online: true, Accepting: true, Fingerprint: nodeID(0).Fingerprint()}
	second := apitype.Peer{Node: nodeID(1).String(), Name: "n2", Operator: "op2", Roles: []string{"holder"}, Online: true, Accepting: true, LastSeen: time.Now(), RTT: 0.25, Persons: []string{key.GeneratePerson().Public().String()}}
	return &fakeMesh{
		ready:  true,
		status: apitype.Mesh{Network: key.NetworkID{1}.String(), Node: self, Members: 5, Online: 5, Holders: 5, Reachable: 5, Started: time.Now(), Checks: []apitype.Check{{Name: "clock", Level: apitype.LevelOK, Text: "agrees with its peers"}}},
		peers:  []apitype.Peer{self, second},
		invite: apitype.Invite{Ticket: "keymesh-ticket-abc", Operator: "op", Roles: []string{"holder", "client"}, Expires: time.Now().Add(time.Hour), Issuer: nodeID(0).String(), Fingerprint: nodeID(0).Fingerprint()},
	}
}
