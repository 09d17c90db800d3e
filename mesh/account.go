package mesh

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"keymesh/crypto/key"
)

const (
	helloRate  = 1 // links a second that a peer may open, after a burst
	helloBurst = 10
)

// account is what one peer has left of its limits. It is the peer's and not a
// link's: who reconnects finds what it left. Safe for concurrent use.
type account struct {
	metered *rate.Limiter
	own     *rate.Limiter // mesh's own verbs
	records *rate.Limiter // unasked ones
	hellos  *rate.Limiter // links that the peer opened

	silent int       // under n.mu: asks in a row that it did not answer well
	muted  time.Time // under n.mu: until then it is asked for nothing

	mu    sync.Mutex
	calls int // the peer's, that are being served, on all its links
	bytes int
}

func newAccount(records int) *account {
	return &account{
		metered: rate.NewLimiter(meteredRate, meteredBurst), own: rate.NewLimiter(meteredRate, meteredBurst),
		records: rate.NewLimiter(recordRate, records), hellos: rate.NewLimiter(helloRate, helloBurst),
	}
}

// enter counts a call of the peer; false: it has too much in flight. Twice what
// a link may have leaves room for a link that takes over from another, whose
// calls the peer cannot know to have ended.
func (a *account) enter(size int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls >= 2*maxCalls || a.calls > 0 && a.bytes+size > 2*maxInFlight {
		return false
	}
	a.calls++
	a.bytes += size
	return true
}

func (a *account) leave(size int) {
	a.mu.Lock()
	a.calls--
	a.bytes -= size
	a.mu.Unlock()
}

// whole reports whether the account is as good as a new one.
func (a *account) whole(now time.Time) bool {
	a.mu.Lock()
	busy := a.calls > 0
	a.mu.Unlock()
	for _, l := range []*rate.Limiter{a.metered, a.own, a.records, a.hellos} {
		if l.TokensAt(now) < float64(l.Burst()) {
			return false
		}
	}
	return !busy
}

// account returns the contact's, for a link. The caller holds n.mu.
func (n *Node) account(c *contact) *account {
	if c.account == nil {
		c.account = newAccount(n.recordBurst())
	}
	return c.account
}

// recordBurst is how many unasked records a peer may send at once. The caller
// holds n.mu.
func (n *Node) recordBurst() int { return max(recordBurst, n.roster.Len()) }

// mayTell counts an unasked record of a peer. A roster that grew makes room for
// more and gives none of it. The caller holds n.mu.
func (n *Node) mayTell(a *account, now time.Time) bool {
	if b := n.recordBurst(); b != a.records.Burst() {
		a.records.SetBurstAt(now, b)
	}
	return a.records.AllowN(now, 1)
}

// mayMeet counts a link that a peer opens. The id is proven: nobody spends what
// another node has left. Who was never linked has spent nothing.
func (n *Node) mayMeet(id key.NodeID, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.peers[id]
	return c == nil || n.account(c).hellos.AllowN(now, 1)
}

// settleAccounts forgets accounts that say nothing any more, those of revoked
// nodes among them, and contacts whose record the roster never took or has
// dropped. The caller holds n.mu.
func (n *Node) settleAccounts(now time.Time) {
	for id, c := range n.peers {
		if n.link(id) != nil || c.dialling || len(c.waiters) > 0 || c.account == nil || !c.account.whole(now) || now.Before(c.account.muted) {
			continue
		}
		c.account = nil
		if n.roster.Get(id) == nil {
			delete(n.peers, id)
		}
	}
}
