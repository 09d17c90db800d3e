package mesh

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

// of returns what the book was told of one kind.
func (b *book) of(kind string) (out []Membership) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.said {
		if m.Kind == kind {
			out = append(out, m)
		}
	}
	return out
}

// turnedAway collects what Config.Refused is told.
type turnedAway struct {
	mu  sync.Mutex
	all []string
}

func (r *turnedAway) add(node key.NodeID, host string, ticket bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, fmt.Sprintf("%v %s %v", !node.IsZero(), host, ticket))
}

// TestNotesTellOfMembership follows a node from its ticket to its revocation.
// Each thing is told once, however often notes are saved.
func TestNotesTellOfMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, i, net := inviter(t)
		i.stop()
		var away turnedAway
		i.cfg.Refused = away.add
		i.start()
		other := a.newPeer(t, net, "other", "i:1")
		other.cfg.Member = a.member(t, other.cfg.Key.ID(), "other", 31*24*time.Hour)
		other.start()
		peers := []*peer{i, other}
		defer func() { stopAll(peers) }()
		waitMesh(t, peers, time.Second)
		tk := i.invite()
		wrong := tk
		wrong.Secret = bytes.Repeat([]byte{1}, roster.TicketSecret)
		p := a.newPeer(t, net, "newcomer", "i:1")
		join := func(tk roster.Ticket) (Admission, error) {
			return Join(t.Context(), JoinConfig{Key: p.cfg.Key, Ticket: tk, Name: "newcomer", Dial: p.host.Dial})
		}
		if _, err := join(wrong); err == nil {
			t.Fatal("a wrong ticket was taken")
		}
		adm, err := join(tk)
		if err != nil {
			t.Fatal(err)
		}
		p.cfg.Member, p.cfg.Issuer = adm.Member, adm.Issuer
		p.start()
		peers = append(peers, p)
		waitMesh(t, peers, time.Second)
		time.Sleep(26 * time.Hour) // records are renewed, and one certificate
		id := p.cfg.Key.ID()
		if got := i.book.of("invite"); len(got) != 1 || !strings.Contains(got[0].Detail, "guest") {
			t.Errorf("invited: %+v", got)
		}
		if got := i.book.of("join"); len(got) != 1 || got[0].Node != id || !strings.Contains(got[0].Detail, "newcomer of operator guest") {
			t.Errorf("joined: %+v", got)
		}
		seen := 0
		for _, m := range other.book.of("member") {
			if m.Node == id {
				seen++
			}
		}
		if seen != 1 || len(other.book.of("renewed")) != 0 {
			t.Errorf("seen %d times; %+v", seen, other.book.said)
		}
		if got := other.book.of("renew"); len(got) != 1 || got[0].Node != other.cfg.Key.ID() {
			t.Errorf("the other's own certificate: %+v", got)
		}
		for _, q := range []*peer{i, p} {
			if got := q.book.of("renewed"); len(got) != 1 || got[0].Node != other.cfg.Key.ID() {
				t.Errorf("%s: renewed %+v", q.name, got)
			}
		}
		if err := i.node.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		for _, q := range peers[:2] {
			if got := q.book.of("revoked"); len(got) != 1 || got[0].Node != id {
				t.Errorf("%s: revoked %+v", q.name, got)
			}
		}
		testTurnedAway(t, &away, i, net)
	})
}

func testTurnedAway(t *testing.T, away *turnedAway, i *peer, net *memnet.Network) {
	t.Helper()
	stranger := newAuthority(t).newPeer(t, net, "stranger", "i:1")
	stranger.start()
	time.Sleep(10 * time.Second)
	stranger.stop()
	away.mu.Lock()
	defer away.mu.Unlock()
	told := map[string]bool{}
	for _, s := range away.all {
		told[s] = true
	}
	if !told["true newcomer true"] || !told["true stranger false"] {
		t.Errorf("told of %v", told)
	}
}

// TestNotesThatCannotBeRead say nothing.
func TestNotesThatCannotBeRead(t *testing.T) {
	for kind := range uint8(6) {
		for _, v := range [][]byte{nil, {}, {0xa0}, []byte("x"), key.Marshal(&recordNote{}), key.Marshal(&ticketNote{}), key.Marshal(&selfNote{}), key.Marshal(&revocationNote{})} {
			if got := (Note{Kind: kind, Value: v}).Membership(v); len(got) != 0 {
				t.Errorf("kind %d, %x: %+v", kind, v, got)
			}
		}
	}
}
