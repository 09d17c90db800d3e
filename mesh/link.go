package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

const (
	pingEvery   = 15 * time.Second // +- 20 %
	pingMisses  = 3
	writeTime   = 10 * time.Second // for each piece of at most writePiece bytes
	writePiece  = 64 << 10
	smallWrite  = 16 << 10 // frames are gathered up to one TLS record
	abandonTime = 45 * time.Second
	probeTime   = 3 * time.Second // how long a doubted link has to answer
	retireTime  = time.Second     // how long a superseded link goes on answering
)

var (
	errSilent = errors.New("three pings were not answered")
	errFlood  = errors.New("it sends without reading")
)

// greeting is what both HELLOs settled.
type greeting struct {
	peer     key.NodeID
	dialler  key.NodeID
	instance uint64
	number   uint64
	inbound  bool
	addr     string // dialled, or where it came from
	chain    roster.Chain
}

// link is one connection to a peer, from the end of the HELLOs on. One
// goroutine reads, one writes; everybody else queues.
type link struct {
	greeting
	n       *Node
	conn    *tls.Conn
	raw     *guarded
	frames  *frame.Reader
	ctx     context.Context // ends with the link; its cause says why
	cancel  context.CancelCauseFunc
	wake    chan struct{} // a token: there is something to write
	since   time.Time
	gate    gate // calls and pushes of this side
	replies gate // answers of this side

	certExp  atomic.Int64 // unix seconds: when the peer is lapsed
	received atomic.Int64 // unix nanoseconds of the last frame
	used     atomic.Int64 // unix nanoseconds of the last call or handler
	retired  atomic.Bool  // superseded: no new calls
	account  *account     // the peer's, set before the link serves
	wishes   wishes       // under n.mu

	mu      sync.Mutex
	queue   []out
	spare   []out
	calls   map[uint64]*pending
	last    uint64 // call id
	inCalls int
	inBytes int
	pings   pinging
	offer   offer
	skew    time.Duration
	rtt     time.Duration
}

type pinging struct {
	id      uint64    // of the last ping
	sent    time.Time // zero: answered
	misses  int
	next    time.Time
	waiters []chan struct{} // closed at the next pong
}

// out is a frame to be written.
type out struct {
	kind  frame.Kind
	call  uint64
	verb  uint64
	body  []byte
	after func() // called when the frame leaves the queue; may be nil
}

// pending is a call of this side that waits for its answer.
type pending struct {
	verb  uint64
	size  int
	done  chan answer // one
	since time.Time
	left  bool // the caller gave up
}

type answer struct {
	body []byte
	err  error
}

func newLink(n *Node, g greeting, conn *tls.Conn, raw *guarded, frames *frame.Reader) *link {
	l := &link{
		greeting: g, n: n, conn: conn, raw: raw, frames: frames,
		wake: make(chan struct{}, 1), calls: map[uint64]*pending{},
	}
	l.ctx, l.cancel = context.WithCancelCause(n.ctx)
	now := time.Now()
	l.since = now
	l.received.Store(now.UnixNano())
	l.pings.next = now.Add(pingSpan())
	return l
}

// pingSpan is 15 s +- 20 %.
func pingSpan() time.Duration {
	return pingEvery - pingEvery/5 + rand.N(2*pingEvery/5)
}

// close ends the link. Safe from any goroutine, any number of times.
func (l *link) close(cause error) {
	l.cancel(cause)
	l.raw.Conn.Close()
}

func (l *link) lapsed(now time.Time) bool {
	return now.Unix() >= l.certExp.Load() || now.Unix() >= l.n.certExp.Load()
}

// send queues a frame. It fails when the link has ended or when the peer lets
// too much pile up.
func (l *link) send(o out) error {
	l.mu.Lock()
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		return ErrNoLink
	}
	if len(l.queue) >= maxQueued {
		l.mu.Unlock()
		l.close(errFlood)
		return ErrBusy
	}
	l.queue = append(l.queue, o)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// fail answers a request without serving it.
func (l *link) fail(h frame.Head, code uint64, text string) {
	l.send(out{kind: frame.Failed, call: h.Call, verb: h.Verb, body: frame.Failure{Code: code, Text: text}.Encode()})
}

// call sends a request and waits for the answer.
func (l *link) call(ctx context.Context, verb uint64, body []byte) ([]byte, error) {
	if err := l.gate.enter(ctx, l.ctx.Done(), len(body)); err != nil {
		return nil, fmt.Errorf("waiting for room on the link: %w", err)
	}
	p := &pending{verb: verb, size: len(body), done: make(chan answer, 1), since: time.Now()}
	l.used.Store(p.since.UnixNano())
	l.mu.Lock()
	l.last++
	id := l.last
	l.calls[id] = p
	l.mu.Unlock()
	if err := l.send(out{kind: frame.Request, call: id, verb: verb, body: body}); err != nil {
		l.drop(id)
		return nil, err
	}
	select {
	case a := <-p.done:
		return a.body, a.err
	case <-ctx.Done():
		l.abandon(id, p)
		return nil, fmt.Errorf("waiting for the answer: %w", ctx.Err())
	case <-l.ctx.Done():
		select {
		case a := <-p.done: // it came just before the end
			return a.body, a.err
		default:
		}
		l.drop(id)
		return nil, ErrLost
	}
}

// push sends without an answer. It waits for room until ctx ends; without wait
// it fails with ErrBusy when there is none.
func (l *link) push(ctx context.Context, verb uint64, body []byte, wait bool) error {
	if !wait && !l.gate.try(len(body)) {
		return ErrBusy
	}
	if wait {
		if err := l.gate.enter(ctx, l.ctx.Done(), len(body)); err != nil {
			return fmt.Errorf("waiting for room on the link: %w", err)
		}
	}
	o := out{kind: frame.Push, verb: verb, body: body, after: func() { l.gate.leave(len(body)) }}
	err := l.send(o)
	if err != nil {
		o.after()
	}
	return err
}

// drain releases what was never written; after the end of the link.
func (l *link) drain() {
	l.mu.Lock()
	frames := l.queue
	l.queue = nil
	l.mu.Unlock()
	for i := range frames {
		if frames[i].after != nil {
			frames[i].after()
		}
	}
}

// drop forgets a call and gives its room back.
func (l *link) drop(id uint64) {
	l.mu.Lock()
	p := l.calls[id]
	delete(l.calls, id)
	l.mu.Unlock()
	if p != nil {
		l.gate.leave(p.size)
	}
}

// abandon keeps the room of a call whose caller gave up: the far side is still
// at it, and counts it.
func (l *link) abandon(id uint64, p *pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.left = true
}

// answered takes the call off the list. It returns nil for a call that nobody
// waits for.
func (l *link) answered(h frame.Head) *pending {
	l.mu.Lock()
	p := l.calls[h.Call]
	if p == nil || p.verb != h.Verb {
		l.mu.Unlock()
		return nil
	}
	delete(l.calls, h.Call)
	left := p.left
	l.mu.Unlock()
	l.gate.leave(p.size)
	if left {
		return nil
	}
	return p
}

// sweep gives up on calls that the far side has not answered for longer than
// any handler may take.
func (l *link) sweep(now time.Time) {
	l.mu.Lock()
	var old []uint64
	for id, p := range l.calls {
		if p.left && now.Sub(p.since) > abandonTime {
			old = append(old, id)
		}
	}
	l.mu.Unlock()
	for _, id := range old {
		l.drop(id)
	}
}

// write is the link's writing goroutine.
func (l *link) write() {
	defer l.close(errors.New("the writer ended"))
	t := time.NewTimer(time.Until(l.pings.next))
	defer t.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
			if err := l.flush(); err != nil {
				l.close(fmt.Errorf("writing: %w", err))
				return
			}
		case <-t.C:
			next, err := l.tick(time.Now())
			if err != nil {
				l.close(err)
				return
			}
			t.Reset(time.Until(next))
		}
	}
}

// flush writes what is queued, small frames together in one TLS record.
func (l *link) flush() error {
	l.mu.Lock()
	frames := l.queue
	l.queue = l.spare[:0]
	l.mu.Unlock()
	if len(frames) == 0 {
		l.mu.Lock()
		l.spare = frames
		l.mu.Unlock()
		return nil
	}
	buf := l.n.buffer()
	var err error
	for i := range frames {
		if f := &frames[i]; f.after != nil {
			f.after()
		}
		if err == nil {
			*buf, err = l.gather(*buf, &frames[i])
		}
		frames[i] = out{}
	}
	if err == nil && len(*buf) > 0 {
		err = l.put(*buf)
	}
	l.n.release(buf)
	l.mu.Lock()
	if cap(frames) > 64 {
		frames = nil // a burst's memory is not kept
	}
	l.spare = frames
	l.mu.Unlock()
	return err
}

// gather appends a frame to buf, writing buf and the frame out as they fill a
// record. It returns what is still to be written.
func (l *link) gather(buf []byte, f *out) ([]byte, error) {
	if len(buf)+len(f.body)+32 > smallWrite && len(buf) > 0 {
		if err := l.put(buf); err != nil {
			return buf, err
		}
		buf = buf[:0]
	}
	buf = frame.AppendHead(buf, f.kind, f.call, f.verb, len(f.body))
	fits := min(len(f.body), smallWrite-len(buf))
	buf = append(buf, f.body[:fits]...)
	rest := f.body[fits:]
	if len(rest) == 0 {
		return buf, nil
	}
	if err := l.put(buf); err != nil {
		return buf, err
	}
	for len(rest) > 0 {
		k := min(len(rest), writePiece)
		if err := l.put(rest[:k]); err != nil {
			return buf, err
		}
		rest = rest[k:]
	}
	return buf[:0], nil
}

func (l *link) put(b []byte) error {
	l.conn.SetWriteDeadline(time.Now().Add(writeTime))
	_, err := l.conn.Write(b)
	return err
}

// tick pings when it is time and counts what was not answered: three misses are
// the reader's deadline. Any frame counts as a sign of life, since a pong may be
// stuck behind a large body.
func (l *link) tick(now time.Time) (next time.Time, err error) {
	l.sweep(now)
	l.mu.Lock()
	p := &l.pings
	if now.Before(p.next) {
		defer l.mu.Unlock()
		return p.next, nil
	}
	if !p.sent.IsZero() {
		if l.received.Load() < p.sent.UnixNano() {
			p.misses++
		} else {
			p.misses = 0
		}
	}
	p.next = now.Add(pingSpan())
	next = p.next
	dead := p.misses >= pingMisses
	l.mu.Unlock()
	if dead {
		return next, errSilent
	}
	l.ping(now)
	return next, nil
}

// ping sends one now.
func (l *link) ping(now time.Time) {
	l.mu.Lock()
	l.last++
	l.pings.id, l.pings.sent = l.last, now
	id := l.last
	l.mu.Unlock()
	l.send(out{kind: frame.Request, call: id, verb: verbPing, body: key.Marshal(&ping{offer: l.n.offer(now)})})
}

// pong takes the answer to a ping.
func (l *link) pong(id uint64, body []byte, now time.Time) error {
	var p ping
	if err := key.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("pong: %w", err)
	}
	l.mu.Lock()
	if l.pings.id == id && !l.pings.sent.IsZero() {
		l.rtt = now.Sub(l.pings.sent)
		l.pings.sent = time.Time{}
	}
	l.pings.misses = 0
	for _, w := range l.pings.waiters {
		close(w)
	}
	l.pings.waiters = nil
	l.heard(p.offer, now)
	l.mu.Unlock()
	return nil
}

// heard notes a standing offer; the caller holds l.mu.
func (l *link) heard(o offer, now time.Time) {
	l.offer = o
	l.skew = o.skew(now)
}

// pinged answers a ping. Who is pinged need not ask by itself for a while:
// a ping tells as much as a pong.
func (l *link) pinged(h frame.Head, body []byte, now time.Time) error {
	var p ping
	if err := key.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	l.mu.Lock()
	l.heard(p.offer, now)
	if l.pings.sent.IsZero() && l.rtt > 0 {
		l.pings.next = now.Add(pingSpan())
	}
	l.mu.Unlock()
	l.send(out{kind: frame.Reply, call: h.Call, verb: h.Verb, body: key.Marshal(&ping{offer: l.n.offer(now)})})
	return nil
}

// alive asks a doubted link for a sign of life and reports whether one came in
// time. It closes a link that gave none.
func (l *link) alive(ctx context.Context) bool {
	w := make(chan struct{})
	l.mu.Lock()
	l.pings.waiters = append(l.pings.waiters, w)
	l.mu.Unlock()
	l.ping(time.Now())
	t := time.NewTimer(probeTime)
	defer t.Stop()
	select {
	case <-w:
		return true
	case <-l.ctx.Done():
	case <-ctx.Done():
	case <-t.C:
		l.close(errSilent)
	}
	return false
}
