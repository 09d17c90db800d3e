package main

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// bury has the seats delete the lost owner's secret by its policy: a Request of
// the recovery key, or of the approver, over the tombstone, shown to each until it has acknowledged.
// It is done when every seat that can be reached has, and fewer than k have not:
// these are told by the others when they return.
func (r *restorer) bury(ctx context.Context, l *lostSecret) time.Duration {
	if l.ask == nil {
		if err := r.askDelete(l); err != nil {
			r.d.log.Error("a lost secret cannot be deleted", "id", l.m.ID.String(), "why", err.Error())
			return restoreSlow
		}
	}
	online := map[key.NodeID]bool{r.d.id.Node.ID(): true}
	for _, m := range r.d.node.Members() {
		online[m.ID] = m.Online && !m.Revoked
	}
	left, reachable := 0, 0
	wait := restoreSlow
	for _, seat := range l.m.Seats {
		if l.acked[seat.Node] {
			continue
		}
		if online[seat.Node] {
			ok, rest := r.sendDelete(ctx, seat.Node, l)
			l.acked[seat.Node] = ok
			if !ok {
				reachable++
				wait = min(wait, max(rest, restorePause))
			}
		}
		if !l.acked[seat.Node] {
			left++
		}
	}
	if reachable == 0 && left < int(l.m.K) {
		l.gone = true
		r.d.log.Info("the old secret is deleted", "id", l.m.ID.String(), "silent", left)
	}
	return wait
}

// askDelete signs the tombstone's body into a Request.
func (r *restorer) askDelete(l *lostSecret) error {
	k, err := seal.GenerateKey()
	if err != nil {
		return err
	}
	pol, err := policy.Parse(l.m.Policy)
	if err != nil {
		return err
	}
	now := uint64(time.Now().Unix())
	life := uint64(share.RequestLife)
	switch wait := pol.LongestWait(); {
	case pol.Evaluate(policy.Evidence{Owner: l.m.Owner, Signers: []key.PersonPublic{r.asker.Key.Public()}}).OK:
		life = share.RequestLifeOwner
	case wait > 0:
		life = wait + share.RequestLifeDelay
	}
	l.tomb = key.Marshal(&share.Tombstone{ID: l.m.ID, Gen: max(l.m.Gen, l.gen), Scope: share.ScopeAll, Time: now, Owner: l.m.Owner, Salt: l.m.Salt})
	req := share.Request{ID: l.m.ID, Ephemeral: k.Public(), Verb: share.VerbDelete, Payload: l.tomb, Purpose: r.why, Created: now, Expires: now + life}
	rand.Read(req.Nonce[:])
	l.ask = share.SignRequest(r.asker.Key, r.d.id.Network, req).Object.Encode()
	return nil
}

// sendDelete shows one seat the request; when it has not deleted yet, wait is
// what is left of its delay, 0 when that is not known.
func (r *restorer) sendDelete(ctx context.Context, node key.NodeID, l *lostSecret) (done bool, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, restoreCall)
	defer cancel()
	body := key.Marshal(&custody.Delete{Tombstone: l.tomb, Request: l.ask})
	var b []byte
	var err error
	if node == r.d.id.Node.ID() {
		b, err = r.d.keys.Answer(ctx, node, custody.VerbDelete, body)
	} else {
		b, err = r.d.node.Call(ctx, node, custody.VerbDelete, body)
	}
	if err != nil {
		return false, 0
	}
	var reply custody.DeleteReply
	if err := key.Unmarshal(b, &reply); err != nil || reply.Outcome != custody.OK {
		if err == nil && reply.Progress != nil {
			wait = time.Duration(reply.Progress.Wait) * time.Second
		}
		return false, wait
	}
	return r.acknowledged(node, l, reply.Receipt) == nil, 0
}

// acknowledged verifies a holder's receipt over the tombstone.
func (r *restorer) acknowledged(node key.NodeID, l *lostSecret, receipt []byte) error {
	o, err := key.DecodeObject(receipt)
	if err != nil {
		return err
	}
	got, err := share.OpenReceipt(r.d.id.Network, key.TypeCommitted, o)
	if err != nil {
		return err
	}
	if got.Node != node || got.Manifest != key.HashBody(r.d.id.Network, key.TypeTombstone, l.tomb) {
		return errors.New("a receipt for something else")
	}
	return nil
}
