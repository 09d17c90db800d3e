package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

// knocks counts the dials of a bystander's addresses, which are all closed.
type knocks struct {
	mu    sync.Mutex
	at    map[string]int
	all   int
	inner func(context.Context, string) (net.Conn, error)
}

func (k *knocks) dial(ctx context.Context, addr string) (net.Conn, error) {
	if !strings.HasPrefix(addr, "bystander") {
		return k.inner(ctx, addr)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at == nil {
		k.at = map[string]int{}
	}
	k.at[addr]++
	k.all++
	return nil, errors.New("connection refused")
}

func (k *knocks) count() (dials, addrs int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all, len(k.at)
}

// TestRecordsMakeNoPortScanner: a member that announces eight fresh addresses
// twice a second, alone or beside one of its own, gets few of them dialled by
// a node that it never spoke to; its last ones are followed in the end.
func TestRecordsMakeNoPortScanner(t *testing.T) {
	for name, own := range map[string][]string{"strangers": nil, "beside its own": {"ws://evil:1"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, v, net, evil := victim(t)
				v.start()
				defer v.stop()
				far := a.newPeer(t, net, "far", "v:1")
				k := &knocks{inner: far.cfg.Dial}
				far.cfg.Dial = k.dial
				far.start()
				defer far.stop()
				waitMesh(t, []*peer{v, far}, time.Second)
				cfg := a.newPeer(t, net, "evil").cfg
				x := intrude(t, evil, "v:1", cfg)
				defer x.close()
				go x.swallow()
				var last string
				for i := range 2400 {
					r := recordOf(cfg, uint64(10+i), time.Hour)
					r.Addrs = own
					for j := len(own); j < roster.MaxAddrs; j++ {
						last = fmt.Sprintf("bystander%d:%d", i, 1+j)
						r.Addrs = append(r.Addrs[:j:j], last)
					}
					x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: []roster.Item{{Object: a.forge(cfg.Key, r)}}}))
					time.Sleep(500 * time.Millisecond)
					if dials, addrs := k.count(); i == 120 && (dials > peerKnocks+1 || dials == 0) {
						t.Fatalf("%d dials of %d addresses in a minute", dials, addrs)
					}
				}
				if dials, addrs := k.count(); dials > peerKnocks+12 {
					t.Errorf("%d dials of %d addresses in 20 minutes", dials, addrs)
				}
				n := far.node
				n.mu.Lock()
				c := n.peers[cfg.Key.ID()]
				if len(n.strange) > peerKnocks+12 || len(c.proven) > maxProven {
					t.Errorf("%d addresses are remembered, %d proven", len(n.strange), len(c.proven))
				}
				n.mu.Unlock()
				time.Sleep(peerMove + 2*choreEvery)
				n.mu.Lock()
				defer n.mu.Unlock()
				if c.addrs[len(c.addrs)-1] != last {
					t.Errorf("its addresses are taken for %v", c.addrs)
				}
			})
		})
	}
}

// TestManyMembersMakeNoPortScanner: the budget of all peers together holds, and
// what is remembered of addresses is bounded.
func TestManyMembersMakeNoPortScanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, _ := victim(t)
		k := &knocks{inner: v.cfg.Dial}
		v.cfg.Dial = k.dial
		v.start()
		defer v.stop()
		time.Sleep(time.Second)
		n, start := v.node, time.Now()
		for i := range 60 {
			cfg := a.newPeer(t, net, fmt.Sprintf("e%d", i)).cfg
			r := recordOf(cfg, 2, 2*time.Hour)
			r.Addrs = nil
			for j := range roster.MaxAddrs {
				r.Addrs = append(r.Addrs, fmt.Sprintf("bystander%d:%d", i, 1+j))
			}
			n.mu.Lock()
			if err := n.merge(roster.Item{Object: a.forge(cfg.Key, r)}, n.id, time.Now()); err != nil {
				t.Error(err)
			}
			n.mu.Unlock()
		}
		for range 12 {
			time.Sleep(5 * time.Minute)
			dials, addrs := k.count()
			if most := knockBurst + int(time.Since(start)/knockEvery) + 1; dials > most || dials < knockBurst {
				t.Errorf("%d dials of %d addresses in %v, want %d to %d", dials, addrs, time.Since(start), knockBurst, most)
			}
			n.mu.Lock()
			if len(n.strange) > maxStrangers || n.knocking > maxStrange {
				t.Errorf("%d addresses are remembered, %d dials are running", len(n.strange), n.knocking)
			}
			n.mu.Unlock()
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for addr, c := range k.at {
			if c > strangeTries+7 {
				t.Errorf("%s was dialled %d times in an hour", addr, c)
			}
		}
	})
}

// TestManyStartAtOnce: the budgets are not in the way of forty nodes that know
// none of one another's addresses.
func TestManyStartAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 40)
		defer stopAll(peers)
		waitMesh(t, peers, 2*time.Second)
		for _, p := range peers {
			if s := p.node.Status(); s.Counters["dials put off"] != 0 || s.Counters["address changes put off"] != 0 {
				t.Errorf("%s: %v", p.name, s.Counters)
			}
		}
	})
}
