package keystore

import (
	"context"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// Refreshed says what a refresh that the owner asked for brought about.
type Refreshed struct {
	Name  string
	ID    key.Hash
	Gen   uint64
	Epoch uint32 // that is in force now
	// Seats: State is committed where the new row is known to be in force, else
	// pending: the seat is told until it has it.
	Seats []SeatState
	// Dropped are the dealers of whose dealings other seats complained.
	Dropped []BadRow
}

// Refresh exchanges the rows of the latest generation of a secret for others of
// the same value (protocol.md section 9): what was stolen of k-1 seats before is
// worthless afterwards. One seat after the other is asked to coordinate it, by a
// Query of the owner's: a refresh harms nothing and happens by itself now and
// then, so that nothing more is signed for it. timeout 0 is [DefaultTimeout].
//
// Errors: those of [Store.Recover] up to the point where seats are asked;
// [QuorumError] when no seat brought it about, and then nothing has changed or
// the rest follows by itself.
func (s *Store) Refresh(ctx context.Context, p Person, name string, timeout time.Duration) (*Refreshed, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return nil, err
	}
	defer h.done()
	asked := ctx
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	if err := g.choose(ctx); err != nil {
		if ctx.Err() != nil && asked.Err() == nil && !g.stated(err) {
			err = fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		return nil, err
	}
	return g.refresh(ctx, name)
}

// refresh asks the seats one after the other.
func (g *reading) refresh(ctx context.Context, name string) (*Refreshed, error) {
	seats := g.view.placement(g.use).Seats()
	states := make(map[key.NodeID]SeatState, len(seats))
	var order []key.NodeID
	for _, seat := range seats {
		states[seat.Node] = g.roster.seat(seat.Node, seat.X, "unreachable", "not asked")
		order = append(order, seat.Node)
	}
	have := 0
	for _, node := range g.s.fastest(order, g.roster) {
		st := states[node]
		if g.roster[node].Revoked || ctx.Err() != nil {
			continue
		}
		reply := new(custody.RefreshReply)
		q := &custody.Refresh{ID: g.h.id, Query: g.s.queries.get(g.s.cfg.ID, g.p, node)}
		if err := g.s.callWithin(ctx, refreshLimit, node, custody.VerbRefresh, key.Marshal(q), reply); err != nil {
			st.Why = reason(err)
			states[node] = st
			continue
		}
		if reply.Outcome == custody.OK && reply.Gen >= g.use.Gen {
			return g.refreshed(name, reply, node), nil
		}
		have++
		st.State, st.Why = "refused", quoted(reply.Why)
		if reply.Outcome == custody.Denied {
			st.State = "denied"
		}
		states[node] = st
	}
	e := &QuorumError{Op: "refresh", Need: int(g.use.W), Have: have}
	for _, st := range states {
		e.Seats = append(e.Seats, st)
	}
	sortSeats(e.Seats)
	return nil, e
}

// refreshed is what the seat that coordinated says.
func (g *reading) refreshed(name string, reply *custody.RefreshReply, by key.NodeID) *Refreshed {
	out := &Refreshed{Name: name, ID: g.h.id, Gen: reply.Gen, Epoch: reply.Epoch}
	in := make(map[uint8]bool)
	for _, x := range reply.Seats {
		in[x] = true
	}
	for _, seat := range g.view.placement(g.use).Seats() {
		st := g.roster.seat(seat.Node, seat.X, "pending", "is told until it has it")
		if in[seat.X] {
			st.State, st.Why = "committed", ""
		}
		for i, x := range reply.Dropped[:min(len(reply.Dropped), custody.MaxDealers)] {
			if x == seat.X && i < len(reply.Said) {
				out.Dropped = append(out.Dropped, BadRow{Node: seat.Node, Name: st.Name, Why: fmt.Sprintf("%s says: %s", g.roster.name(by), quoted(reply.Said[i]))})
			}
		}
		out.Seats = append(out.Seats, st)
	}
	return out
}
