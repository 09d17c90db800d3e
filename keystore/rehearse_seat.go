package keystore

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// purposeRehearse keeps the box of a proof apart from that of a row.
const purposeRehearse = "rehearse"

// rehearse answers a party that rehearses a recovery: with tags over what this
// seat's row shares with the rows of the other seats, and with what the policy
// says of the signer alone. It is never kept, told or released to: the row is
// read and nothing of it leaves but keyed hashes (SPEC.md, "Rehearsal").
func (c *custodian) rehearse(ctx context.Context, from key.NodeID, q *custody.Recover, r *share.SignedRequest) (key.Body, error) {
	refused := func(why string) (key.Body, error) {
		return &custody.RecoverReply{Outcome: custody.Refused, Why: bounded(why)}, nil
	}
	if r.Verb != share.VerbRehearse || r.Expires-r.Created > share.RequestLifeOwner || r.CheckTime(unix()) != nil {
		return refused("a rehearsal lives 15 minutes at most")
	}
	s, err := c.visible(ctx, r.ID, r.Person)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		c.failed(err)
		return &custody.RecoverReply{Outcome: custody.Failed}, nil
	case s == nil:
		c.refusals.stranger(from)
		return &custody.RecoverReply{Outcome: custody.Denied}, nil
	}
	reply := &custody.RecoverReply{Outcome: custody.OK}
	if cur := s.current(); cur == nil || cur.Hash != q.Known {
		reply.State = s.brief(s.rowState())
	}
	if cur := s.current(); cur != nil {
		reply.Reassigns = s.moveBytes(cur.version)
	}
	e, why := s.wanted(r)
	if e == nil {
		reply.Outcome, reply.Why = custody.Refused, bounded(why)
		return reply, nil
	}
	proof, err := c.prove(e, r.Hash)
	if err != nil {
		c.damaged(e.ID, err)
		reply.Outcome, reply.Why = custody.Failed, "the row is damaged here"
		return reply, nil
	}
	if reply.Box, err = seal.To(r.Ephemeral, seal.Info(purposeRehearse, e.Hash, e.x, e.epoch, c.self, r.Hash), key.Marshal(proof)); err != nil {
		return refused(err.Error())
	}
	if e.proof != nil {
		reply.Epoch = e.proof.Bytes
	}
	reply.Progress = standing(e.version, r.Person)
	return reply, nil
}

// standing is what the policy says of one person's word alone.
func standing(v *version, p key.PersonPublic) *custody.Progress {
	if v.policy == nil {
		return &custody.Progress{Missing: []string{"a policy that this holder can read"}}
	}
	j := v.policy.Evaluate(policy.Evidence{Owner: v.Owner, Signers: []key.PersonPublic{p}})
	return &custody.Progress{Have: uint16(j.Have), Need: uint16(j.Need), Missing: j.Missing[:min(len(j.Missing), policy.MaxNodes)], Wait: j.Wait}
}

// prove makes the proof of a row. The row is checked against the owner's
// commitment first.
func (c *custodian) prove(e *stored, request key.Hash) (*custody.Proof, error) {
	b, err := c.loadRow(e)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	row, err := shamir.ParseRow(b, int(e.K), share.DataKeySize)
	if err != nil {
		return nil, err
	}
	defer row.Erase()
	proof := &custody.Proof{Epoch: e.epoch}
	for _, seat := range e.Seats {
		if seat.X == e.x {
			continue
		}
		common, err := row.Help(seat.X)
		if err != nil {
			return nil, err
		}
		proof.Pairs = append(proof.Pairs, custody.PairTag{X: seat.X, Tag: pairTag(common, e.Hash, e.epoch, request, e.x, seat.X)})
		clear(common)
	}
	slices.SortFunc(proof.Pairs, func(a, b custody.PairTag) int { return int(a.X) - int(b.X) })
	if ct, err := c.cfg.Shelf.Load(payloadPlace(e)); err == nil && sha256.Sum256(ct) == e.Payload {
		proof.Payload = payloadTag(request, ct)
	}
	return proof, nil
}

// pairTag is the tag of two seats: both make the same, from F(x, x') that only
// their two rows, or k others, give. The request's nonce makes it new each time.
func pairTag(common []byte, manifest key.Hash, epoch uint32, request key.Hash, x, y uint8) key.Hash {
	info := key.T("keymesh/v1/rehearse", manifest[:], key.U64(uint64(epoch)))
	k, err := hkdf.Key(sha256.New, common, nil, string(info[:]), 32)
	if err != nil {
		panic("keystore: " + err.Error()) // only for lengths above 255 hashes
	}
	defer clear(k)
	m := hmac.New(sha256.New, k)
	m.Write(request[:])
	m.Write([]byte{min(x, y), max(x, y)})
	return key.Hash(m.Sum(nil))
}

func payloadTag(request key.Hash, ct []byte) key.Hash {
	return key.T("keymesh/v1/rehearse/payload", request[:], ct)
}
