package keystore

import (
	"context"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Delete sends a tombstone for a secret, or for one generation of it, to every
// node that holds something of it. It is done once all n seats have
// acknowledged; else Missing names who has not, and this node and the holders
// pass the tombstone on until they have. Holders remove their rows before they
// acknowledge; a name that is used again goes on with a higher generation. The
// same call again goes on with those who are missing, and names them alone.
//
// Errors: [ErrInput], [ErrNotFound]; [QuorumError] when it cannot be told that
// there is nothing; [InDoubtError] when no holder has acknowledged yet;
// [ErrTimeout].
func (s *Store) Delete(ctx context.Context, p Person, name string, o DeleteOptions) (DeleteResult, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return DeleteResult{}, err
	}
	defer h.done()
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	release, err := s.locks.take(ctx, h.id)
	if err != nil {
		return DeleteResult{}, fmt.Errorf("%w: another change of this secret is under way", ErrTimeout)
	}
	defer release()
	defer s.counts.forget(p.Key.Public())
	d, err := s.planDelete(ctx, p, h, o)
	if err != nil {
		if d = s.unfinishedDelete(h.id, o.Gen); d == nil {
			return DeleteResult{}, err
		}
	}
	if err := s.cfg.Shelf.Commit(context.WithoutCancel(ctx), share.Record{Place: d.place(), Value: d.record()}); err != nil {
		return DeleteResult{}, fmt.Errorf("%w: %w", ErrStopped, err)
	}
	s.known.drop(h.id)
	s.passOn(ctx, d)
	return d.result(name)
}

// unfinishedDelete is the deletion in the journal that this one is a retry of: it
// goes on with those who have not acknowledged; nil: there is none.
func (s *Store) unfinishedDelete(id key.Hash, gen uint64) *deletion {
	var out *deletion
	for _, p := range s.finish.places(id) {
		b, err := s.finish.load(p)
		if err != nil || b == nil {
			continue
		}
		d, err := s.loadDelete(b)
		if err != nil || len(d.seats) == 0 {
			continue
		}
		same := gen == 0 && d.tomb.Scope == share.ScopeAll || gen == d.tomb.Gen && d.tomb.Scope == share.ScopeOne
		if same && (out == nil || d.tomb.Gen > out.tomb.Gen) {
			out = d
		}
	}
	return out
}

// deletion is a tombstone on its way.
type deletion struct {
	tomb   *tombstone
	roster roster
	seats  map[key.NodeID]uint8 // x of those who must acknowledge; 0: no seat
	state  map[key.NodeID]string
	why    map[key.NodeID]string
}

// planDelete finds out who holds something and signs the tombstone.
func (s *Store) planDelete(ctx context.Context, p Person, h *secret, o DeleteOptions) (*deletion, error) {
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	l := s.locate(ctx, p, g.view, g.roster, g.roster.everyone(), g.settled)
	best, _ := g.view.latest()
	live := g.view.live(0)
	gen := o.Gen
	switch {
	case best == nil && len(live) == 0:
		return nil, g.notThere(l, nil)
	case gen != 0 && !g.has(gen):
		return nil, ErrNotFound
	case gen == 0:
		if best != nil {
			gen = best.m.Gen
		}
		for _, p := range live {
			gen = max(gen, p.m.Gen)
		}
		if mark, err := s.mark(h.id); err == nil {
			gen = max(gen, mark.Gen)
		}
	}
	t := share.Tombstone{ID: h.id, Gen: gen, Scope: share.ScopeAll, Time: unix(), Owner: h.owner, Salt: h.salt}
	if o.Gen != 0 {
		t.Scope = share.ScopeOne
	}
	obj := share.SignTombstone(p.Key, s.cfg.ID, t)
	d := newDeletion(&tombstone{Tombstone: t, hash: obj.Hash(s.cfg.ID), bytes: obj.Encode()}, g.roster)
	for _, c := range g.view.certs {
		d.concern(&c.m.Manifest, best != nil && c == best)
	}
	for _, p := range live {
		d.concern(&p.m.Manifest, false)
	}
	for id, held := range g.view.held {
		if _, ok := d.seats[id]; !ok && (held.gen != 0 || len(held.pendings)+len(held.history) > 0) {
			d.seats[id] = 0
		}
	}
	return d, nil
}

// settled: everyone with a link has answered; nobody else is waited for, since
// the seats are known from those that have.
func (g *reading) settled(l *located) bool {
	best, _ := g.view.latest()
	for id := range l.failed {
		if l.roster[id].Online {
			return false
		}
	}
	return best != nil
}

// has reports whether a generation was shown by anyone.
func (g *reading) has(gen uint64) bool {
	for _, m := range g.view.byHash {
		if m.Gen == gen && !g.view.deleted(gen) {
			return true
		}
	}
	return false
}

func newDeletion(t *tombstone, r roster) *deletion {
	return &deletion{tomb: t, roster: r, seats: make(map[key.NodeID]uint8), state: make(map[key.NodeID]string), why: make(map[key.NodeID]string)}
}

// concern adds the seats of a manifest; revoked holders do not count.
func (d *deletion) concern(m *share.Manifest, current bool) {
	for _, seat := range m.Seats {
		if d.roster[seat.Node].Revoked {
			continue
		}
		if x, ok := d.seats[seat.Node]; !ok || current && x != seat.X {
			d.seats[seat.Node] = seat.X
		}
	}
}

func (d *deletion) place() share.Place { return journalPlace(d.tomb.ID, d.tomb.Gen, d.tomb.hash) }

func (d *deletion) missing() []key.NodeID {
	var out []key.NodeID
	for id := range d.seats {
		if d.state[id] != "deleted" {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b key.NodeID) int { return slices.Compare(a[:], b[:]) })
	return out
}

func (d *deletion) record() []byte {
	j := &journal{Kind: journalDelete, Tombstone: d.tomb.bytes}
	for _, id := range d.missing() {
		j.Nodes = append(j.Nodes, id[:])
	}
	return key.Marshal(j)
}

// loadDelete rebuilds a deletion from its journal record.
func (s *Store) loadDelete(b []byte) (*deletion, error) {
	j := new(journal)
	if err := key.Unmarshal(b, j); err != nil {
		return nil, err
	}
	if j.Kind != journalDelete {
		return nil, fmt.Errorf("%w: a journal record of kind %d", key.ErrEncoding, j.Kind)
	}
	t, hash, err := share.OpenTombstone(s.cfg.ID, j.Tombstone)
	if err != nil {
		return nil, err
	}
	d := newDeletion(&tombstone{Tombstone: *t, hash: hash, bytes: j.Tombstone}, s.roster())
	for _, n := range j.Nodes {
		if len(n) == len(key.NodeID{}) && !d.roster[key.NodeID(n)].Revoked {
			d.seats[key.NodeID(n)] = 0
		}
	}
	return d, nil
}

// passOn sends the tombstone to all that have not acknowledged it, waits for
// those that are there, and leaves the rest to the finisher.
func (s *Store) passOn(ctx context.Context, d *deletion) {
	body := key.Marshal(&custody.Delete{Tombstone: d.tomb.bytes})
	gather(ctx, s, d.roster, d.missing(), func(ctx context.Context, id key.NodeID) (*custody.DeleteReply, error) {
		reply := new(custody.DeleteReply)
		return reply, s.callWithin(ctx, callTimeout, id, custody.VerbDelete, body, reply)
	}, func(id key.NodeID, reply *custody.DeleteReply, err error) bool {
		d.take(s.cfg.ID, id, reply, err)
		return false
	})
	missing := d.missing()
	if len(missing) == 0 {
		s.finish.forget(d.place())
		return
	}
	s.finish.write(d.place(), d.record())
	s.finish.later(d.place(), missing)
}

func (d *deletion) take(net key.NetworkID, id key.NodeID, reply *custody.DeleteReply, err error) {
	switch {
	case err != nil:
		d.state[id], d.why[id] = "unreachable", reason(err)
	case reply.Outcome != custody.OK:
		d.state[id], d.why[id] = "refused", quoted(reply.Why)
	case !d.acknowledged(net, id, reply.Receipt):
		d.state[id], d.why[id] = "bad", "its receipt does not verify"
	default:
		d.state[id], d.why[id] = "deleted", ""
	}
}

// acknowledged verifies a Committed receipt over the tombstone.
func (d *deletion) acknowledged(net key.NetworkID, id key.NodeID, receipt []byte) bool {
	o, err := key.DecodeObject(receipt)
	if err != nil {
		return false
	}
	r, err := share.OpenReceipt(net, key.TypeCommitted, o)
	return err == nil && r.Manifest == d.tomb.hash && r.Node == id
}

// result is what the caller gets.
func (d *deletion) result(name string) (DeleteResult, error) {
	out := DeleteResult{Name: name, ID: d.tomb.ID, Gen: d.tomb.Gen, Missing: d.missing()}
	acked := 0
	for id, x := range d.seats {
		state := d.state[id]
		if state == "" {
			state = "unreachable"
		}
		acked += btoi(state == "deleted")
		out.Seats = append(out.Seats, d.roster.seat(id, x, state, d.why[id]))
	}
	sortSeats(out.Seats)
	if acked == 0 {
		return DeleteResult{}, &InDoubtError{Op: "delete", Gen: d.tomb.Gen, Manifest: d.tomb.hash, Need: len(d.seats), Seats: out.Seats}
	}
	out.Done = len(out.Missing) == 0
	return out, nil
}
