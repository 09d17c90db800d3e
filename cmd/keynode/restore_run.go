package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
	"keymesh/mesh/roster"
)

const (
	restorePause = time.Second      // between passes while something moves
	restoreSlow  = 15 * time.Second // while nothing but a long delay is missing
	restoreCall  = 20 * time.Second // the longest for one holder
	restoreCalm  = 10 * time.Second // nothing new was found for so long before it is over
)

// A restorer brings the estate of the identity back: it asks for every secret
// of the lost owner with the recovery key, puts what it gets under the heir, and
// has the old one deleted by the policy. What it has to remember is at the
// holders, in the keystore's journal and in the identity, so that a restart goes
// on; only the requests to delete begin again. One goroutine owns it.
type restorer struct {
	d     *daemon
	e     *Estate
	heir  keystore.Person
	code  keystore.Person
	lost  map[key.Hash]*lostSecret
	found time.Time // when the last secret was found
}

type lostSecret struct {
	m     *share.SignedManifest
	label *share.Label
	put   bool // it is under the heir
	gone  bool // the old one opens no more
	tomb  []byte
	ask   []byte // the request to delete
	acked map[key.NodeID]bool
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
	r := &restorer{d: d, e: d.id.Estate, heir: heir, code: keystore.Person{Key: d.id.Estate.Code}, lost: map[key.Hash]*lostSecret{}}
	d.log.Info("restoring the secrets of a lost owner", "owner", r.e.Owner.String())
	for {
		pause, over := r.pass(ctx)
		if over {
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

// list asks every member for what it holds of the lost owner, by a Query that
// the recovery key signed. silent counts the holders that did not answer.
func (r *restorer) list(ctx context.Context) (silent int, err error) {
	answered := 0
	for _, m := range r.d.node.Members() {
		if m.Revoked || !m.Roles.Has(roster.Holder) {
			continue
		}
		if !m.Online || r.listNode(ctx, m.ID) != nil {
			silent++
			continue
		}
		answered++
	}
	if answered == 0 {
		return silent, errors.New("nobody answered")
	}
	return silent, nil
}

func (r *restorer) listNode(ctx context.Context, node key.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, restoreCall)
	defer cancel()
	msg := custody.List{Owner: r.e.Owner, Limit: custody.MaxList}
	for {
		q := share.Query{Node: node, Expires: uint64(time.Now().Unix()) + share.QueryLife}
		rand.Read(q.Nonce[:])
		msg.Query = share.SignQuery(r.e.Code, r.d.id.Network, q).Encode()
		b, err := r.d.node.Call(ctx, node, custody.VerbList, key.Marshal(&msg))
		if err != nil {
			return err
		}
		var reply custody.ListReply
		if err := key.Unmarshal(b, &reply); err != nil {
			return err
		}
		if reply.Outcome == custody.Denied {
			return nil // nothing there names the code, or nothing any more
		}
		if reply.Outcome != custody.OK {
			return fmt.Errorf("outcome %d", reply.Outcome)
		}
		for i := range reply.Items {
			r.take(&reply.Items[i])
		}
		// The cursor must advance, or a liar keeps this going for ever.
		if !reply.More || bytes.Compare(reply.Next[:], msg.Cursor[:]) <= 0 {
			return nil
		}
		msg.Cursor = reply.Next
	}
}

// take looks at one item of a listing: what the lost owner signed, and whose
// label the kit's index key opens, is to be restored.
func (r *restorer) take(st *custody.State) {
	if len(st.Manifest) == 0 || len(st.Tombstone) != 0 {
		return
	}
	m, err := share.OpenManifest(r.d.id.Network, st.Manifest)
	if err != nil || m.Owner != r.e.Owner {
		return
	}
	if have := r.lost[m.ID]; have != nil && (have.m.Gen >= m.Gen || have.put) {
		return
	}
	plain, err := seal.OpenLabel(&r.e.Index, share.LabelAAD(m.ID, m.Gen), m.Label)
	if err != nil {
		return
	}
	defer clear(plain)
	label := new(share.Label)
	if key.Unmarshal(plain, label) != nil || share.ID(m.Owner, share.Salt(share.Tag(&r.e.Index, label.Name), label.Name)) != m.ID {
		return
	}
	r.lost[m.ID] = &lostSecret{m: m, label: label, acked: map[key.NodeID]bool{}}
	r.found = time.Now()
}

// step moves one secret on and returns how long there is nothing to do for it.
// The delays of both requests run at the same time; the second is acted upon
// only once the secret is under its heir.
func (r *restorer) step(ctx context.Context, l *lostSecret) time.Duration {
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
	o := keystore.RecoverOptions{ID: l.m.ID, Tag: key.Hash(share.Tag(&r.e.Index, l.label.Name)), Reason: "restored with the recovery kit", Timeout: restoreCall}
	got, err := r.d.keys.Recover(ctx, r.code, l.label.Name, o)
	var pend *keystore.PendingError
	if errors.As(err, &pend) {
		return max(pend.Wait, restorePause), err
	}
	if err != nil {
		return 0, err
	}
	defer clear(got.Value)
	return 0, r.putHeir(ctx, l, got.Value)
}

// putHeir stores a value under the heir as it was stored before. A name that
// the heir has already is fine when it holds the same bytes: an earlier run was
// cut short.
func (r *restorer) putHeir(ctx context.Context, l *lostSecret, value []byte) error {
	m := &l.m.Manifest
	pol, err := r.inherit(m.Policy)
	if err != nil {
		return err
	}
	o := keystore.PutOptions{N: m.N(), K: int(m.K), W: int(m.W), Policy: pol, Keep: int(m.Keep), Description: l.label.Description, Labels: map[string]string{}, IfAbsent: true,
		RepairQuorum: m.Repair == share.RepairQuorum, AllowColocated: r.colocated(m)}
	for _, kv := range l.label.Labels {
		o.Labels[kv[0]] = kv[1]
	}
	if m.Expires != 0 {
		o.TTL = max(time.Until(time.Unix(int64(m.Expires), 0)), time.Minute)
	}
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

// colocated reports whether the secret had two seats at one operator, which then
// was its owner's wish.
func (r *restorer) colocated(m *share.Manifest) bool {
	operator := map[key.NodeID]string{}
	for _, p := range append(r.d.node.Members(), r.d.node.Self()) {
		operator[p.ID] = p.Operator
	}
	seen := map[string]bool{}
	for _, seat := range m.Seats {
		if o := operator[seat.Node]; o != "" && seen[o] {
			return true
		} else if o != "" {
			seen[o] = true
		}
	}
	return false
}

// inherit is a policy with the heir and the heir's recovery key in the places
// of the lost owner and the used code.
func (r *restorer) inherit(old []byte) ([]byte, error) {
	code, heir := r.e.Code.Public(), r.heir.Key.Public()
	b := bytes.ReplaceAll(old, code[:], r.heir.Recovery[:])
	b = bytes.ReplaceAll(b, r.e.Owner[:], heir[:])
	p, err := policy.Parse(b)
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("the policy cannot be carried over: %w", err)
	}
	return b, nil
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
