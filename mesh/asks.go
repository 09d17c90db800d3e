package mesh

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const (
	maxWishes = roster.MaxEntries // a link
	askTime   = 5 * time.Second   // for the answer to one FETCH
	askAgain  = time.Second       // after which another peer that named it is asked, too
	muteMin   = 30 * time.Second  // who did not answer is not asked for so long,
	muteMax   = 10 * time.Minute  // twice as long each time
)

// wishes are what a link's peer named and the roster lacks. One goroutine a
// link asks for them, one FETCH at a time: a peer that names much and answers
// nothing delays nobody but itself.
type wishes struct {
	named  map[key.Hash]wish
	asking bool // the goroutine runs
}

type wish struct {
	seq uint64
	due time.Time
}

// tookHave notes what is news.
func (n *Node) tookHave(l *link, body []byte) error {
	var h have
	if err := key.Unmarshal(body, &h); err != nil {
		return err
	}
	if len(h.Haves) > maxHaves {
		return errors.New("too many items")
	}
	n.wish(l, h.Haves)
	return nil
}

// wish has the peer asked for what it named and the roster lacks: at once, or
// when another that is being asked for the same has had its time.
func (n *Node) wish(l *link, haves []roster.Have) {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Before(l.account.muted) {
		n.count("news of a peer that does not answer")
		return
	}
	w := &l.wishes
	for _, h := range haves {
		if !n.lacks(h.ID, h.Seq) {
			continue
		}
		old, known := w.named[h.ID]
		switch {
		case known:
			w.named[h.ID] = wish{seq: max(h.Seq, old.seq), due: old.due}
			continue
		case len(w.named) >= maxWishes:
			n.count("news dropped")
			return
		case w.named == nil:
			w.named = map[key.Hash]wish{}
		}
		due := now
		if n.asking[h.ID] > 0 {
			due = now.Add(askAgain + rand.N(askAgain))
		}
		w.named[h.ID] = wish{seq: h.Seq, due: due}
	}
	if !w.asking && len(w.named) > 0 {
		w.asking = true
		n.wg.Go(func() { n.fetch(l) })
	}
}

// lacks reports whether the item is newer than what the node has. The caller
// holds n.mu.
func (n *Node) lacks(id key.Hash, seq uint64) bool {
	return n.roster.Wants(roster.Have{ID: id, Seq: seq}) && (id != key.Hash(n.id) || seq > n.seq)
}

// fetch asks the link's peer until nothing is wished for.
func (n *Node) fetch(l *link) {
	for {
		ids, wait := n.nextAsk(l, time.Now())
		switch {
		case len(ids) > 0:
			n.asked(l, ids, n.ask(l, ids))
		case wait > 0:
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-l.ctx.Done():
				t.Stop()
			}
		default:
			return
		}
	}
}

// nextAsk takes the ids to ask for now off the link's wishes, or says how long
// to wait; neither: there is nothing to wish for, and the goroutine has to end.
func (n *Node) nextAsk(l *link, now time.Time) (ids []key.Hash, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := &l.wishes
	if l.ctx.Err() != nil {
		w.named = nil
	}
	for id, x := range w.named {
		switch d := x.due.Sub(now); {
		case !n.lacks(id, x.seq):
			delete(w.named, id)
		case d > 0:
			if wait == 0 || d < wait {
				wait = d
			}
		case len(ids) < maxFetch:
			delete(w.named, id)
			n.asking[id]++
			ids = append(ids, id)
		}
	}
	if len(w.named) == 0 {
		w.named = nil
		w.asking = len(ids) > 0
	}
	return ids, wait
}

// ask fetches items, at most maxFetch.
func (n *Node) ask(l *link, ids []key.Hash) error {
	ctx, cancel := context.WithTimeout(l.ctx, askTime)
	defer cancel()
	body, err := l.call(ctx, verbFetch, key.Marshal(&fetch{IDs: ids}))
	if err != nil {
		return err
	}
	var a announce
	if err := key.Unmarshal(body, &a); err != nil {
		return err
	}
	if len(a.Items) > len(ids) {
		return errors.New("more items than were asked for")
	}
	return n.take(l, a.Items, slices.Clone(ids))
}

// asked notes how an ask ended. What else a peer named that did not answer is
// dropped, and for a while it is not asked for anything: others have its news.
func (n *Node) asked(l *link, ids []key.Hash, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		if n.asking[id]--; n.asking[id] <= 0 {
			delete(n.asking, id)
		}
	}
	if err == nil {
		l.account.silent = 0
		return
	}
	l.wishes.named = nil
	if l.ctx.Err() != nil {
		return
	}
	n.count("asks in vain")
	if errors.Is(err, ErrBusy) {
		return // it answers, and is asked again when the rosters are compared
	}
	l.account.muted = time.Now().Add(min(muteMin<<min(l.account.silent, 8), muteMax))
	l.account.silent++
}
