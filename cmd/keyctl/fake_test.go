package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keymesh/api/apitype"
)

// fakeNode answers the local API as a node of a mesh of five would, from
// memory. Scripts and tests bend single answers with its other fields. Safe for
// concurrent use.
type fakeNode struct {
	socket string
	url    string // of the same API over TCP, with token "s3cr3t-token"
	server *http.Server

	mu      sync.Mutex
	secrets map[string][]fakeSecret // generations, oldest first
	offline map[string]bool         // names of nodes
	liars   map[string]bool         // nodes with bad rows
	answers map[string]*apitype.Problem
	raw     map[string]string // op to a body that no node sends
	drop    map[string]bool   // op: the connection breaks after the request
	hang    map[string]bool   // op: never answered
	page    int               // largest page
	silent  []string
	status  func(*apitype.Status)
	idle    chan string   // a request of a hanging op has arrived
	log     []fakeRequest // what was asked
	issuers int
	jobs    map[string]apitype.Job
	looks   int
	noProof bool // recoveries come without a receipt
	asleep  int  // so many questions about a job are answered that it runs
	missing int  // so many recoveries are answered 202 first
	asks    []apitype.Request
	undone  bool // a deletion answers 200 without being done
	audit   fakeLog
	event   string
}

type fakeSecret struct {
	value  []byte
	req    apitype.PutRequest
	gen    uint64
	forget bool
}

// fakeRequest is one request as the fake saw it, without the value.
type fakeRequest struct {
	op, path string
	query    url.Values
	header   http.Header
	put      apitype.PutRequest
	body     map[string]any
}

var fakeNames = []string{"alpha", "bravo", "charlie", "delta", "echo"}

func nodeID(name string) string { return "node-" + strings.Repeat(name[:1], 52) }

// newFakeNode starts a node that listens on a unix socket and on TCP, and stops
// with the test.
func newFakeNode() (*fakeNode, error) {
	// Not t.TempDir: a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "kf")
	if err != nil {
		return nil, err
	}
	f := &fakeNode{
		socket: filepath.Join(dir, "api.sock"), secrets: map[string][]fakeSecret{}, offline: map[string]bool{}, liars: map[string]bool{},
		answers: map[string]*apitype.Problem{}, raw: map[string]string{}, drop: map[string]bool{}, hang: map[string]bool{},
		jobs: map[string]apitype.Job{}, page: apitype.MaxPage, idle: make(chan string, 1024), issuers: 2,
	}
	unix, err := net.Listen("unix", f.socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(f.socket, 0o600); err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.url = "http://" + tcp.Addr().String()
	f.server = &http.Server{Handler: f}
	go f.server.Serve(unix)
	go f.server.Serve(tcp)
	return f, nil
}

func (f *fakeNode) close() {
	f.server.Close()
	os.RemoveAll(filepath.Dir(f.socket))
}

// startFake is newFakeNode for a Go test.
func startFake(t *testing.T) *fakeNode {
	t.Helper()
	f, err := newFakeNode()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

// ServeHTTP routes a request to its operation.
func (f *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, tcp := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); tcp && r.Header.Get("Authorization") != "Bearer s3cr3t-token" {
		f.problem(w, apitype.NewProblem(apitype.Unauthorized, "the token is missing or wrong"))
		return
	}
	op, name := fakeOp(r)
	req := fakeRequest{op: op, path: r.URL.EscapedPath(), query: r.URL.Query(), header: r.Header.Clone()}
	var raw json.RawMessage
	if op == "audit-check" {
		b, _ := io.ReadAll(r.Body)
		req.body = map[string]any{"export": string(b)}
	} else if (r.Method == http.MethodPut || r.Method == http.MethodPost) && r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
			f.problem(w, apitype.NewProblem(apitype.Invalid, "the body is no JSON"))
			return
		}
		_ = json.Unmarshal(raw, &req.body)
		_ = json.Unmarshal(raw, &req.put)
	}
	f.mu.Lock()
	f.log = append(f.log, req)
	problem, body, drop, hang := f.answers[op], f.raw[op], f.drop[op], f.hang[op]
	f.mu.Unlock()
	switch {
	case drop:
		panic(http.ErrAbortHandler)
	case hang:
		f.idle <- op
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case problem != nil:
		f.problem(w, problem)
	case body != "":
		w.Header().Set("Content-Type", apitype.TypeJSON)
		fmt.Fprint(w, body)
	default:
		f.answer(w, req, name)
	}
}

// fakeOp names the operation that a request asks for, and the secret.
func fakeOp(r *http.Request) (op, name string) {
	switch r.URL.Path {
	case apitype.PathReadyz, apitype.PathHealthz:
		return "ready", ""
	case apitype.PathStatus:
		return "status", ""
	case apitype.PathPeers:
		return "peers", ""
	case apitype.PathInvites:
		return "invite", ""
	case apitype.PathSecrets:
		return "list", ""
	case apitype.PathContacts:
		return "contacts", ""
	case apitype.PathPolicy:
		return "policy", ""
	case apitype.PathRequests:
		if r.Method == http.MethodPost {
			return "get", ""
		}
		return "requests", ""
	case apitype.PathEvents:
		return "events", ""
	case apitype.PathAudit:
		return "audit", ""
	case apitype.PathAuditVerify:
		return map[string]string{"GET": "audit-verify", "POST": "audit-check"}[r.Method], ""
	case apitype.PathAuditExport:
		return "audit-export", ""
	}
	if r.URL.Path == apitype.PathReceiptVerify {
		return "receipt", ""
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, apitype.PathRequests+"/"); ok {
		id, verb, _ := strings.Cut(rest, "/")
		if verb == "" {
			verb = map[string]string{"GET": "look", "DELETE": "cancel"}[r.Method]
		}
		return verb, id
	}
	if id, ok := strings.CutPrefix(r.URL.Path, apitype.PathPeers+"/"); ok {
		if id, ok := strings.CutSuffix(id, "/ping"); ok {
			return "peer-ping", id
		}
		for _, verb := range []string{"drain", "replace"} {
			if id, ok := strings.CutSuffix(id, "/"+verb); ok && r.Method == http.MethodPost {
				return "peer-" + verb, id
			} else if ok {
				return "peer-undrain", id
			}
		}
		return "peer-remove", id
	}
	if id, ok := strings.CutPrefix(r.URL.Path, apitype.PathJobs+"/"); ok {
		return "job", id
	}
	name, ok := strings.CutPrefix(r.URL.EscapedPath(), apitype.PathSecrets+"/")
	if !ok {
		return "unknown", ""
	}
	op = map[string]string{"GET": "info", "PUT": "put", "DELETE": "delete"}[r.Method]
	if n, ok := strings.CutSuffix(name, "/recover"); ok && r.Method == http.MethodPost {
		name, op = n, "get"
	}
	if n, ok := strings.CutSuffix(name, "/rehearse"); ok && r.Method == http.MethodPost {
		name, op = n, "rehearse"
	}
	if n, ok := strings.CutSuffix(name, "/refresh"); ok && r.Method == http.MethodPost {
		name, op = n, "refresh"
	}
	for _, verb := range []string{"verify", "repair"} {
		if n, ok := strings.CutSuffix(name, "/"+verb); ok && r.Method == http.MethodPost {
			name, op = n, verb
		}
	}
	if n, ok := strings.CutSuffix(name, "/reshare"); ok && r.Method == http.MethodPost {
		name, op = n, "reshare"
	}
	name, err := url.PathUnescape(name)
	if err != nil {
		return "unknown", ""
	}
	return op, name
}

func (f *fakeNode) answer(w http.ResponseWriter, req fakeRequest, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out any
	var p *apitype.Problem
	switch req.op {
	case "ready":
		out = map[string]string{"status": "ok"}
	case "status":
		out = f.statusNow()
	case "peers":
		out = apitype.Peers{Items: f.peersNow()}
	case "invite":
		op, _ := req.body["operator"].(string)
		out = apitype.Invite{Ticket: "keymesh-ticket-abcdef", Operator: op, Roles: []string{"holder", "client"},
			Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Issuer: nodeID("alpha"), Fingerprint: []string{"one", "two", "three"}}
	case "peer-ping":
		out = apitype.Ping{Node: name, RTT: 1.25}
	case "peer-drain", "peer-replace":
		out = f.move(strings.TrimPrefix(req.op, "peer-"), name, req)
	case "peer-undrain":
		out = apitype.Undrained{Node: name}
	case "peer-remove":
		out = apitype.Removed{Node: name}
	case "list":
		out = f.list(req.query)
	case "put":
		out, p = f.put(req, name)
	case "requests":
		out = apitype.Requests{Items: f.asks}
	case "events":
		w.Header().Set("Content-Type", apitype.TypeEvents)
		fmt.Fprintf(w, ": events\n\nevent: x\ndata: %s\n\n", f.event)
		return
	case "audit":
		out = f.audit.page(req.query)
	case "audit-verify":
		out = f.audit.check()
	case "audit-check":
		out = f.audit.exported(req.body["export"].(string))
	case "audit-export":
		w.Header().Set("Content-Type", apitype.TypeAudit)
		fmt.Fprint(w, fakeExport)
		return
	case "receipt":
		text, _ := req.body["receipt"].(string)
		raw, _ := base64.StdEncoding.DecodeString(text)
		out = f.receipt(string(raw))
	case "look":
		out, p = f.look(name)
	case "approve", "deny", "cancel":
		out = apitype.Heard{Request: name}
	case "verify", "repair":
		out, p = f.prove(req, name)
	case "reshare":
		out, p = f.reshare(req, name)
	case "refresh":
		out, p = f.refresh(name)
	case "rehearse":
		if out, p = f.rehearse(name); p == nil {
			w.Header().Set("Content-Type", apitype.TypeJSON)
			w.WriteHeader(http.StatusAccepted)
			_ = json.NewEncoder(w).Encode(out)
			return
		}
	case "job":
		out, p = f.job(name)
	case "get":
		if f.missing > 0 {
			f.missing--
			w.Header().Set("Content-Type", apitype.TypeJSON)
			w.WriteHeader(http.StatusAccepted)
			_ = json.NewEncoder(w).Encode(apitype.Pending{Request: strings.Repeat("5a", 32), Have: 2 - f.missing, Need: 3,
				Missing: []string{"1 more of ann, bob"}, Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Words: []string{"one", "two", "three", "four", "five", "six"}})
			return
		}
		out, p = f.get(req, name)
	case "info":
		out, p = f.info(name)
	case "delete":
		out, p = f.delete(req, name)
	default:
		p = apitype.NewProblem(apitype.NotFound, "there is no such path")
	}
	if p != nil {
		f.problem(w, p)
		return
	}
	w.Header().Set("Content-Type", apitype.TypeJSON)
	_ = json.NewEncoder(w).Encode(out) // a client that went away needs no answer
}

func (f *fakeNode) problem(w http.ResponseWriter, p *apitype.Problem) {
	w.Header().Set("Content-Type", apitype.TypeProblemJSON)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func (f *fakeNode) online() (up []string) {
	for _, n := range fakeNames {
		if !f.offline[n] {
			up = append(up, n)
		}
	}
	return up
}

func (f *fakeNode) peersNow() []apitype.Peer {
	var out []apitype.Peer
	for i, n := range fakeNames {
		out = append(out, apitype.Peer{Node: nodeID(n), Name: n, Operator: "op-" + n, Roles: []string{"holder", "client"}, Self: i == 0,
			Addrs: []string{"ws://127.0.0.1:794" + strconv.Itoa(i)}, Online: !f.offline[n], Accepting: true, Issuer: i < f.issuers, RTT: float64(i),
			Expires: time.Now().Add(80 * 24 * time.Hour), Fingerprint: []string{n, "river", "stone"}})
	}
	return out
}

func (f *fakeNode) statusNow() apitype.Status {
	up := len(f.online())
	st := apitype.Status{Version: "v0.0.0-fake", Health: apitype.Healthy, Person: apitype.Person{Name: "owner", Person: "person-" + strings.Repeat("p", 52)}}
	st.Network, st.Node = "network-"+strings.Repeat("n", 52), f.peersNow()[0]
	st.Members, st.Online, st.Holders, st.Reachable = len(fakeNames), up, len(fakeNames), up
	st.Storage = apitype.Storage{Records: 12, Bytes: 4096}
	st.Secrets.Total = len(f.secrets)
	switch {
	case up < 3:
		st.Health, st.Exit, st.Secrets.Below = apitype.Critical, 5, len(f.secrets)
		st.Reasons = []string{"some secrets are below their threshold"}
	case up < 5:
		st.Health, st.Exit = apitype.Degraded, 11
		st.Reasons = []string{fmt.Sprintf("%d holders are offline", 5-up)}
	}
	if f.status != nil {
		f.status(&st)
	}
	return st
}

func (f *fakeNode) seats(state func(string) string) []apitype.Seat {
	var out []apitype.Seat
	for i, n := range fakeNames {
		out = append(out, apitype.Seat{Node: nodeID(n), Name: n, Operator: "op-" + n, X: i + 1, State: state(n)})
	}
	return out
}

func (f *fakeNode) peerStates() (out []apitype.PeerState) {
	for _, n := range fakeNames {
		s := apitype.PeerState{Node: nodeID(n), Name: n, State: "good"}
		if f.offline[n] {
			s.State, s.Why = "unreachable", "no link"
		}
		out = append(out, s)
	}
	return out
}

func (f *fakeNode) quorum(t apitype.Type, need int) *apitype.Problem {
	have := len(f.online())
	if have >= need {
		return nil
	}
	p := apitype.NewProblem(t, "%d holders are needed and %d answered", need, have)
	p.Need, p.Have, p.Peers = need, have, f.peerStates()
	return p
}

func (f *fakeNode) put(req fakeRequest, name string) (any, *apitype.Problem) {
	if len(req.put.Value) > apitype.MaxValue {
		return nil, apitype.NewProblem(apitype.TooLarge, "the value is too long")
	}
	gens := f.secrets[name]
	gen := uint64(len(gens))
	if want := req.header.Get("If-Match"); want != "" && want != strconv.Quote(fmt.Sprint(gen)) {
		p := apitype.NewProblem(apitype.Precondition, "generation %s was wanted and %d is there", want, gen)
		p.Gen = gen
		return nil, p
	}
	if req.header.Get("If-None-Match") == "*" && gen > 0 {
		p := apitype.NewProblem(apitype.Precondition, "the name is taken")
		p.Gen = gen
		return nil, p
	}
	if p := f.quorum(apitype.Holders, 4); p != nil {
		return nil, p
	}
	state := func(n string) string {
		switch {
		case req.put.DryRun:
			return "planned"
		case f.offline[n]:
			return "unreachable"
		}
		return "committed"
	}
	out := apitype.PutResult{Name: name, ID: strings.Repeat("1d", 32), Gen: gen + 1, N: cmp.Or(req.put.N, 5), K: cmp.Or(req.put.K, 3), W: cmp.Or(req.put.W, 4),
		Acked: len(f.online()), Seats: f.seats(state), Created: gen == 0, DryRun: req.put.DryRun}
	if req.put.W != 0 {
		out.Notes = []string{"with w lowered, one holder fewer may fail"}
	}
	if !req.put.DryRun {
		f.secrets[name] = append(gens, fakeSecret{value: req.put.Value, req: req.put, gen: gen + 1})
	}
	return out, nil
}

// find returns a generation, the latest for 0.
func (f *fakeNode) find(name string, gen uint64) (fakeSecret, *apitype.Problem) {
	gens := f.secrets[name]
	for _, s := range slices.Backward(gens) {
		if (gen == 0 || s.gen == gen) && !s.forget {
			return s, nil
		}
	}
	return fakeSecret{}, apitype.NewProblem(apitype.NotFound, "there is no such secret")
}

func (f *fakeNode) get(req fakeRequest, name string) (any, *apitype.Problem) {
	gen, _ := req.body["gen"].(float64)
	s, p := f.find(name, uint64(gen))
	if p != nil {
		return nil, p
	}
	if p := f.quorum(apitype.Quorum, 3); p != nil {
		return nil, p
	}
	out := apitype.Recovered{Value: s.value, Name: name, ID: strings.Repeat("1d", 32), Gen: s.gen, Used: []string{}, Bad: []apitype.Bad{}, Receipt: []byte("true")}
	if f.noProof {
		out.Receipt = nil
	}
	for _, n := range f.online() {
		if f.liars[n] {
			out.Bad = append(out.Bad, apitype.Bad{Node: nodeID(n), Name: n, Why: "its row does not match the commitment"})
		} else {
			out.Used = append(out.Used, nodeID(n))
		}
	}
	if len(out.Used) < 3 {
		p := apitype.NewProblem(apitype.Integrity, "%d good rows of the 3 needed", len(out.Used))
		p.Need, p.Have, p.Bad = 3, len(out.Used), out.Bad
		return nil, p
	}
	return out, nil
}

// refresh counts epochs, as a job that has ended once it is asked about.
func (f *fakeNode) refresh(name string) (any, *apitype.Problem) {
	s, p := f.find(name, 0)
	if p != nil {
		return nil, p
	}
	seats := f.seats(func(string) string { return "committed" })
	result, _ := json.Marshal(apitype.Refreshed{Name: name, ID: strings.Repeat("1d", 32), Gen: s.gen, Epoch: 1, N: len(seats), InForce: len(seats), Dropped: []apitype.Bad{}})
	j := apitype.Job{ID: "JOB" + strconv.Itoa(len(f.jobs)), Verb: "refresh", Name: name, State: apitype.JobRunning, Seats: []apitype.Seat{}}
	done := j
	done.State, done.Result, done.Seats = apitype.JobDone, result, seats
	f.jobs[j.ID] = done
	return j, nil
}

// prove verifies or repairs: with nodes to move to, the seats of those that are
// off are good there.
func (f *fakeNode) prove(req fakeRequest, name string) (any, *apitype.Problem) {
	s, p := f.find(name, 0)
	if p != nil {
		return nil, p
	}
	to, _ := req.body["to"].([]any)
	r := apitype.Repaired{Verified: apitype.Verified{Name: name, ID: strings.Repeat("1d", 32), Manifest: strings.Repeat("ab", 32), Gen: s.gen, N: 5, K: 3, W: 4}}
	seats := f.seats(func(n string) string {
		if f.offline[n] && len(to) == 0 {
			return "unreachable"
		}
		r.Good++
		return "good"
	})
	for range to {
		r.Moved = append(r.Moved, apitype.Moved{X: 3, From: nodeID("echo"), To: seats[0].Node})
	}
	if r.Margin = r.Good - r.K; r.Margin < 0 || req.op == "repair" && r.Good < r.N {
		r.Exit = apitype.ExitQuorum
	}
	result, _ := json.Marshal(r)
	j := apitype.Job{ID: "JOB" + strconv.Itoa(len(f.jobs)), Verb: req.op, Name: name, State: apitype.JobRunning, Seats: []apitype.Seat{}}
	done := j
	done.State, done.Result, done.Seats = apitype.JobDone, result, seats
	f.jobs[j.ID] = done
	return j, nil
}

// reshare puts a next generation of the wanted shape, as a job.
func (f *fakeNode) reshare(req fakeRequest, name string) (any, *apitype.Problem) {
	if _, p := f.find(name, 0); p != nil {
		return nil, p
	}
	res, p := f.put(req, name)
	if p != nil {
		return nil, p
	}
	result, _ := json.Marshal(res)
	j := apitype.Job{ID: "JOB" + strconv.Itoa(len(f.jobs)), Verb: "reshare", Name: name, State: apitype.JobRunning, Seats: []apitype.Seat{}}
	done := j
	done.State, done.Result = apitype.JobDone, result
	f.jobs[j.ID] = done
	return j, nil
}

func (f *fakeNode) listed(name string, s fakeSecret) apitype.Listed {
	return apitype.Listed{Name: name, ID: strings.Repeat("1d", 32), Gen: s.gen, N: 5, K: 3, W: 4, Acked: 5, Size: uint64(len(s.value)), Labels: s.req.Labels,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Margin: len(f.online()) - 3}
}

func (f *fakeNode) list(q url.Values) apitype.Page {
	var names []string
	for n := range f.secrets {
		if _, p := f.find(n, 0); p == nil && strings.HasPrefix(n, q.Get("prefix")) && n > q.Get("cursor") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	page := apitype.Page{Items: []apitype.Listed{}, Silent: f.silent}
	limit, _ := strconv.Atoi(q.Get("limit"))
	for i, n := range names {
		if i == min(f.page, cmp.Or(limit, 100)) {
			page.Next = names[i-1]
			break
		}
		s, _ := f.find(n, 0)
		page.Items = append(page.Items, f.listed(n, s))
	}
	return page
}

func keep(r apitype.PutRequest) int {
	if r.Keep == nil {
		return 0
	}
	return *r.Keep
}

func (f *fakeNode) info(name string) (any, *apitype.Problem) {
	s, p := f.find(name, 0)
	if p != nil {
		return nil, p
	}
	out := apitype.Info{Listed: f.listed(name, s), Manifest: strings.Repeat("ab", 32), Owner: "person-" + strings.Repeat("p", 52), Policy: "the owner, or the recovery code after 24h",
		Keep: keep(s.req), Repair: "owner", Seats: f.seats(func(n string) string {
			if f.offline[n] {
				return "unreachable"
			}
			return "committed"
		}),
		LosesIf: apitype.Margin{Count: 3, Words: "3 of 5 holders are lost"}, LeaksIf: apitype.Margin{Count: 3, Words: "3 of 5 holders collude"},
		StuckIf: apitype.Margin{Count: 3, Words: "3 of 5 holders are silent"}}
	for _, g := range f.secrets[name] {
		out.Generations = append(out.Generations, g.gen)
	}
	return out, nil
}

func (f *fakeNode) delete(req fakeRequest, name string) (any, *apitype.Problem) {
	gen, _ := strconv.ParseUint(req.query.Get("gen"), 10, 64)
	s, p := f.find(name, gen)
	if p != nil {
		return nil, p
	}
	for i := range f.secrets[name] {
		if gen == 0 || f.secrets[name][i].gen == gen {
			f.secrets[name][i].forget = true
		}
	}
	if len(f.online()) < 5 {
		p := apitype.NewProblem(apitype.InDoubt, "%d of 5 holders have acknowledged the deletion", len(f.online()))
		p.Need, p.Have, p.Gen, p.Peers = 5, len(f.online()), s.gen, f.peerStates()
		return nil, p
	}
	seats := f.seats(func(n string) string {
		if f.undone && n == "echo" {
			return "unreachable"
		}
		return "deleted"
	})
	return apitype.DeleteResult{Name: name, ID: strings.Repeat("1d", 32), Gen: s.gen, Done: !f.undone, Seats: seats}, nil
}

// bend changes the fake while it serves.
func (f *fakeNode) bend(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// requests returns what was asked for op so far.
func (f *fakeNode) requests(op string) []fakeRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []fakeRequest
	for _, r := range f.log {
		if r.op == op {
			out = append(out, r)
		}
	}
	return out
}

var _ http.Handler = (*fakeNode)(nil)
