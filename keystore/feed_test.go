package keystore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func kindsAfter(t *testing.T, s *Store, p Person, after string) (string, Events) {
	t.Helper()
	e, err := s.Events(context.Background(), p, after)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, x := range e.List {
		kinds = append(kinds, x.Kind)
	}
	return strings.Join(kinds, " "), e
}

// TestOwnersFeed: the owner's node tells who asked, who approved, and that it
// was given or stopped; nobody else's does.
func TestOwnersFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		ctx := context.Background()
		at := p.nodes[0].store
		_, start := kindsAfter(t, at, p.owner, "")
		w := p.asks(t)
		<-start.Changed
		p.view(t, 2, p.b, w.Request)
		if err := p.nodes[2].store.Approve(ctx, p.b, w.Request, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		kinds, e := kindsAfter(t, at, p.owner, start.Last)
		if kinds != "request" || e.Gap || e.List[0].Request.Hash != w.Request || e.List[0].Request.Requester != p.a.Key.Public() ||
			e.List[0].Request.Name != "mail/imap" || len(e.List[0].Request.Approvals) != 0 {
			t.Fatalf("%q %+v", kinds, e)
		}
		if _, err := p.nodes[1].store.Continue(ctx, p.a, w.Request, 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if kinds, _ := kindsAfter(t, at, p.owner, e.Last); kinds != "word released" {
			t.Errorf("after the release: %q", kinds)
		}
		second, err := p.nodes[1].store.Recover(ctx, p.a, "", RecoverOptions{ID: p.id, Reason: "again"})
		again := mustWait(t, errOf(second, err))
		p.view(t, 0, p.owner, again.Request)
		if err := at.Veto(ctx, p.owner, again.Request, "no"); err != nil {
			t.Fatal(err)
		}
		if kinds, _ := kindsAfter(t, at, p.owner, "0"); kinds != "request word released request vetoed" {
			t.Errorf("all in all: %q", kinds)
		}
		if _, err := at.Events(ctx, p.a, "0"); !errors.Is(err, ErrInput) {
			t.Errorf("a person of another node: %v", err)
		}
		for _, old := range []string{"x", "", "1", start.Last + "x", "OTHERRUN00.1"} {
			if _, e := kindsAfter(t, at, p.owner, old); e.Gap != (old != "") || len(e.List) != map[bool]int{true: 5}[old != ""] {
				t.Errorf("after %q: gap %v, %d events", old, e.Gap, len(e.List))
			}
		}
	})
}

// TestFeedIsBounded: whoever is not fast enough is told of a gap.
func TestFeedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeople(t, twoAfterAnHour)
		_, start := kindsAfter(t, p.nodes[0].store, p.owner, "")
		w := p.asks(t)
		p.view(t, 0, p.owner, w.Request)
		b := p.nodes[0].store.asks
		n := b.find(w.Request)
		for range maxEvents + 5 {
			b.feed.changed(b.s.here(), nil, n)
		}
		_, e := kindsAfter(t, p.nodes[0].store, p.owner, start.Last)
		if !e.Gap || len(e.List) != maxEvents {
			t.Errorf("gap %v, %d events", e.Gap, len(e.List))
		}
		if _, e := kindsAfter(t, p.nodes[0].store, p.owner, e.List[0].ID); e.Gap || len(e.List) != maxEvents-1 {
			t.Errorf("from the oldest: gap %v, %d events", e.Gap, len(e.List))
		}
	})
}
