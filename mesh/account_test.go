package mesh

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

// swallow reads what comes until the link ends, and answers nothing.
func (x *attacker) swallow() {
	for {
		if _, _, err := x.next(); err != nil {
			return
		}
	}
}

// knock opens a link by hand and reports whether the node let it come up.
func knock(t testing.TB, x *attacker, cfg Config) bool {
	t.Helper()
	x.send(frame.Request, 1, verbHello, helloOf(t, cfg))
	h, b, err := x.next()
	if err != nil {
		t.Fatal(err)
	}
	if h.Kind == frame.Failed {
		if !errors.Is(failure(b), ErrBusy) {
			t.Fatalf("refused with %q", b)
		}
		return false
	}
	x.next()
	x.send(frame.Reply, 1, verbHello, key.Marshal(&welcome{Version: version}))
	return true
}

// TestReconnectingRefillsNothing: a member that comes back on a new link finds
// what it left of each rate, and cannot come back without end.
func TestReconnectingRefillsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		var served atomic.Int64
		v.handle = func(context.Context, key.NodeID, uint64, []byte) ([]byte, error) {
			served.Add(1)
			return nil, nil
		}
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		seq, up, start := uint64(1), 0, time.Now()
		for range 100 {
			x := attack(t, evil, "v:1", cfg.Key)
			if knock(t, x, cfg) {
				up++
				go x.swallow()
				for range meteredBurst {
					x.send(frame.Push, 0, 70, []byte("x"))
				}
				var items []roster.Item
				for range recordBurst {
					seq++
					items = append(items, roster.Item{Object: a.forge(cfg.Key, recordOf(cfg, seq, time.Hour))})
				}
				x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: items}))
			}
			time.Sleep(20 * time.Millisecond)
			x.close()
		}
		took := time.Since(start).Seconds()
		time.Sleep(time.Second)
		if most := meteredBurst + int64(took*meteredRate) + 1; served.Load() > most || served.Load() < meteredBurst {
			t.Errorf("%d requests were served in %.1f s, want %d to %d", served.Load(), took, meteredBurst, most)
		}
		if most := 1 + helloBurst + int(took*helloRate) + 1; up > most || up < helloBurst {
			t.Errorf("%d links came up in %.1f s, want %d to %d", up, took, helloBurst, most)
		}
		if s := v.node.Status(); s.Counters["records over the rate"] == 0 {
			t.Errorf("every record was looked at: %v", s.Counters)
		}
		// Nobody else is the poorer for it, and neither is it for ever.
		unharmed(t, a, net, v)
		time.Sleep(time.Minute)
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		x.send(frame.Request, 9, 70, nil)
		if h, b, err := x.next(); err != nil || h.Kind != frame.Reply {
			t.Errorf("a minute later: %v %q %v", h, b, err)
		}
	})
}

// TestLinksOfOnePeerShareItsRoom: several links at a time do not multiply what
// TestLinksOfOnePeerShareItsRoom: five links have no more calls in flight than
// two, since one may take over from another.
func TestLinksOfOnePeerShareItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		var now, most atomic.Int64
		v.handle = func(context.Context, key.NodeID, uint64, []byte) ([]byte, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(5 * time.Second)
			now.Add(-1)
			return nil, nil
		}
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		for range 5 {
			x := intrude(t, evil, "v:1", cfg)
			defer x.close()
			go x.swallow()
			for i := range uint64(maxCalls) {
				x.send(frame.Request, i+2, 41, nil)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if most.Load() != 2*maxCalls {
			t.Errorf("%d calls of one peer were served at a time", most.Load())
		}
		time.Sleep(time.Minute)
		v.node.mu.Lock()
		b := v.node.peers[cfg.Key.ID()].account
		v.node.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.calls != 0 || b.bytes != 0 {
			t.Errorf("left over: %d calls, %d bytes", b.calls, b.bytes)
		}
	})
}

// TestAccountsAreForgotten: once it says nothing any more, also that of a node
// that was revoked or whose record was never taken; not before.
func TestAccountsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		var err error
		if v.cfg.Issuing, err = NewIssuer(IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Node: v.cfg.Key.ID(), Book: v.book}); err != nil {
			t.Fatal(err)
		}
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		for range meteredBurst {
			x.send(frame.Push, 0, 70, nil)
		}
		time.Sleep(100 * time.Millisecond)
		n := v.node
		account := func(clean bool) (*account, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if clean {
				n.settleAccounts(time.Now())
			}
			c := n.peers[cfg.Key.ID()]
			if c == nil {
				return nil, false
			}
			return c.account, true
		}
		if err := n.Revoke(t.Context(), cfg.Key.ID()); err != nil {
			t.Fatal(err)
		}
		x.close()
		time.Sleep(100 * time.Millisecond)
		if b, _ := account(true); b == nil {
			t.Fatal("an account that was spent is forgotten at once")
		}
		time.Sleep(rotateEvery + 2*choreEvery)
		if b, _ := account(false); b != nil {
			t.Error("the account of a revoked node is kept for ever")
		}
		n.mu.Lock() // one whose record the roster does not have
		n.peers[cfg.Key.ID()] = &contact{id: cfg.Key.ID(), account: newAccount(recordBurst)}
		n.roster = roster.New(a.id)
		n.mu.Unlock()
		if _, ok := account(true); ok {
			t.Error("a contact without a record is kept for ever")
		}
	})
}
