package keystore

import (
	"context"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// What a seat tells one whose disk was put back of Reassigns: where the seats
// are, what the owner vetoed, and what it has signed (SPEC.md of package custody,
// "A disk that was put back").

// recallMoves is what is here of the version in force; nil: nothing.
func (s *secretState) recallMoves() *custody.RecallMoves {
	c := s.current()
	if c == nil {
		return nil
	}
	out := &custody.RecallMoves{Manifest: c.Hash, Reassigns: s.moveBytes(c.version)}
	if s.votesOf == c.Hash {
		out.Vetoes = s.vetoes
		for _, v := range s.votes {
			out.Votes = append(out.Votes, custody.RecallVote{X: v.X, Seq: v.Seq, Hash: v.Hash, New: v.to})
		}
	}
	if len(out.Reassigns)+len(out.Vetoes)+len(out.Votes) == 0 {
		return nil
	}
	return out
}

// takeRecalledMoves takes in what a seat told of Reassigns, vetoes first, and
// reports whether all of it is here now that is about the version in force here.
func (c *custodian) takeRecalledMoves(ctx context.Context, id key.Hash, from key.NodeID, told *custody.RecallMoves) bool {
	s, err := c.peek(ctx, id)
	if told == nil || err != nil {
		return err == nil
	}
	e, f := s.current(), c.facts(from)
	if e == nil || e.Hash != told.Manifest {
		return true
	}
	for _, word := range told.Vetoes[:min(len(told.Vetoes), share.MaxReassigns)] {
		a, err := share.ReadApproval(c.cfg.ID, word)
		if err != nil || a.Verdict != share.VerdictVeto {
			continue // a lie, which binds nobody
		}
		if _, _, _, err := c.step(ctx, id, f, func(s *secretState, f holderFacts) stepResult { return s.veto(f, a.Person, a.Subject, word) }); err != nil {
			return false
		}
	}
	if moves, err := c.openMoves(told.Reassigns, e.version); err == nil && c.takeMoves(ctx, f, id, moves) != nil {
		return false
	}
	_, _, _, err = c.step(ctx, id, f, func(s *secretState, f holderFacts) stepResult { return s.heardVotes(f, told) })
	return err == nil
}

// heardVotes counts the Reassigns that another seat has signed, each the next of
// its seat and to a standby, as signed here.
func (s *secretState) heardVotes(f holderFacts, told *custody.RecallMoves) stepResult {
	e := s.current()
	if e == nil || e.Hash != told.Manifest || !s.behind(f) {
		return stepResult{outcome: custody.OK}
	}
	next := s.clone()
	next.aboutVotes()
	p, was := s.planned(e.version), len(next.votes)
	for _, v := range told.Votes[:min(len(told.Votes), share.MaxReassigns)] {
		seq := uint64(1)
		if last := p.Last(v.X); last != nil {
			seq = last.Seq + 1
		}
		known := slices.ContainsFunc(next.votes, func(o vote) bool { return o.X == v.X && o.Seq == v.Seq })
		if e.SeatAt(v.X) == nil || v.Seq != seq || known || !slices.Contains(e.Standby, v.New) || len(next.votes) >= share.MaxReassigns {
			continue
		}
		next.votes = append(next.votes, vote{X: v.X, Seq: v.Seq, Hash: v.Hash, At: f.ran, to: v.New})
	}
	if len(next.votes) == was {
		return stepResult{outcome: custody.OK}
	}
	return stepResult{next: next, outcome: custody.OK}
}
