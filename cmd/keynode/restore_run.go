package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

const (
	restorePause  = time.Second      // between passes while something moves
	restoreSlow   = 15 * time.Second // while nothing but a long delay is missing
	restoreCall   = 20 * time.Second // the longest for one holder
	restoreVetoed = 24 * time.Hour   // until what was vetoed is asked for again
	restoreCalm   = 10 * time.Second // nothing new was found for so long before it is over
)

// A restorer brings the estate of the identity back: it asks for every secret
// of the lost owner with the recovery key, or as an approver, puts what it gets under the heir, and
// has the old one deleted by the policy. What it has to remember is at the
// holders, in the keystore's journal and in the identity, so that a restart goes
// on; only the requests to delete begin again. One goroutine owns it.
type restorer struct {
	d     *daemon
	e     *Estate
	heir  keystore.Person
	asker keystore.Person // signs what is asked: the recovery key, or the heir
	why   string          // what the others are told
	lost  map[key.Hash]*lostSecret
	found time.Time // when the last secret was found
}

type lostSecret struct {
	m     *share.SignedManifest
	label *share.Label
	gen   uint64 // what was put under the heir
	put   bool   // it is under the heir
	gone  bool   // the old one opens no more
	tomb  []byte
	ask   []byte // the request to delete
	acked map[key.NodeID]bool

	vetoed time.Time // when it was last vetoed
}

// restore works until everything is under the heir, if there is anything to
// restore, and then waits for ctx to end.
func (d *daemon) restore(ctx context.Context) error {
	if d.id.Estate != nil {
		if err := d.restoreAll(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("the restore stopped; the next start goes on", "why", err.Error())
		}
	}
	<-ctx.Done()
	return nil
}

func (d *daemon) restoreAll(ctx context.Context) error {
	heir, ok := d.person(d.id.Estate.Heir)
	if !ok {
		return errors.New("the person who is to have the secrets is not on this node")
	}
	r := &restorer{d: d, e: d.id.Estate, heir: heir, asker: heir, why: "taken over with an approver's card", lost: map[key.Hash]*lostSecret{}}
	if !r.e.Code.IsZero() {
		r.asker, r.why = keystore.Person{Key: r.e.Code}, "restored with the recovery kit"
	}
	if err := d.recordPerson(ctx, "restore", r.e.Owner, fmt.Sprintf("began or went on; the heir is %s", heir.Key.Public())); err != nil {
		return err
	}
	d.log.Info("restoring the secrets of a lost owner", "owner", r.e.Owner.String())
	for {
		pause, over := r.pass(ctx)
		if over {
			if err := d.recordPerson(ctx, "restore", r.e.Owner, "ended"); err != nil {
				return err
			}
			return r.finish()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// pass lists, and moves every secret one step on. It is over once every secret
// is done, nothing new has come up for a while, and no more than one holder is
// silent: a secret has two or more rows.
func (r *restorer) pass(ctx context.Context) (pause time.Duration, over bool) {
	silent, err := r.list(ctx)
	if err != nil {
		return restorePause, false
	}
	pause = restoreSlow
	done := 0
	defer func() { r.tell(done, silent) }()
	for _, l := range r.sorted() {
		if l.gone {
			done++
			continue
		}
		if wait := r.step(ctx, l); wait < pause {
			pause = max(wait, restorePause)
		}
	}
	over = done > 0 && done == len(r.lost) && silent <= 1 && time.Since(r.found) > restoreCalm
	if done == len(r.lost) {
		pause = restorePause
	}
	return pause, over
}

// tell publishes how far the restore is.
func (r *restorer) tell(done, silent int) {
	back := 0
	for _, l := range r.lost {
		if l.put {
			back++
		}
	}
	text := fmt.Sprintf("restoring a lost owner's secrets: %d found, %d back, %d of the old ones deleted, %d holders silent", len(r.lost), back, done, silent)
	r.d.restoring.Store(&text)
}

func (r *restorer) sorted() []*lostSecret {
	var out []*lostSecret
	for _, l := range r.lost {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *lostSecret) int { return strings.Compare(a.label.Name, b.label.Name) })
	return out
}

// list asks every member for what it holds of the lost owner. silent counts the
// holders that did not answer.
func (r *restorer) list(ctx context.Context) (silent int, err error) {
	l := lister{d: r.d, owner: r.e.Owner, index: &r.e.Index, signer: r.asker.Key}
	return l.all(ctx, func(m *share.SignedManifest, label *share.Label) {
		if have := r.lost[m.ID]; have != nil && (have.m.Gen >= m.Gen || have.put) {
			return
		}
		r.lost[m.ID] = &lostSecret{m: m, label: label, acked: map[key.NodeID]bool{}}
		r.found = time.Now()
	})
}

// step moves one secret on and returns how long there is nothing to do for it.
// Nothing is asked to be deleted before the secret is under its heir, although
// the two delays then follow one another: a policy may have no delay at all.
func (r *restorer) step(ctx context.Context, l *lostSecret) time.Duration {
	if time.Since(l.vetoed) < restoreVetoed {
		return restoreSlow // who said no is not asked again at once
	}
	if !l.put {
		wait, err := r.bringBack(ctx, l)
		if err != nil {
			if wait == 0 {
				r.d.log.Warn("a secret is not back yet", "id", l.m.ID.String(), "why", fmt.Sprintf("%.200s", err))
				return restoreSlow
			}
			return min(wait, restoreSlow)
		}
		r.d.log.Info("a secret is back under its new owner", "id", l.m.ID.String())
		l.put = true
	}
	return r.bury(ctx, l)
}

// bringBack recovers one secret with the recovery key and puts it under the
// heir. With an error, wait says when to ask again, 0: it is not a matter of
// waiting.
func (r *restorer) bringBack(ctx context.Context, l *lostSecret) (wait time.Duration, err error) {
	o := keystore.RecoverOptions{ID: l.m.ID, Tag: key.Hash(share.Tag(&r.e.Index, l.label.Name)), Reason: r.why, Timeout: restoreCall}
	got, err := r.d.keys.Recover(ctx, r.asker, l.label.Name, o)
	var pend *keystore.PendingError
	if errors.As(err, &pend) {
		return max(pend.Wait, restorePause), err
	}
	if errors.Is(err, keystore.ErrVetoed) {
		l.vetoed = time.Now()
	}
	if err != nil {
		return 0, err
	}
	defer clear(got.Value)
	l.gen = got.Gen // a write that the listing did not show yet may be behind it
	return 0, r.putHeir(ctx, l, got.Value)
}

// putHeir stores a value under the heir as it was stored before. A name that
// the heir has already is fine when it holds the same bytes: an earlier run was
// cut short.
func (r *restorer) putHeir(ctx context.Context, l *lostSecret, value []byte) error {
	pol, err := r.inherit(l.m.Policy)
	if err != nil {
		return err
	}
	o := r.d.asBefore(&l.m.Manifest, l.label, pol)
	o.IfAbsent = true
	_, err = r.d.keys.Put(ctx, r.heir, l.label.Name, value, o)
	var conflict *keystore.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	have, err := r.d.keys.Recover(ctx, r.heir, l.label.Name, keystore.RecoverOptions{Reason: "restoring"})
	if err != nil {
		return err
	}
	defer clear(have.Value)
	if !bytes.Equal(have.Value, value) {
		return errors.New("the new owner has another secret under this name; remove that one first")
	}
	return nil
}

// inherit is a policy with the heir and the heir's recovery key in the places
// of the lost owner and of the recovery keys. Clauses for the heir as an approver
// stay: the new owner can change the policy.
func (r *restorer) inherit(old []byte) ([]byte, error) {
	p, err := policy.Parse(old)
	if err != nil {
		return nil, fmt.Errorf("the policy cannot be carried over: %w", err)
	}
	b, heir := old, r.heir.Key.Public()
	for _, code := range p.Codes() {
		b = bytes.ReplaceAll(b, code[:], r.heir.Recovery[:])
	}
	return checkedPolicy(bytes.ReplaceAll(b, r.e.Owner[:], heir[:]))
}

// finish forgets the estate.
func (r *restorer) finish() error {
	r.d.persons.Lock()
	defer r.d.persons.Unlock()
	r.d.id.Estate = nil
	if err := r.d.id.save(); err != nil {
		r.d.id.Estate = r.e
		return err
	}
	r.d.restoring.Store(nil)
	n := len(r.lost)
	r.e.Erase()
	r.d.log.Info("all secrets are restored; the old kit opens nothing any more", "secrets", n)
	return nil
}
