package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

// book is a PeerBook in memory that survives its node.
type book struct {
	mu    sync.Mutex
	notes map[noteKey]Note
	fail  error
	saves int
	said  []Membership // what the notes said that was new
}

func (b *book) Load() ([]Note, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Note
	for _, n := range b.notes {
		out = append(out, n)
	}
	return out, b.fail
}

func (b *book) Save(notes []Note) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return b.fail
	}
	if b.notes == nil {
		b.notes = map[noteKey]Note{}
	}
	b.saves++
	for _, n := range notes {
		b.said = append(b.said, n.Membership(b.notes[noteKey{n.Kind, n.ID}].Value)...)
		if n.Value == nil {
			delete(b.notes, noteKey{n.Kind, n.ID})
		} else {
			b.notes[noteKey{n.Kind, n.ID}] = n
		}
	}
	return nil
}

// authority is a network with one issuer.
type authority struct {
	na, issuer key.AuthorityPrivate
	id         key.NetworkID
	cert       key.Object
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{na: key.GenerateAuthority(), issuer: key.GenerateAuthority()}
	a.id = a.na.Public().Network()
	a.cert = a.delegate(t, a.issuer)
	return a
}

func (a *authority) delegate(t testing.TB, issuer key.AuthorityPrivate) key.Object {
	t.Helper()
	now := time.Now()
	o, err := roster.NewIssuerCert(a.na, roster.IssuerCert{
		Issuer: issuer.Public(), NotBefore: uint64(now.Unix()), Expires: uint64(now.Add(5 * 365 * 24 * time.Hour).Unix()), Serial: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// member certifies a node for a time from now on.
func (a *authority) member(t testing.TB, id key.NodeID, name string, life time.Duration) key.Object {
	t.Helper()
	now := time.Now()
	if life < 0 {
		now = now.Add(life - time.Hour)
		life = time.Hour
	}
	o, err := roster.NewMemberCert(a.issuer, a.id, roster.MemberCert{
		Node: id, Name: name, Roles: roster.Holder | roster.Client, Operator: "op-" + name, Capacity: 1 << 30,
		NotBefore: uint64(now.Unix()), Expires: uint64(now.Add(life).Unix()), Serial: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// peer is one node of a test cluster, which can be stopped and started again.
type peer struct {
	t      testing.TB
	name   string
	host   *memnet.Host
	cfg    Config
	book   *book
	node   *Node
	cancel context.CancelFunc
	ended  chan error
	handle Handler
	issuer *authority
}

// echo answers with the body; verb 99 fails.
func echo(_ context.Context, _ key.NodeID, verb uint64, body []byte) ([]byte, error) {
	if verb == 99 {
		return nil, errors.New("no such verb here")
	}
	return body, nil
}

func testVerbs(verb uint64) Traits { return Traits{Unmetered: verb < 64, Lapsed: verb == 40} }

func (a *authority) newPeer(t testing.TB, net *memnet.Network, name string, bootstrap ...string) *peer {
	t.Helper()
	k := key.GenerateNode()
	p := &peer{t: t, name: name, host: net.Host(name), book: &book{}, handle: echo}
	p.cfg = Config{
		Key: k, Network: a.id, Member: a.member(t, k.ID(), name, 90*24*time.Hour), Issuer: a.cert,
		SealingKey: []byte("sealing key of " + name), Advertise: []string{"ws://" + name + ":1"}, Bootstrap: bootstrap,
		Dial: p.host.Dial, Book: p.book, Verbs: testVerbs,
	}
	if os.Getenv("MESH_TEST_LOG") != "" {
		p.cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("me", name)
	}
	return p
}

func (p *peer) start() {
	p.t.Helper()
	if len(p.cfg.Advertise) > 0 && p.host != nil {
		l, err := p.host.Listen(":1")
		if err != nil {
			p.t.Fatal(err)
		}
		p.cfg.Listener = l
	}
	var err error
	if p.node, err = New(p.cfg); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.ended = cancel, make(chan error, 1)
	n, h, ended := p.node, p.handle, p.ended
	go func() { ended <- n.Run(ctx, h) }()
}

func (p *peer) stop() {
	p.t.Helper()
	p.cancel()
	if err := <-p.ended; err != nil {
		p.t.Errorf("%s ended with %v", p.name, err)
	}
	p.node = nil
}

func (p *peer) online() int {
	k := 0
	for _, m := range p.node.Members() {
		if m.Online {
			k++
		}
	}
	return k
}

// cluster starts n nodes of which all but the first know only the first.
func (a *authority) cluster(t testing.TB, net *memnet.Network, n int) []*peer {
	t.Helper()
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = a.newPeer(t, net, fmt.Sprintf("n%d", i+1))
		if i > 0 {
			peers[i].cfg.Bootstrap = []string{"n1:1"}
		}
	}
	for _, p := range peers {
		p.start()
	}
	return peers
}

func stopAll(peers []*peer) {
	var wg sync.WaitGroup
	for _, p := range peers {
		if p.node != nil {
			wg.Go(p.stop)
		}
	}
	wg.Wait()
}

// meshed reports whether all running nodes have links to all others.
func meshed(peers []*peer) bool {
	up := 0
	for _, p := range peers {
		if p.node != nil {
			up++
		}
	}
	for _, p := range peers {
		if p.node != nil && p.online() < up-1 {
			return false
		}
	}
	return true
}

// waitMesh waits, on the bubble's clock, until all are linked to all.
func waitMesh(t testing.TB, peers []*peer, limit time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for !meshed(peers) {
		if time.Since(start) > limit {
			for _, p := range peers {
				if p.node != nil {
					t.Logf("%s %s: %d online, %v", p.name, p.node.ID().Short(), p.online(), p.node.Status())
				}
			}
			t.Fatalf("no full mesh after %v", limit)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

func TestFiveFromOneBootstrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 5)
		defer stopAll(peers)
		d := waitMesh(t, peers, time.Second)
		t.Logf("full mesh after %v", d)
		time.Sleep(2 * time.Second)
		for _, p := range peers {
			if s := p.node.Status(); s.Links != 4 || s.Members != 4 || s.Clock != "" || s.HalfOpen != 0 {
				t.Errorf("%s: %+v", p.name, s)
			}
			for _, q := range peers {
				if p == q {
					continue
				}
				got, err := p.node.Call(t.Context(), q.node.ID(), 40, []byte(p.name))
				if err != nil || string(got) != p.name {
					t.Errorf("%s calls %s: %q, %v", p.name, q.name, got, err)
				}
			}
		}
	})
}
