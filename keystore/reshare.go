package keystore

import (
	"context"
)

// Reshare deals the secret anew, to another number of seats, another threshold
// or other holders: the value is recovered here under its policy and put as the
// next generation, with a new data key (protocol.md section 9: changing k, n,
// policy or many holders is a new generation by the owner). The value is in this
// node's memory for the time of the call. Rows of the generation before open
// nothing of the new one, and go from their holders as after any put.
//
// Of o only the shape, w, Holders, AllowColocated, Keep, TTL, RepairQuorum, New
// and Timeout mean something; zero values keep what the generation before has.
// The put is a compare-and-set on the generation that was read: a value written
// meanwhile is never replaced by an older one.
//
// Errors are those of [Store.Recover] and [Store.Put]; after an [InDoubtError]
// the same call again goes on with the same generation.
func (s *Store) Reshare(ctx context.Context, p Person, name string, o PutOptions) (PutResult, error) {
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	r, err := s.Recover(ctx, p, name, RecoverOptions{Reason: "reshare", Timeout: o.Timeout})
	if err != nil {
		return PutResult{}, err
	}
	defer clear(r.Value)
	o.IfGen, o.IfAbsent, o.Force = &r.Gen, false, false
	o.Policy, o.Labels, o.Description = nil, nil, ""
	return s.Put(ctx, p, name, r.Value, o)
}
