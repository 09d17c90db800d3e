package keystore

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

func validTail(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return r != utf8.RuneError || n > 1
}

// whyOutsider is said to a node that has to be a member and is not.
const whyOutsider = "the sending node is not in the roster"

// prepare serves PREPARE.
func (c *custodian) prepare(ctx context.Context, from key.NodeID, q *custody.Prepare) (key.Body, error) {
	f := c.facts(from)
	if f.operator == "" {
		return &custody.PrepareReply{Outcome: custody.Refused, Why: whyOutsider}, nil
	}
	p, err := c.openPrepare(q)
	if err != nil {
		return &custody.PrepareReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	progress, err := c.askPrepare(ctx, from, p, q)
	if err != nil {
		return &custody.PrepareReply{Outcome: custody.Failed, Why: c.failed(err).why}, ctx.Err()
	}
	told := c.recalled(ctx, p.m.ID, p.shown()...)
	r, there, receipt, err := c.step(ctx, p.m.ID, f, func(s *secretState, f holderFacts) stepResult {
		if told && s.behind(f) { // nothing was here to note it in
			s = s.clone()
			s.cleared = f.restored
		}
		r := s.prepare(f, p)
		r.gen = p.m.Gen
		return r
	})
	if err != nil {
		return nil, err
	}
	reply := &custody.PrepareReply{Outcome: r.outcome, Receipt: receipt, Why: bounded(r.why), NeedPrev: r.needPrev}
	if r.outcome == custody.Refused || r.outcome == custody.OK {
		reply.Progress = progress
	}
	if there != nil {
		reply.There = *there
	}
	if r.next != nil && p.prev != nil {
		c.passing.add(r.next, c.self) // a certificate was brought along
		c.healing.look(p.m.ID, healFirst)
	}
	if r.next != nil && p.tomb != nil {
		c.passing.addTombs(r.next)
	}
	return reply, nil
}

// askPrepare takes in the consent to this very change of policy, or to the
// tombstone of what was before, if one came.
func (c *custodian) askPrepare(ctx context.Context, from key.NodeID, p prepareMsg, q *custody.Prepare) (*custody.Progress, error) {
	con := p.consent
	if p.tomb != nil && p.tomb.object == nil {
		progress, _, err := c.askDelete(ctx, from, deleteMsg{p.tomb, con}, &custody.Delete{Request: q.Request, Approvals: q.Approvals})
		return progress, err
	}
	if con == nil || con.Verb != share.VerbPolicy || con.ID != p.m.ID || string(con.Payload) != string(p.m.Hash[:]) {
		return nil, nil
	}
	d, err := c.ask(ctx, from, con, q.Request, q.Approvals, q.Names)
	if d == nil {
		return nil, err
	}
	return d.progress, err
}

// openPrepare verifies what a PREPARE brings, each signature once.
func (c *custodian) openPrepare(q *custody.Prepare) (prepareMsg, error) {
	m, err := c.openManifest(q.Manifest)
	if err != nil {
		return prepareMsg{}, fmt.Errorf("the manifest: %w", err)
	}
	p := prepareMsg{m: m, row: q.Row, payload: q.Payload}
	if len(q.Prev) != 0 {
		if p.prev, err = c.openCertificate(q.Prev, q.PrevCert, append([][]byte{q.PrevPrev}, q.PrevForced...)); err != nil {
			return p, fmt.Errorf("the generation before: %w", err)
		}
	}
	for _, b := range q.Forced[:min(len(q.Forced), share.MaxForce)] {
		v, err := c.openManifest(b)
		if err != nil {
			return p, fmt.Errorf("what is passed: %w", err)
		}
		p.forced = append(p.forced, v)
	}
	if len(q.Request) != 0 {
		if p.consent, err = c.openConsent(q.Request, q.Approvals); err != nil {
			return p, fmt.Errorf("the request: %w", err)
		}
	}
	if len(q.Tombstone) != 0 {
		d, err := c.openDelete(&custody.Delete{Tombstone: q.Tombstone})
		if err != nil && p.consent != nil && p.consent.Verb == share.VerbDelete {
			d, err = c.openDelete(&custody.Delete{Tombstone: q.Tombstone, Request: q.Request, Approvals: q.Approvals})
		}
		if err != nil {
			return p, fmt.Errorf("the tombstone: %w", err)
		}
		p.tomb = d.tomb
	}
	return p, nil
}

// openCertificate verifies the manifests and parses the certificate, which the
// step verifies if it needs it.
func (c *custodian) openCertificate(m, cert []byte, before [][]byte) (*certificate, error) {
	of, err := c.openManifest(m)
	if err != nil {
		return nil, err
	}
	out := &certificate{of: of, bytes: cert}
	if len(cert) != 0 {
		if out.cert, err = share.DecodeCert(cert); err != nil {
			return nil, err
		}
	}
	if len(before) > 1+share.MaxForce {
		return nil, fmt.Errorf("%w: too many manifests before it", share.ErrCertificate)
	}
	for _, b := range before {
		if len(b) == 0 {
			continue
		}
		v, err := c.openManifest(b)
		if err != nil {
			return nil, err
		}
		out.before = append(out.before, v)
	}
	return out, nil
}

// openTomb verifies a tombstone that the owner signed.
func (c *custodian) openTomb(b []byte) (*tomb, error) {
	if _, _, err := share.OpenTombstone(c.cfg.ID, b); err != nil {
		return nil, err
	}
	o, err := key.DecodeObject(b)
	if err != nil {
		return nil, err
	}
	t, err := newTomb(c.cfg.ID, o.Body)
	if err != nil {
		return nil, err
	}
	t.object = b
	return t, nil
}

// openConsent verifies a request that may authorise a write. What is on it is
// taken in by [custodian.ask].
func (c *custodian) openConsent(request []byte, approvals [][]byte) (*consent, error) {
	r, held, err := c.openRequest(request)
	if err != nil {
		return nil, err
	}
	if len(approvals) > custody.MaxApprovals {
		return nil, fmt.Errorf("%w: %d approvals", share.ErrRequest, len(approvals))
	}
	now := unix()
	return &consent{SignedRequest: r, held: held, approvers: func(party func(key.PersonPublic) bool) []key.PersonPublic {
		return c.approvers(r.Hash, approvals, now, party)
	}}, nil
}

// approvers are the parties that approved the request, where it is not kept:
// the policy may have come along. Approvals of something else are passed over;
// who also vetoed has not approved.
func (c *custodian) approvers(request key.Hash, approvals [][]byte, now uint64, party func(key.PersonPublic) bool) []key.PersonPublic {
	verdicts := map[key.PersonPublic]uint8{}
	for _, b := range approvals {
		o, err := key.DecodeObject(b)
		if err != nil || !party(o.Key) {
			continue
		}
		a, err := share.OpenApproval(c.cfg.ID, b, now)
		if err != nil || a.Subject != request {
			continue
		}
		verdicts[a.Person] = max(verdicts[a.Person], a.Verdict) // a veto is the higher
	}
	var out []key.PersonPublic
	for p, v := range verdicts {
		if v == share.VerdictApprove {
			out = append(out, p)
		}
	}
	return out
}

// ask takes in the request that came with a write, when it is for that write
// and of a party, so that words on it are counted and delays run. The decision
// is nil when there is nothing to take in; the consent is then judged as it is.
func (c *custodian) ask(ctx context.Context, from key.NodeID, con *consent, request []byte, approvals [][]byte, names []custody.NameBox) (*decision, error) {
	s, err := c.visible(ctx, con.ID, con.Person)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, nil // the step refuses, or the policy came along
	}
	d, err := c.keep(ctx, arrival{SignedRequest: con.SignedRequest, from: from, bytes: request, approvals: approvals, names: names})
	if err != nil {
		return nil, err
	}
	con.held, con.facts = d.held, d.facts
	if d.outcome == custody.Denied || d.outcome == custody.Refused {
		return d, c.refused(ctx, from, AuditRecord{ID: con.ID, Person: con.Person, Request: con.Hash, Detail: d.why})
	}
	return d, nil
}

// commit serves COMMIT.
func (c *custodian) commit(ctx context.Context, from key.NodeID, q *custody.Commit) (key.Body, error) {
	return c.commitAs(ctx, c.facts(from), q)
}

func (c *custodian) commitAs(ctx context.Context, f holderFacts, q *custody.Commit) (key.Body, error) {
	if f.operator == "" && !c.holds(ctx, q.Manifest) {
		return &custody.CommitReply{Outcome: custody.Refused, Why: whyOutsider}, nil
	}
	cert, err := c.openCertificate(q.Manifest, q.Cert, q.Before)
	if err != nil {
		return &custody.CommitReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	if cert.moves, err = c.openMoves(q.Reassigns, cert.of); err != nil {
		return &custody.CommitReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	r, there, receipt, err := c.step(ctx, cert.of.ID, f, func(s *secretState, f holderFacts) stepResult {
		r := s.commit(f, commitMsg{*cert})
		r.gen = cert.of.Gen
		if r.next != nil {
			r.also = s.movedTo(r.next)
		}
		return r
	})
	if err != nil {
		return nil, err
	}
	if err := c.takeMoves(ctx, f, cert.of.ID, cert.moves); err != nil {
		return nil, err
	}
	reply := &custody.CommitReply{Outcome: r.outcome, Receipt: receipt, Why: bounded(r.why), PrevGone: r.prevGone}
	if there != nil {
		reply.There = *there
	}
	if r.next != nil {
		c.passing.add(r.next, c.self)
		for _, node := range r.also {
			if node != c.self {
				c.passing.tell(r.next, node)
			}
		}
		c.passing.addSeatless(r.next, cert, c.self)
	}
	if r.outcome == custody.Refused {
		c.healing.look(cert.of.ID, healFirst)
	}
	return reply, nil
}

// holds reports whether there is a record of the secret that the manifest names,
// which is not verified.
func (c *custodian) holds(ctx context.Context, manifest []byte) bool {
	var m share.Manifest
	if len(manifest) > share.MaxManifest {
		return false
	}
	o, err := key.DecodeObject(manifest)
	if err != nil || key.Unmarshal(o.Body, &m) != nil {
		return false
	}
	s, err := c.peek(ctx, m.ID)
	return err == nil && !s.nothing()
}

// delete serves DELETE.
func (c *custodian) delete(ctx context.Context, from key.NodeID, q *custody.Delete) (key.Body, error) {
	d, err := c.openDelete(q)
	if err != nil {
		return &custody.DeleteReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	progress, outcome, err := c.askDelete(ctx, from, d, q)
	if err != nil {
		return &custody.DeleteReply{Outcome: custody.Failed, Why: c.failed(err).why}, ctx.Err()
	}
	r, _, receipt, err := c.step(ctx, d.tomb.ID, c.facts(from), func(s *secretState, f holderFacts) stepResult { return s.delete(f, d) })
	if err != nil {
		return nil, err
	}
	if r.outcome == custody.Refused && progress != nil && outcome != custody.OK {
		return &custody.DeleteReply{Outcome: outcome, Why: bounded(r.why), Progress: progress}, nil
	}
	if r.next != nil {
		c.passing.addTombs(r.next)
	}
	return &custody.DeleteReply{Outcome: r.outcome, Receipt: receipt, Why: bounded(r.why)}, nil
}

// askDelete takes in the request for this very tombstone, if one came.
func (c *custodian) askDelete(ctx context.Context, from key.NodeID, m deleteMsg, q *custody.Delete) (*custody.Progress, uint8, error) {
	con := m.consent
	if con == nil || con.Verb != share.VerbDelete || con.ID != m.tomb.ID || string(con.Payload) != string(m.tomb.body) {
		return nil, 0, nil
	}
	d, err := c.ask(ctx, from, con, q.Request, q.Approvals, nil)
	if d == nil || err != nil {
		return nil, 0, err
	}
	if d.held != nil { // others are shown all words that authorise it
		m.tomb.approvals = nil
		for _, w := range d.held.words {
			m.tomb.approvals = append(m.tomb.approvals, w.bytes)
		}
	}
	return d.progress, d.outcome, nil
}

// openDelete verifies a tombstone that the owner signed, or a request that may
// authorise one.
func (c *custodian) openDelete(q *custody.Delete) (deleteMsg, error) {
	if len(q.Request) == 0 {
		t, err := c.openTomb(q.Tombstone)
		return deleteMsg{tomb: t}, err
	}
	t, err := newTomb(c.cfg.ID, q.Tombstone)
	if err != nil {
		return deleteMsg{}, err
	}
	consent, err := c.openConsent(q.Request, q.Approvals)
	if err != nil {
		return deleteMsg{}, err
	}
	t.body, t.request, t.approvals = q.Tombstone, q.Request, q.Approvals
	return deleteMsg{tomb: t, consent: consent}, nil
}

// sweepEvery is how often expired rows are looked for; the first time is one
// period after the start.
const sweepEvery = 10 * time.Minute

// sweep removes the rows of expired versions, and records of unsigned words on
// what never came here.
func (c *custodian) sweep(ctx context.Context) {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		f := c.facts(c.self)
		for _, id := range c.index.expired(f.now - min(f.now, graceAfterExpiry)) {
			if ctx.Err() != nil {
				return
			}
			if _, _, _, err := c.step(ctx, id, f, (*secretState).expire); err != nil {
				return
			}
		}
		for _, id := range c.index.faded(f.now - min(f.now, markLife)) {
			if ctx.Err() != nil {
				return
			}
			if _, _, _, err := c.step(ctx, id, f, (*secretState).fade); err != nil {
				return
			}
		}
	}
}
