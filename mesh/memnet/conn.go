package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// half is one direction of a connection.
type half struct {
	mu      sync.Mutex
	buf     []byte
	from    int  // buf[from:] is unread
	ended   bool // the writer closed: EOF after the buffer
	dead    bool // the reader closed or a reset: writes fail
	reset   bool // reads fail at once
	stalled bool // a cut: the reader sees nothing
	rdl     time.Time
	wdl     time.Time
	rsig    chan struct{} // wakes the reader, one token
	wsig    chan struct{} // wakes the writer, one token
}

func newHalf() *half {
	return &half{rsig: make(chan struct{}, 1), wsig: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// change runs f under the lock and wakes both sides.
func (h *half) change(f func()) {
	h.mu.Lock()
	f()
	h.mu.Unlock()
	signal(h.rsig)
	signal(h.wsig)
}

func (h *half) stall(on bool) { h.change(func() { h.stalled = on }) }

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// wait returns when sig has a token or the deadline is over.
func wait(sig chan struct{}, deadline time.Time) {
	if deadline.IsZero() {
		<-sig
		return
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-sig:
	case <-t.C:
	}
}

func (h *half) read(p []byte) (int, error) {
	for {
		h.mu.Lock()
		switch {
		case past(h.rdl):
			h.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case h.reset:
			h.mu.Unlock()
			signal(h.rsig)
			return 0, syscall.ECONNRESET
		case h.dead:
			h.mu.Unlock()
			signal(h.rsig)
			return 0, net.ErrClosed
		case len(p) == 0:
			h.mu.Unlock()
			return 0, nil
		case !h.stalled && h.from < len(h.buf):
			n := copy(p, h.buf[h.from:])
			h.from += n
			if h.from == len(h.buf) {
				h.buf, h.from = h.buf[:0], 0
				if cap(h.buf) > 4<<10 {
					h.buf = nil
				}
			} else {
				signal(h.rsig)
			}
			h.mu.Unlock()
			signal(h.wsig)
			return n, nil
		case !h.stalled && h.ended:
			h.mu.Unlock()
			signal(h.rsig)
			return 0, io.EOF
		}
		deadline := h.rdl
		h.mu.Unlock()
		wait(h.rsig, deadline)
	}
}

func (h *half) write(p []byte) (n int, err error) {
	for {
		h.mu.Lock()
		switch {
		case past(h.wdl):
			h.mu.Unlock()
			return n, os.ErrDeadlineExceeded
		case h.ended:
			h.mu.Unlock()
			return n, net.ErrClosed
		case h.dead && !h.stalled:
			h.mu.Unlock()
			return n, syscall.EPIPE
		}
		room := Buffer - (len(h.buf) - h.from)
		if room > 0 {
			k := min(room, len(p)-n)
			h.buf = append(h.buf, p[n:n+k]...)
			n += k
			signal(h.rsig)
		}
		deadline := h.wdl
		h.mu.Unlock()
		if n == len(p) {
			return n, nil
		}
		wait(h.wsig, deadline)
	}
}

// conn is one end of a connection.
type conn struct {
	n             *Network
	host, peer    string
	in, out       *half
	local, remote address
	once          sync.Once
}

// pipe makes both ends; the caller holds the network's lock.
func (n *Network) pipe(a, b string, aAddr, bAddr address) (here, there *conn) {
	x, y := newHalf(), newHalf()
	here = &conn{n: n, host: a, peer: b, in: x, out: y, local: aAddr, remote: bAddr}
	there = &conn{n: n, host: b, peer: a, in: y, out: x, local: bAddr, remote: aAddr}
	n.conns[here] = struct{}{}
	n.conns[there] = struct{}{}
	return here, there
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *conn) LocalAddr() net.Addr         { return c.local }
func (c *conn) RemoteAddr() net.Addr        { return c.remote }

func (c *conn) forget() {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
}

// Close ends both directions; the far side reads what was written, then EOF.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.in.change(func() { c.in.dead = true })
		c.out.change(func() { c.out.ended = true })
		c.forget()
	})
	return nil
}

// reset ends both directions; the far side loses what it has not read.
func (c *conn) reset() {
	c.in.change(func() { c.in.dead = true })
	c.out.change(func() { c.out.ended, c.out.reset = true, true })
	c.forget()
}

func (c *conn) SetDeadline(t time.Time) error {
	c.in.change(func() { c.in.rdl = t })
	c.out.change(func() { c.out.wdl = t })
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.rdl = t })
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.change(func() { c.out.wdl = t })
	return nil
}
