package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

var (
	errSelf   = errors.New("that is this node itself")
	errFull   = errors.New("the node has as many links as it may")
	errNoJoin = errors.New("joins are refused")
	errOften  = errors.New("the node opens links too often")
)

// welcome serves a connection that somebody opened: upgrade, inner TLS, then
// HELLO or JOIN, all within 5 s and 8 KiB; afterwards it is the link's reader.
func (n *Node) welcome(c net.Conn, host string) {
	stop := context.AfterFunc(n.ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	left := false
	leave := func() {
		if !left {
			left = true
			n.doors.leave(host)
		}
	}
	defer leave()
	raw := newGuarded(c, frame.MaxPreAuth, time.Now().Add(authTime))
	ws, err := upgrade(raw, &n.sockets)
	if err != nil {
		n.count("upgrades refused")
		return
	}
	conn := tls.Server(ws, tlsConfig(n.cert, n.bouncer))
	if err := conn.HandshakeContext(n.ctx); err != nil {
		n.count("TLS handshakes failed")
		n.refused(key.NodeID{}, host, err)
		return
	}
	pub, err := peerKey(conn.ConnectionState())
	if err != nil {
		return
	}
	l, err := n.receive(conn, raw, pub, host)
	if err != nil {
		n.count("hellos refused")
		n.refused(pub.ID(), host, err)
		n.tell("refused a connection", "node", pub.ID().Short(), "from", host, "cause", err)
		return
	}
	leave()
	if l != nil {
		n.serve(l)
	}
}

func (n *Node) refused(node key.NodeID, host string, err error) {
	if n.cfg.Refused != nil {
		n.cfg.Refused(node, host, errors.Is(err, ErrTicketRefused))
	}
}

// bouncer turns the revoked away before they may say anything.
func (n *Node) bouncer(id key.NodeID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.roster.RevokedNode(id) {
		return errRevoked
	}
	return nil
}

// receive reads the first frame and answers it. Who shows no valid membership
// of this network gets no answer and learns nothing but the node's key.
func (n *Node) receive(conn *tls.Conn, raw *guarded, pub key.NodePublic, host string) (*link, error) {
	frames := frame.NewReader(conn, frame.MaxPreAuth)
	h, err := frames.Next()
	if err != nil {
		return nil, fmt.Errorf("the first frame: %w", err)
	}
	if h.Kind != frame.Request || h.Verb != verbHello && h.Verb != verbJoin {
		return nil, errors.New("the first frame is neither HELLO nor JOIN")
	}
	body, err := frames.Body()
	if err != nil {
		return nil, fmt.Errorf("the first frame: %w", err)
	}
	if h.Verb == verbJoin {
		return nil, n.serveJoin(conn, h.Call, pub.ID(), host, body)
	}
	now := time.Now()
	if !n.mayMeet(pub.ID(), now) {
		n.refuse(conn, h.Call, errOften)
		return nil, errOften
	}
	theirs, rec, err := n.judge(pub, body, now)
	if err != nil {
		n.refuse(conn, h.Call, err)
		return nil, err
	}
	buf := frame.Append(nil, frame.Reply, h.Call, verbHello, key.Marshal(&welcome{Version: version}))
	buf = frame.Append(buf, frame.Request, 1, verbHello, n.hello(now, 0))
	if _, err := conn.Write(buf); err != nil {
		return nil, fmt.Errorf("answering HELLO: %w", err)
	}
	if err := readWelcome(frames); err != nil {
		return nil, err
	}
	g := greeting{peer: rec.ID(), dialler: rec.ID(), instance: theirs.Instance, number: theirs.Dial, inbound: true, addr: conn.RemoteAddr().String(), chain: rec.Chain}
	return n.meet(g, theirs, rec, conn, raw, frames), nil
}

// hello is this node's HELLO, the number being that of the dial.
func (n *Node) hello(now time.Time, number uint64) []byte {
	n.mu.Lock()
	rec := n.self.Object
	n.mu.Unlock()
	return key.Marshal(&hello{
		Record: rec, Sealing: n.cfg.SealingKey, Versions: []uint64{version}, Instance: n.instance, Dial: number, offer: n.offer(now),
	})
}

// judge decides whether a HELLO makes a link: it is of this network, of the
// node that has the TLS key, not of this node and not revoked. An expired
// certificate makes a lapsed link.
func (n *Node) judge(pub key.NodePublic, body []byte, now time.Time) (*hello, *roster.Record, error) {
	var h hello
	if err := key.Unmarshal(body, &h); err != nil {
		return nil, nil, fmt.Errorf("HELLO: %w", err)
	}
	rec, err := roster.VerifyAfter(n.cfg.Network, h.Record, n.record(pub.ID()))
	if err != nil {
		return nil, nil, fmt.Errorf("the record in HELLO: %w", err)
	}
	common := false
	for _, v := range h.Versions {
		common = common || v == version
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case rec.Public != pub:
		return nil, nil, fmt.Errorf("the record in HELLO: %w", errIdentity)
	case rec.ID() == n.id:
		return nil, nil, errSelf
	case n.roster.Revoked(rec.ID(), rec.Chain):
		return nil, nil, errRevoked
	case !common:
		return nil, nil, errors.New("HELLO without a common version")
	case len(h.Sealing) > maxSealingKey:
		return nil, nil, errors.New("HELLO with an oversized sealing key")
	case roster.SealingHash(h.Sealing) != rec.Body.Sealing:
		return nil, nil, errors.New("HELLO with another sealing key than its record's")
	case n.full(rec.ID(), now):
		return nil, nil, errFull
	}
	return &h, rec, nil
}

// refuse tells a member why there is no link. Strangers get silence.
func (n *Node) refuse(w io.Writer, call uint64, err error) {
	f := frame.Failure{Code: frame.CodeRefused}
	switch {
	case errors.Is(err, errRevoked):
		f.Text = "revoked"
	case errors.Is(err, errSelf):
		f.Text = "own id"
	case errors.Is(err, errFull):
		f.Code, f.Text = frame.CodeBusy, "full"
	case errors.Is(err, errOften):
		f.Code, f.Text = frame.CodeBusy, "links too often"
	default:
		return
	}
	w.Write(frame.Append(nil, frame.Failed, call, verbHello, f.Encode()))
}

// readWelcome reads the answer to this side's HELLO, which has call id 1.
func readWelcome(frames *frame.Reader) error {
	h, err := frames.Next()
	if err != nil {
		return fmt.Errorf("the answer to HELLO: %w", err)
	}
	body, err := frames.Body()
	if err != nil {
		return fmt.Errorf("the answer to HELLO: %w", err)
	}
	if h.Call != 1 || h.Verb != verbHello {
		return errors.New("something else instead of the answer to HELLO")
	}
	if h.Kind == frame.Failed {
		return fmt.Errorf("HELLO: %w", failure(body))
	}
	var w welcome
	if err := key.Unmarshal(body, &w); err != nil || h.Kind != frame.Reply || w.Version != version {
		return errors.New("an answer to HELLO that makes no sense")
	}
	return nil
}

// approach dials an address and says HELLO. want is the node that has to be
// there; the zero id stands for any member.
func (n *Node) approach(ctx context.Context, addr string, want key.NodeID, dial dialer) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, authTime)
	defer cancel()
	ws, raw, err := connect(ctx, addr, dial, &n.sockets)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(n.ctx, func() { raw.Conn.Close() })
	conn := tls.Client(ws, tlsConfig(n.cert, func(id key.NodeID) error {
		return errors.Join(pinned(want)(id), n.bouncer(id))
	}))
	l, err := n.greet(ctx, conn, raw, addr)
	if err != nil {
		stop()
		raw.Conn.Close()
		return nil, err
	}
	context.AfterFunc(l.ctx, func() { stop() })
	return l, nil
}

// greet is the dialling side of HELLO.
func (n *Node) greet(ctx context.Context, conn *tls.Conn, raw *guarded, addr string) (*link, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("the inner TLS: %w", err)
	}
	pub, err := peerKey(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	if pub.ID() == n.id {
		return nil, errSelf
	}
	number := n.dials.Add(1)
	if _, err := conn.Write(frame.Append(nil, frame.Request, 1, verbHello, n.hello(time.Now(), number))); err != nil {
		return nil, fmt.Errorf("sending HELLO: %w", err)
	}
	frames := frame.NewReader(conn, frame.MaxPreAuth)
	if err := readWelcome(frames); err != nil {
		return nil, err
	}
	h, err := frames.Next()
	if err != nil || h.Kind != frame.Request || h.Verb != verbHello || h.Call != 1 {
		return nil, errors.Join(errors.New("no HELLO from the far side"), err)
	}
	body, err := frames.Body()
	if err != nil {
		return nil, fmt.Errorf("the far side's HELLO: %w", err)
	}
	theirs, rec, err := n.judge(pub, body, time.Now())
	if err != nil {
		n.refuse(conn, h.Call, err)
		return nil, err
	}
	if _, err := conn.Write(frame.Append(nil, frame.Reply, 1, verbHello, key.Marshal(&welcome{Version: version}))); err != nil {
		return nil, fmt.Errorf("answering HELLO: %w", err)
	}
	g := greeting{peer: rec.ID(), dialler: n.id, instance: theirs.Instance, number: number, addr: addr, chain: rec.Chain}
	return n.meet(g, theirs, rec, conn, raw, frames), nil
}

// meet makes the link of two nodes that accepted one another's HELLO.
func (n *Node) meet(g greeting, theirs *hello, rec *roster.Record, conn *tls.Conn, raw *guarded, frames *frame.Reader) *link {
	raw.trust()
	frames.SetLimit(frame.MaxSize)
	l := newLink(n, g, conn, raw, frames)
	l.certExp.Store(rec.Chain.Expires().Unix())
	now := time.Now()
	l.mu.Lock()
	l.heard(theirs.offer, now)
	l.mu.Unlock()
	n.met(l, theirs, rec, now)
	return l
}

// serve is a link's life: its caller's goroutine reads.
func (n *Node) serve(l *link) {
	n.wg.Go(l.write)
	n.install(l)
	l.close(l.read())
	n.uninstall(l)
	l.drain()
}

// install makes the link the one to its peer, or the loser of protocol.md
// section 4.3: the link dialled by the smaller id stays, and of two by the same
// dialler the newer. A link of the peer's earlier life is dead in any case; but of two
// processes that run at once the one that has the link keeps it, or they would
// take it from one another for ever.
func (n *Node) install(l *link) {
	twins := n.hasTwin(l.peer, time.Now())
	n.linkMu.Lock()
	old := n.links[l.peer]
	win := old == nil || old.ctx.Err() != nil || l.beats(old) && !(twins && old.instance != l.instance)
	if win {
		n.links[l.peer] = l
	}
	n.linkMu.Unlock()
	switch {
	case old == nil || old.ctx.Err() != nil:
	case !win && old.instance != l.instance:
		n.wg.Go(func() { n.retire(l, errors.New("another process with this key has the link")) })
	case old.instance != l.instance:
		old.close(errors.New("the peer started again"))
	case win:
		n.wg.Go(func() { n.contest(old, l) })
	default:
		n.wg.Go(func() { n.contest(l, old) })
	}
	if win {
		n.sawInstance(l.peer, l.instance, time.Now())
		n.up(l)
	}
	n.settled(l.peer)
}

func (l *link) beats(old *link) bool {
	if l.instance != old.instance {
		return true
	}
	if l.dialler != old.dialler {
		return string(l.dialler[:]) < string(old.dialler[:])
	}
	return l.number > old.number
}

// contest retires the loser of two links, unless the winner turns out to be
// dead: one side may have noticed that before the other. The loser goes on
// answering for a second, since calls may be on their way in it.
func (n *Node) contest(loser, winner *link) {
	loser.retired.Store(true)
	n.count("duplicate links")
	if !winner.alive(loser.ctx) {
		n.linkMu.Lock()
		cur := n.links[loser.peer]
		if loser.ctx.Err() == nil && (cur == nil || cur == winner || cur.ctx.Err() != nil) {
			n.links[loser.peer] = loser
			loser.retired.Store(false)
		}
		n.linkMu.Unlock()
		if !loser.retired.Load() {
			return
		}
	}
	n.retire(loser, errors.New("a duplicate link"))
}

// retire closes a link that another one has the better of. It answers for a
// second more: calls may be on their way in it, and of two processes with one
// key the second one learns from it what the first one signed.
func (n *Node) retire(l *link, why error) {
	l.retired.Store(true)
	t := time.NewTimer(retireTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ctx.Done():
	}
	l.close(why)
}

func (n *Node) uninstall(l *link) {
	n.linkMu.Lock()
	gone := n.links[l.peer] == l
	if gone {
		delete(n.links, l.peer)
	}
	n.linkMu.Unlock()
	if gone {
		n.down(l)
	}
}
