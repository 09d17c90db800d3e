package mesh

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

// Node is one member of a network. Safe for concurrent use.
type Node struct {
	cfg      Config
	id       key.NodeID
	instance uint64
	cert     tls.Certificate
	traits   func(uint64) Traits
	known    dialer // for addresses that the operator configured
	told     dialer // for addresses out of records
	log      *slog.Logger

	// Set by Run before anything else runs.
	ctx     context.Context
	handler Handler
	born    time.Time
	wg      sync.WaitGroup
	running chan struct{} // closed once Run has read the book

	fair    *fair
	doors   doors
	held    atomic.Int64
	certExp atomic.Int64 // unix seconds: when this node is lapsed
	dials   atomic.Uint64
	// rolledBack: peers know a later record than the disk did.
	rolledBack atomic.Bool
	sockets    sync.Pool // WebSocket write buffers
	buffers    sync.Pool // *[]byte of smallWrite

	linkMu sync.RWMutex
	links  map[key.NodeID]*link

	countMu  sync.Mutex
	counters map[string]uint64
	logs     bucket

	mu        sync.Mutex // everything below
	roster    *roster.Roster
	self      *roster.Record
	seq       uint64
	member    key.Object
	issuer    key.Object
	issued    time.Time // when the own record was last signed
	began     time.Time // when Run signed its first
	jumps     int       // own records seen that this node did not remember
	twin      time.Time // when another process last signed for this node
	revoked   bool
	peers     map[key.NodeID]*contact
	boot      []*contact
	strange   map[string]*stranger
	knocking  int // dials of unproven addresses under way
	knocks    *rate.Limiter
	successor key.NodeID
	chosen    map[key.NodeID]bool // random neighbours of a large mesh
	fresh     map[key.Hash]key.NodeID
	asking    map[key.Hash]int // how many peers are being asked for it
	badJoins  map[string]*bucket
	joinAll   bucket
	dirty     map[noteKey]Note

	dialWake, gossipWake, saveWake, choreWake chan struct{}
}

// New checks the configuration. It does no I/O and starts nothing.
func New(cfg Config) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cert, err := certificate(cfg.Key)
	if err != nil {
		return nil, err
	}
	var inst [8]byte
	rand.Read(inst[:])
	n := &Node{
		cfg: cfg, id: cfg.Key.ID(), instance: binary.BigEndian.Uint64(inst[:]), cert: cert,
		traits: cfg.Verbs, log: cfg.Log, known: cfg.Dial, told: cfg.Dial,
		running: make(chan struct{}), fair: newFair(maxRunning),
		links: map[key.NodeID]*link{}, counters: map[string]uint64{}, logs: newBucket(1, 20),
		roster: roster.New(cfg.Network), member: cfg.Member, issuer: cfg.Issuer,
		peers: map[key.NodeID]*contact{}, strange: map[string]*stranger{}, knocks: rate.NewLimiter(rate.Every(knockEvery), knockBurst), chosen: map[key.NodeID]bool{},
		fresh: map[key.Hash]key.NodeID{}, asking: map[key.Hash]int{},
		badJoins: map[string]*bucket{}, joinAll: newBucket(5, 50), dirty: map[noteKey]Note{},
		dialWake: make(chan struct{}, 1), gossipWake: make(chan struct{}, 1), saveWake: make(chan struct{}, 1),
		choreWake: make(chan struct{}, 1),
	}
	n.fillDefaults()
	chain, err := roster.VerifyChain(cfg.Network, cfg.Member, cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("the node's own certificates: %w", err)
	}
	if chain.Member.Node != n.id {
		return nil, fmt.Errorf("the node's own certificates: %w: they are another node's", roster.ErrChain)
	}
	n.roster.Saw(chain)
	n.certExp.Store(chain.Expires().Unix())
	// The size of the record is known only now: too many addresses or bindings
	// have to fail here and not in Run.
	if n.self, err = n.sign(1, time.Unix(0, 0)); err != nil {
		return nil, fmt.Errorf("the node's own record: %w", err)
	}
	return n, nil
}

func (cfg *Config) check() error {
	switch {
	case cfg.Key.IsZero():
		return errors.New("mesh: no node key")
	case cfg.Network.IsZero():
		return errors.New("mesh: no network id")
	case len(cfg.SealingKey) > maxSealingKey:
		return fmt.Errorf("mesh: a sealing key of more than %d bytes", maxSealingKey)
	}
	for _, list := range [][]string{cfg.Advertise, cfg.Bootstrap} {
		for _, a := range list {
			if err := roster.CheckAddr(a); err != nil {
				return fmt.Errorf("mesh: %w", err)
			}
		}
	}
	return nil
}

func (n *Node) fillDefaults() {
	if n.cfg.Dial == nil {
		n.known = guardedDial(true)
		n.told = guardedDial(onLoopback(n.cfg.Listener, n.cfg.Advertise))
	}
	if n.traits == nil {
		n.traits = func(uint64) Traits { return Traits{} }
	}
	if n.cfg.Accepting == nil {
		n.cfg.Accepting = func() bool { return true }
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	for _, a := range n.cfg.Bootstrap {
		n.boot = append(n.boot, &contact{addrs: []string{a}, configured: true})
	}
}

// buffer returns an empty buffer for one TLS record, to be given back.
func (n *Node) buffer() *[]byte {
	if b, ok := n.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, smallWrite)
	return &b
}

func (n *Node) release(b *[]byte) {
	if cap(*b) > 2*smallWrite {
		return
	}
	*b = (*b)[:0]
	n.buffers.Put(b)
}

// Run links the node to its network until ctx ends, closes the listener, and
// returns after its last goroutine has ended: nil when ctx ended, otherwise
// what made it impossible to go on (an unreadable book, a dead listener). It
// may be called once.
func (n *Node) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.ctx, n.handler, n.born = ctx, h, time.Now()
	if n.cfg.Listener != nil {
		defer n.cfg.Listener.Close()
	}
	if err := n.load(time.Now()); err != nil {
		return fmt.Errorf("reading the peer book: %w", err)
	}
	if err := n.republish(time.Now(), true); err != nil {
		return err
	}
	close(n.running)
	for _, f := range []func() error{n.accept, n.tend, n.gossip, n.save, n.chores} {
		n.wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	if n.cfg.Listener != nil {
		stop := context.AfterFunc(ctx, func() { n.cfg.Listener.Close() })
		defer stop()
	}
	<-ctx.Done()
	n.wg.Wait()
	n.flushNotes()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// ID returns the node's id.
func (n *Node) ID() key.NodeID { return n.id }

// Call asks a node and waits for its answer. When there is no link it dials,
// if an address is known. ctx bounds it, and 30 s. A call to the node itself
// goes to its own handler. The answer is the caller's to keep; body must not
// change before Call returns.
//
// Errors: [ErrUnknownNode], [ErrNoLink], [ErrLost], [ErrRefused], [ErrBusy],
// [ErrTooLarge], those of ctx, all wrapped, or a *[RemoteError].
func (n *Node) Call(ctx context.Context, to key.NodeID, verb uint64, body []byte) ([]byte, error) {
	if err := sendable(verb, body); err != nil {
		return nil, err
	}
	if err := n.started(ctx); err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); !ok || time.Until(d) > DefaultTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if to == n.id {
		return n.callSelf(ctx, verb, body)
	}
	for try := 0; ; try++ {
		l, err := n.linkTo(ctx, to)
		if err != nil {
			return nil, err
		}
		reply, err := l.call(ctx, verb, body)
		if try == 0 && errors.Is(err, ErrNoLink) && !errors.Is(err, ErrLost) {
			continue // it ended before the call was queued
		}
		return reply, err
	}
}

func sendable(verb uint64, body []byte) error {
	if verb < FirstVerb {
		return fmt.Errorf("%w: verb %d is the mesh's own", ErrRefused, verb)
	}
	if len(body) > frame.MaxBody {
		return ErrTooLarge
	}
	return nil
}

// started waits for Run to have read the book.
func (n *Node) started(ctx context.Context) error {
	select {
	case <-n.running:
	default:
		select {
		case <-n.running:
		case <-ctx.Done():
			return fmt.Errorf("%w: the node does not run: %w", ErrNoLink, ctx.Err())
		}
	}
	if n.ctx.Err() != nil {
		return fmt.Errorf("%w: the node was stopped", ErrNoLink)
	}
	return nil
}

func (n *Node) callSelf(ctx context.Context, verb uint64, body []byte) ([]byte, error) {
	reply, err := n.handler(ctx, n.id, verb, body)
	if err != nil {
		return nil, &RemoteError{Text: err.Error()}
	}
	return reply, nil
}

// Push sends without waiting for an answer: nil means that it was queued on a
// link. Errors as those of [Node.Call].
func (n *Node) Push(ctx context.Context, to key.NodeID, verb uint64, body []byte) error {
	if err := sendable(verb, body); err != nil {
		return err
	}
	if err := n.started(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	l, err := n.linkTo(ctx, to)
	if err != nil {
		return err
	}
	return l.push(ctx, verb, body, true)
}

// Broadcast pushes to every linked peer. A peer whose link is full is left
// out: who must not miss it has to be called. It does not wait; body must not
// change any more.
func (n *Node) Broadcast(_ context.Context, verb uint64, body []byte) {
	if sendable(verb, body) != nil {
		return
	}
	for _, l := range n.linked() {
		if l.push(l.ctx, verb, body, false) != nil {
			n.count("pushes dropped")
		}
	}
}

// link returns the link to a peer, or nil.
func (n *Node) link(id key.NodeID) *link {
	n.linkMu.RLock()
	defer n.linkMu.RUnlock()
	return n.links[id]
}

// linked returns all links.
func (n *Node) linked() []*link {
	n.linkMu.RLock()
	defer n.linkMu.RUnlock()
	out := make([]*link, 0, len(n.links))
	for _, l := range n.links {
		out = append(out, l)
	}
	return out
}

func (n *Node) count(what string) {
	n.countMu.Lock()
	n.counters[what]++
	n.countMu.Unlock()
}

// tell logs something that a peer caused, at most one line a second.
func (n *Node) tell(msg string, args ...any) {
	n.countMu.Lock()
	ok := n.logs.take(time.Now(), 1)
	n.countMu.Unlock()
	if ok {
		n.log.Info(msg, args...)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// accept takes connections until the listener is closed.
func (n *Node) accept() error {
	if n.cfg.Listener == nil {
		return nil
	}
	for {
		c, err := n.cfg.Listener.Accept()
		if err != nil {
			if n.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accepting links: %w", err)
			}
			n.count("accept errors")
			select { // out of descriptors, most likely
			case <-time.After(50 * time.Millisecond):
			case <-n.ctx.Done():
			}
			continue
		}
		host := hostOf(c.RemoteAddr())
		if !n.doors.enter(host) {
			n.count("turned away")
			c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
			c.Close()
			continue
		}
		n.wg.Go(func() { n.welcome(c, host) })
	}
}
