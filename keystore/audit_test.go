package keystore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// audited gives every node of the bubble an audit log.
func audited(f *fakeNet) []*fakeAudit {
	var out []*fakeAudit
	for _, n := range f.nodes {
		a := &fakeAudit{}
		n.logs(a)
		out = append(out, a)
	}
	return out
}

// logs starts the node again with this log.
func (n *fakeNode) logs(a Auditor) {
	n.stop()
	n.log = a
	n.start()
}

// find returns the entries of one kind.
func (a *fakeAudit) find(kind string) []AuditRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.entries), func(r AuditRecord) bool { return r.Kind != kind })
}

// TestAuditOfPersons: what a person at a node does with requests is in that
// node's log before it leaves the node, or does not leave.
func TestAuditOfPersons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		logs := audited(p.fakeNet)
		ctx := context.Background()
		broken := errors.New("no room")
		logs[1].breaks(broken)
		calls := p.count(custody.VerbRecover)
		if _, err := p.nodes[1].store.Recover(ctx, p.a, "", RecoverOptions{ID: p.id}); !errors.Is(err, ErrStopped) || !errors.Is(err, broken) {
			t.Fatalf("asked without a log: %v", err)
		}
		if p.count(custody.VerbRecover) != calls || askedRecords(p.nodes[1]) != 0 {
			t.Fatal("the request left the node")
		}
		logs[1].breaks(nil)
		w := p.asks(t)
		if got := logs[1].find("asked"); len(got) != 1 || got[0].Request != w.Request || got[0].ID != p.id || got[0].Person != p.a.Key.Public() || got[0].Detail != "b is ill" {
			t.Fatalf("%+v", got)
		}
		p.view(t, 2, p.b, w.Request)
		p.view(t, 0, p.owner, w.Request)
		for i, say := range map[int]func() error{
			2: func() error { return p.nodes[2].store.Approve(ctx, p.b, w.Request, "") },
			0: func() error { return p.nodes[0].store.Veto(ctx, p.owner, w.Request, "who is that?") },
			1: func() error { return p.nodes[1].store.Cancel(ctx, p.a, w.Request) },
		} {
			logs[i].breaks(broken)
			calls := p.count(custody.VerbApprove)
			if err := say(); !errors.Is(err, ErrStopped) || p.count(custody.VerbApprove) != calls {
				t.Errorf("node %d spoke without a log: %v", i, err)
			}
			logs[i].breaks(nil)
		}
		if askedRecords(p.nodes[1]) != 1 {
			t.Error("the request was forgotten without an entry")
		}
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(err)
		}
		if err := p.nodes[0].store.Veto(ctx, p.owner, w.Request, "who is that?"); err != nil {
			t.Fatal(err)
		}
		if len(logs[2].find("approved")) != 1 || len(logs[0].find("denied")) != 1 || logs[0].find("denied")[0].Detail != "who is that?" {
			t.Errorf("%v %v", logs[2].kinds(), logs[0].kinds())
		}
		if err := p.nodes[1].store.Cancel(ctx, p.a, w.Request); err != nil || len(logs[1].find("cancelled")) != 1 {
			t.Errorf("%v %v", err, logs[1].kinds())
		}
	})
}

// TestAuditOfDeletionsAndPolicies: each holder's log has them before they are
// true there, and a holder without a log refuses them.
func TestAuditOfDeletionsAndPolicies(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		ctx := context.Background()
		mustPut(t, f.nodes[0].store, p, "a", []byte("1"), PutOptions{})
		settle(t, f, p, "a", 1)
		logs := audited(f)
		mustPut(t, f.nodes[0].store, p, "a", []byte("2"), PutOptions{})
		settle(t, f, p, "a", 2)
		other := policy.Any(policy.Owner(), policy.Key(newPerson().Key.Public()))
		r := mustPut(t, f.nodes[0].store, p, "a", []byte("3"), PutOptions{Policy: other.Encode()})
		settle(t, f, p, "a", 3)
		for i, l := range logs {
			got := l.find("policy")
			if len(got) != 1 || got[0].ID != r.ID || got[0].Person != p.Key.Public() || got[0].Detail != "from generation 3 on: "+other.Words(nil) {
				t.Errorf("node %d: %+v", i, got)
			}
		}
		broken := errors.New("no room")
		logs[4].breaks(broken)
		d, err := f.nodes[0].store.Delete(ctx, p, "a", DeleteOptions{})
		if err == nil && d.Done {
			t.Error("the holder without a log took the deletion")
		}
		s, err := f.nodes[4].store.cust.peek(ctx, r.ID)
		if err != nil || s.current() == nil || len(s.tombs) != 0 {
			t.Fatalf("without a log: %+v %v", s, err)
		}
		logs[4].breaks(nil)
		time.Sleep(5 * time.Minute)
		for i, l := range logs {
			got := l.find("delete")
			if len(got) != 1 || got[0].ID != r.ID || got[0].Person != p.Key.Public() || got[0].Detail != "generations up to 3" {
				t.Errorf("node %d: %+v", i, got)
			}
		}
	})
}

// TestAuditRequestID: entries of the node where the API was called have its
// request id, those of others have none.
func TestAuditRequestID(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		logs := audited(f)
		ctx := WithRequestID(context.Background(), "r-17")
		if _, err := f.nodes[0].store.Put(ctx, p, "a", []byte("1"), PutOptions{}); err != nil {
			t.Fatal(err)
		}
		settle(t, f, p, "a", 1)
		if _, err := f.nodes[0].store.Recover(ctx, p, "a", RecoverOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.nodes[0].store.Delete(ctx, p, "a", DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for i, l := range logs {
			for _, e := range append(append(l.find("asked"), l.find("release")...), l.find("delete")...) {
				seen++
				if want := map[bool]string{true: "r-17"}[i == 0]; e.RequestID != want {
					t.Errorf("node %d, %s: request id %q", i, e.Kind, e.RequestID)
				}
			}
		}
		if len(logs[0].find("asked")) != 1 || len(logs[0].find("delete")) != 1 || seen < 8 {
			t.Errorf("%d entries; %v", seen, logs[0].kinds())
		}
	})
}

func TestNamesOf(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeNet, p Person) {
		other := newPerson()
		mine := mustPut(t, f.nodes[0].store, p, "demo/db", []byte("1"), PutOptions{}).ID
		theirs := mustPut(t, f.nodes[0].store, other, "not/yours", []byte("1"), PutOptions{}).ID
		settle(t, f, p, "demo/db", 1)
		settle(t, f, other, "not/yours", 1)
		got, err := f.nodes[1].store.NamesOf(context.Background(), p, []key.Hash{mine, theirs, {1}, mine})
		if err != nil || len(got) != 1 || got[mine] != "demo/db" {
			t.Errorf("%v %v", got, err)
		}
		if _, err := f.nodes[1].store.NamesOf(context.Background(), Person{}, nil); !errors.Is(err, ErrInput) {
			t.Error(err)
		}
	})
}

// TestExchangeHeads asks everybody at once; one that refuses this node's head
// still shows what it has of it.
func TestExchangeHeads(t *testing.T) {
	bubble(t, 4, func(t *testing.T, f *fakeNet, _ Person) {
		var logs []*fakeWitness
		for i, n := range f.nodes {
			w := &fakeWitness{fakeAudit: &fakeAudit{}, own: []byte{byte('0' + i)}, kept: map[key.NodeID][]byte{}}
			n.logs(w)
			logs = append(logs, w)
		}
		time.Sleep(2 * time.Second)
		self := f.nodes[0].store.self
		logs[2].mu.Lock()
		logs[2].kept[self] = []byte("signed once")
		logs[2].bad = errors.New("it contradicts")
		logs[2].mu.Unlock()
		f.nodes[3].stop()
		time.Sleep(2 * time.Second)
		asked, answered := f.nodes[0].store.ExchangeHeads(context.Background())
		if asked != 2 || answered != 2 {
			t.Errorf("%d of %d answered", answered, asked)
		}
		logs[0].mu.Lock()
		got := logs[0].kept[f.nodes[2].store.self]
		logs[0].mu.Unlock()
		if !bytes.Contains(got, []byte("signed oncee")) {
			t.Errorf("the one that refused showed %q", got)
		}
		f.nodes[0].logs(&fakeAudit{})
		if asked, _ := f.nodes[0].store.ExchangeHeads(context.Background()); asked != 0 {
			t.Error("a log without heads was shown")
		}
	})
}
