package keystore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// How often a request that waits is asked again.
const (
	firstPoll = 500 * time.Millisecond
	lastPoll  = 3 * time.Second
	slowPoll  = 15 * time.Second // while nothing but a long delay is missing
)

// Continue asks the holders again for what a request of this person waits for,
// until it is released, denied, over, or wait has passed: then [PendingError].
// A wait of 0 asks once.
//
// Errors: those of [Store.Recover]; [ErrNoRequest] when this node has no such
// request of the person; [ErrEnded] when it has expired; [ErrVetoed].
func (s *Store) Continue(ctx context.Context, p Person, request key.Hash, wait time.Duration) (Recovered, error) {
	end := time.Now().Add(wait)
	for pause := firstPoll; ; pause = min(pause*3/2, lastPoll) {
		out, err := s.askAgain(ctx, p, request)
		var pend *PendingError
		if !errors.As(err, &pend) {
			return out, err
		}
		nap := pause
		if pend.Wait > 2*slowPoll {
			nap = slowPoll
		} else if pend.Wait > 0 {
			nap = min(pend.Wait, lastPoll)
		}
		left := time.Until(end)
		if left <= 0 || !sleep(ctx, min(nap, left)) {
			return out, err
		}
	}
}

// askAgain is one round of a request that was journaled.
func (s *Store) askAgain(ctx context.Context, p Person, request key.Hash) (Recovered, error) {
	if p.Key.IsZero() {
		return Recovered{}, fmt.Errorf("%w: no person", ErrInput)
	}
	a, err := s.asks.own(p, request)
	if err != nil {
		return Recovered{}, err
	}
	if a.over() {
		s.asks.forget(ctx, a)
		return Recovered{}, fmt.Errorf("%w: it has expired", ErrEnded)
	}
	h := &secret{owner: p.Key.Public(), name: a.name, id: a.request.ID}
	o := RecoverOptions{Gen: a.request.Gen, Manifest: a.request.Manifest, ID: a.request.ID, Tag: a.tag}
	return s.recover(ctx, p, h, o, a)
}

// recover is one round of a recovery: of a request that was journaled, or of a
// new one when a is nil.
func (s *Store) recover(ctx context.Context, p Person, h *secret, o RecoverOptions, a *ask) (Recovered, error) {
	asked := ctx
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	g := &reading{s: s, p: p, h: h, o: o, roster: s.roster(), view: s.newView(h.id), kept: a}
	if a != nil {
		g.request, g.key = a.request, a.key
	}
	out, err := g.run(ctx)
	switch {
	case err == nil && asked.Err() == nil, errors.Is(err, ErrVetoed), errors.Is(err, ErrNotFound):
		if g.kept != nil {
			s.asks.forget(ctx, g.kept)
		}
	case err != nil && ctx.Err() != nil && !g.stated(err):
		err = fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return out, err
}

// newRequest makes the request that all seats are asked with. When the
// person's own word is not enough it is journaled before anybody sees it, with
// its ephemeral key: it outlives this call (SPEC.md). Else the key lives as long
// as the call. A request that still waits for the same is gone on with.
func (g *reading) newRequest(ctx context.Context) error {
	life, alone := lifeOf(&g.use.Manifest, g.p.Key.Public())
	if !alone {
		if a := g.s.asks.same(g); a != nil {
			g.kept, g.request, g.key = a, a.request, a.key
			return nil
		}
	}
	k, err := seal.GenerateKey()
	if err != nil {
		return err
	}
	now := unix()
	r := share.Request{ID: g.h.id, Gen: g.o.Gen, Manifest: g.o.Manifest, Ephemeral: k.Public(), Verb: share.VerbRecover,
		Purpose: g.o.Reason, Created: now, Expires: now + life}
	rand.Read(r.Nonce[:])
	g.key, g.request = k, share.SignRequest(g.p.Key, g.s.cfg.ID, r)
	if err := g.s.recordOwn(ctx, "asked", g.request, g.p, r.Purpose); err != nil {
		return err
	}
	if alone {
		return nil
	}
	return g.journal(ctx)
}

// journal keeps the request until it ends.
func (g *reading) journal(ctx context.Context) error {
	a := &ask{request: g.request, key: g.key, m: g.use, made: time.Now()}
	a.name, a.tag = g.provenName()
	if err := g.s.asks.keep(ctx, a); err != nil {
		return err
	}
	g.kept = a
	return nil
}

// lifeOf is how long a request of this person may live, in seconds, and whether
// its signature alone satisfies the policy.
func lifeOf(m *share.Manifest, p key.PersonPublic) (life uint64, alone bool) {
	pol, err := policy.Parse(m.Policy)
	if err != nil {
		return share.RequestLifeOwner, true // holders that can read it decide
	}
	switch wait := pol.LongestWait(); {
	case pol.Evaluate(policy.Evidence{Owner: m.Owner, Signers: []key.PersonPublic{p}}).OK:
		return share.RequestLifeOwner, true
	case wait > 0:
		return wait + share.RequestLifeDelay, false
	}
	return share.RequestLife, false
}

// provenName is the secret's name and its tag, as far as they give the salt of
// the manifest; else both are empty.
func (g *reading) provenName() (string, key.Hash) {
	m := &g.use.Manifest
	if m.Owner == g.p.Key.Public() {
		index := share.IndexKey(g.p.Key, g.s.cfg.ID)
		defer clear(index[:])
		name := g.h.name
		if name == "" {
			if l, err := openLabel(&index, m); err == nil {
				name = l.Name
			}
		}
		if tag := share.Tag(&index, name); name != "" && share.Salt(tag, name) == m.Salt {
			return name, tag
		}
	}
	if g.h.name != "" && share.Salt(g.o.Tag, g.h.name) == m.Salt {
		return g.h.name, g.o.Tag
	}
	return g.s.asks.nameOf(m)
}

// boxes are the name boxes of a recovery.
func (g *reading) boxes() []custody.NameBox {
	if g.kept == nil || g.kept.name == "" {
		return nil
	}
	return nameBoxes(newVersion(g.use), g.roster, g.request.Hash, g.kept.name, g.kept.tag)
}

// nameBoxes seal (tag, name) to the nodes of those who are asked.
func nameBoxes(v *version, r roster, request key.Hash, name string, tag key.Hash) []custody.NameBox {
	if v.policy == nil {
		return nil
	}
	told := v.audience()
	plain := key.Marshal(&custody.Name{Tag: tag, Name: name})
	defer clear(plain)
	var out []custody.NameBox
	for id, m := range r {
		concerned := slices.ContainsFunc(m.Persons, func(k key.PersonPublic) bool { return slices.Contains(told, k) })
		if !concerned || m.Revoked || len(out) >= custody.MaxNames {
			continue
		}
		if box, err := seal.To(m.SealingKey, nameInfo(id, request), plain); err == nil {
			out = append(out, custody.NameBox{Node: id, Box: box})
		}
	}
	return out
}

// nameInfo is the context of a name box.
func nameInfo(node key.NodeID, request key.Hash) key.Hash {
	return seal.Info(seal.PurposeName, key.Hash{}, 0, 0, node, request)
}
