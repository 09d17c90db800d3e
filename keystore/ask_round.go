package keystore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// prepare makes the request, or goes on with the one that waits, before the
// seats are asked.
func (g *reading) prepare(ctx context.Context) error {
	if g.request == nil || g.tooLong() {
		if g.kept != nil {
			g.s.asks.forget(ctx, g.kept)
		}
		g.kept, g.names, g.words = nil, nil, nil
		if err := g.newRequest(ctx); err != nil {
			return err
		}
	}
	if g.kept != nil && g.names == nil {
		g.names = g.boxes()
		g.words, _ = g.s.asks.heardOf(g.kept)
	}
	return nil
}

// tooLong reports whether the request was made for a policy that asks for more
// than the person's own word, and the one in force now does not: no holder takes
// the word alone of a request that lives so long.
func (g *reading) tooLong() bool {
	life, alone := lifeOf(&g.use.Manifest, g.p.Key.Public())
	return alone && g.request.Expires-g.request.Created > life
}

// message is what a seat is asked with: the words of others that it may lack go
// along.
func (g *reading) message(payload bool) *custody.Recover {
	m := &custody.Recover{Request: g.request.Object.Encode(), Known: g.use.Hash, Payload: payload, Names: g.names}
	for _, w := range g.words[:min(len(g.words), custody.MaxApprovals)] {
		m.Approvals = append(m.Approvals, w.bytes)
	}
	return m
}

// hear takes in how the request stands at a seat.
func (g *reading) hear(r *seatRead, a *rowReply) {
	r.held = a.held
	if a.held != nil && len(a.held.Words) > 0 {
		known := func(b []byte) bool {
			return slices.ContainsFunc(g.words, func(w *heardWord) bool { return string(w.bytes) == string(b) })
		}
		fresh := slices.DeleteFunc(slices.Clone(a.held.Words), known)
		g.words = merged(g.words, g.s.openWords(g.request, newVersion(g.use), fresh))
	}
}

// waits is the error of a request that may still be satisfied, or that was
// stopped; nil when it is neither.
func (g *reading) waits(ctx context.Context) error {
	v := newVersion(g.use)
	switch closedBy(g.request, v, g.words) {
	case custody.Vetoed:
		return g.vetoed(v)
	case custody.Withdrawn:
		return fmt.Errorf("%w: it was withdrawn", ErrEnded)
	}
	rows, _ := g.counts()
	var waits []uint64
	var missing []string
	for _, r := range g.seats {
		if p := r.held; p != nil && len(r.rows) == 0 && p.Kept && p.Closed == custody.Open {
			waits = append(waits, p.Wait)
			missing = append(missing, p.Missing...)
		}
	}
	need := int(g.use.K) - rows
	if need <= 0 || len(waits) < need {
		return nil
	}
	if g.kept == nil { // its policy asked for more than it did when it was made
		if err := g.journal(context.WithoutCancel(ctx)); err != nil {
			return err
		}
	}
	return g.pending(v, waits, need, missing)
}

// vetoed names who stopped the request.
func (g *reading) vetoed(v *version) error {
	for _, w := range g.words {
		if w.Verdict == share.VerdictVeto && v.mayVeto(w.Person) {
			return fmt.Errorf("%w by %s: %s", ErrVetoed, g.s.namer(g.p, &g.use.Manifest, g.roster)(w.Person), quoted(w.Note))
		}
	}
	return ErrVetoed
}

// pending says what is missing: signatures by the words that were verified
// here, the delay by what the seats say whose rows are still needed. The
// shortest of need such waits counts, so that one seat that exaggerates changes
// nothing.
func (g *reading) pending(v *version, waits []uint64, need int, missing []string) error {
	r := g.request
	e := &PendingError{Request: r.Hash, Words: key.Words(r.Hash, 6), Expires: timeOf(r.Expires)}
	j := judgeWords(r, v, g.words)
	e.Have, e.Need = j.Have, j.Need
	if v.policy != nil {
		e.Missing = v.policy.Missing(evidenceOf(r, v, g.words), g.s.namer(g.p, &g.use.Manifest, g.roster))
	}
	slices.Sort(waits)
	if left := waits[need-1]; left > 0 && !slices.Contains(waits[:need], 0) {
		e.Wait = time.Duration(min(left, share.RequestLifeMax)) * time.Second
	}
	if len(e.Missing) == 0 {
		e.Missing = quotedAll(missing) // of the operator of a holder
	}
	g.s.asks.heard(g.kept, g.words, e.Wait)
	return e
}

// denied says why, in the words of the first seat that gives any.
func (g *reading) denied() error {
	for _, seat := range g.use.Seats {
		if r := g.seats[seat.Node]; r != nil && r.state == "denied" && r.why != "" {
			return fmt.Errorf("%w: %s says %s", ErrDenied, g.roster.name(seat.Node), r.why)
		}
	}
	return ErrDenied
}

// maxSaid bounds the clauses that are repeated as holders put them.
const maxSaid = 8
