package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keymesh/mesh/frame"
)

// read is the link's reading goroutine. It returns why the link ended.
func (l *link) read() error {
	for {
		h, err := l.frames.Next()
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		now := time.Now()
		l.received.Store(now.UnixNano())
		switch h.Kind {
		case frame.Request, frame.Push:
			err = l.asked(h, now)
		case frame.Reply, frame.Failed:
			err = l.reply(h, now)
		}
		if err != nil {
			return err
		}
	}
}

// reply hands an answer to whoever waits for it.
func (l *link) reply(h frame.Head, now time.Time) error {
	if h.Verb == verbPing && h.Kind == frame.Reply {
		if h.Size > wireSize(verbPing) {
			return errors.New("oversized pong")
		}
		body, err := l.frames.Body()
		if err != nil {
			return err
		}
		return l.pong(h.Call, body, now)
	}
	p := l.answered(h)
	if p == nil {
		return l.frames.Skip()
	}
	if !l.n.hold(h.Size) {
		p.done <- answer{err: fmt.Errorf("%w: no memory for the answer", ErrBusy)}
		return l.frames.Skip()
	}
	defer l.n.unhold(h.Size)
	body, err := l.frames.Body()
	switch {
	case err != nil:
		p.done <- answer{err: ErrLost}
		return fmt.Errorf("reading an answer: %w", err)
	case h.Kind == frame.Failed:
		p.done <- answer{err: failure(body)}
	default:
		p.done <- answer{body: body}
	}
	return nil
}

// asked decides by the head whether a request or push is served, before its
// body takes memory.
func (l *link) asked(h frame.Head, now time.Time) error {
	if h.Verb == verbPing && h.Kind == frame.Request && h.Size <= wireSize(verbPing) {
		if !l.account.own.AllowN(now, 1) {
			l.n.count("pings dropped")
			return l.frames.Skip()
		}
		body, err := l.frames.Body()
		if err != nil {
			return err
		}
		return l.pinged(h, body, now)
	}
	code, text := l.admit(h, now)
	if code != 0 {
		l.n.count("refused: " + text)
		if h.Kind == frame.Request {
			l.fail(h, code, text)
		}
		return l.frames.Skip()
	}
	body, err := l.frames.Body()
	if err != nil {
		l.leave(h.Size)
		return fmt.Errorf("reading a request: %w", err)
	}
	l.n.fair.submit(l.peer, func() { l.handle(h, body) }, l.n.wg.Go)
	return nil
}

// admit reserves what a request takes, or says why it is not served.
func (l *link) admit(h frame.Head, now time.Time) (code uint64, text string) {
	switch {
	case h.Verb < FirstVerb:
		if !l.n.ownVerb(h) {
			return frame.CodeRefused, "unknown verb"
		}
		if !l.account.own.AllowN(now, 1) {
			return frame.CodeBusy, "rate"
		}
	default:
		t := l.n.traits(h.Verb)
		if !t.Lapsed && l.lapsed(now) {
			return frame.CodeRefused, "lapsed"
		}
		if !t.Unmetered && !l.account.metered.AllowN(now, 1) {
			return frame.CodeBusy, "rate"
		}
		l.used.Store(now.UnixNano())
	}
	if !l.enter(h.Size) {
		return frame.CodeBusy, "in flight"
	}
	return 0, ""
}

// enter reserves room for a call of the far side.
func (l *link) enter(size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inCalls >= maxCalls || l.inCalls > 0 && l.inBytes+size > maxInFlight || !l.account.enter(size) {
		return false
	}
	if !l.n.hold(size) {
		l.account.leave(size)
		return false
	}
	l.inCalls++
	l.inBytes += size
	return true
}

func (l *link) leave(size int) {
	l.mu.Lock()
	l.inCalls--
	l.inBytes -= size
	l.mu.Unlock()
	l.account.leave(size)
	l.n.unhold(size)
}

// handle serves a request or push; it runs on a worker of the fair queue.
func (l *link) handle(h frame.Head, body []byte) {
	if l.ctx.Err() != nil {
		l.leave(h.Size)
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, DefaultTimeout)
	defer cancel()
	var reply []byte
	var err error
	if h.Verb < FirstVerb {
		reply, err = l.n.serveOwn(ctx, l, h.Verb, body)
	} else {
		reply, err = l.n.handler(ctx, l.peer, h.Verb, body)
	}
	if h.Kind == frame.Push {
		l.leave(h.Size)
		return
	}
	l.answer(ctx, h, reply, err)
}

// answer queues the answer to a request, waiting while too many answers wait
// already, and gives back what the request held.
func (l *link) answer(ctx context.Context, h frame.Head, reply []byte, err error) {
	o := out{kind: frame.Reply, call: h.Call, verb: h.Verb, body: reply}
	if err == nil && len(reply) > frame.MaxBody {
		err = ErrTooLarge
	}
	if err == nil && !l.n.hold(len(reply)) {
		err = ErrBusy
	}
	held := len(reply)
	if err != nil {
		o.kind, o.body, held = frame.Failed, failed(h.Verb, err).Encode(), 0
	}
	// The room is given back when the answer leaves the queue: before the far
	// side can have it and count on the room.
	done := func() {
		l.n.unhold(held)
		l.leave(h.Size)
	}
	if err := l.replies.enter(ctx, l.ctx.Done(), len(o.body)); err != nil {
		done()
		l.close(errFlood) // its answers pile up for as long as a handler may take
		return
	}
	o.after = func() {
		l.replies.leave(len(o.body))
		done()
	}
	if l.send(o) != nil {
		o.after()
	}
}

// failed says what went wrong. Only the mesh itself says busy or refused: what
// a handler of the layer above could not get elsewhere is its own failure.
func failed(verb uint64, err error) frame.Failure {
	switch {
	case err == ErrBusy, verb < FirstVerb && errors.Is(err, ErrBusy):
		return frame.Failure{Code: frame.CodeBusy, Text: "busy"}
	case verb < FirstVerb && errors.Is(err, ErrRefused):
		return frame.Failure{Code: frame.CodeRefused, Text: err.Error()}
	}
	return frame.Failure{Code: frame.CodeHandler, Text: err.Error()}
}

// ownVerb reports whether the frame is one of mesh's own in its right kind and
// size.
func (n *Node) ownVerb(h frame.Head) bool {
	if h.Size > wireSize(h.Verb) {
		return false
	}
	switch h.Verb {
	case verbAnnounce, verbHave:
		return h.Kind == frame.Push
	case verbRenew, verbDigest, verbFetch:
		return h.Kind == frame.Request
	}
	return false
}

func (n *Node) serveOwn(ctx context.Context, l *link, verb uint64, body []byte) ([]byte, error) {
	switch verb {
	case verbAnnounce:
		return nil, n.tookAnnounce(l, body)
	case verbHave:
		return nil, n.tookHave(l, body)
	case verbDigest:
		return n.answerDigest(body)
	case verbFetch:
		return n.answerFetch(body)
	case verbRenew:
		return n.answerRenew(ctx, l, body)
	}
	return nil, fmt.Errorf("%w: unknown verb", ErrRefused)
}

// hold reserves memory for bodies of peers, of 64 MiB in all.
func (n *Node) hold(size int) bool {
	if n.held.Add(int64(size)) > maxHeld {
		n.held.Add(-int64(size))
		return false
	}
	return true
}

func (n *Node) unhold(size int) { n.held.Add(-int64(size)) }

func (n *Node) offer(now time.Time) offer {
	return offer{Accepting: n.cfg.Accepting(), Millis: uint64(max(now.UnixMilli(), 0))}
}
