package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// makeDecoy is the record of a secret that nobody has: refusing an unknown id
// costs what refusing a stranger costs.
func makeDecoy(net key.NetworkID) []byte {
	owner := key.GeneratePerson()
	defer owner.Erase()
	m := share.Manifest{Owner: owner.Public(), Gen: 1, Suite: share.SuiteShamir, K: 2, W: 2, Length: 1, Policy: []byte{0xa1, 0, 1}}
	m.Salt = key.T("keymesh/v1/salt", m.Owner[:])
	m.ID = share.ID(m.Owner, m.Salt)
	for x := range uint8(3) {
		m.Seats = append(m.Seats, share.Seat{X: x + 1, Node: key.NodeID{x + 1}})
	}
	signed, err := share.SignManifest(owner, net, m)
	if err != nil {
		panic("keystore: " + err.Error()) // a constant manifest
	}
	s := &secretState{id: m.ID, owner: m.Owner, committed: &stored{version: newVersion(signed), x: 1, row: true}}
	return key.Marshal(s.record())
}

// deny does the work of reading and judging a secret once more, so that the
// time does not tell whether there is one.
func (c *custodian) deny(p key.PersonPublic) {
	var r stateRecord
	if key.Unmarshal(c.decoy, &r) != nil || len(r.Committed) == 0 {
		return
	}
	if v, err := readVersion(c.cfg.ID, r.Committed[0].Manifest); err == nil {
		v.isParty(p)
	}
}

// visible loads the state if the person may know of it; nil: denied.
func (c *custodian) visible(ctx context.Context, id key.Hash, p key.PersonPublic) (*secretState, error) {
	release, err := c.locks.take(ctx, id)
	if err != nil {
		return nil, err
	}
	h, err := c.state(id)
	release()
	if err != nil {
		return nil, err // damage is told to all: taking it for "nothing here" loses writes
	}
	if !h.isParty(p) {
		c.deny(p)
		return nil, nil
	}
	return h.secretState, nil
}

// locate serves LOCATE.
func (c *custodian) locate(ctx context.Context, _ key.NodeID, q *custody.Locate) (key.Body, error) {
	query, err := share.OpenQuery(c.cfg.ID, q.Query, c.self, uint64(time.Now().Unix()))
	if err != nil {
		return &custody.LocateReply{Outcome: custody.Refused}, nil
	}
	s, err := c.visible(ctx, q.ID, query.Person)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		c.failed(err)
		return &custody.LocateReply{Outcome: custody.Failed}, nil
	case s == nil:
		return &custody.LocateReply{Outcome: custody.Denied}, nil
	}
	row := s.rowState()
	if row == custody.RowGood {
		if _, err := c.loadRow(s.current()); err != nil {
			row = custody.RowBad
			c.damaged(q.ID, err)
		}
	}
	reply := &custody.LocateReply{Outcome: custody.OK, State: s.view(row, c.sign)}
	if cur := s.current(); cur != nil {
		reply.Reassigns, reply.Suspects = s.moveBytes(cur.version), c.possess.suspects(s, c.clock.now())
		if cur.proof != nil {
			reply.Epoch = cur.proof.Bytes
		}
	}
	return reply, nil
}

// list serves LIST.
func (c *custodian) list(ctx context.Context, _ key.NodeID, q *custody.List) (key.Body, error) {
	query, err := share.OpenQuery(c.cfg.ID, q.Query, c.self, uint64(time.Now().Unix()))
	if err != nil || q.Limit < 1 || q.Limit > custody.MaxList {
		return &custody.ListReply{Outcome: custody.Refused}, nil
	}
	ids, more := c.index.page(q.Owner, query.Person, q.Cursor, int(q.Limit))
	if ids == nil && query.Person != q.Owner {
		c.deny(query.Person)
		return &custody.ListReply{Outcome: custody.Denied}, nil
	}
	reply := &custody.ListReply{Outcome: custody.OK, More: more}
	size := 0
	for i, id := range ids {
		s, err := c.visible(ctx, id, query.Person)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reply.Next = id
		if err != nil || s == nil {
			continue // damaged, or changed since the page was made
		}
		item := s.brief(s.rowState())
		if s.empty() { // what a tombstone covers is kept only to judge that
			item.Manifest, item.Cert, item.Before = nil, nil, nil
		}
		if cur := s.current(); cur != nil && len(item.Manifest) > 0 && len(s.moves) > 0 {
			moves := s.moveBytes(cur.version)
			reply.Moves = append(reply.Moves, custody.ItemMoves{Item: uint64(len(reply.Items)), Reassigns: moves})
			for _, b := range moves {
				size += len(b)
			}
		}
		reply.Items = append(reply.Items, item)
		for _, b := range append([][]byte{item.Manifest, item.Cert, item.Tombstone}, item.Before...) {
			size += len(b)
		}
		if size > maxListBytes {
			reply.More = reply.More || i+1 < len(ids)
			break
		}
	}
	return reply, nil
}

// maxListBytes keeps a page well below a frame.
const maxListBytes = 512 << 10

var errRow = errors.New("the row is not the one of the manifest")

// loadRow reads and checks the row of a version.
func (c *custodian) loadRow(e *stored) ([]byte, error) {
	row, err := c.cfg.Shelf.Load(rowPlace(e))
	if err != nil {
		return nil, err
	}
	if !e.rowFits(row) {
		clear(row)
		return nil, errRow
	}
	return row, nil
}

// rowFits reports whether row is the one of this version, epoch and seat.
func (e *stored) rowFits(row []byte) bool {
	r, err := shamir.ParseRow(row, int(e.K), share.DataKeySize)
	if err != nil {
		return false
	}
	defer r.Erase()
	return rowGood(e.version, e.proof, e.x, r)
}

// recover serves RECOVER: this holder decides alone.
func (c *custodian) recover(ctx context.Context, from key.NodeID, q *custody.Recover) (key.Body, error) {
	r, _, err := c.openRequest(q.Request)
	switch {
	case err != nil:
	case r.Verb == share.VerbRehearse && len(r.Ephemeral) == seal.PublicSize:
		return c.rehearse(ctx, from, q, r)
	case r.Verb != share.VerbRecover || len(r.Ephemeral) != seal.PublicSize:
		err = share.ErrRequest
	case len(q.Approvals) > custody.MaxApprovals:
		err = fmt.Errorf("%w: %d approvals", share.ErrRequest, len(q.Approvals))
	}
	if err != nil {
		return &custody.RecoverReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	e, d, reply, err := c.decide(ctx, arrival{SignedRequest: r, from: from, bytes: q.Request, approvals: q.Approvals, names: q.Names, look: q.Look}, q.Known)
	if err != nil {
		return nil, err
	}
	if e == nil || q.Look {
		return reply, nil
	}
	if err = seal.CheckPublic(r.Ephemeral); err != nil {
		return &custody.RecoverReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	if err = c.give(ctx, from, reply, e, r, q.Payload); err != nil {
		c.log.Error("a row cannot be released", "err", err)
		c.healing.look(e.ID, 0)
		return &custody.RecoverReply{Outcome: custody.Failed, Why: "the row is damaged here, or no log can be written", State: reply.State}, nil
	}
	c.given(ctx, d.held)
	return reply, nil
}

// decide says whether the row that a request asks for may go: nil when it may
// not, and then why is in the reply and in the audit log. An error means that
// the caller gave up.
func (c *custodian) decide(ctx context.Context, a arrival, known key.Hash) (*stored, *decision, *custody.RecoverReply, error) {
	s, err := c.visible(ctx, a.ID, a.Person)
	switch {
	case ctx.Err() != nil:
		return nil, nil, nil, ctx.Err()
	case err != nil:
		c.failed(err)
		return nil, nil, &custody.RecoverReply{Outcome: custody.Failed}, nil
	case s == nil:
		c.refusals.stranger(a.from)
		return nil, nil, &custody.RecoverReply{Outcome: custody.Denied}, nil
	}
	d := &decision{state: s, facts: c.facts(a.from)}
	e, outcome, why := s.release(d.facts, d.consent(a.SignedRequest))
	if kept := c.requests.get(a.ID, a.Hash) != nil; outcome == custody.Denied || kept || outcome == custody.OK && a.Person != s.owner {
		if d, err = c.keep(ctx, a); err != nil {
			return nil, nil, &custody.RecoverReply{Outcome: custody.Failed, Why: c.failed(err).why}, ctx.Err()
		}
		e, outcome, why = nil, d.outcome, d.why
		if outcome == custody.OK {
			e, outcome, why = d.state.release(d.facts, d.consent(a.SignedRequest))
		}
	}
	reply := &custody.RecoverReply{Outcome: outcome, Why: bounded(why)}
	if cur := d.state.current(); cur == nil || cur.Hash != known || outcome == custody.Refused {
		reply.State = d.state.brief(d.state.rowState()) // a refusal too says whether something is newer
	}
	if cur := d.state.current(); cur != nil {
		reply.Reassigns = d.state.moveBytes(cur.version)
		if outcome == custody.Refused && e == nil && d.state.movedAway(cur.version, c.self) {
			reply.Outcome = custody.Moved
		}
	}
	reply.Progress = d.progress // with a release too: its words go into the receipt
	if outcome == custody.OK {
		return e, d, reply, nil
	}
	if reply.Outcome == custody.Moved {
		return nil, d, reply, nil // no refusal: another node has the row
	}
	if outcome == custody.Wait {
		reply.Seconds = d.progress.Wait
		return nil, d, reply, nil
	}
	if a.look && d.held != nil {
		return nil, d, reply, nil // who looks asks for nothing yet
	}
	if err := c.refused(ctx, a.from, AuditRecord{ID: a.ID, Person: a.Person, Request: a.Hash, Detail: why}); err != nil {
		return nil, nil, &custody.RecoverReply{Outcome: custody.Failed, Why: c.failed(err).why}, nil
	}
	return nil, d, reply, nil
}

// give puts the row, sealed to the key inside the request, the signed release
// and, when asked for, the payload into the reply. The audit log has it before.
func (c *custodian) give(ctx context.Context, from key.NodeID, reply *custody.RecoverReply, e *stored, r *share.SignedRequest, payload bool) error {
	rows, err := c.rows(e)
	if err != nil {
		return err
	}
	defer func() {
		for _, h := range rows {
			clear(h.row)
		}
	}()
	if payload {
		if reply.Payload, err = c.cfg.Shelf.Load(payloadPlace(e)); err != nil {
			return err
		}
	}
	for i, h := range rows {
		given, err := c.sealRow(ctx, from, e, h, r)
		switch {
		case err != nil:
			return err
		case i == 0:
			reply.Release, reply.Box, reply.Epoch = given.Release, given.Box, given.Epoch
		default:
			reply.Older = append(reply.Older, given)
		}
	}
	return nil
}

// signRelease is this holder's word that the row went to the request. Nothing
// of the row may leave before it, since the audit log must have it first.
func (c *custodian) signRelease(ctx context.Context, from key.NodeID, e *stored, epoch uint32, r *share.SignedRequest) ([]byte, error) {
	at, err := c.audit(ctx, AuditRecord{Kind: "release", ID: e.ID, Person: r.Person, Node: from, Request: r.Hash, Detail: fmt.Sprintf("generation %d", e.Gen)})
	if err != nil {
		return nil, err
	}
	release := share.Release{Request: r.Hash, Manifest: e.Hash, Epoch: epoch, X: e.x, Audit: at}
	return share.SignRelease(c.cfg.Node, c.cfg.ID, release).Encode(), nil
}
