package keystore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/policy"
)

// Put stores value, 0 to 1,048,575 bytes, under name as the next generation and
// returns once w of its n seats have committed it to disk and w of the seats of
// the generation before hold its row no more; the rest is done in the
// background. value is not kept.
//
// Errors: [ErrInput], [ErrTooLarge], [PlacementError]; [ConflictError] when
// compare-and-set fails or the secret has forked; [QuorumError] when nothing
// was stored; [ErrFull] when that is for want of room; [InDoubtError] when it
// may still be stored: the same call again goes on with the same generation,
// and so does this node by itself. [ErrTimeout] means that nothing was sent.
func (s *Store) Put(ctx context.Context, p Person, name string, value []byte, o PutOptions) (PutResult, error) {
	if len(value) > seal.MaxSecret {
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
	release, err := s.locks.take(ctx, h.id)
	if err != nil {
		return PutResult{}, fmt.Errorf("%w: another change of this secret is under way", ErrTimeout)
	}
	defer release()
	defer s.counts.forget(p.Key.Public())
	d := &dealing{s: s, p: p, h: h, o: o, value: value, digest: h.digest(value, o.wishes())}
	return d.put(ctx)
}

// check refuses options that no network can meet.
func (o *PutOptions) check(owner key.PersonPublic) error {
	switch {
	case o.N < 0 || o.K < 0 || o.W < 0 || o.Keep != nil && (*o.Keep < 0 || *o.Keep > share.MaxKeep):
		return fmt.Errorf("%w: n, k, w or keep is out of range", ErrInput)
	case o.Repair != nil && *o.Repair > share.RepairQuorum:
		return fmt.Errorf("%w: no such mode of repair", ErrInput)
	case len(o.Policy) > share.MaxPolicy:
		return fmt.Errorf("%w: the policy has more than %d bytes", ErrInput, share.MaxPolicy)
	case o.TTL != nil && (*o.TTL < 0 || (*o.TTL > 0 && *o.TTL < time.Second)):
		return fmt.Errorf("%w: the time to live is shorter than a second", ErrInput)
	case o.IfAbsent && o.IfGen != nil:
		return fmt.Errorf("%w: if-absent and compare-and-set exclude one another", ErrInput)
	case o.N != 0 && o.K == 0 && len(o.Holders) == 0:
		return fmt.Errorf("%w: n and k are given together or not at all", ErrInput)
	}
	if o.Policy != nil {
		pol, err := policy.Parse(o.Policy)
		if err == nil {
			err = pol.CheckOwner(owner)
		}
		if err != nil {
			return fmt.Errorf("%w: the policy: %w", ErrInput, err)
		}
	}
	return checkLabels(o.Labels)
}

// wishes are the options that make a different secret, encoded for comparison.
func (o *PutOptions) wishes() []byte {
	type wishes struct {
		_           struct{} `cbor:",toarray"`
		Shape       [3]int
		Holders     []key.NodeID
		Policy      []byte
		Labels      [][2]string
		Description string
		TTL         *int64
		Keep        *int
		Repair      *uint8
		Colocated   bool
		HasGen      bool
		Gen         uint64
		Absent      bool
	}
	w := wishes{Shape: [3]int{o.N, o.K, o.W}, Holders: o.Holders, Policy: o.Policy, Labels: sortedLabels(o.Labels), Description: o.Description,
		TTL: (*int64)(o.TTL), Keep: o.Keep, Repair: o.Repair, Colocated: o.AllowColocated, Absent: o.IfAbsent}
	if o.IfGen != nil {
		w.HasGen, w.Gen = true, *o.IfGen
	}
	return key.Encode(w)
}

// dealing is one put under way.
type dealing struct {
	s      *Store
	p      Person
	h      *secret
	o      PutOptions
	value  []byte
	digest key.Hash

	roster  roster
	view    *view
	located bool // nodes were asked; else the view is what is at hand
	dry     bool // nothing is to be changed
	hasty   bool // nobody was asked: PREPARE asks
	own     []*share.SignedManifest
	notes   []string
	doubts  []error // of earlier attempts, at most maxAttempts
}

// conditional: the caller wants a conflict told, not passed.
func (d *dealing) conditional() bool { return d.o.IfAbsent || d.o.IfGen != nil }

// Bounds of the attempts of a plain put among other writers.
const (
	maxAttempts  = 8
	firstBackoff = 50 * time.Millisecond // doubled each time, with full jitter, up to
	lastBackoff  = 2 * time.Second
)

func (d *dealing) put(ctx context.Context) (PutResult, error) {
	if w := d.unanswered(); w != nil {
		w, out := d.run(ctx, w)
		switch {
		case out.dead: // as if it had never been
		case out.ok || !out.conflict:
			return d.result(w, out)
		case d.conditional():
			return d.lost(ctx, w, out)
		}
		if !out.dead {
			d.pass(w, out)
		}
	}
	if err := d.find(ctx, false); err != nil {
		return PutResult{}, d.told(err)
	}
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		if err := d.settled(ctx); err != nil {
			return PutResult{}, d.told(err)
		}
		w, err := d.deal(ctx)
		if err != nil {
			return PutResult{}, d.told(err)
		}
		start := time.Now()
		w, out := d.run(ctx, w)
		if out.ok || !out.conflict || attempt == maxAttempts {
			return d.result(w, out)
		}
		// Two writers that wait less than a round trip meet again.
		took := time.Since(start)
		backoff = max(backoff, took)
		if d.conditional() {
			return d.lost(ctx, w, out)
		}
		if !out.stale && !sleep(ctx, time.Duration(mrand.Int64N(int64(backoff)))) {
			return d.result(w, out)
		}
		d.pass(w, out)
		backoff = min(2*backoff, max(lastBackoff, 4*took))
		for _, c := range out.shown {
			d.view.add(c)
		}
		if err := d.find(ctx, !out.stale || out.have < w.m.Gen); err != nil {
			return PutResult{}, d.told(err)
		}
	}
}

// pass notes that the next attempt passes this one by, which may be stored all
// the same.
func (d *dealing) pass(w *write, out *outcome) {
	d.own = append(d.own, w.m)
	if !out.notStored {
		d.doubts = append(d.doubts, out.doubt(w))
	}
}

// told adds to an error what earlier attempts have left in doubt: it is still
// on its way.
func (d *dealing) told(err error) error {
	if err == nil || len(d.doubts) == 0 {
		return err
	}
	return errors.Join(append([]error{err}, d.doubts...)...)
}

// unanswered returns the write in the journal that this put is a retry of: the
// same value with the same options, of which nobody was told that it is stored.
func (d *dealing) unanswered() *write {
	var best *write
	for _, p := range d.s.finish.places(d.h.id) {
		b, err := d.s.finish.load(p)
		if err != nil || b == nil {
			continue
		}
		w, err := d.s.loadWrite(b)
		if err != nil || w.answered || !equalDigest(w.digest, d.digest) {
			continue
		}
		if best == nil || w.m.Gen > best.m.Gen {
			best = w
		}
	}
	if best != nil && best.consent != nil {
		for _, b := range best.before {
			if b.Hash == best.m.Prev {
				d.askConsent(best, b) // the one in the journal may have expired
			}
		}
	}
	return best
}

// drive runs a write and waits for its verdict. What is left goes on after it.
func (d *dealing) drive(ctx context.Context, w *write) *outcome {
	deadline, _ := ctx.Deadline()
	verdict := make(chan *outcome, 1)
	life, cancel := context.WithDeadline(WithRequestID(d.s.life, RequestID(ctx)), deadline.Add(callTimeout))
	w.stop, w.ended = cancel, make(chan struct{})
	d.s.spawn(func() {
		defer close(w.ended)
		defer cancel()
		w.run(ctx, life, func(o *outcome) { verdict <- o })
	})
	return <-verdict
}

// deal makes the next generation out of what is there.
func (d *dealing) deal(ctx context.Context) (*write, error) {
	best, fork := d.view.latest()
	if fork != nil && !d.o.Force {
		return nil, forkError(best, fork)
	}
	pl, where, err := d.where(best)
	if err != nil {
		return nil, err
	}
	m, err := d.manifest(best, fork, pl, where)
	if err != nil {
		return nil, err
	}
	if err := d.s.cfg.Shelf.Room(len(d.value) + 4<<10); err != nil {
		return nil, fmt.Errorf("%w: this node's own store: %w", ErrFull, err)
	}
	d.notes = append(pl.notes(d.o.W), where.notes...)
	if best != nil && share.PrevNeed(&best.m.Manifest, d.roster.gone) < int(best.m.W) {
		d.notes = append(d.notes, "holders of the generation before are revoked: until this one is stored none of the others may lie")
	}
	return d.split(m, best, where)
}

// where chooses numbers and seats.
func (d *dealing) where(best *certified) (*placing, *placed, error) {
	var prev *share.Manifest
	if best != nil {
		prev = &d.view.placed(best.m).Manifest // those who hold the seats now keep them
	}
	shape, err := d.o.choose(d.roster, prev)
	if err != nil {
		return nil, nil, err
	}
	pl := &placing{shape: shape, index: &d.h.index, id: d.h.id, self: d.s.self, roster: d.roster, prev: prev,
		explicit: d.o.Holders, waived: d.o.AllowColocated || prev != nil && prev.Colocated}
	where, err := pl.place()
	return pl, where, err
}

// manifest fills in everything that does not depend on the data key.
func (d *dealing) manifest(best, fork *certified, pl *placing, where *placed) (*share.Manifest, error) {
	m := &share.Manifest{
		ID: d.h.id, Owner: d.h.owner, Salt: d.h.salt, Suite: share.SuiteShamir, K: uint8(pl.k), W: uint8(pl.w),
		Standby: where.standby, Policy: d.o.Policy, Created: unix(), Colocated: pl.waived,
	}
	d.o.upkeep(m, best)
	if m.Repair == share.RepairQuorum && pl.w == pl.n {
		return nil, fmt.Errorf("%w: repair by quorum needs w below n", ErrInput)
	}
	labels, description := d.o.Labels, d.o.Description
	if best != nil {
		m.Prev = best.m.Hash
		if m.Policy == nil {
			m.Policy = best.m.Policy
		}
		if l, err := openLabel(&d.h.index, &best.m.Manifest); err == nil && labels == nil {
			labels = labelMap(l)
			if description == "" {
				description = l.Description
			}
		}
	}
	if m.Policy == nil {
		m.Policy = policy.Default(d.p.Recovery).Encode()
	}
	if err := d.generation(m, best, fork); err != nil {
		return nil, err
	}
	var err error
	m.Label, err = d.h.sealLabel(m.Gen, len(d.value), labels, description)
	return m, err
}

// upkeep sets how long the generation lives, how many before it stay, and who
// repairs it: as it was for the generation before, unless something was asked
// for.
func (o *PutOptions) upkeep(m *share.Manifest, best *certified) {
	if best != nil {
		was := &best.m.Manifest
		m.Keep, m.Repair = was.Keep, was.Repair
		if was.Expires > was.Created {
			m.Expires = m.Created + was.Expires - was.Created
		}
	}
	if o.Keep != nil {
		m.Keep = uint8(*o.Keep)
	}
	if o.Repair != nil {
		m.Repair = *o.Repair
	}
	if o.TTL != nil {
		m.Expires = 0
	}
	if o.TTL != nil && *o.TTL > 0 {
		m.Expires = m.Created + uint64(*o.TTL/time.Second)
	}
}

// generation sets gen and force: above everything that is there or pending, and
// by a random step where others are writing too, so that two writers seldom
// pick the same number.
func (d *dealing) generation(m *share.Manifest, best, fork *certified) error {
	base, busy := uint64(0), false
	if best != nil {
		base = best.m.Gen
	}
	for _, t := range d.view.tombs {
		base = max(base, t.Gen)
	}
	force := func(h key.Hash, gen uint64) {
		if h != m.Prev && !slices.Contains(m.Force, h) {
			m.Force = append(m.Force, h)
		}
		base, busy = max(base, gen), true
	}
	if fork != nil {
		force(fork.m.Hash, fork.m.Gen)
	}
	for _, p := range d.live(best) {
		force(p.Hash, p.Gen)
	}
	if len(m.Force) > share.MaxForce {
		return &ConflictError{Have: base, Why: fmt.Sprintf("%d writes are under way, more than one put can pass", len(m.Force))}
	}
	if mark, err := d.s.mark(d.h.id); err == nil {
		base = max(base, mark.Gen)
	}
	m.Gen = base + 1
	if busy {
		m.Gen = base + 1 + uint64(mrand.IntN(256))
	}
	return nil
}

// live are the manifests that are pending at some seat above what is there,
// those of this put's own earlier attempts included.
func (d *dealing) live(best *certified) []*share.SignedManifest {
	gen := uint64(0)
	if best != nil {
		gen = best.m.Gen
	}
	var out []*share.SignedManifest
	for _, p := range d.view.live(gen) {
		out = append(out, p.m)
	}
	for _, m := range d.own {
		known := slices.ContainsFunc(out, func(o *share.SignedManifest) bool { return o.Hash == m.Hash })
		if !known && m.Gen > gen && !d.view.deleted(m.Gen) && d.view.certs[m.Hash] == nil {
			out = append(out, m)
		}
	}
	return out
}

// split deals a fresh data key among the seats, seals the value under it and
// signs the manifest. The data key exists only here.
func (d *dealing) split(m *share.Manifest, best *certified, where *placed) (*write, error) {
	dk := make([]byte, share.DataKeySize)
	if _, err := rand.Read(dk); err != nil {
		return nil, err
	}
	defer clear(dk)
	ctx := m.Context()
	xs, rows, err := shamir.Deal(dk, len(where.seats), int(m.K))
	if err != nil {
		return nil, err
	}
	keys, err := seal.Derive(dk, ctx)
	if err != nil {
		return nil, err
	}
	defer keys.Erase()
	ct, err := keys.Seal(d.value)
	if err != nil {
		return nil, err
	}
	m.KC, m.Payload, m.Length = keys.KC(), sha256.Sum256(ct), uint64(len(ct))
	encoded := make(map[key.NodeID][]byte, len(rows))
	for i, node := range where.seats {
		row := rows[i].Encode()
		rows[i].Erase()
		encoded[node] = row
		m.Seats = append(m.Seats, share.Seat{X: xs[i], Node: node, C: share.RowCommitment(ctx, xs[i], m.K, row)})
	}
	signed, err := share.SignManifest(d.p.Key, d.s.cfg.ID, *m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInput, err)
	}
	// This node's own seat need not verify what was signed here.
	d.s.cust.versions.get(signed.Bytes(), func() (*version, error) { return newVersion(signed), nil })
	before, err := d.before(m)
	if err != nil {
		return nil, err
	}
	w := d.s.newWrite(signed, before)
	w.rows, w.ct, w.digest, w.prev, w.hasty, w.conditional = encoded, ct, d.digest, best, d.hasty, d.conditional()
	w.view.add(best) // its policy judges a tombstone that a seat shows
	if t := d.view.tomb(); t != nil {
		w.tomb, w.tombConsent = t.bytes, t.consent
	}
	if best != nil && string(best.m.Policy) != string(m.Policy) {
		d.askConsent(w, best.m)
	}
	return w, nil
}

// before are the manifests that m follows.
func (d *dealing) before(m *share.Manifest) ([]*share.SignedManifest, error) {
	for _, o := range d.own {
		d.view.learn(o)
	}
	return d.view.beforeOf(m)
}

// notes are the consequences of the numbers that were asked for.
func (s shape) notes(asked int) []string {
	usual := share.DefaultW(s.n, s.k)
	var out []string
	if asked != 0 && s.w < usual {
		out = append(out, fmt.Sprintf("stored is said at %d of %d disks instead of %d: until the rest has it, %s", s.w, s.n, usual, s.price()))
	}
	if s.k == s.n {
		out = append(out, "every one of the holders is needed: the loss of one loses the secret")
	}
	return out
}

func (s shape) price() string {
	if s.w == s.k {
		return "the loss of one of them loses the secret, and none may lie"
	}
	return fmt.Sprintf("%d of them may be lost or lie", s.w-s.k)
}
