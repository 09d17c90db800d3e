package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// How often what is waited for is asked again: a put every time, a recovery
// when its request has changed, and at the latest after the longer time.
const (
	pollEvery = 2 * time.Second
	watchMost = 20 * time.Second
)

// waiter waits for the words that a request lacks and says on standard error
// what has changed.
type waiter struct {
	a     *app
	watch *client.Client // nil: the request is not looked at meanwhile
	last  string         // what was said last
	seen  string         // the version of the request that was
	said  map[string]bool
}

// awaitPending repeats a recovery or a put until nothing is missing or wait is
// over.
func awaitPending[T any](ctx context.Context, w *waiter, wait time.Duration, once func(context.Context) (T, error)) (T, error) {
	end := time.Now().Add(wait)
	for {
		res, err := once(ctx)
		p, ok := err.(*client.Pending)
		if !ok {
			return res, err
		}
		w.pending(p.Pending)
		left := time.Until(end)
		if left <= 0 {
			return res, err
		}
		if err := w.next(ctx, p.Request, left); err != nil {
			return res, err
		}
	}
}

func (w *waiter) pending(p apitype.Pending) {
	if w.last == "" {
		w.a.note("request %s, words to compare by phone: %s", short(p.Request), printable(strings.Join(p.Words, " ")))
	}
	w.note(pendingLine(p.Have, p.Need, p.Missing, p.Wait))
}

// note says a line that differs from the last one. The seconds of a delay are
// not news.
func (w *waiter) note(line, delay string) {
	if line != w.last {
		w.a.note("%s%s", printable(line), delay)
		w.last = line
	}
}

// next returns when it is time to ask again.
func (w *waiter) next(ctx context.Context, request string, left time.Duration) error {
	most := time.Now().Add(min(watchMost, left))
	for w.watch != nil && time.Until(most) > 0 {
		r, err := w.look(ctx, request, time.Until(most))
		if err != nil {
			break // what is wrong shows when it is asked again
		}
		if r.State != "open" || r.Ready {
			return nil
		}
	}
	return w.sleep(ctx, min(pollEvery, left))
}

func (w *waiter) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look waits for news of the request and says them.
func (w *waiter) look(ctx context.Context, request string, wait time.Duration) (apitype.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+5*time.Second)
	defer cancel()
	before := time.Now()
	r, err := w.watch.Request(ctx, request, wait, w.seen)
	if err != nil {
		return r, err
	}
	w.words(r.Said)
	if r.State == "open" && !r.Ready {
		w.note(pendingLine(r.Have, r.Need, r.Missing, r.Wait))
	}
	if w.seen == r.Version && time.Since(before) < min(wait, pollEvery) {
		// The node has no room to wait for one more.
		err = w.sleep(ctx, min(wait, pollEvery))
	}
	w.seen = r.Version
	return r, err
}

// words says who has approved or denied, once.
func (w *waiter) words(said []apitype.Said) {
	if w.said == nil {
		w.said = make(map[string]bool)
	}
	for _, s := range said {
		verb := "approved by "
		if s.Denied {
			verb = "denied by "
		}
		line := verb + named(s.Name, s.Person)
		if w.said[line] {
			continue
		}
		w.said[line] = true
		if s.Note != "" {
			line += ": " + s.Note
		}
		w.a.note("%s", bounded(line))
	}
}

// pendingLine says what is missing, and, apart from it, how long a delay has to
// go.
func pendingLine(have, need int, missing []string, wait uint64) (line, delay string) {
	line = fmt.Sprintf("%d of %d approvals", have, need)
	if len(missing) > 0 {
		line += "; missing: " + bounded(strings.Join(missing, "; "))
	}
	if wait > 0 {
		delay = fmt.Sprintf("; %v to go", time.Duration(wait)*time.Second)
	}
	return line, delay
}
