package api

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// TestEveryKeystoreError maps every error of the keystore, wrapped, at every
// operation on a secret.
func TestEveryKeystoreError(t *testing.T) {
	seats := sampleSeats("unreachable", "refused", "full")
	fork := []key.Hash{hash(3), hash(4)}
	for name, c := range map[string]struct {
		err   error
		reads apitype.Type // list, info, recover
		put   apitype.Type
		del   apitype.Type
		cond  apitype.Type // put with If-Match; empty: as put
	}{
		"not found":      {keystore.ErrNotFound, apitype.NotFound, "", apitype.NotFound, ""},
		"not alone":      {keystore.ErrNotAlone, apitype.Denied, apitype.Denied, apitype.Denied, ""},
		"denied":         {keystore.ErrDenied, apitype.Denied, apitype.Denied, apitype.Denied, ""},
		"too large":      {keystore.ErrTooLarge, "", apitype.TooLarge, "", ""},
		"input":          {keystore.ErrInput, apitype.Unprocessable, apitype.Unprocessable, apitype.Unprocessable, ""},
		"full":           {keystore.ErrFull, "", apitype.Full, apitype.Full, ""},
		"full quorum":    {errors.Join(keystore.ErrFull, &keystore.QuorumError{Need: 4, Have: 1, Seats: seats}), "", apitype.Full, "", ""},
		"stopped":        {keystore.ErrStopped, apitype.Damaged, apitype.Damaged, apitype.Damaged, ""},
		"timeout":        {keystore.ErrTimeout, apitype.Timeout, apitype.InDoubt, apitype.InDoubt, ""},
		"deadline":       {context.DeadlineExceeded, apitype.Timeout, apitype.InDoubt, apitype.InDoubt, ""},
		"canceled":       {context.Canceled, apitype.Unavailable, apitype.InDoubt, apitype.InDoubt, ""},
		"quorum":         {&keystore.QuorumError{Op: "op", Need: 4, Have: 2, Seats: seats}, apitype.Quorum, apitype.Holders, apitype.Holders, ""},
		"in doubt":       {&keystore.InDoubtError{Op: "op", Gen: 8, Manifest: hash(5), Need: 4, Have: 2, Seats: seats}, "", apitype.InDoubt, apitype.InDoubt, ""},
		"conflict":       {&keystore.ConflictError{Want: 6, Have: 7, Why: "another writer"}, "", apitype.Conflict, apitype.Conflict, apitype.Precondition},
		"fork":           {&keystore.ConflictError{Have: 7, Fork: fork, Why: "two manifests"}, apitype.Fork, apitype.Fork, apitype.Fork, apitype.Fork},
		"placement":      {&keystore.PlacementError{Want: 5, Have: 3, Why: "three operators", Seats: seats}, "", apitype.Holders, "", ""},
		"anything else":  {errors.New("secret detail"), apitype.Internal, apitype.Internal, apitype.Internal, ""},
		"integrity":      {&keystore.IntegrityError{Need: 3, Have: 2, Bad: []keystore.BadRow{{Node: nodeID(1), Name: "n2", Why: "c"}}}, apitype.Integrity, "", "", ""},
		"own problem":    {apitype.NewProblem(apitype.Conflict, "x"), "", apitype.Conflict, apitype.Conflict, ""},
		"foreign type":   {&apitype.Problem{Type: "urn:x", Status: 299}, apitype.Internal, apitype.Internal, apitype.Internal, ""},
		"doctored table": {&apitype.Problem{Type: apitype.NotFound, Status: 200, Exit: 0, Title: "fine"}, apitype.NotFound, "", apitype.NotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.secrets.err = fmt.Errorf("while doing it: %w", c.err)
			check := func(q req, want apitype.Type) {
				if want == "" {
					return
				}
				p := e.want(q, want)
				checkAccount(t, p, c.err)
				if want == apitype.Internal && (p.Detail != "" || !strings.Contains(e.log.String(), "while doing it")) && name == "anything else" {
					t.Errorf("detail %q; log %s", p.Detail, e.log)
				}
			}
			put := req{method: "PUT", path: secretPath, body: putBody(nil, "")}
			check(put, c.put)
			if c.cond != "" {
				check(put.with(func(q *req) { q.header.Set("If-Match", `"6"`) }), c.cond)
				check(put.with(func(q *req) { q.header.Set("If-None-Match", `*`) }), c.cond)
			}
			check(req{method: "DELETE", path: secretPath}, c.del)
			check(req{method: "POST", path: secretPath + "/recover", body: `{}`}, c.reads)
			if c.reads != apitype.Integrity { // only a recovery reads rows
				check(req{path: secretPath}, c.reads)
				if c.reads != apitype.Fork { // a listing shows both
					check(req{path: "/api/v1/secrets"}, c.reads)
				}
			}
		})
	}
}

// checkAccount: what the error knows of the holders is in the problem.
func checkAccount(t *testing.T, p apitype.Problem, err error) {
	t.Helper()
	var (
		q *keystore.QuorumError
		d *keystore.InDoubtError
		c *keystore.ConflictError
		i *keystore.IntegrityError
		l *keystore.PlacementError
	)
	switch {
	case errors.As(err, &q):
		if p.Need != q.Need || p.Have != q.Have || len(p.Peers) != 3 || p.Peers[0].State != "unreachable" || p.Peers[0].Name != "n1" || p.Peers[0].Operator != "op" || p.Hint == "" {
			t.Errorf("problem %+v", p)
		}
	case errors.As(err, &d):
		if p.Need != 4 || p.Have != 2 || p.Gen != 8 || p.Manifest != hash(5).String() || len(p.Peers) != 3 || p.Hint == "" {
			t.Errorf("problem %+v", p)
		}
	case errors.As(err, &c):
		if p.Gen != 7 || len(p.Manifests) != len(c.Fork) || p.Hint == "" {
			t.Errorf("problem %+v", p)
		}
	case errors.As(err, &i):
		if p.Need != 3 || p.Have != 2 || !reflect.DeepEqual(p.Bad, []apitype.Bad{{Node: nodeID(1).String(), Name: "n2", Why: "c"}}) {
			t.Errorf("problem %+v", p)
		}
	case errors.As(err, &l):
		if p.Need != 5 || p.Have != 3 || len(p.Peers) != 3 || !strings.Contains(p.Detail, "three operators") {
			t.Errorf("problem %+v", p)
		}
	}
}

func TestWordsOfPeersAreBounded(t *testing.T) {
	e := newEnv(t)
	e.secrets.err = &keystore.QuorumError{Op: "recover", Need: 3, Seats: []keystore.SeatState{{Node: nodeID(1), State: "refused", Why: strings.Repeat("x", 1<<20)}}}
	if p := e.want(req{path: secretPath}, apitype.Quorum); len(p.Peers[0].Why) > 500 {
		t.Errorf("%d bytes of a peer's words", len(p.Peers[0].Why))
	}
}

func TestInvite(t *testing.T) {
	e := newEnv(t)
	var out apitype.Invite
	e.ok(req{method: "POST", path: "/api/v1/peers/invites", body: `{"operator":"bob","roles":["holder"],"capacity":3,"issuer":true,"ttl":60}`}, 201, &out)
	if want := (apitype.InviteRequest{Operator: "bob", Roles: []string{"holder"}, Capacity: 3, Issuer: true, TTL: 60}); !reflect.DeepEqual(e.mesh.invited, want) {
		t.Errorf("the mesh got %+v", e.mesh.invited)
	}
	if out.Ticket != e.mesh.invite.Ticket || len(out.Fingerprint) != 8 {
		t.Errorf("answer %+v", out)
	}
	if strings.Contains(e.log.String(), out.Ticket) {
		t.Error("the log has the ticket")
	}
	invite := req{method: "POST", path: "/api/v1/peers/invites"}
	for _, body := range []string{`{"ttl":86401}`, `{"roles":["king"]}`} {
		e.want(invite.with(func(q *req) { q.body = body }), apitype.Unprocessable)
	}
	invite.body = `{}`
	e.mesh.invite = apitype.Invite{Issuer: nodeID(0).String()}
	e.ok(invite, 201, nil) // no null lists
	for _, c := range []struct {
		err  error
		want apitype.Type
	}{{apitype.NewProblem(apitype.Unprocessable, "this node is no issuer"), apitype.Unprocessable}, {errors.New("x"), apitype.Internal}, {context.DeadlineExceeded, apitype.Timeout}} {
		e.mesh.err = c.err
		e.want(invite, c.want)
	}
}

func TestPeersAndReadiness(t *testing.T) {
	e := newEnv(t)
	var out apitype.Peers
	e.ok(req{path: "/api/v1/peers"}, 200, &out)
	if len(out.Items) != 2 || !out.Items[0].Self {
		t.Errorf("peers %+v", out)
	}
	e.mesh.peers = nil
	if r := e.ok(req{path: "/api/v1/peers"}, 200, nil); string(r.body) != `{"items":[]}` {
		t.Errorf("no peers are %s", r.body)
	}
	e.mesh.ready = false
	p := e.want(req{path: "/readyz"}, apitype.Unavailable)
	if p.Detail != "" || p.Need != 0 || p.Peers != nil {
		t.Errorf("readyz says more than no: %+v", p)
	}
	e.ok(req{path: "/healthz"}, 200, nil)
}

func TestStatus(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*env)
		health string
		exit   int
	}{
		"healthy":       {func(*env) {}, apitype.Healthy, 0},
		"holder off":    {func(e *env) { e.mesh.status.Reachable = 4 }, apitype.Degraded, 11},
		"lapsed":        {func(e *env) { e.mesh.status.Lapsed = 1 }, apitype.Degraded, 11},
		"store":         {func(e *env) { e.mesh.status.Storage.Error = "fsync" }, apitype.Degraded, 11},
		"audit stopped": {func(e *env) { e.mesh.status.Audit.Error = "fsync" }, apitype.Degraded, 11},
		"audit wrong":   {func(e *env) { e.mesh.status.Audit.Wrong = []string{"n2 has signed two histories"} }, apitype.Degraded, 11},
		"short":         {func(e *env) { e.secrets.sum = keystore.Counts{Secrets: 3, Short: 1} }, apitype.Degraded, 11},
		"at risk":       {func(e *env) { e.secrets.sum = keystore.Counts{Secrets: 3, AtRisk: 1} }, apitype.Degraded, 11},
		"below": {func(e *env) {
			e.secrets.sum = keystore.Counts{Secrets: 3, AtRisk: 1, Below: 1}
			e.mesh.status.Reachable = 1
		}, apitype.Critical, 5},
		"quorum":         {func(e *env) { e.secrets.err = &keystore.QuorumError{Op: "list", Need: 3} }, apitype.Unknown, 5},
		"timeout":        {func(e *env) { e.secrets.err = keystore.ErrTimeout }, apitype.Unknown, 6},
		"damaged":        {func(e *env) { e.secrets.err = keystore.ErrStopped }, apitype.Unknown, 10},
		"something else": {func(e *env) { e.secrets.err = errors.New("detail") }, apitype.Unknown, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, c.change)
			var out apitype.Status
			e.ok(req{path: "/api/v1/status?as=other"}, 200, &out)
			if out.Health != c.health || out.Exit != c.exit || (len(out.Reasons) == 0) != (c.exit == 0) {
				t.Errorf("health %q, exit %d, reasons %q", out.Health, out.Exit, out.Reasons)
			}
			if out.Person.Name != "other" || out.Person.Person != e.other.Key.Public().String() || out.Version != "v0-test" || out.Node.Name != "n1" {
				t.Errorf("status %+v", out)
			}
			if strings.Contains(fmt.Sprint(out.Reasons), "detail") {
				t.Error("the status quotes an unknown error")
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Secrets: sampleSecrets(), Requests: sampleRequests(), Mesh: sampleMesh(), Persons: func(string) (keystore.Person, bool) { return keystore.Person{}, false }}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"secrets": func(c *Config) { c.Secrets = nil }, "mesh": func(c *Config) { c.Mesh = nil },
		"persons": func(c *Config) { c.Persons = nil }, "token": func(c *Config) { c.Token = []byte("short") },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
