package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
)

// Rotation is a recovery key on its way out: secrets of the person whose policy
// still names it get a new generation that names the present one. It stays in
// the identity until none is left.
type Rotation struct{ Person, Old key.PersonPublic }

type rotationBody struct {
	_           struct{} `cbor:",toarray"`
	Person, Old key.PersonPublic
}

// startRotation gives a person a new recovery key. The caller holds d.persons.
func (d *daemon) startRotation(ctx context.Context, person string) (apitype.Kit, error) {
	i, ok := d.id.find(person)
	if !ok {
		return apitype.Kit{}, noPerson(person)
	}
	p := d.id.Persons[i]
	owner := p.Key.Public()
	if slices.ContainsFunc(d.id.Rotations, func(r Rotation) bool { return r.Person == owner }) {
		return apitype.Kit{}, apitype.NewProblem(apitype.Unprocessable, "the secrets of %s are still on their way to the last new code; keyctl status says how far", p.Name)
	}
	if err := d.recordPerson(ctx, "kit", owner, "a new recovery key"); err != nil {
		return apitype.Kit{}, err
	}
	private, public := d.id.recovery(i)
	wasPrivate, wasPublic, before := *private, *public, d.id.Rotations
	*private = key.GeneratePerson()
	*public = private.Public()
	d.id.Rotations = append(slices.Clone(before), Rotation{Person: owner, Old: wasPublic})
	if err := d.id.save(); err != nil {
		private.Erase()
		*private, *public, d.id.Rotations = wasPrivate, wasPublic, before
		return apitype.Kit{}, fmt.Errorf("keeping the new recovery key: %w", err)
	}
	wasPrivate.Erase()
	select {
	case d.rotations <- struct{}{}:
	default:
	}
	d.log.Info("a person has a new recovery key", "person", owner.String())
	return apitype.Kit{Kind: "kit", Network: d.id.Network.String(), Owner: owner.String(), Name: p.Name, Made: time.Now().UTC().Truncate(time.Second), Kept: []string{"code"}}, nil
}

// rotate carries rotations through, now and after every start.
func (d *daemon) rotate(ctx context.Context) error {
	pause := restorePause
	for {
		d.persons.RLock()
		left := slices.Clone(d.id.Rotations)
		d.persons.RUnlock()
		for _, r := range left {
			pause = restoreSlow
			if d.rotateOnce(ctx, r) {
				pause = restorePause
			}
		}
		if len(left) == 0 {
			pause = time.Hour
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.rotations:
		case <-time.After(pause):
		}
	}
}

// rotateOnce gives every secret that still names the old key a new generation.
// It reports whether it did something: then another look is due soon. The
// rotation ends with a look that found nothing while no more than one holder was
// silent.
func (d *daemon) rotateOnce(ctx context.Context, r Rotation) (moved bool) {
	p, ok := d.person(r.Person.String())
	if !ok {
		return false
	}
	index := share.IndexKey(p.Key, d.id.Network)
	defer clear(index[:])
	type found struct {
		m     *share.SignedManifest
		label *share.Label
	}
	latest := map[key.Hash]found{}
	l := lister{d: d, owner: r.Person, index: &index, signer: p.Key}
	silent, err := l.all(ctx, func(m *share.SignedManifest, label *share.Label) {
		if latest[m.ID].m == nil || latest[m.ID].m.Gen < m.Gen {
			latest[m.ID] = found{m, label}
		}
	})
	if err != nil {
		return true // no link yet
	}
	old := 0
	for _, f := range latest {
		if !bytes.Contains(f.m.Policy, r.Old[:]) {
			continue
		}
		old++
		if err := d.rename(ctx, p, f.m, f.label, r.Old); err != nil {
			d.log.Warn("a secret still names the old recovery key", "id", f.m.ID.String(), "why", fmt.Sprintf("%.200s", err))
			continue
		}
		moved = true
	}
	text := fmt.Sprintf("a new recovery key: %d of %d secrets still named the old one, %d holders silent", old, len(latest), silent)
	d.rotating.Store(&text)
	if old > 0 || silent > 1 {
		return moved
	}
	return d.endRotation(r)
}

// rename stores a secret again under a policy that names the person's present
// recovery key where it named the old one.
func (d *daemon) rename(ctx context.Context, p keystore.Person, m *share.SignedManifest, label *share.Label, old key.PersonPublic) error {
	pol, err := checkedPolicy(bytes.ReplaceAll(m.Policy, old[:], p.Recovery[:]))
	if err != nil {
		return err
	}
	got, err := d.keys.Recover(ctx, p, label.Name, keystore.RecoverOptions{Reason: "a new recovery key"})
	if err != nil {
		return err
	}
	defer clear(got.Value)
	o := d.asBefore(&m.Manifest, label, pol)
	o.IfGen = &got.Gen
	_, err = d.keys.Put(ctx, p, label.Name, got.Value, o)
	return err
}

func (d *daemon) endRotation(r Rotation) bool {
	d.persons.Lock()
	defer d.persons.Unlock()
	before := d.id.Rotations
	d.id.Rotations = slices.DeleteFunc(slices.Clone(before), func(o Rotation) bool { return o == r })
	if err := d.id.save(); err != nil {
		d.id.Rotations = before
		d.log.Error("a finished rotation could not be noted", "why", err.Error())
		return false
	}
	d.rotating.Store(nil)
	d.log.Info("no secret names the old recovery key any more", "person", r.Person.String())
	return true
}
