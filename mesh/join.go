package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

const (
	joinTime     = 15 * time.Second // for the whole of one attempt
	joinRecords  = 64               // in an admission; gossip brings the rest
	badJoinRate  = 0.2              // wrong tickets a second an address
	badJoinBurst = 5
	maxBadJoins  = 1024 // addresses that are remembered
)

// Join uses up a ticket: it proves it to the pinned issuer, over a connection
// that the proof is bound to, and brings back the membership. The addresses of
// the ticket are tried in turn. Errors wrap [ErrTicketRefused], [ErrNoLink] or
// those of ctx.
func Join(ctx context.Context, cfg JoinConfig) (Admission, error) {
	if err := roster.CheckName(cfg.Name); err != nil {
		return Admission{}, err
	}
	if cfg.Ticket.Expired(time.Now()) {
		return Admission{}, fmt.Errorf("%w: it ended", ErrTicketRefused)
	}
	dial := dialer(cfg.Dial)
	if dial == nil {
		dial = guardedDial(true)
	}
	cert, err := certificate(cfg.Key)
	if err != nil {
		return Admission{}, err
	}
	var errs []error
	for _, addr := range cfg.Ticket.Addrs {
		for range 3 {
			a, err := joinAt(ctx, cfg, addr, dial, cert)
			if err == nil || errors.Is(err, ErrTicketRefused) || ctx.Err() != nil {
				return a, err
			}
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			if !errors.Is(err, errCrowded) {
				break
			}
			if err := rest(ctx, crowdedWait); err != nil {
				return Admission{}, err
			}
		}
	}
	return Admission{}, fmt.Errorf("%w: no address of the issuer answered: %w", ErrNoLink, errors.Join(errs...))
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func joinAt(ctx context.Context, cfg JoinConfig, addr string, dial dialer, cert tls.Certificate) (Admission, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	ws, raw, err := connect(ctx, addr, dial, &sync.Pool{})
	if err != nil {
		return Admission{}, err
	}
	defer raw.Conn.Close()
	stop := context.AfterFunc(ctx, func() { raw.Conn.Close() })
	defer stop()
	conn := tls.Client(ws, tlsConfig(cert, pinned(cfg.Ticket.Issuer)))
	if err := conn.HandshakeContext(ctx); err != nil {
		return Admission{}, fmt.Errorf("the inner TLS: %w", err)
	}
	// The issuer is the one that the ticket names: it may send a roster.
	raw.trust()
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	cs := conn.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(joinExporter, nil, exporterSize)
	if err != nil {
		return Admission{}, fmt.Errorf("the exporter: %w", err)
	}
	j := join{
		Ticket: cfg.Ticket.ID, MAC: cfg.Ticket.MAC(exporter, cfg.Key.ID()),
		Name: cfg.Name, Zone: cfg.Zone, Capacity: cfg.Capacity,
	}
	if _, err := conn.Write(frame.Append(nil, frame.Request, 1, verbJoin, key.Marshal(&j))); err != nil {
		return Admission{}, fmt.Errorf("sending JOIN: %w", err)
	}
	body, err := readJoined(frame.NewReader(conn, frame.MaxSize))
	if err != nil {
		return Admission{}, err
	}
	return admission(cfg, body)
}

func readJoined(frames *frame.Reader) ([]byte, error) {
	h, err := frames.Next()
	if err != nil {
		return nil, fmt.Errorf("the answer to JOIN: %w", err)
	}
	body, err := frames.Body()
	if err != nil {
		return nil, fmt.Errorf("the answer to JOIN: %w", err)
	}
	switch {
	case h.Call != 1 || h.Verb != verbJoin:
		return nil, errors.New("something else instead of the answer to JOIN")
	case h.Kind == frame.Failed:
		if f, err := frame.DecodeFailure(body); err == nil && f.Code == frame.CodeBusy {
			return nil, errCrowded
		}
		return nil, fmt.Errorf("%w: %w", ErrTicketRefused, failure(body))
	case h.Kind != frame.Reply:
		return nil, errors.New("something else instead of the answer to JOIN")
	}
	return body, nil
}

// admission verifies what the issuer answered. Records that do not verify are
// left out: gossip will bring good ones.
func admission(cfg JoinConfig, body []byte) (Admission, error) {
	var a admitted
	if err := key.Unmarshal(body, &a); err != nil {
		return Admission{}, fmt.Errorf("the answer to JOIN: %w", err)
	}
	chain, err := roster.VerifyChain(cfg.Ticket.Network, a.Member, a.Issuer)
	if err != nil {
		return Admission{}, fmt.Errorf("the answer to JOIN: %w", err)
	}
	if chain.Member.Node != cfg.Key.ID() {
		return Admission{}, errors.New("the answer to JOIN is a certificate of another node")
	}
	out := Admission{Network: cfg.Ticket.Network, Member: a.Member, Issuer: a.Issuer}
	for _, o := range a.Records {
		if rec, err := roster.VerifyRecord(cfg.Ticket.Network, o); err == nil && rec.ID() != cfg.Key.ID() {
			out.Records = append(out.Records, o)
		}
	}
	return out, nil
}

// serveJoin answers JOIN, after which the connection ends.
func (n *Node) serveJoin(conn *tls.Conn, call uint64, node key.NodeID, host string, body []byte) error {
	fail := func(code uint64, err error) error {
		conn.Write(frame.Append(nil, frame.Failed, call, verbJoin, frame.Failure{Code: code, Text: "refused"}.Encode()))
		return fmt.Errorf("JOIN: %w", err)
	}
	if n.cfg.Issuing == nil {
		return errNoJoin // a stranger gets no answer
	}
	now := time.Now()
	if !n.mayJoin(host, now, 0) {
		return fail(frame.CodeBusy, ErrBusy)
	}
	var j join
	if err := key.Unmarshal(body, &j); err != nil {
		return err
	}
	cs := conn.ConnectionState()
	exporter, err := cs.ExportKeyingMaterial(joinExporter, nil, exporterSize)
	if err != nil {
		return err
	}
	cert, err := n.cfg.Issuing.admit(&j, exporter, node, now)
	if err != nil {
		n.mayJoin(host, now, 1)
		n.count("joins refused")
		return fail(frame.CodeRefused, err)
	}
	n.count("joins")
	n.log.Info("admitted a node", "node", node, "name", j.Name)
	a := admitted{Member: cert, Issuer: n.cfg.Issuing.cfg.Cert, Records: n.introduce()}
	_, err = conn.Write(frame.Append(nil, frame.Reply, call, verbJoin, key.Marshal(&a)))
	return err
}

// introduce picks the records that a new member starts with, this node's
// first.
func (n *Node) introduce() []key.Object {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	out := []key.Object{n.self.Object}
	for _, rec := range n.roster.All() {
		if len(out) >= joinRecords {
			break
		}
		if rec.ID() != n.id && !rec.Expired(now) && !n.roster.Revoked(rec.ID(), rec.Chain) {
			out = append(out, rec.Object)
		}
	}
	return out
}

// mayJoin limits failed joins by where they come from: it takes cost from what
// the address has left and reports whether anything was left.
func (n *Node) mayJoin(host string, now time.Time, cost float64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.badJoins[host]
	if b == nil {
		if cost == 0 {
			return true
		}
		if len(n.badJoins) >= maxBadJoins {
			clear(n.badJoins) // an attacker with a thousand addresses; the half-open limits stay
		}
		nb := newBucket(badJoinRate, badJoinBurst)
		b = &nb
		n.badJoins[host] = b
	}
	if cost == 0 {
		ok := b.take(now, 1)
		if ok {
			b.tokens++
		}
		return ok
	}
	return b.take(now, cost)
}
