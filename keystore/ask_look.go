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

// Look returns one request of [Store.Requests]. The holders are asked how one
// that this person made stands, and release nothing; one that others made is
// shown as this node was told of it.
//
// Errors: [ErrInput]; [ErrNoRequest]; [ErrEnded] when it has expired.
func (s *Store) Look(ctx context.Context, p Person, request key.Hash) (RequestView, error) {
	if p.Key.IsZero() {
		return RequestView{}, fmt.Errorf("%w: no person", ErrInput)
	}
	a, err := s.asks.own(p, request)
	if err == nil && !a.over() {
		return s.lookOwn(ctx, p, a)
	}
	all, err := s.Requests(ctx, p)
	if err != nil {
		return RequestView{}, err
	}
	i := slices.IndexFunc(all, func(v RequestView) bool { return v.Hash == request })
	switch {
	case i < 0:
		return RequestView{}, ErrNoRequest
	case all[i].State == "expired":
		return RequestView{}, fmt.Errorf("%w: it has expired", ErrEnded)
	}
	return all[i], nil
}

// lookOwn asks the seats of the manifest that the request was made under. Those
// of a later one hear of it when the recovery is asked for again.
func (s *Store) lookOwn(ctx context.Context, p Person, a *ask) (RequestView, error) {
	v := newVersion(a.m)
	words, _ := s.asks.heardOf(a)
	g := &reading{s: s, p: p, use: a.m, request: a.request, roster: s.roster(), kept: a, words: words}
	g.names = g.boxes()
	m := g.message(false)
	m.Look = true
	body := key.Marshal(m)
	nodes := slices.DeleteFunc(v.seatNodes(), g.roster.gone)
	var waits []uint64
	var missing []string
	ready := 0
	gather(ctx, s, g.roster, nodes, func(ctx context.Context, id key.NodeID) (*custody.RecoverReply, error) {
		reply := new(custody.RecoverReply)
		return reply, s.callWithin(ctx, callTimeout, id, custody.VerbRecover, body, reply)
	}, func(_ key.NodeID, reply *custody.RecoverReply, err error) bool {
		if err != nil || reply.Progress == nil {
			return false
		}
		g.hear(&seatRead{}, &rowReply{held: reply.Progress})
		ready += btoi(reply.Outcome == custody.OK)
		if reply.Progress.Kept && reply.Progress.Closed == custody.Open {
			waits, missing = append(waits, reply.Progress.Wait), append(missing, reply.Progress.Missing...)
		}
		return ready >= int(a.m.K)
	})
	out := s.viewOf(a.request, v, g.words, a.name, p, g.roster)
	if ready >= int(a.m.K) {
		out.Ready, out.Missing = out.State == "open", nil
	} else if need := int(a.m.K) - ready; len(waits) >= need {
		slices.Sort(waits)
		if !slices.Contains(waits[:need], 0) {
			out.Wait = time.Duration(min(waits[need-1], share.RequestLifeMax)) * time.Second
		}
		if v.policy != nil {
			out.Missing = v.policy.Missing(evidenceOf(a.request, v, g.words), s.namer(p, &a.m.Manifest, g.roster))
		}
		if len(out.Missing) == 0 {
			out.Missing = quotedAll(missing)
		}
	}
	s.asks.heard(a, g.words, out.Wait)
	return out, ctx.Err()
}

// quotedAll is what holders say is missing, each once.
func quotedAll(missing []string) (out []string) {
	slices.Sort(missing)
	for _, m := range slices.Compact(missing) {
		if len(out) < maxSaid {
			out = append(out, quoted(m))
		}
	}
	return out
}
