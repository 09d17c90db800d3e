package keystore

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// boundNet is a Network in which persons are bound to nodes.
type boundNet struct {
	Network
	persons map[key.NodeID][]key.PersonPublic
}

func (b boundNet) Members() []Member {
	out := b.Network.Members()
	for i := range out {
		out[i].Persons = b.persons[out[i].ID]
	}
	return out
}

func (b boundNet) Self() Member {
	m := b.Network.Self()
	m.Persons = b.persons[m.ID]
	return m
}

// fakeInbox is the inbox of a node in a test.
type fakeInbox struct {
	mu   sync.Mutex
	deaf bool
	got  []custody.Notify
	at   []time.Time
}

func (n *fakeInbox) take(_ context.Context, _ key.NodeID, q *custody.Notify) (*custody.NotifyReply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got, n.at = append(n.got, *q), append(n.at, time.Now())
	if n.deaf {
		return nil, errors.New("fake: not now")
	}
	return &custody.NotifyReply{Outcome: custody.OK}, nil
}

func (n *fakeInbox) stages() []uint8 {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []uint8
	for _, q := range n.got {
		out = append(out, q.Stage)
	}
	return out
}

func (n *fakeInbox) hears(deaf bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = deaf
}

// newNWorld binds the owner to node 0, b to node 2 and the veto key to node 1
// itself; a, who asks, to nobody's.
func newNWorld(t *testing.T) (*rWorld, []*fakeInbox) {
	t.Helper()
	w := newRWorld(t, rPolicy)
	boxes := []*fakeInbox{{}, {}, {}}
	for i := range w.nodes {
		w.bind(i, boxes[i])
	}
	return w, boxes
}

func (w *rWorld) bind(i int, box *fakeInbox) {
	ids := w.hWorld.nodes
	c := w.nodes[i].custodian
	c.cfg.Network = boundNet{c.cfg.Network, map[key.NodeID][]key.PersonPublic{
		ids[0].ID(): {w.owner.Public()}, ids[1].ID(): {w.veto.Public()}, ids[2].ID(): {w.b.Public()},
	}}
	c.members = memberCache{}
	c.inbox = box.take
}

// TestNotify: at once, at half time and at the end, each node once, with the
// name box that is its own.
func TestNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, boxes := newNWorld(t)
		r, _ := w.asks(w.a, nil)
		names := []custody.NameBox{{Node: w.hWorld.nodes[2].ID(), Box: []byte("for 2")}, {Node: w.hWorld.nodes[0].ID(), Box: []byte("for 0")}}
		var out custody.RecoverReply
		w.ask(0, 1, custody.VerbRecover, &custody.Recover{Request: r.Object.Encode(), Approvals: [][]byte{w.yes(w.b, r)}, Names: names}, &out)
		w.pass(1, time.Second)
		for i, want := range []string{"for 0", "", "for 2"} {
			if len(boxes[i].got) != 1 {
				t.Fatalf("node %d was told %d times at once", i, len(boxes[i].got))
			}
			q := boxes[i].got[0]
			if q.Stage != custody.StageAsked || string(q.Name) != want || q.Wait != rDelay || len(q.Words) != 1 ||
				!bytes.Equal(q.Request, r.Object.Encode()) || !bytes.Equal(q.Manifest, w.deal.Bytes()) {
				t.Errorf("node %d: %+v", i, q)
			}
		}
		w.pass(1, (rDelay/2-30)*time.Second)
		if n := len(boxes[0].got); n != 1 {
			t.Fatalf("told %d times before half of the delay", n)
		}
		w.pass(1, time.Minute)
		w.pass(1, rDelay/2*time.Second)
		w.mustAt(1, r, custody.OK)
		w.pass(1, time.Minute)
		for i := range boxes {
			if got := boxes[i].stages(); !bytes.Equal(got, []uint8{custody.StageAsked, custody.StageHalf, custody.StageReleased}) {
				t.Errorf("node %d: %v", i, got)
			}
		}
	})
}

// TestNotifyUntilHeard: a node that does not acknowledge is told again, ever
// more seldom, also after a restart of the holder.
func TestNotifyUntilHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, boxes := newNWorld(t)
		boxes[0].hears(true)
		r, _ := w.asks(w.a, nil)
		w.mustAt(1, r, custody.Denied)
		w.pass(1, time.Hour)
		n := len(boxes[0].got)
		if n < 8 || n > 25 {
			t.Errorf("told %d times in an hour", n)
		}
		if len(boxes[2].got) != 1 {
			t.Errorf("who has heard is told %d times", len(boxes[2].got))
		}
		w.restart(1)
		w.bind(1, boxes[1])
		boxes[0].hears(false)
		w.pass(1, time.Minute)
		w.pass(1, time.Hour)
		if len(boxes[0].got) != n+1 {
			t.Errorf("told %d times after it hears", len(boxes[0].got)-n)
		}
		w.approveAt(1, r, w.word(w.veto, r, share.VerdictVeto))
		w.pass(1, time.Minute)
		if got := boxes[0].stages(); got[len(got)-1] != custody.StageClosed {
			t.Errorf("the end is not told: %v", got)
		}
	})
}

// TestNotifyNames: boxes that came by way of another node do not replace those
// that came from a node of the one who asks.
func TestNotifyNames(t *testing.T) {
	w, _ := newNWorld(t)
	r, _ := w.asks(w.b, nil) // bound to node 2
	send := func(from int, box string) {
		var out custody.RecoverReply
		q := &custody.Recover{Request: r.Object.Encode(), Names: []custody.NameBox{{Node: w.hWorld.nodes[0].ID(), Box: []byte(box)}}}
		w.ask(from, 1, custody.VerbRecover, q, &out)
	}
	for _, step := range []struct {
		from      int
		box, want string
	}{{0, "theirs", "theirs"}, {0, "theirs too", "theirs"}, {2, "own", "own"}, {0, "theirs", "own"}, {2, string(make([]byte, custody.MaxNameBox+1)), "own"}} {
		send(step.from, step.box)
		if got := w.nodes[1].requests.get(w.id, r.Hash).names[0].Box; string(got) != step.want {
			t.Fatalf("%q from %d: %q", step.box, step.from, got)
		}
	}
}

// TestWordsPassOn: an approval that reached one seat counts at all.
func TestWordsPassOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		r, _ := w.asks(w.a, nil)
		w.setDown(2, true)
		w.mustAt(1, r, custody.Wait, w.yes(w.b, r))
		w.pass(1, time.Minute)
		w.mustAt(0, r, custody.Wait)
		w.restart(1)
		w.setDown(2, false)
		w.pass(1, time.Minute)
		out := w.mustAt(2, r, custody.Wait)
		if out.Progress.Have != 2 || w.audit[2].count("approve") != 1 {
			t.Fatalf("%+v %v", out.Progress, w.audit[2].kinds())
		}
		w.mu.Lock()
		calls := w.calls[custody.VerbApprove]
		w.mu.Unlock()
		w.pass(1, time.Hour)
		if n := w.called(custody.VerbApprove); n != calls {
			t.Errorf("passed on %d times more", n-calls)
		}
	})
}

// fakeWitness is an audit log that keeps heads.
type fakeWitness struct {
	*fakeAudit
	own  []byte
	kept map[key.NodeID][]byte
	bad  error
}

func (f *fakeWitness) SignedHead() ([]byte, error) { return f.own, nil }

func (f *fakeWitness) Witnessed(peer key.NodeID) [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept[peer] == nil {
		return nil
	}
	return [][]byte{f.kept[peer], []byte("e")}
}

func (f *fakeWitness) SaveWitness(peer key.NodeID, head []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad != nil {
		return f.bad
	}
	f.kept[peer] = append(f.kept[peer], head...)
	return nil
}

// TestHeads: peers show one another their heads, and each the other's.
func TestHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRWorld(t, rPolicy)
		var logs []*fakeWitness
		for i, n := range w.nodes {
			f := &fakeWitness{fakeAudit: w.audit[i], own: []byte{byte('0' + i)}, kept: map[key.NodeID][]byte{}}
			n.custodian.cfg.Audit = f
			logs = append(logs, f)
		}
		w.pass(1, 90*time.Second)
		id := func(i int) key.NodeID { return w.hWorld.nodes[i].ID() }
		if got := logs[0].kept[id(1)]; !bytes.HasPrefix(got, []byte("1")) {
			t.Fatalf("node 0 has of node 1: %q", got)
		}
		// What node 0 has of node 1 is shown to it: kept among what node 1 was shown by 0.
		if got := logs[1].kept[id(0)]; !bytes.Contains(got, []byte("1e0")) {
			t.Fatalf("node 1 was shown by node 0: %q", got)
		}
		var out custody.HeadReply
		logs[2].bad = errFakeLog
		w.ask(0, 2, custody.VerbHead, &custody.Head{Own: []byte("x")}, &out)
		if out.Outcome != custody.Refused {
			t.Errorf("a bad head: %d", out.Outcome)
		}
		w.nodes[2].custodian.cfg.Audit = nil
		if w.ask(0, 2, custody.VerbHead, &custody.Head{Own: []byte("x")}, &out); out.Outcome != custody.Refused {
			t.Errorf("no log: %d", out.Outcome)
		}
	})
}
