// Package memnet is a network in memory for tests: hosts with listeners,
// buffered connections with deadlines, partitions and crashes. Its waits are on
// channels and timers only, so it runs inside a testing/synctest bubble, on
// virtual time. Data takes no time to travel. Connections are buffered because
// two WebSocket writers on an unbuffered pipe wait for each other for ever.
//
// Production code must not import it.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Buffer is how many bytes one direction of a connection holds before its
// writer waits.
const Buffer = 64 << 10

// backlog is how many connections wait to be accepted before diallers wait.
const backlog = 128

// Network connects hosts by name. Safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	cuts      map[[2]string]bool
	conns     map[*conn]struct{}
	healed    chan struct{} // closed and replaced at every Heal
	lastPort  int
}

// New returns a network without hosts.
func New() *Network {
	return &Network{
		listeners: map[string]*listener{},
		cuts:      map[[2]string]bool{},
		conns:     map[*conn]struct{}{},
		healed:    make(chan struct{}),
		lastPort:  50000,
	}
}

// Host is one end of the network. Its name is the host part of its addresses.
type Host struct {
	n    *Network
	name string
}

// Host returns the host of this name. Two handles of a name are the same host.
func (n *Network) Host(name string) *Host { return &Host{n: n, name: name} }

// Listen listens at "host:port".
func (n *Network) Listen(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return n.Host(host).Listen(addr)
}

// Dial connects from a host called "client".
func (n *Network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return n.Host("client").Dial(ctx, addr)
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Listen listens at "name:port" or ":port", name being this host's. It fails
// with EADDRINUSE while somebody else does.
func (h *Host) Listen(addr string) (net.Listener, error) {
	i := strings.LastIndexByte(addr, ':')
	if i < 0 || i > 0 && addr[:i] != h.name {
		return nil, fmt.Errorf("memnet: host %s cannot listen at %q", h.name, addr)
	}
	addr = h.name + addr[i:]
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.n.listeners[addr] != nil {
		return nil, opError("listen", addr, syscall.EADDRINUSE)
	}
	l := &listener{n: h.n, addr: address(addr), queue: make(chan *conn, backlog), done: make(chan struct{})}
	h.n.listeners[addr] = l
	return l, nil
}

// Dial connects to "host:port". Without a listener there it fails at once with
// ECONNREFUSED; across a cut, or to a full backlog, it waits until ctx ends.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for {
		n := h.n
		n.mu.Lock()
		if n.cuts[pair(h.name, to)] {
			healed := n.healed
			n.mu.Unlock()
			select {
			case <-healed:
				continue
			case <-ctx.Done():
				return nil, opError("dial", addr, timeout(ctx))
			}
		}
		l := n.listeners[addr]
		if l == nil {
			n.mu.Unlock()
			return nil, opError("dial", addr, syscall.ECONNREFUSED)
		}
		n.lastPort++
		here, there := n.pipe(h.name, to, address(h.name+":"+strconv.Itoa(n.lastPort)), l.addr)
		n.mu.Unlock()
		return l.offer(ctx, here, there)
	}
}

func timeout(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return ctx.Err()
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// Cut stops everything between two hosts: what is written stays in the buffers,
// closing is not noticed, dials wait.
func (n *Network) Cut(a, b string) { n.set(a, b, true) }

// Heal ends a cut; what was held back arrives.
func (n *Network) Heal(a, b string) { n.set(a, b, false) }

func (n *Network) set(a, b string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := pair(a, b)
	if cut {
		n.cuts[p] = true
	} else {
		delete(n.cuts, p)
		close(n.healed)
		n.healed = make(chan struct{})
	}
	for c := range n.conns {
		if pair(c.host, c.peer) == p {
			c.in.stall(cut)
		}
	}
}

// Crash resets every connection of the host and closes its listeners, as when
// its process is killed.
func (h *Host) Crash() {
	h.n.mu.Lock()
	var conns []*conn
	var listeners []*listener
	for c := range h.n.conns {
		if c.host == h.name {
			conns = append(conns, c)
		}
	}
	for _, l := range h.n.listeners {
		if host, _, _ := net.SplitHostPort(string(l.addr)); host == h.name {
			listeners = append(listeners, l)
		}
	}
	h.n.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
	for _, l := range listeners {
		l.Close()
	}
}

// Conns returns how many ends of connections are open on the host.
func (h *Host) Conns() int {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	k := 0
	for c := range h.n.conns {
		if c.host == h.name {
			k++
		}
	}
	return k
}

type address string

func (address) Network() string  { return "mem" }
func (a address) String() string { return string(a) }

func opError(op, addr string, err error) error {
	return &net.OpError{Op: op, Net: "mem", Addr: address(addr), Err: err}
}

type listener struct {
	n     *Network
	addr  address
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

// offer hands the far end to Accept.
func (l *listener) offer(ctx context.Context, here, there *conn) (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case l.queue <- there:
			return here, nil
		case <-l.done:
		case <-ctx.Done():
			here.reset()
			there.reset()
			return nil, opError("dial", string(l.addr), timeout(ctx))
		}
	}
	here.reset()
	there.reset()
	return nil, opError("dial", string(l.addr), syscall.ECONNREFUSED)
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, opError("accept", string(l.addr), net.ErrClosed)
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, opError("accept", string(l.addr), net.ErrClosed)
	}
}

func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		delete(l.n.listeners, string(l.addr))
		l.n.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue:
				c.reset()
			default:
				return
			}
		}
	})
	return nil
}
