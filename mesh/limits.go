package mesh

import (
	"context"
	"sync"
	"time"

	"keymesh/crypto/key"
)

// The limits of protocol.md section 4.
const (
	maxCalls     = 64       // in flight a peer and direction
	maxInFlight  = 8 << 20  // bytes of bodies in flight a peer and direction
	maxHeld      = 64 << 20 // bytes of bodies in flight in all
	maxHalfOpen  = 32
	maxHalfHost  = 8
	meteredRate  = 20 // verbs a second a peer
	meteredBurst = 50
	recordRate   = 10 // records a second a peer; the burst is the roster's size
	recordBurst  = 64
	maxRunning   = 256 // handlers at a time; the rest waits in the fair queue
	maxQueued    = 512 // frames waiting to be written to a peer
)

// bucket is a token bucket. Not safe for concurrent use.
type bucket struct {
	rate, burst float64
	tokens      float64
	last        time.Time
}

func newBucket(rate, burst float64) bucket {
	return bucket{rate: rate, burst: burst, tokens: burst}
}

// take spends n tokens if there are as many.
func (b *bucket) take(now time.Time, n float64) bool {
	if !b.last.IsZero() {
		if d := now.Sub(b.last).Seconds(); d > 0 {
			b.tokens = min(b.burst, b.tokens+d*b.rate)
		}
	}
	b.last = now
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}

// fair runs jobs, at most limit at a time, and lets the peers take turns when
// there are more: one that floods delays itself.
type fair struct {
	mu      sync.Mutex
	limit   int
	running int
	lanes   map[key.NodeID]*lane
	turn    []*lane // those with jobs, in the order of their turns
}

type lane struct {
	peer key.NodeID
	jobs []func()
}

func newFair(limit int) *fair { return &fair{limit: limit, lanes: map[key.NodeID]*lane{}} }

// submit runs the job in a goroutine of start, now or when it is the peer's
// turn. The caller bounds how many jobs a peer has.
func (f *fair) submit(peer key.NodeID, job func(), start func(func())) {
	f.mu.Lock()
	if f.running < f.limit {
		f.running++
		f.mu.Unlock()
		start(func() { f.run(job) })
		return
	}
	l := f.lanes[peer]
	if l == nil {
		l = &lane{peer: peer}
		f.lanes[peer] = l
		f.turn = append(f.turn, l)
	}
	l.jobs = append(l.jobs, job)
	f.mu.Unlock()
}

func (f *fair) run(job func()) {
	for job != nil {
		job()
		job = f.next()
	}
}

func (f *fair) next() func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.turn) == 0 {
		f.running--
		return nil
	}
	l := f.turn[0]
	f.turn = f.turn[1:]
	job := l.jobs[0]
	l.jobs = l.jobs[1:]
	if len(l.jobs) > 0 {
		f.turn = append(f.turn, l)
	} else {
		delete(f.lanes, l.peer)
	}
	return job
}

// gate bounds what this side has in flight on one link. First come, first
// served.
type gate struct {
	mu    sync.Mutex
	calls int
	bytes int
	queue []*waiting
}

type waiting struct {
	size int
	open chan struct{}
}

func (g *gate) fits(size int) bool {
	return g.calls < maxCalls && (g.calls == 0 || g.bytes+size <= maxInFlight)
}

// enter waits for room until ctx or the link ends.
func (g *gate) enter(ctx context.Context, gone <-chan struct{}, size int) error {
	g.mu.Lock()
	if len(g.queue) == 0 && g.fits(size) {
		g.calls++
		g.bytes += size
		g.mu.Unlock()
		return nil
	}
	w := &waiting{size: size, open: make(chan struct{})}
	g.queue = append(g.queue, w)
	g.mu.Unlock()
	var err error
	select {
	case <-w.open:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-gone:
		err = ErrNoLink
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.queue {
		if x == w {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			g.admit()
			return err
		}
	}
	g.calls-- // it was opened in the meantime
	g.bytes -= size
	g.admit()
	return err
}

// try enters if nobody has to wait.
func (g *gate) try(size int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) > 0 || !g.fits(size) {
		return false
	}
	g.calls++
	g.bytes += size
	return true
}

func (g *gate) leave(size int) {
	g.mu.Lock()
	g.calls--
	g.bytes -= size
	g.admit()
	g.mu.Unlock()
}

func (g *gate) admit() {
	for len(g.queue) > 0 && g.fits(g.queue[0].size) {
		w := g.queue[0]
		g.queue = g.queue[1:]
		g.calls++
		g.bytes += w.size
		close(w.open)
	}
}

// doors counts the connections that are not authenticated yet.
type doors struct {
	mu   sync.Mutex
	all  int
	host map[string]int
}

func (d *doors) enter(host string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= maxHalfOpen || d.host[host] >= maxHalfHost {
		return false
	}
	if d.host == nil {
		d.host = map[string]int{}
	}
	d.all++
	d.host[host]++
	return true
}

func (d *doors) leave(host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.host[host]--; d.host[host] == 0 {
		delete(d.host, host)
	}
}

func (d *doors) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all
}
