package mesh

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/memnet"
)

// copyOf is a peer with the same key and a copy of the book as it is now, on
// another host.
func (p *peer) copyOf(net *memnet.Network, name string) *peer {
	q := &peer{t: p.t, name: name, host: net.Host(name), book: p.book.copy(), handle: p.handle}
	q.cfg = p.cfg
	q.cfg.Advertise, q.cfg.Dial, q.cfg.Book, q.cfg.Listener = []string{"ws://" + name + ":1"}, q.host.Dial, q.book, nil
	return q
}

func (b *book) copy() *book {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &book{notes: map[noteKey]Note{}}
	for k, v := range b.notes {
		c.notes[k] = v
	}
	return c
}

// TestTwinRaisesAlarm: a second process with the key of a running node is told
// by the node itself, by the copy, and by the others, within minutes; and they
// stop outbidding one another.
func TestTwinRaisesAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 4)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		time.Sleep(time.Minute)
		twin := peers[3].copyOf(net, "copy")
		twin.start()
		defer twin.stop()
		time.Sleep(15 * time.Minute)
		if st := peers[3].node.Status(); !st.Twin {
			t.Errorf("the first process does not know: %+v", st)
		}
		if st := twin.node.Status(); !st.Twin {
			t.Errorf("the copy does not know: %+v", st)
		}
		saw := 0
		for _, p := range peers[:3] {
			for _, m := range p.node.Members() {
				if m.ID == twin.node.ID() && m.Twin {
					saw++
				} else if m.Twin {
					t.Errorf("%s takes %s for a twin", p.name, m.Name)
				}
			}
		}
		if saw == 0 {
			t.Error("no other node noticed")
		}
		before := twin.node.Status().Seq
		time.Sleep(time.Hour)
		if now := twin.node.Status().Seq; now-before > 14 {
			t.Errorf("the two signed %d records in an hour", now-before)
		}
		peers[3].stop()
		time.Sleep(25 * time.Hour)
		for _, p := range append(peers[:3:3], twin) {
			if p.node.Status().Twin {
				t.Errorf("%s still has the alarm a day after the other process stopped", p.name)
			}
		}
	})
}

// TestOlderCopyIsNoticed: a node whose disk was put back to an earlier day is
// shown its own later record; restarts with the true disk raise nothing.
func TestOlderCopyIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 3)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		time.Sleep(time.Hour)
		backup := peers[2].book.copy()
		for range 3 {
			peers[2].stop()
			time.Sleep(time.Minute)
			peers[2].start()
			time.Sleep(time.Minute)
			if st := peers[2].node.Status(); st.RolledBack || st.Twin {
				t.Fatalf("after an honest restart: %+v", st)
			}
		}
		peers[2].stop()
		peers[2].book = backup
		peers[2].cfg.Book = backup
		peers[2].start()
		time.Sleep(time.Minute)
		if st := peers[2].node.Status(); !st.RolledBack || st.Twin || !peers[2].node.RolledBack() {
			t.Errorf("after the disk was put back: %+v", st)
		}
		for _, p := range peers {
			for _, m := range p.node.Members() {
				if m.Twin {
					t.Errorf("%s takes %s for a twin", p.name, m.Name)
				}
			}
		}
	})
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 3)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		id := peers[2].node.ID()
		if d, err := peers[1].node.Ping(t.Context(), id); err != nil || d > time.Second {
			t.Fatalf("%v %v", d, err)
		}
		peers[2].stop()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if d, err := peers[1].node.Ping(ctx, id); err == nil {
			t.Fatalf("a stopped node answered after %v", d)
		}
		if _, err := peers[1].node.Ping(t.Context(), key.GenerateNode().ID()); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("an unknown node: %v", err)
		}
	})
}
