package keystore

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// Rehearse walks the whole path of a recovery with proofs of possession instead
// of rows, and says whether it would succeed, with what margin, and who has not
// answered for how long. Nothing is released, and nobody is asked to approve.
//
// Errors: those of [Store.Recover] up to the point where seats are asked.
func (s *Store) Rehearse(ctx context.Context, p Person, name string) (Rehearsal, error) {
	h, err := s.secret(p, name)
	if err != nil {
		return Rehearsal{}, err
	}
	defer h.done()
	asked := ctx
	ctx, cancel := within(ctx, 0)
	defer cancel()
	g := &reading{s: s, p: p, h: h, roster: s.roster(), view: s.newView(h.id), bad: make(map[key.NodeID]string)}
	if err := g.choose(ctx); err != nil {
		if ctx.Err() != nil && asked.Err() == nil && !g.stated(err) {
			err = fmt.Errorf("%w: %w", ErrTimeout, err)
		}
		return Rehearsal{}, err
	}
	r := &rehearsing{reading: g, proofs: make(map[key.NodeID]*custody.Proof), seats: make(map[key.NodeID]SeatState)}
	for range maxSwitches {
		next, err := r.ask(ctx)
		if err != nil {
			return Rehearsal{}, err
		}
		if next == nil {
			break
		}
		g.use, g.roster = g.view.placed(next.m), s.roster()
	}
	return r.result(name), nil
}

// rehearsing is one rehearsal under way.
type rehearsing struct {
	*reading
	proofs map[key.NodeID]*custody.Proof
	seats  map[key.NodeID]SeatState
}

// ask asks all seats. When something higher shows up it is returned instead.
func (r *rehearsing) ask(ctx context.Context) (*certified, error) {
	k, err := seal.GenerateKey()
	if err != nil {
		return nil, err
	}
	now := unix()
	req := share.Request{ID: r.h.id, Ephemeral: k.Public(), Verb: share.VerbRehearse, Created: now, Expires: now + share.QueryLife}
	rand.Read(req.Nonce[:])
	r.request, r.key = share.SignRequest(r.p.Key, r.s.cfg.ID, req), k
	clear(r.proofs)
	clear(r.seats)
	var nodes []key.NodeID
	for _, seat := range r.use.Seats {
		st := r.roster.seat(seat.Node, seat.X, "unreachable", "no answer in time")
		if r.roster.gone(seat.Node) {
			st.Why = "revoked"
		} else {
			nodes = append(nodes, seat.Node)
		}
		r.seats[seat.Node] = st
	}
	msg := key.Marshal(&custody.Recover{Request: r.request.Object.Encode(), Known: r.use.Hash})
	var higher *certified
	gather(ctx, r.s, r.roster, nodes, func(ctx context.Context, id key.NodeID) (*custody.RecoverReply, error) {
		reply := new(custody.RecoverReply)
		return reply, r.s.callWithin(ctx, callTimeout, id, custody.VerbRecover, msg, reply)
	}, func(id key.NodeID, reply *custody.RecoverReply, err error) bool {
		st := r.seats[id]
		st.State, st.Why = r.take(id, reply, err)
		r.seats[id] = st
		if best, fork := r.view.latest(); best != nil && fork == nil && best.m.Gen > r.use.Gen {
			higher = best
		}
		return higher != nil
	})
	return higher, nil
}

// take takes in one seat's answer.
func (r *rehearsing) take(id key.NodeID, reply *custody.RecoverReply, err error) (state, why string) {
	if err != nil {
		return "unreachable", reason(err)
	}
	if len(reply.State.Manifest)+len(reply.State.Tombstone) > 0 {
		if err := r.view.merge(id, &reply.State); err != nil {
			return "bad", "shows what does not verify: " + reason(err)
		}
	}
	switch reply.Outcome {
	case custody.OK:
	case custody.Denied:
		return "denied", quoted(reply.Why)
	case custody.Failed:
		return "bad", quoted(reply.Why)
	default:
		return "missing", quoted(reply.Why)
	}
	seat := r.use.SeatOf(id)
	plain, err := r.key.Open(seal.Info(purposeRehearse, r.use.Hash, seat.X, numberOf(reply.Epoch), id, r.request.Hash), reply.Box)
	if err != nil {
		return "bad", "its proof does not open"
	}
	proof := new(custody.Proof)
	if key.Unmarshal(plain, proof) != nil || len(proof.Pairs) != r.use.N()-1 {
		return "bad", "its proof is not readable"
	}
	for _, t := range proof.Pairs {
		known := slices.ContainsFunc(r.use.Seats, func(o share.Seat) bool { return o.X == t.X && t.X != seat.X })
		if !known {
			return "bad", "its proof is of other seats"
		}
	}
	r.proofs[id] = proof
	return "unproven", "no other seat's proof agrees with its own"
}

// agree reports whether the proofs of two seats show that both have their rows.
func (r *rehearsing) agree(a, b share.Seat) bool {
	tag := func(of, with share.Seat) (t key.Hash) {
		for _, p := range r.proofs[of.Node].Pairs {
			if p.X == with.X {
				t = p.Tag
			}
		}
		return t
	}
	x, y := tag(a, b), tag(b, a)
	return x == y && !x.IsZero()
}

// proven is the set of seats whose proofs all agree: those that agree least go
// until the rest is of one mind. Whoever lacks a row agrees with nobody but
// those who lie with it, so k or more of one mind, of whom k-1 may lie, have one
// among them that does not, and who agrees with that one has its row.
func (r *rehearsing) proven() []share.Seat {
	var set []share.Seat
	for _, seat := range r.use.Seats {
		if r.proofs[seat.Node] != nil {
			set = append(set, seat)
		}
	}
	for len(set) > 0 {
		least, at := math.MaxInt, 0
		for i, a := range set {
			n := 0
			for j, b := range set {
				n += btoi(i != j && r.agree(a, b))
			}
			if n < least {
				least, at = n, i
			}
		}
		if least == len(set)-1 {
			break
		}
		set = slices.Delete(set, at, at+1)
	}
	if len(set) < int(r.use.K) {
		return nil // fewer than a recovery needs prove nothing to one another
	}
	return set
}

// result says what the rehearsal showed.
func (r *rehearsing) result(name string) Rehearsal {
	m := &r.use.Manifest
	out := Rehearsal{Name: name, ID: m.ID, Manifest: r.use.Hash, Gen: m.Gen, K: int(m.K), N: m.N(), Policy: r.s.words(r.p, m, r.roster)}
	payloads := make(map[key.Hash]int)
	for _, seat := range r.proven() {
		st := r.seats[seat.Node]
		st.State, st.Why = "proven", ""
		r.seats[seat.Node] = st
		out.Proven++
		if t := r.proofs[seat.Node].Payload; !t.IsZero() {
			payloads[t]++
			out.Payload = max(out.Payload, payloads[t])
		}
	}
	out.Margin = out.Proven - out.K
	for _, seat := range m.Seats {
		st := RehearsalSeat{SeatState: r.seats[seat.Node]}
		if st.State == "unreachable" {
			st.Silent = r.roster.silence(seat.Node)
		}
		out.Seats = append(out.Seats, st)
	}
	r.judge(&out)
	return out
}

// judge says whether it would succeed.
func (r *rehearsing) judge(out *Rehearsal) {
	m := &r.use.Manifest
	pol, err := policy.Parse(m.Policy)
	if err != nil {
		out.Why = "the policy is not readable by this version"
		return
	}
	me := r.p.Key.Public()
	alone := policy.Evidence{Owner: m.Owner, Signers: []key.PersonPublic{me}}
	j := pol.Evaluate(alone)
	out.Have, out.Need, out.Wait = j.Have, j.Need, time.Duration(j.Wait)*time.Second
	out.Missing = pol.Missing(alone, r.s.namer(r.p, m, r.roster))
	all := policy.Evidence{Owner: m.Owner, Signers: []key.PersonPublic{me}, Operator: true}
	for _, p := range pol.Approvers(m.Owner) {
		if p == me {
			continue
		}
		a := r.roster.approver(p)
		out.Approvers = append(out.Approvers, a)
		if a.Reachable > 0 {
			all.Signers = append(all.Signers, p)
		}
	}
	reach := pol.Evaluate(all)
	switch {
	case out.Proven < out.K:
		out.Why = fmt.Sprintf("%d seats prove their rows and %d are needed", out.Proven, out.K)
	case out.Payload == 0:
		out.Why = "no seat has the ciphertext"
	case !reach.OK && reach.Wait == 0:
		out.Why = "those who have to approve cannot be reached"
	default:
		out.OK = true
	}
}

// silence is how long nothing came from a node that is not reachable; 0: not
// known.
func (r roster) silence(id key.NodeID) time.Duration {
	m := r[id]
	if m.LastSeen.IsZero() {
		return 0
	}
	return max(time.Second, time.Since(m.LastSeen))
}

// approver says how a person can be reached.
func (r roster) approver(p key.PersonPublic) RehearsalApprover {
	out := RehearsalApprover{Person: p}
	for id, m := range r {
		if m.Revoked || !slices.Contains(m.Persons, p) {
			continue
		}
		out.Nodes++
		out.Reachable += btoi(m.Online)
		if d := r.silence(id); !m.Online && d > 0 && (out.Silent == 0 || d < out.Silent) {
			out.Silent = d
		}
	}
	if out.Reachable > 0 {
		out.Silent = 0
	}
	return out
}
