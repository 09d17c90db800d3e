package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const (
	backoffMin   = 500 * time.Millisecond
	backoffMax   = 5 * time.Minute
	crowdedWait  = 300 * time.Millisecond // full jitter below it
	politeWait   = 250 * time.Millisecond // the larger id lets the smaller one dial first
	maxDials     = 24
	bornTime     = 3 * time.Second       // so long after its start a node is impatient:
	bornWait     = 40 * time.Millisecond // a mesh is often started all at once
	freshFailure = time.Second           // a call does not dial again so soon
	fullMesh     = 64
	neighbours   = 7
	maxLinks     = 40
	rotateEvery  = 10 * time.Minute
)

// contact is what the node knows about reaching a peer or a configured
// address. Under n.mu.
type contact struct {
	id         key.NodeID // zero: a configured address whose node is not known yet
	addrs      []string
	configured bool
	proven     map[string]bool // addresses at which this node was met
	seen       time.Time       // when a link to it last ended or was up
	sealing    []byte
	instance   uint64    // the process that has or last had the link; 0: none yet
	earlier    []uint64  // those that it replaced
	twin       time.Time // when one of those came back
	account    *account  // nil: it has all that a new peer has
	fails      int
	flaps      int // links in a row that ended as soon as they were up
	next       time.Time
	dialling   bool
	knocking   bool          // and holds one of the places for unproven addresses
	knocks     *rate.Limiter // dials of unproven addresses; nil: none yet
	moves      *rate.Limiter // changes of addresses; nil: none yet
	wanted     bool          // a call waits
	failed     time.Time
	lastErr    error
	waiters    []chan error
}

// backoff is the wait after a number of failures: exponential, full jitter.
func backoff(fails int) time.Duration {
	d := backoffMax
	if fails < 13 {
		d = min(backoffMax, backoffMin<<max(0, fails-1))
	}
	return rand.N(d) + time.Millisecond
}

// linkTo returns the link to a peer, dialling if there is none.
func (n *Node) linkTo(ctx context.Context, to key.NodeID) (*link, error) {
	if l := n.link(to); l != nil && l.ctx.Err() == nil {
		return l, nil
	}
	w := make(chan error, 1)
	n.mu.Lock()
	if l := n.link(to); l != nil && l.ctx.Err() == nil {
		n.mu.Unlock()
		return l, nil
	}
	c := n.peers[to]
	switch {
	case n.roster.RevokedNode(to):
		n.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrRefused, errRevoked)
	case c == nil:
		n.mu.Unlock()
		return nil, ErrUnknownNode
	case !c.dialling && time.Since(c.failed) < freshFailure:
		err := c.lastErr
		n.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrNoLink, err)
	case len(c.addrs) == 0:
		n.mu.Unlock()
		return nil, fmt.Errorf("%w: it has no address", ErrNoLink)
	}
	c.waiters = append(c.waiters, w)
	if !c.dialling {
		c.wanted, c.next = true, time.Now()
	}
	n.mu.Unlock()
	nudge(n.dialWake)
	select {
	case err := <-w:
		if l := n.link(to); l != nil {
			return l, nil
		}
		return nil, fmt.Errorf("%w: %w", ErrNoLink, errors.Join(err))
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrNoLink, ctx.Err())
	case <-n.ctx.Done():
		return nil, fmt.Errorf("%w: the node was stopped", ErrNoLink)
	}
}

// release tells the calls that wait for the contact; the caller holds n.mu.
func (c *contact) release(err error) {
	for _, w := range c.waiters {
		w <- err
	}
	c.waiters, c.wanted = nil, false
}

// tend keeps the links that the node wants: it starts what is due and sleeps
// until the next.
func (n *Node) tend() error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return nil
		case <-n.dialWake:
		case <-timer.C:
		}
		now := time.Now()
		n.mu.Lock()
		due, next := n.due(now)
		for _, c := range due {
			n.wg.Go(func() { n.dial(c) })
		}
		n.mu.Unlock()
		timer.Reset(next.Sub(now))
	}
}

// due marks the contacts to dial now, and says when to look again. The caller holds
// n.mu.
func (n *Node) due(now time.Time) (due []*contact, next time.Time) {
	next = now.Add(time.Minute)
	running := 0
	want := n.wants(now)
	consider := func(c *contact, want bool) {
		switch {
		case c.dialling:
		case !want && !c.wanted:
		case c.next.After(now):
			if c.next.Before(next) {
				next = c.next
			}
		case running >= maxDials, n.stranger(c) && n.knocking >= maxStrange:
			// The end of a dial looks again.
		default:
			c.dialling = true
			if c.knocking = n.stranger(c); c.knocking {
				n.knocking++
			}
			running++
			due = append(due, c)
		}
	}
	for _, c := range n.peers {
		if c.dialling {
			running++
		}
	}
	for id, c := range n.peers {
		if n.link(id) == nil && len(c.addrs) > 0 && !n.roster.RevokedNode(id) {
			consider(c, want(id))
		}
	}
	alone := n.roster.Live(now) <= fullMesh || len(n.linked()) < 2
	for _, c := range n.boot {
		consider(c, c.id.IsZero() || alone && c.id != n.id && n.link(c.id) == nil)
	}
	return due, next
}

// dial tries the addresses of a contact in turn, and serves the link that came
// of it.
func (n *Node) dial(c *contact) {
	n.mu.Lock()
	want := c.id
	if c.configured {
		want = key.NodeID{} // the address is what was configured, not the node
	}
	addrs := n.order(c)
	n.mu.Unlock()
	err := error(errNoAddress)
	var l *link
	for _, a := range addrs {
		got, e := n.try(c, a, want)
		if l = got; e == nil || n.ctx.Err() != nil {
			err = e
			break
		}
		if !errors.Is(e, errNoAddress) {
			err = e // what was dialled says more than what was not
		}
	}
	n.mu.Lock()
	c.dialling = false
	if c.knocking {
		c.knocking = false
		n.knocking--
	}
	n.tried(c, l, err, time.Now())
	n.mu.Unlock()
	nudge(n.dialWake)
	if l != nil {
		n.serve(l)
	}
}

var errNoAddress = errors.New("no address may be dialled now")

// order returns the addresses to try: proven ones first, no stranger before
// its time. The caller holds n.mu.
func (n *Node) order(c *contact) []string {
	var first, last []string
	for _, a := range c.addrs {
		if c.proven[a] {
			first = append(first, a)
		} else {
			last = append(last, a)
		}
	}
	return append(first, last...)
}

// try dials one address.
func (n *Node) try(c *contact, addr string, want key.NodeID) (*link, error) {
	dial := n.told
	if c.configured {
		dial = n.known
	} else {
		if !n.mayKnock(c, addr) {
			return nil, errNoAddress
		}
	}
	l, err := n.approach(n.ctx, addr, want, dial)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil || errors.Is(err, errCrowded) {
		delete(n.strange, addr)
	}
	if err != nil {
		return nil, err
	}
	c.id = l.peer
	if peer := n.peers[l.peer]; peer != nil {
		n.prove(peer, addr)
	}
	return l, nil
}

// tried notes the outcome of a dial. The caller holds n.mu.
func (n *Node) tried(c *contact, l *link, err error, now time.Time) {
	switch {
	case l != nil:
		c.fails, c.lastErr = 0, nil
		c.next = now.Add(time.Second) // until then the link is up
		// The calls that wait are released when the link is up.
		return
	case errors.Is(err, errCrowded):
		c.next = now.Add(rand.N(crowdedWait))
	case errors.Is(err, errNoAddress):
		c.next = n.knockAgain(c, now)
	default:
		c.fails++
		c.next = now.Add(backoff(c.fails))
		if now.Sub(n.born) < bornTime && !n.stranger(c) {
			c.next = now.Add(bornWait + rand.N(bornWait))
		}
		if errors.Is(err, errSelf) && c.configured {
			c.id = n.id
			c.next = now.Add(backoffMax)
		}
	}
	c.failed, c.lastErr = now, err
	c.release(err)
	n.count("dials failed")
}

// learned makes or updates the contact of an accepted record. The caller holds
// n.mu.
func (n *Node) learned(rec *roster.Record, now time.Time) {
	id := rec.ID()
	if id == n.id {
		return
	}
	defer nudge(n.dialWake)
	c := n.peers[id]
	switch {
	case c == nil:
		c = &contact{id: id}
		n.peers[id] = c
	case slices.Equal(c.addrs, rec.Body.Addrs):
		return
	case !c.mayMove(now):
		n.count("address changes put off") // catchUp follows them in time
		return
	default:
		c.fails, c.failed = 0, time.Time{}
	}
	c.next = now.Add(n.firstWait(id))
	c.addrs = slices.Clone(rec.Body.Addrs)
}

// firstWait spreads dials a little, and lets the smaller id go first, whose
// link would win anyway.
func (n *Node) firstWait(id key.NodeID) time.Duration {
	d := rand.N(10 * time.Millisecond)
	if string(id[:]) < string(n.id[:]) {
		d += politeWait + rand.N(politeWait)
	}
	return d
}
