package keystore

import (
	"context"
	"errors"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// Bounds of the calls of a write.
const (
	callTimeout    = 10 * time.Second
	offlineTimeout = 3 * time.Second
	callTries      = 3
	tryPause       = 50 * time.Millisecond // doubled each time
	// refusalGrace is how long a write that can get no certificate waits for
	// the seats that have not answered: enough refusals make it "not stored".
	refusalGrace = 300 * time.Millisecond
	// hastyGrace is how long a hasty write waits for the last of its seats.
	hastyGrace = 500 * time.Millisecond
)

// bring gives a seat its row and then the certificate. A seat that refuses the
// row, for what else is pending there, is shown the certificate first.
func (w *write) bring(ctx context.Context, id key.NodeID) event {
	e := w.prepare(ctx, id)
	if e.err != nil {
		return e
	}
	p := e.prepared
	e = w.commit(ctx, id)
	if e.err == nil && !e.done && p == nil && e.outcome == custody.Refused {
		if again := w.prepare(ctx, id); again.prepared != nil {
			p = again.prepared
			e = w.commit(ctx, id)
		}
	}
	if p != nil {
		e.prepared = p
	}
	return e
}

// prepare sends PREPARE to one node and verifies its receipt.
func (w *write) prepare(ctx context.Context, id key.NodeID) event {
	msg := &custody.Prepare{Manifest: w.bytes}
	if !w.certified.Load() {
		// With the certificate no seat asks for consent any more, and it may
		// have expired since.
		msg.Request = w.consent
		if w.asked != nil {
			msg.Approvals, msg.Names = w.asked.approvals(), w.asked.names
		}
	}
	if w.m.SeatOf(id) != nil {
		msg.Row, msg.Payload = w.rows[id], w.ct
	}
	unsure := false
	for brought := false; ; brought = true {
		reply := new(custody.PrepareReply)
		lost, err := w.send(ctx, id, custody.VerbPrepare, key.Marshal(msg), reply)
		if err != nil {
			return event{node: id, err: err}
		}
		unsure = unsure || lost
		e := event{node: id, outcome: reply.Outcome, why: reply.Why, unsure: unsure, heard: reply.Progress}
		if reply.Outcome == custody.OK {
			o, verified, err := w.receipt(key.TypePrepared, id, reply.Receipt)
			if err != nil {
				return event{node: id, outcome: custody.Refused, why: "its receipt does not verify"}
			}
			if verified {
				w.s.cust.remember(o) // so that this node's seat need not verify it again
			}
			e.prepared = &o
			return e
		}
		e.there, e.never = &reply.There, reply.Outcome == custody.Refused && w.refused(id, reply.Receipt)
		if brought || !reply.NeedPrev || !w.bringAlong(msg) {
			return e
		}
	}
}

// refused verifies a node's word that it never promised this write and never
// will.
func (w *write) refused(id key.NodeID, b []byte) bool {
	if len(b) == 0 {
		return false
	}
	_, err := openReceipt(w.s.cfg.ID, key.TypeRefused, w.m, id, b)
	return err == nil
}

// bringAlong adds what a node that is behind asks for, and reports whether
// there is anything.
func (w *write) bringAlong(msg *custody.Prepare) bool {
	msg.Tombstone = w.tomb
	for _, b := range w.before {
		if slices.Contains(w.m.Force, b.Hash) {
			msg.Forced = append(msg.Forced, b.Bytes())
		}
	}
	if w.prev == nil {
		if len(w.tombConsent) > 0 { // there is no policy yet to whose change one consents
			msg.Request, msg.Approvals = w.tombConsent[0], w.tombConsent[1:]
		}
		return len(w.tomb)+len(msg.Forced) > 0
	}
	msg.Prev, msg.PrevCert = w.prev.m.Bytes(), w.prev.cert
	for _, b := range w.prev.before {
		if b.Hash == w.prev.m.Prev {
			msg.PrevPrev = b.Bytes()
		} else {
			msg.PrevForced = append(msg.PrevForced, b.Bytes())
		}
	}
	return true
}

// commit sends COMMIT to one node and verifies its receipt.
func (w *write) commit(ctx context.Context, id key.NodeID) event {
	reply := new(custody.CommitReply)
	if _, err := w.send(ctx, id, custody.VerbCommit, w.commitMsg, reply); err != nil {
		return event{node: id, commit: true, err: err}
	}
	e := event{node: id, commit: true, outcome: reply.Outcome, why: reply.Why}
	if reply.Outcome != custody.OK {
		e.there, e.gone = &reply.There, reply.PrevGone
		return e
	}
	if _, _, err := w.receipt(key.TypeCommitted, id, reply.Receipt); err != nil {
		e.outcome, e.why = custody.Refused, "its receipt does not verify"
		return e
	}
	e.done, e.gone = true, reply.PrevGone
	return e
}

// receipt verifies a node's receipt for this write. Once the certificate is
// formed no Prepared goes into it any more, and once the caller has his answer
// no Committed counts for it: then what the node says over its link is enough
// to know that it needs nothing more. verified says that the signature is good.
func (w *write) receipt(t key.Type, id key.NodeID, b []byte) (o key.Object, verified bool, err error) {
	late := &w.certified
	if t == key.TypeCommitted {
		late = &w.told
	}
	if id == w.s.self || late.Load() {
		o, err = readReceipt(t, w.m, id, b)
		return o, id == w.s.self, err
	}
	o, err = openReceipt(w.s.cfg.ID, t, w.m, id, b)
	return o, true, err
}

// send calls a node, a few times while its link fails. A node without a link
// gets one short call: the mesh may still reach it. lost says that a try failed
// before the one that was answered: it may have taken effect.
func (w *write) send(ctx context.Context, id key.NodeID, verb uint64, body []byte, reply key.Body) (lost bool, err error) {
	timeout, tries := callTimeout, callTries
	if !w.roster[id].Online {
		timeout, tries = offlineTimeout, 1
	}
	pause := tryPause
	for {
		err = w.s.callWithin(ctx, timeout, id, verb, body, reply)
		if tries--; err == nil || tries == 0 || ctx.Err() != nil || errors.Is(err, errAnswer) {
			return lost, err
		}
		lost = true
		if !sleep(ctx, pause) {
			return lost, err
		}
		pause *= 2
	}
}

// sleep waits and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
