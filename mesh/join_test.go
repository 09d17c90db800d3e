package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

// inviter runs a node with an issuer at "i:1".
func inviter(t testing.TB) (a *authority, i *peer, net *memnet.Network) {
	t.Helper()
	a, net = newAuthority(t), memnet.New()
	i = a.newPeer(t, net, "i")
	i.issuing(a)
	i.start()
	return a, i, net
}

func (p *peer) issuing(a *authority) {
	p.t.Helper()
	p.issuer = a
	var err error
	p.cfg.Issuing, err = NewIssuer(IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Node: p.cfg.Key.ID(), Book: p.book})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) invite() roster.Ticket {
	p.t.Helper()
	tk, err := p.cfg.Issuing.Invite(p.t.Context(), Invitation{Operator: "guest", Capacity: 1000, Addrs: p.cfg.Advertise})
	if err != nil {
		p.t.Fatal(err)
	}
	return tk
}

// TestJoin goes the whole way: a ticket on paper, a node that knows nothing,
// a full mesh.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, net := inviter(t)
		other := a.newPeer(t, net, "other", "i:1")
		other.start()
		peers := []*peer{i, other}
		defer func() { stopAll(peers) }()
		waitMesh(t, peers, time.Second)
		text, err := i.invite().Text()
		if err != nil {
			t.Fatal(err)
		}
		tk, err := roster.ParseTicket(append(text, '\n'))
		if err != nil {
			t.Fatal(err)
		}
		p := a.newPeer(t, net, "newcomer")
		adm, err := Join(t.Context(), JoinConfig{Key: p.cfg.Key, Ticket: tk, Name: "newcomer", Zone: "z1", Capacity: 5000, Dial: p.host.Dial})
		if err != nil {
			t.Fatal(err)
		}
		if adm.Network != a.id || len(adm.Records) != 2 {
			t.Fatalf("%v %d", adm.Network, len(adm.Records))
		}
		p.cfg.Member, p.cfg.Issuer = adm.Member, adm.Issuer
		if err := p.book.Save(adm.Notes()); err != nil {
			t.Fatal(err)
		}
		p.start() // no bootstrap: the admission named the peers
		peers = append(peers, p)
		waitMesh(t, peers, time.Second)
		m := p.node.Self()
		if m.Operator != "guest" || m.Zone != "z1" || m.Capacity != 1000 || m.Name != "newcomer" || !m.Roles.Has(roster.Holder|roster.Client) {
			t.Errorf("%+v", m)
		}
		if d := time.Until(m.CertExpires); d > roster.MaxMemberLife || d < 89*24*time.Hour {
			t.Errorf("the certificate is good for %v", d)
		}
	})
}

func TestTickets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, i, net := inviter(t)
		defer i.stop()
		host := net.Host("guest")
		try := func(k key.NodePrivate, tk roster.Ticket) error {
			_, err := Join(t.Context(), JoinConfig{Key: k, Ticket: tk, Name: "guest", Dial: host.Dial})
			return err
		}
		tk := i.invite()
		wrong := tk
		wrong.Secret = bytes.Repeat([]byte{1}, roster.TicketSecret)
		if err := try(key.GenerateNode(), wrong); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("wrong secret: %v", err)
		}
		unknown := tk
		unknown.ID = bytes.Repeat([]byte{2}, roster.TicketIDSize)
		if err := try(key.GenerateNode(), unknown); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("unknown ticket: %v", err)
		}
		k := key.GenerateNode()
		if err := try(k, tk); err != nil { // nothing was burnt
			t.Errorf("the right ticket: %v", err)
		}
		if err := try(k, tk); err != nil { // the answer may have been lost
			t.Errorf("the same node again: %v", err)
		}
		if err := try(key.GenerateNode(), tk); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("another node with a used ticket: %v", err)
		}
		i.stop() // a used ticket stays used over a restart, an open one open
		tk2 := i.invite()
		i.cfg.Issuing = nil
		i.issuing(i.issuer)
		i.start()
		time.Sleep(time.Minute)
		if err := try(key.GenerateNode(), tk); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("a used ticket after a restart: %v", err)
		}
		if err := try(key.GenerateNode(), tk2); err != nil {
			t.Errorf("an open ticket after a restart: %v", err)
		}
		tk3 := i.invite()
		time.Sleep(24*time.Hour + time.Second)
		if err := try(key.GenerateNode(), tk3); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("a ticket of yesterday: %v", err)
		}
		late := tk3
		late.Expires += 1000 // only in the guest's copy
		if err := try(key.GenerateNode(), late); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("a ticket of yesterday with a new date: %v", err)
		}
	})
}

// TestWrongTicketsAreLimited: guesses from one address are slowed down, and
// cost others nothing.
func TestWrongTicketsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, i, net := inviter(t)
		defer i.stop()
		tk := i.invite()
		wrong := tk
		wrong.Secret = bytes.Repeat([]byte{1}, roster.TicketSecret)
		for range 50 {
			Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: wrong, Name: "g", Dial: net.Host("guesser").Dial})
		}
		if s := i.node.Status(); s.Counters["joins refused"] > badJoinBurst+15 {
			t.Errorf("%d guesses were looked at", s.Counters["joins refused"])
		}
		if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: tk, Name: "g", Dial: net.Host("guest").Dial}); err != nil {
			t.Errorf("a guest at another address: %v", err)
		}
	})
}

// TestTicketIsBoundToConnectionAndNode: whoever is between the guest and the
// issuer can use neither the proof nor the answer.
func TestTicketIsBoundToConnectionAndNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, net := inviter(t)
		defer i.stop()
		tk := i.invite()
		// A member that answers at the ticket's address is not the issuer.
		evil := a.newPeer(t, net, "evil")
		evil.start()
		defer evil.stop()
		lured := tk
		lured.Addrs = []string{"evil:1"}
		if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: lured, Name: "g", Dial: net.Host("guest").Dial}); !errors.Is(err, ErrNoLink) || !errors.Is(err, errIdentity) {
			t.Errorf("joined at another node: %v", err)
		}
		// A MAC for another connection or another node is worth nothing.
		k := key.GenerateNode()
		send := func(mac func(exporter []byte) []byte) (frame.Head, error) {
			x := attack(t, net.Host("middle"), "i:1", k)
			defer x.close()
			cs := x.conn.ConnectionState()
			exporter, err := cs.ExportKeyingMaterial(joinExporter, nil, exporterSize)
			if err != nil {
				t.Fatal(err)
			}
			x.send(frame.Request, 1, verbJoin, key.Marshal(&join{Ticket: tk.ID, MAC: mac(exporter), Name: "g"}))
			h, _, err := x.next()
			return h, err
		}
		for name, mac := range map[string]func([]byte) []byte{
			"another connection": func([]byte) []byte { return tk.MAC(make([]byte, exporterSize), k.ID()) },
			"another node":       func(e []byte) []byte { return tk.MAC(e, key.GenerateNode().ID()) },
			"empty":              func([]byte) []byte { return nil },
		} {
			if h, err := send(mac); err != nil || h.Kind != frame.Failed {
				t.Errorf("%s: %v %v", name, h, err)
			}
		}
		if h, err := send(func(e []byte) []byte { return tk.MAC(e, k.ID()) }); err != nil || h.Kind != frame.Reply {
			t.Errorf("the right one: %v %v", h, err)
		}
	})
}

func TestJoinRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, i, net := inviter(t)
		defer i.stop()
		host := net.Host("guest")
		tk := i.invite()
		for _, name := range []string{"", "Upper", "a b", "ü", string(make([]byte, 64))} {
			if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: tk, Name: name, Dial: host.Dial}); !errors.Is(err, roster.ErrInvalid) {
				t.Errorf("name %q: %v", name, err)
			}
		}
		if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: tk, Name: "g", Zone: "no spaces", Dial: host.Dial}); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("zone: %v", err)
		}
		far := tk
		far.Addrs = []string{"nobody:1", "i:2", "i:1"}
		if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: far, Name: "g", Dial: host.Dial}); err != nil {
			t.Errorf("the third address: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		net.Cut("guest", "i")
		start := time.Now()
		if _, err := Join(ctx, JoinConfig{Key: key.GenerateNode(), Ticket: tk, Name: "g", Dial: host.Dial}); err == nil || time.Since(start) > time.Second {
			t.Errorf("across a cut: %v after %v", err, time.Since(start))
		}
		for _, inv := range []Invitation{{}, {Operator: "x"}, {Operator: "X", Addrs: []string{"a:1"}}, {Operator: "x", Addrs: []string{"a"}}, {Operator: "x", Addrs: []string{"a:1"}, Roles: 8}} {
			if _, err := i.cfg.Issuing.Invite(t.Context(), inv); err == nil {
				t.Errorf("invited %+v", inv)
			}
		}
		i.book.mu.Lock()
		i.book.fail = errors.New("disk full")
		i.book.mu.Unlock()
		if _, err := i.cfg.Issuing.Invite(t.Context(), Invitation{Operator: "x", Addrs: []string{"a:1"}}); err == nil {
			t.Error("a ticket that is not durable was handed out")
		}
		net.Heal("guest", "i")
		tk2 := tk
		if _, err := Join(t.Context(), JoinConfig{Key: key.GenerateNode(), Ticket: tk2, Name: "g", Dial: host.Dial}); !errors.Is(err, ErrTicketRefused) {
			t.Errorf("a use that is not durable: %v", err)
		}
		i.book.mu.Lock()
		i.book.fail = nil
		i.book.mu.Unlock()
	})
}

func TestNewIssuer(t *testing.T) {
	a := newAuthority(t)
	good := IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Book: &book{}}
	if _, err := NewIssuer(good); err != nil {
		t.Fatal(err)
	}
	other := newAuthority(t)
	for name, change := range map[string]func(*IssuerConfig){
		"no key":          func(c *IssuerConfig) { c.Key = key.AuthorityPrivate{} },
		"another key":     func(c *IssuerConfig) { c.Key = other.issuer },
		"another network": func(c *IssuerConfig) { c.Network = other.id },
		"no certificate":  func(c *IssuerConfig) { c.Cert = key.Object{} },
		"no book":         func(c *IssuerConfig) { c.Book = nil },
	} {
		c := good
		change(&c)
		if _, err := NewIssuer(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewChecksTheConfiguration(t *testing.T) {
	a, net := newAuthority(t), memnet.New()
	good := a.newPeer(t, net, "x").cfg
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	other := newAuthority(t)
	many := make([]string, roster.MaxAddrs+1)
	for i := range many {
		many[i] = fmt.Sprintf("host%d:1", i)
	}
	for name, change := range map[string]func(*Config){
		"no key":              func(c *Config) { c.Key = key.NodePrivate{} },
		"no network":          func(c *Config) { c.Network = key.NetworkID{} },
		"another network":     func(c *Config) { c.Network = other.id },
		"another's member":    func(c *Config) { c.Key = key.GenerateNode() },
		"no member":           func(c *Config) { c.Member = key.Object{} },
		"too many addresses":  func(c *Config) { c.Advertise = many },
		"a bad address":       func(c *Config) { c.Advertise = []string{"http://x:1"} },
		"a bad bootstrap":     func(c *Config) { c.Bootstrap = []string{"x"} },
		"a huge sealing key":  func(c *Config) { c.SealingKey = make([]byte, maxSealingKey+1) },
		"a binding of nobody": func(c *Config) { c.Bindings = []key.Object{{}} },
		"addresses of 1.5 KiB": func(c *Config) {
			c.Advertise = []string{longAddr('a'), longAddr('b'), longAddr('c'), longAddr('d'), longAddr('e')}
		},
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func longAddr(c byte) string { return string(bytes.Repeat([]byte{c}, 250)) + ":1" }
