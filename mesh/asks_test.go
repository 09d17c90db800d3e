package mesh

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

// invented are the ids of items that do not exist.
func invented(from, n int) (out []roster.Have) {
	for i := range n {
		out = append(out, roster.Have{ID: key.T("keymesh/v1/x", key.U64(uint64(from+i))), Seq: 9})
	}
	return out
}

// onFetch reads until the link ends, and answers each FETCH with what answer
// returns; nil: not at all.
func (x *attacker) onFetch(answer func(fetch) *announce) {
	for {
		h, err := x.in.Next()
		if err != nil {
			return
		}
		b, err := x.in.Body()
		if err != nil {
			return
		}
		var f fetch
		if h.Verb != verbFetch || h.Kind != frame.Request || key.Unmarshal(b, &f) != nil {
			continue
		}
		if a := answer(f); a != nil {
			x.send(frame.Reply, h.Call, verbFetch, key.Marshal(a))
		}
	}
}

// TestNamingWithoutAnswering: a member that names what does not exist, or what
// others are about to name, keeps this node from nobody else's news, whether it
// answers FETCH never or with nothing.
func TestNamingWithoutAnswering(t *testing.T) {
	for name, answer := range map[string]func(fetch) *announce{
		"silent":  func(fetch) *announce { return nil },
		"nothing": func(fetch) *announce { return &announce{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, v, net, evil := victim(t)
				v.start()
				defer v.stop()
				third := a.newPeer(t, net, "third").cfg
				rec := a.forge(third.Key, recordOf(third, 5, time.Hour))
				x := intrude(t, evil, "v:1", a.newPeer(t, net, "evil").cfg)
				defer x.close()
				var asks atomic.Int64
				go x.onFetch(func(f fetch) *announce { asks.Add(1); return answer(f) })
				go func() { // its every frame goes first
					for i := range 400 {
						hs := append([]roster.Have{{ID: key.Hash(third.Key.ID()), Seq: 5 + uint64(i)}}, invented(1000*i, 999)...)
						if x.send(frame.Push, 0, verbHave, key.Marshal(&have{Haves: hs})) != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				}()
				time.Sleep(10 * time.Second)
				y := intrude(t, net.Host("y"), "v:1", a.newPeer(t, net, "y").cfg)
				defer y.close()
				go y.onFetch(func(fetch) *announce { return &announce{Items: []roster.Item{{Object: rec}}} })
				y.send(frame.Push, 0, verbHave, key.Marshal(&have{Haves: []roster.Have{{ID: key.Hash(third.Key.ID()), Seq: 5}}}))
				time.Sleep(2*askAgain + 100*time.Millisecond)
				if v.node.record(third.Key.ID()) == nil {
					t.Error("the honest member's news did not come")
				}
				v.node.mu.Lock()
				l := v.node.link(x.peerID(t, v))
				if len(v.node.asking) > maxFetch || len(l.wishes.named) > maxWishes {
					t.Errorf("%d asked, %d wished for", len(v.node.asking), len(l.wishes.named))
				}
				v.node.mu.Unlock()
				time.Sleep(time.Minute)
				if k := asks.Load(); name == "silent" && k > 3 || k == 0 {
					t.Errorf("it was asked %d times in a minute", k)
				}
				x.close()
				y.close()
				time.Sleep(3 * time.Second)
				v.node.mu.Lock()
				defer v.node.mu.Unlock()
				if len(v.node.asking) != 0 {
					t.Errorf("%d asks are left over", len(v.node.asking))
				}
			})
		})
	}
}

// peerID is who the attacker's host is linked as.
func (x *attacker) peerID(t testing.TB, v *peer) key.NodeID {
	t.Helper()
	for _, l := range v.node.linked() {
		if l.addr == x.raw.LocalAddr().String() {
			return l.peer
		}
	}
	t.Fatal("no link to the attacker")
	return key.NodeID{}
}

// TestUnaskedItemsInAnAnswer are counted like any other unasked record.
func TestUnaskedItemsInAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		seq := uint64(1)
		go x.onFetch(func(f fetch) *announce {
			var out announce
			for range f.IDs {
				seq++
				out.Items = append(out.Items, roster.Item{Object: a.forge(cfg.Key, recordOf(cfg, seq, time.Hour))})
			}
			return &out
		})
		for i := range 5 {
			x.send(frame.Push, 0, verbHave, key.Marshal(&have{Haves: invented(100*i, maxFetch)}))
		}
		time.Sleep(100 * time.Millisecond)
		if got := v.node.record(cfg.Key.ID()).Body.Seq; got != recordBurst+1 {
			t.Errorf("%d unasked records were taken at once, want %d", got-1, recordBurst)
		}
	})
}

// TestMutedPeerIsHeardAgain: silence is not held against a peer for ever.
func TestMutedPeerIsHeardAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		third := a.newPeer(t, net, "third").cfg
		rec := a.forge(third.Key, recordOf(third, 5, time.Hour))
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		var honest atomic.Bool
		serve := func(fetch) *announce {
			if honest.Load() {
				return &announce{Items: []roster.Item{{Object: rec}}}
			}
			return nil
		}
		go x.onFetch(serve)
		x.send(frame.Push, 0, verbHave, key.Marshal(&have{Haves: invented(0, 1)}))
		time.Sleep(askTime + time.Second)
		x.close()
		honest.Store(true)
		third5 := key.Marshal(&have{Haves: []roster.Have{{ID: key.Hash(third.Key.ID()), Seq: 5}}})
		x = intrude(t, evil, "v:1", cfg) // a new link does not wipe it out
		defer x.close()
		go x.onFetch(serve)
		x.send(frame.Push, 0, verbHave, third5)
		time.Sleep(time.Second)
		if v.node.record(third.Key.ID()) != nil {
			t.Error("a new link made the node forget the silence")
		}
		time.Sleep(muteMin)
		x.send(frame.Push, 0, verbHave, third5)
		time.Sleep(time.Second)
		if v.node.record(third.Key.ID()) == nil {
			t.Error("it is not asked any more")
		}
	})
}
