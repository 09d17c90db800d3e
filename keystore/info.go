package keystore

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Info returns everything known of a secret but its value: what each seat says
// it has, the generations, and how far the secret is from being lost, leaked or
// stuck. Errors are those of [Store.Recover] that concern what is there.
func (s *Store) Info(ctx context.Context, p Person, name string) (Info, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return Info{}, err
	}
	defer h.done()
	ctx, cancel := within(ctx, 0)
	defer cancel()
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	l := s.locate(ctx, p, g.view, g.roster, g.roster.everyone(), nil)
	for _, b := range l.lied {
		g.bad[b.Node] = b.Why
	}
	best, fork := g.view.latest()
	switch {
	case fork != nil:
		return Info{}, forkError(best, fork)
	case best == nil || g.view.deleted(best.m.Gen):
		return Info{}, g.notThere(l, best)
	case expired(&best.m.Manifest):
		return Info{}, ErrExpired
	}
	if err := g.notBehind(l, best); err != nil {
		return Info{}, err
	}
	label, err := openLabel(&h.index, &best.m.Manifest)
	if err != nil {
		return Info{}, fmt.Errorf("the label of generation %d: %w", best.m.Gen, err)
	}
	return g.info(l, best, label), nil
}

func (g *reading) info(l *located, best *certified, label *share.Label) Info {
	m := best.m
	out := Info{Listed: g.view.listed(best, label), Manifest: m.Hash, Owner: m.Owner, Description: label.Description,
		Policy: g.s.words(g.p, &m.Manifest, g.roster), Encoded: m.Policy, Keep: int(m.Keep), Repair: "owner", Standby: m.Standby}
	if m.Repair == share.RepairQuorum {
		out.Repair = "quorum"
	}
	for _, seat := range g.view.placement(m).Seats() {
		state, why := g.seatState(l, m, seat)
		out.Seats = append(out.Seats, g.view.withSuspicion(m, g.roster.seat(seat.Node, seat.X, state, why)))
	}
	sortSeats(out.Seats)
	out.Generations, out.Pending = g.generations(m)
	out.margins(g.roster)
	if up, need, moved := g.view.orderers(m, g.roster); moved {
		switch left := max(0, up-need+1); {
		case left == 0:
			out.Stuck, out.StuckIf = 0, "cannot be written now"
		case left < out.Stuck:
			out.Stuck, out.StuckIf = left, fmt.Sprintf("cannot be written if %d more of the holders it was put with are off", left)
		}
		out.StuckIf += "; " + g.view.ordering(m, g.roster)
	}
	return out
}

// seatState says how one seat of m stands.
func (g *reading) seatState(l *located, m *share.SignedManifest, seat share.Seat) (state, why string) {
	h := g.view.held[seat.Node]
	switch {
	case g.roster[seat.Node].Revoked:
		return "unreachable", "revoked"
	case g.bad[seat.Node] != "":
		return "bad", g.bad[seat.Node]
	case !l.answered[seat.Node]:
		return "unreachable", l.failed[seat.Node]
	case h == nil:
		return "missing", "says that it holds nothing"
	case h.committed == m.Hash && h.row == custody.RowGood:
		return "good", ""
	case h.committed == m.Hash && h.row == custody.RowBad:
		return "bad", "its row is damaged"
	case h.committed == m.Hash:
		return "missing", "has the certificate without the row"
	case slices.Contains(h.pendings, m.Hash):
		return "prepared", "has not committed yet"
	case h.gen > 0 && h.gen < m.Gen:
		return "stale", fmt.Sprintf("is at generation %d", h.gen)
	case h.tombstone:
		return "deleted", ""
	}
	return "missing", "holds nothing of this generation"
}

// generations are those that can be read, and those under way, ascending.
func (g *reading) generations(m *share.SignedManifest) (committed, pending []uint64) {
	gens, open := map[uint64]bool{m.Gen: true}, map[uint64]bool{}
	for _, h := range g.view.held {
		for _, hash := range h.history {
			if v := g.view.byHash[hash]; v != nil && !g.view.deleted(v.Gen) {
				gens[v.Gen] = true
			}
		}
	}
	for _, p := range g.view.live(m.Gen) {
		open[p.m.Gen] = true
	}
	return slices.Sorted(maps.Keys(gens)), slices.Sorted(maps.Keys(open))
}

// Plan says what Put would do with a secret of size bytes and these options,
// and where: it asks who holds what, and changes nothing. The seats' state is
// pending, or says why a seat could not be taken now.
func (s *Store) Plan(ctx context.Context, p Person, name string, size int, o PutOptions) (PutResult, error) {
	if size < 0 || size > seal.MaxSecret {
		return PutResult{}, ErrTooLarge
	}
	h, err := s.secret(p, name)
	if err != nil {
		return PutResult{}, err
	}
	defer h.done()
	if err := o.check(h.owner); err != nil {
		return PutResult{}, err
	}
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	d := &dealing{s: s, p: p, h: h, o: o, dry: true}
	if err := d.find(ctx, true); err != nil {
		return PutResult{}, err
	}
	return d.plan()
}

func (d *dealing) plan() (PutResult, error) {
	best, fork := d.view.latest()
	if fork != nil && !d.o.Force {
		return PutResult{}, forkError(best, fork)
	}
	pl, where, err := d.where(best)
	if err != nil {
		return PutResult{}, err
	}
	m, err := d.manifest(best, fork, pl, where)
	if err != nil {
		return PutResult{}, err
	}
	out := PutResult{Name: d.h.name, ID: d.h.id, Gen: m.Gen, N: pl.n, K: pl.k, W: pl.w, Created: best == nil, Policy: m.Policy,
		Notes: append(append(pl.notes(d.o.W), where.notes...), d.consentNote(m, best)...)}
	for _, st := range pl.describe(where.seats) {
		if st.State == "sent" {
			st.State = "pending"
		}
		out.Seats = append(out.Seats, st)
	}
	hands := Info{Listed: Listed{K: pl.k, N: pl.n, W: pl.w}, Seats: slices.Clone(out.Seats)}
	for i := range hands.Seats {
		hands.Seats[i].State = "good"
	}
	hands.margins(d.roster)
	out.Notes = append(out.Notes, hands.LosesIf, hands.LeaksIf, hands.StuckIf)
	return out, nil
}
