package mesh

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

func TestRestartWithoutBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 5)
		defer func() { stopAll(peers) }()
		waitMesh(t, peers, time.Second)
		time.Sleep(time.Second) // the books are written
		stopAll(peers)
		gone := peers[0]
		peers = peers[1:] // the bootstrap stays off
		for _, p := range peers {
			p.cfg.Bootstrap = nil
			p.start()
		}
		waitMesh(t, peers, 2*time.Second)
		m := peers[0].node.Members()
		if len(m) != 4 {
			t.Fatalf("%d members, want the one that is off too", len(m))
		}
		for _, x := range m {
			if (x.ID == gone.cfg.Key.ID()) == x.Online {
				t.Errorf("%s online: %v", x.Name, x.Online)
			}
		}
	})
}

func TestEveryRestartHasAHigherSeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 2)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		for i := range uint64(3) {
			if s := peers[1].node.Status(); s.Seq != i+1 {
				t.Fatalf("seq %d after %d restarts", s.Seq, i)
			}
			peers[1].stop()
			peers[1].start()
			waitMesh(t, peers, time.Second)
		}
		// Who lost its book continues from what others kept.
		peers[1].stop()
		peers[1].book = &book{}
		peers[1].cfg.Book = peers[1].book
		peers[1].start()
		waitMesh(t, peers, time.Second)
		time.Sleep(2 * choreEvery)
		if s := peers[1].node.Status(); s.Seq != 5 {
			t.Fatalf("seq %d, want one more than the 4 that the peer kept", s.Seq)
		}
		if rec := peers[0].node.record(peers[1].node.ID()); rec.Body.Seq != 5 {
			t.Fatalf("the peer has seq %d", rec.Body.Seq)
		}
	})
}

func TestAddressChangeSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 4)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		p := peers[3]
		p.stop()
		p.host = net.Host("elsewhere")
		p.cfg.Dial, p.cfg.Advertise = p.host.Dial, []string{"ws://elsewhere:1"}
		p.start()
		waitMesh(t, peers, 2*time.Second)
		time.Sleep(time.Second)
		for _, q := range peers[:3] {
			for _, m := range q.node.Members() {
				if m.ID == p.node.ID() && (len(m.Addrs) != 1 || m.Addrs[0] != "ws://elsewhere:1") {
					t.Errorf("%s has %v", q.name, m.Addrs)
				}
			}
		}
		// The new address is what it is found at.
		net.Host("elsewhere").Crash()
		<-p.ended
		p.start()
		waitMesh(t, peers, 2*time.Second)
	})
}

func TestPartitionHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 6)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		left, right := peers[:3], peers[3:]
		for _, p := range left {
			for _, q := range right {
				net.Cut(p.name, q.name)
			}
		}
		time.Sleep(2 * time.Minute)
		for _, p := range peers {
			if k := p.online(); k != 2 {
				t.Fatalf("%s has %d links across a cut of 2 min, want 2", p.name, k)
			}
		}
		if _, err := left[0].node.Call(t.Context(), right[0].node.ID(), 40, nil); !errors.Is(err, ErrNoLink) {
			t.Fatalf("a call across the cut: %v", err)
		}
		for _, p := range left {
			for _, q := range right {
				net.Heal(p.name, q.name)
			}
		}
		waitMesh(t, peers, backoffMax)
	})
}

// TestDuplicateLinks has both sides dial at once, over and over.
func TestDuplicateLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y := a.newPeer(t, net, "x", "y:1"), a.newPeer(t, net, "y", "x:1")
		peers := []*peer{x, y}
		x.start()
		y.start()
		defer stopAll(peers)
		var small, large *peer = x, y
		if sx, sy := x.node.ID(), y.node.ID(); string(sy[:]) < string(sx[:]) {
			small, large = y, x
		}
		waitMesh(t, peers, time.Second)
		for range 20 {
			// A link by each, whoever comes first.
			for _, p := range peers {
				other := x
				if p == x {
					other = y
				}
				n := p.node
				n.wg.Go(func() {
					if l, err := n.approach(n.ctx, other.name+":1", other.node.ID(), p.host.Dial); err == nil {
						n.serve(l)
					}
				})
			}
			time.Sleep(probeTime + 2*retireTime)
			ls, ll := small.node.link(large.node.ID()), large.node.link(small.node.ID())
			if ls == nil || ll == nil || ls.inbound || !ll.inbound || ls.number != ll.number {
				t.Fatalf("the sides disagree: %+v and %+v", ls, ll)
			}
			if k := net.Host("x").Conns(); k != 1 {
				t.Fatalf("%d connections are left", k)
			}
			for _, p := range peers {
				other := large.node.ID()
				if p == large {
					other = small.node.ID()
				}
				if _, err := p.node.Call(t.Context(), other, 40, []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestDeadLinkDoesNotKeepTheNewOneOut: the link that wins by the rule may be
// dead without its end having noticed.
func TestDeadLinkDoesNotKeepTheNewOneOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 2)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		small, large := peers[0], peers[1]
		if ss, sl := small.node.ID(), large.node.ID(); string(sl[:]) < string(ss[:]) {
			small, large = large, small
		}
		// The larger id notices that the link is dead, the smaller does not.
		net.Cut("n1", "n2")
		large.node.link(small.node.ID()).close(errSilent)
		old := small.node.link(large.node.ID())
		large.node.mu.Lock()
		for _, c := range large.node.peers {
			c.next = time.Now()
		}
		large.node.mu.Unlock()
		// A way around the cut for the new connection.
		via := net.Host("detour")
		l, err := large.node.approach(large.node.ctx, small.name+":1", small.node.ID(), via.Dial)
		if err != nil {
			t.Fatal(err)
		}
		large.node.wg.Go(func() { large.node.serve(l) })
		time.Sleep(probeTime + time.Second)
		if now := small.node.link(large.node.ID()); now == nil || now == old || now.ctx.Err() != nil {
			t.Fatalf("the dead link is still the one: %v", now)
		}
		if _, err := small.node.Call(t.Context(), large.node.ID(), 40, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSilentPeerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 2)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		time.Sleep(10 * time.Minute)
		if s := peers[0].node.Status(); s.Counters["links down"] != 0 {
			t.Fatalf("a quiet link was dropped: %v", s.Counters)
		}
		net.Cut("n1", "n2")
		start := time.Now()
		for peers[0].online() > 0 {
			time.Sleep(time.Second)
		}
		if d := time.Since(start); d < 2*pingEvery || d > 6*pingEvery {
			t.Fatalf("dropped after %v", d)
		}
		net.Heal("n1", "n2")
		waitMesh(t, peers, time.Minute)
	})
}

func TestLapsedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y := a.newPeer(t, net, "x"), a.newPeer(t, net, "y", "x:1")
		y.cfg.Member = a.member(t, y.cfg.Key.ID(), "y", 10*time.Minute)
		peers := []*peer{x, y}
		x.start()
		y.start()
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		check := func(lapsed bool) {
			t.Helper()
			for _, pair := range [][2]*peer{{x, y}, {y, x}} {
				if _, err := pair[0].node.Call(t.Context(), pair[1].node.ID(), 40, nil); err != nil {
					t.Fatalf("%s to %s, a verb for lapsed links: %v", pair[0].name, pair[1].name, err)
				}
				_, err := pair[0].node.Call(t.Context(), pair[1].node.ID(), 41, nil)
				if lapsed != errors.Is(err, ErrRefused) || !lapsed && err != nil {
					t.Fatalf("%s to %s, lapsed %v: %v", pair[0].name, pair[1].name, lapsed, err)
				}
			}
			if m := x.node.Members()[0]; m.Lapsed != lapsed || !m.Online {
				t.Fatalf("%+v", m)
			}
		}
		check(false)
		time.Sleep(11 * time.Minute)
		check(true)
		y.stop() // it also gets a link when it comes with an expired certificate
		y.start()
		waitMesh(t, peers, 2*time.Second)
		check(true)
		if !y.node.Status().Lapsed {
			t.Fatal("it does not know that it lapsed")
		}
	})
}

func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y, z := a.newPeer(t, net, "x"), a.newPeer(t, net, "y", "x:1"), a.newPeer(t, net, "z", "x:1")
		var err error
		x.cfg.Issuing, err = NewIssuer(IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Node: x.cfg.Key.ID(), Book: x.book})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*peer{x, y} {
			p.cfg.Member = a.member(t, p.cfg.Key.ID(), p.name, 31*24*time.Hour)
		}
		peers := []*peer{x, y, z}
		for _, p := range peers {
			p.start()
		}
		defer func() { stopAll(peers) }()
		waitMesh(t, peers, time.Second)
		old := y.node.Self().CertExpires
		time.Sleep(time.Hour)
		if got := y.node.Self().CertExpires; !got.Equal(old) {
			t.Fatalf("renewed %v before expiry", time.Until(old))
		}
		stopAll(peers) // all lapse, and come back 100 days later
		time.Sleep(100 * 24 * time.Hour)
		for _, p := range peers {
			p.start()
		}
		waitMesh(t, peers, time.Minute)
		time.Sleep(5 * time.Minute)
		for _, p := range peers {
			m := p.node.Self()
			if m.Lapsed || time.Until(m.CertExpires) < 85*24*time.Hour || m.Operator != "op-"+p.name || m.Name != p.name {
				t.Errorf("%s: %+v", p.name, m)
			}
		}
		for _, m := range z.node.Members() {
			if m.ID == y.node.ID() && m.Lapsed {
				t.Error("z does not have y's new certificate")
			}
		}
		expires := y.node.Self().CertExpires
		y.stop()
		y.start() // from the book, not from the configuration
		if got := y.node.Self().CertExpires; waitMesh(t, peers, time.Minute) < 0 || !y.node.Self().CertExpires.Equal(expires) {
			t.Errorf("after a restart the certificate ends %v (first %v), not %v", y.node.Self().CertExpires, got, expires)
		}
		// An issuer that the roster lost sight of, a node that needs none.
		if _, err := y.node.link(x.node.ID()).call(t.Context(), verbRenew, key.Marshal(&empty{})); !errors.Is(err, ErrRefused) {
			t.Errorf("a fresh certificate was renewed again: %v", err)
		}
	})
}

func TestRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 4)
		defer func() { stopAll(peers) }()
		waitMesh(t, peers, time.Second)
		x, bad := peers[0], peers[3]
		if err := x.node.Revoke(t.Context(), bad.node.ID()); !errors.Is(err, ErrRefused) {
			t.Fatalf("revoked without an issuer's key: %v", err)
		}
		x.stop()
		var err error
		x.cfg.Issuing, err = NewIssuer(IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Node: x.cfg.Key.ID(), Book: x.book})
		if err != nil {
			t.Fatal(err)
		}
		x.start()
		waitMesh(t, peers, 2*time.Second)
		if err := x.node.Revoke(t.Context(), bad.node.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		gone := func() {
			t.Helper()
			for _, p := range peers[:3] {
				for _, m := range p.node.Members() {
					if m.ID == bad.cfg.Key.ID() && (!m.Revoked || m.Online) {
						t.Errorf("%s: %+v", p.name, m)
					}
				}
				if _, err := p.node.Call(t.Context(), bad.cfg.Key.ID(), 40, nil); !errors.Is(err, ErrRefused) {
					t.Errorf("%s calls the revoked node: %v", p.name, err)
				}
			}
			if k := bad.online(); k != 0 {
				t.Errorf("the revoked node has %d links", k)
			}
		}
		gone()
		time.Sleep(time.Hour) // it keeps trying
		gone()
		stopAll(peers) // everybody remembers
		for _, p := range peers {
			p.start()
		}
		waitMesh(t, peers[:3], 10*time.Second)
		time.Sleep(10 * time.Minute)
		gone()
	})
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 3)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		n := peers[0].node
		if s := n.Status(); s.Clock != "" {
			t.Fatal(s.Clock)
		}
		for _, l := range n.linked() {
			l.mu.Lock()
			l.skew = -11 * time.Minute
			l.mu.Unlock()
		}
		if s := n.Status(); !strings.Contains(s.Clock, "off the median") || n.Clock() != s.Clock {
			t.Fatalf("11 min off is %q", s.Clock)
		}
		peers[0].stop()
		future := roster.MemberCert{Node: key.GenerateNode().ID(), Name: "f", Roles: 1, Operator: "f", NotBefore: uint64(time.Now().Add(time.Hour).Unix())}
		future.Expires = future.NotBefore + 1000
		peers[0].start()
		peers[0].node.mu.Lock()
		peers[0].node.roster.Saw(roster.Chain{Member: future})
		peers[0].node.mu.Unlock()
		if s := peers[0].node.Status(); !strings.Contains(s.Clock, "was signed at") {
			t.Fatalf("a clock below a signed time is %q", s.Clock)
		}
	})
}

func TestBookFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		p := a.newPeer(t, net, "p")
		p.book.fail = errors.New("the disk is gone")
		p.start()
		if err := <-p.ended; err == nil || !strings.Contains(err.Error(), "the disk is gone") {
			t.Fatalf("it ran with an unreadable book: %v", err)
		}
		p.book.fail = nil
		p.book.notes = map[noteKey]Note{
			{NoteRecord, key.Hash{1}}: {Kind: NoteRecord, ID: key.Hash{1}, Value: []byte("rubbish")},
			{NoteSelf, key.Hash{}}:    {Kind: NoteSelf, Value: []byte{0xa0}},
		}
		p.start()
		time.Sleep(time.Second)
		if len(p.node.Members()) != 0 {
			t.Fatal("members out of rubbish")
		}
		p.stop()
	})
}

func TestListenerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		p := a.newPeer(t, net, "p")
		p.start()
		time.Sleep(time.Second)
		p.cfg.Listener.Close()
		if err := <-p.ended; err == nil || !strings.Contains(err.Error(), "accepting links") {
			t.Fatalf("the listener died, and Run returned %v", err)
		}
	})
}

func TestLargeMesh(t *testing.T) {
	if testing.Short() {
		t.Skip("70 nodes")
	}
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 70)
		defer stopAll(peers)
		for i := 0; ; i++ {
			time.Sleep(time.Second)
			known := 0
			for _, p := range peers {
				if p.node.Status().Members == len(peers)-1 {
					known++
				}
			}
			if known == len(peers) {
				t.Logf("all records everywhere after %d s", i+1)
				break
			}
			if i > 300 {
				t.Fatalf("only %d nodes know all", known)
			}
		}
		time.Sleep(11 * time.Minute)
		for _, p := range peers {
			if s := p.node.Status(); s.Links < 1+neighbours || s.Links > maxLinks {
				t.Errorf("%s has %d links", p.name, s.Links)
			}
		}
		// A holder without a link is dialled when it is needed.
		for _, m := range peers[40].node.Members() {
			if m.Online {
				continue
			}
			if _, err := peers[40].node.Call(t.Context(), m.ID, 40, nil); err != nil {
				t.Fatalf("calling %s: %v", m.Name, err)
			}
			break
		}
	})
}
