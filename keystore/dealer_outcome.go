package keystore

import (
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// outcome is the first verdict on a write.
type outcome struct {
	ok        bool // acknowledged, or certified and then overtaken
	overtaken bool
	conflict  bool                // other manifests stand in the way
	stale     bool                // something newer is there: there is nothing to wait for
	dead      bool                // and never will be: so many seats have signed that
	notStored bool                // and will not be: so many seats refused, or another successor of prev is certified
	waits     bool                // for consent to another policy, and for nothing else
	heard     []*custody.Progress // what seats say of the consent
	asked     *asked              // with the words that were heard; set by dealing.run
	undecided bool                // seats that are still asked may make it not stored
	full      bool                // for want of room
	failed    error
	shown     []*certified
	have      uint64 // the highest generation that was shown certified
	prepared  int
	committed int
	seats     []SeatState
}

// judge returns the verdict if there is one, or with final the verdict as it
// stands.
func (w *write) judge(final bool) *outcome {
	out := &outcome{failed: w.failed}
	switch {
	case w.acknowledged():
		out.ok = true
	case w.newer && (w.cert != nil || w.followed()):
		// It had its certificate, and another write came after it.
		out.ok, out.overtaken = true, true
	case w.newer:
		out.conflict, out.stale = true, true
	case w.waits() && !w.dead():
		out.waits, out.heard = true, w.heard()
	case w.cert == nil && (w.hopeless() || w.failed != nil):
		out.conflict = w.conflicting()
	case !final:
		return nil
	}
	own := w.groups[0]
	out.prepared = w.count(own, prepared)
	out.committed = w.count(own, func(p *progress) bool { return p.committed })
	if !out.ok && w.cert == nil {
		refused := w.count(own, func(p *progress) bool { return p.refused && !p.promised })
		full := w.count(own, func(p *progress) bool { return p.full })
		enough := w.m.N() - int(w.m.W) + 1 + w.m.F()
		busy := w.count(own, func(p *progress) bool { return p.busy })
		out.dead = w.dead()
		out.notStored = out.dead || out.stale && w.excluded() || !w.resumed && refused >= enough
		wait := out.stale && w.conditional || !out.conflict && !w.resumed && refused+busy >= enough
		wait = wait || w.dying()
		out.undecided = !out.notStored && w.failed == nil && busy > 0 && wait
		out.full = out.notStored && 2*full > refused
	}
	for _, c := range w.view.certs {
		out.shown = append(out.shown, c)
		out.have = max(out.have, c.m.Gen)
	}
	out.seats = w.states()
	return out
}

// line calls f for each manifest that is proven to have been certified by what
// nodes have shown: those with a certificate, and before each the one it names
// as prev, since w seats have promised it only with prev there (W1).
func (w *write) line(f func(*share.Manifest, key.Hash) bool) bool {
	for _, c := range w.view.certs {
		for m := c.m; m != nil && m.Hash != w.m.Hash; m = w.view.byHash[m.Prev] {
			if f(&m.Manifest, m.Hash) {
				return true
			}
		}
	}
	return false
}

// followed: a certified manifest has this one as its prev, or comes from one
// that has. So this one was certified, and may have been read.
func (w *write) followed() bool {
	return w.line(func(m *share.Manifest, _ key.Hash) bool { return m.Prev == w.m.Hash })
}

// excluded: a certified manifest stands where this one would, so that this one
// never had a certificate and never will. Either both have the same prev, of
// whose seats each honest one promises one of them only, unless the other's
// force names it; or both are first generations, with so many seats in common
// that an honest one would have promised both. A tombstone takes promises back.
func (w *write) excluded() bool {
	if w.view.deleted(w.m.Gen) {
		return false
	}
	return w.line(func(m *share.Manifest, h key.Hash) bool {
		switch {
		case h == w.m.Prev || m.Prev != w.m.Prev || slices.Contains(m.Force, w.m.Hash) || slices.Contains(w.m.Force, h):
			return false
		case !m.Prev.IsZero():
			return true
		}
		union := w.m.N()
		for _, seat := range m.Seats {
			union += btoi(w.m.SeatOf(seat.Node) == nil)
		}
		return m.Gen <= w.m.Gen && int(w.m.W)+int(m.W)-union > max(w.m.F(), m.F())
	})
}

// dead: so many of the seats of a group have signed that they never promised
// this write and never will, that it has no certificate and never will have one
// (W5). Unlike a plain refusal that holds whatever was sent before.
func (w *write) dead() bool {
	return w.refusedBy(func(p *progress) bool { return p.never })
}

// dying: some have signed so, and those that are still asked may.
func (w *write) dying() bool {
	some := slices.ContainsFunc(w.nodes, func(id key.NodeID) bool { return w.progress[id].never })
	return some && w.refusedBy(func(p *progress) bool { return p.never || p.busy })
}

// refusedBy reports whether in some group ok holds for so many nodes that their
// refusals are the end of it.
func (w *write) refusedBy(ok func(*progress) bool) bool {
	for i, g := range w.groups {
		need := g.m.N() - int(g.m.K) + 1
		if i > 0 {
			need = refusalsBefore(g.m)
		}
		if w.count(g, ok) >= need {
			return true
		}
	}
	return false
}

// conflicting: refusing seats have shown other live manifests.
func (w *write) conflicting() bool {
	some := slices.ContainsFunc(w.nodes, func(id key.NodeID) bool { return w.progress[id].conflict })
	gen := uint64(0)
	if best, _ := w.view.latest(); best != nil && best.m.Hash != w.m.Hash {
		gen = best.m.Gen
	}
	others := slices.ContainsFunc(w.view.live(gen), func(p *pending) bool { return p.m.Hash != w.m.Hash })
	return some && (others || len(w.view.tombs) > 0 || gen > 0 || w.below(w.m.Gen) > 0)
}

// below counts the seats that say that a generation of at least gen is there.
// They show it only to its seats; others must ask with a Query.
func (w *write) below(gen uint64) int {
	return w.count(w.groups[0], func(p *progress) bool { return p.there >= gen })
}

func (w *write) states() []SeatState {
	out := make([]SeatState, 0, w.m.N())
	for _, seat := range w.m.Seats {
		p := w.progress[seat.Node]
		out = append(out, w.roster.seat(seat.Node, seat.X, p.state, p.why))
	}
	sortSeats(out)
	return out
}

func sortSeats(seats []SeatState) {
	slices.SortFunc(seats, func(a, b SeatState) int { return slices.Compare(a.Node[:], b.Node[:]) })
}

// doubt is the error for a write that may still be stored.
func (o *outcome) doubt(w *write) error {
	have := o.prepared
	if w.groups[0].need <= have {
		have = o.committed
	}
	return &InDoubtError{Op: "put", Gen: w.m.Gen, Manifest: w.m.Hash, Need: int(w.m.W), Have: have, Seats: o.seats}
}

// result turns a verdict into what the caller gets.
func (d *dealing) result(w *write, out *outcome) (PutResult, error) {
	if out.ok {
		r := PutResult{Name: d.h.name, ID: w.m.ID, Manifest: w.m.Hash, Gen: w.m.Gen, N: w.m.N(), K: int(w.m.K), W: int(w.m.W),
			Acked: out.committed, Seats: out.seats, Notes: d.notes, Created: w.m.Prev.IsZero(), Policy: w.m.Policy}
		if out.overtaken {
			r.Notes = append(r.Notes, "another write has already followed this one")
		}
		return r, nil
	}
	return PutResult{}, d.told(d.failure(w, out))
}

// failure is the error for a write that is not known to be stored.
func (d *dealing) failure(w *write, out *outcome) error {
	switch {
	case out.waits && out.asked != nil:
		return d.pending(w, out)
	case out.stale && out.notStored:
		return &ConflictError{Want: w.prevGen(), Have: out.have, Why: fmt.Sprintf("generation %d came first", out.have)}
	case out.full:
		return fmt.Errorf("%w: %w", ErrFull, &QuorumError{Op: "put", Need: int(w.m.W), Have: out.prepared, Seats: out.seats})
	case out.notStored && out.conflict:
		return &ConflictError{Want: w.prevGen(), Have: w.m.Gen, Why: "other writes of this secret are under way"}
	case out.notStored:
		return &QuorumError{Op: "put", Need: int(w.m.W), Have: out.prepared, Seats: out.seats}
	case out.failed != nil:
		return errors.Join(out.doubt(w), fmt.Errorf("%w: %w", ErrStopped, out.failed))
	}
	return out.doubt(w)
}

func (w *write) prevGen() uint64 {
	for _, b := range w.before {
		if b.Hash == w.m.Prev {
			return b.Gen
		}
	}
	return 0
}

// look asks all nodes what stands where a write would, when its seats only said
// that something does.
func (d *dealing) look(ctx context.Context, w *write, out *outcome) *outcome {
	if out.ok || out.notStored || out.have >= w.m.Gen {
		return out
	}
	if w.halt(); w.below(w.m.Gen) == 0 {
		return out
	}
	d.roster = d.s.rosterFor(d.p)
	if d.view == nil {
		d.view = d.s.newView(d.h.id)
	}
	if err := d.ask(ctx); err != nil {
		d.s.log.Debug("asking what stands where a write would", "err", err)
	}
	for _, c := range d.view.certs {
		w.view.add(c)
	}
	w.superseded()
	if again := w.judge(true); again.ok || again.conflict {
		return again
	}
	return out
}

// lost says how a compare-and-set ended that met other writers: in a conflict
// once it is certain that it is not stored, else in doubt. They are given a moment
// to get it, and so is this one.
func (d *dealing) lost(ctx context.Context, w *write, out *outcome) (PutResult, error) {
	backoff := firstBackoff
	for range maxAttempts / 2 {
		if out.ok || out.notStored || out.stale || !sleep(ctx, time.Duration(mrand.Int64N(int64(backoff)))) {
			break
		}
		backoff = min(2*backoff, lastBackoff)
		w = w.again()
		out = d.drive(ctx, w)
	}
	return d.result(w, d.look(ctx, w, out))
}

// halt ends what still goes on with the write after its verdict, so that it can
// be looked at: the finisher has the rest.
func (w *write) halt() {
	if w.ended != nil {
		w.stop()
		<-w.ended
	}
}

// again is the same write from its start: what was promised is promised again.
func (w *write) again() *write {
	w.halt()
	a := w.s.newWrite(w.m, w.before)
	a.prev, a.tomb, a.consent, a.asked, a.ct, a.digest, a.journaled, a.conditional = w.prev, w.tomb, w.consent, w.asked, w.ct, w.digest, true, w.conditional
	a.resumed, a.tombConsent = true, w.tombConsent
	for id, row := range w.rows {
		a.rows[id] = slices.Clone(row)
	}
	return a
}
