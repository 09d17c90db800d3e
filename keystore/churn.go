package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keymesh/crypto/key"
)

const (
	// moveAtOnce is how many secrets are moved at the same time.
	moveAtOnce = 8
	// movePasses is how often the listing is gone through: puts that ran
	// meanwhile, and what did not work at first.
	movePasses = 3
	// moveTimeout is how long one secret may take.
	moveTimeout = time.Minute
	// maxNotMoved bounds how many of what cannot be moved are named.
	maxNotMoved = 1000
)

// MoveProgress says how far a [Store.Move] is.
type MoveProgress struct {
	// Found are the secrets with a seat at the node so far; pages that were not
	// looked at yet may have more. Done and Failed are of these, in this pass.
	Found, Done, Failed int
	// AtRisk are those left that are out of reach once one more holder is lost.
	AtRisk int
	Bytes  int64
	Name   string // of the secret that was done last; empty: none yet
}

// NotMoved is a secret whose seat stays where it is, and why.
type NotMoved struct {
	Name string
	ID   key.Hash
	Why  string
}

// Moved is what a [Store.Move] did.
type Moved struct {
	From, To key.NodeID // To is zero when placement chose
	Moved    int        // seats that are at another node now, with their rows
	Bytes    int64      // of the rows and ciphertexts of these
	Took     time.Duration
	// Failed are the secrets whose seat could not be moved, by name, at most
	// 1,000 of NotMoved.
	Failed   []NotMoved
	NotMoved int
	// Denied of these are not the person's to move: see [ErrNotAlone].
	Denied int
	// Still are rows that From had not deleted when it was over though their seats
	// are elsewhere: it does once it can.
	Still int
	Notes []string // consequences, in words
}

// Move gives every seat that the person's secrets have at a node to another one,
// by the owner's Reassign, and waits until the rows are there: they come into
// being at their new holders, from what the other seats have in common with
// them, and the secrets are nowhere. The seats go to node to where it can take
// them, else, or when to is zero, to the standbys or placement's choice. The node
// need not be there. From then on it gets no seats from the person's puts at this
// node, see [Store.Drain], and a node that moves its own seats takes none of
// anybody.
//
// What was moved stays moved when ctx ends, and the same call goes on. Older
// generations that a secret keeps stay where they are: see Notes. progress may be
// nil; it is called by one goroutine at a time.
//
// Errors: [ErrInput]; those of [Store.List]; the error of ctx, with what was done
// until then. What could not be moved is no error but in the result.
func (s *Store) Move(ctx context.Context, p Person, from, to key.NodeID, progress func(MoveProgress)) (*Moved, error) {
	if err := s.checkMove(p, from, to); err != nil {
		return nil, err
	}
	if err := s.Drain(ctx, p, from, true); err != nil {
		return nil, err
	}
	m := &mover{s: s, p: p, from: from, to: to, tell: progress, out: &Moved{From: from, To: to}}
	if m.tell == nil {
		m.tell = func(MoveProgress) {}
	}
	start := time.Now()
	err := m.all(ctx)
	s.counts.forget(p.Key.Public())
	return m.result(time.Since(start)), err
}

func (s *Store) checkMove(p Person, from, to key.NodeID) error {
	r := s.roster()
	if _, ok := r[from]; !ok {
		return fmt.Errorf("%w: the network has no node %s", ErrInput, from.Short())
	}
	if to.IsZero() {
		return nil
	}
	drained, err := s.cust.drains.of(p.Key.Public())
	if err != nil {
		return err
	}
	m, ok := r[to]
	switch {
	case to == from:
		return fmt.Errorf("%w: a node does not replace itself", ErrInput)
	case !ok || m.Revoked || m.Lapsed || !m.Holder:
		return fmt.Errorf("%w: %s is no holder of this network", ErrInput, r.name(to))
	case slices.Contains(drained, to):
		return fmt.Errorf("%w: %s is being drained itself", ErrInput, r.name(to))
	}
	return nil
}

// mover is one Move under way.
type mover struct {
	s        *Store
	p        Person
	from, to key.NodeID
	tell     func(MoveProgress)

	mu    sync.Mutex // also while tell is called
	out   *Moved
	at    MoveProgress
	keeps int // secrets that keep older generations
	other map[key.NodeID]int
	// Of the goroutine that goes through the listing.
	stopped bool         // the node is not drained any more
	silent  []key.NodeID // of the last listing
}

// all goes through the listing until nothing is left at the node, or a pass has
// moved nothing.
func (m *mover) all(ctx context.Context) error {
	for pass := range movePasses {
		before := m.out.Moved
		m.at.Found, m.at.Failed, m.at.AtRisk = m.at.Done, 0, 0
		m.out.Failed, m.out.NotMoved, m.out.Denied = nil, 0, 0
		if err := m.pass(ctx); err != nil {
			return err
		}
		if m.stopped || m.at.Found == m.at.Done || pass > 0 && m.out.Moved == before {
			break
		}
	}
	return nil
}

// pass goes through the listing once.
func (m *mover) pass(ctx context.Context) error {
	for o := (ListOptions{Limit: maxListing, Timeout: moveTimeout}); ; {
		page, err := m.s.List(ctx, m.p, o)
		if err != nil {
			return err
		}
		m.silent = page.Silent
		page.Items = slices.DeleteFunc(page.Items, func(it Listed) bool { return !slices.Contains(it.holders, m.from) })
		m.mu.Lock()
		m.at.Found += len(page.Items)
		for _, it := range page.Items {
			m.at.AtRisk += btoi(it.Margin <= 0)
		}
		m.tell(m.at)
		m.mu.Unlock()
		if err := m.page(ctx, page.Items); err != nil || m.stopped {
			return err
		}
		if o.Cursor = page.Next; o.Cursor == "" {
			return nil
		}
	}
}

// page moves the seats of some secrets, several at a time.
func (m *mover) page(ctx context.Context, items []Listed) error {
	var g sync.WaitGroup
	defer g.Wait()
	slots := make(chan struct{}, moveAtOnce)
	for _, it := range items {
		if m.stopped = !m.wanted(); m.stopped {
			break
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.Go(func() {
			defer func() { <-slots }()
			out, err := m.secret(ctx, it)
			if ctx.Err() == nil || err == nil {
				m.note(it, out, err)
			}
		})
	}
	g.Wait()
	return ctx.Err()
}

// wanted reports whether the node is still to be emptied: ending its draining
// ends the move.
func (m *mover) wanted() bool {
	nodes, err := m.s.cust.drains.of(m.p.Key.Public())
	return err == nil && slices.Contains(nodes, m.from)
}

// movedSeat is what became of one secret.
type movedSeat struct {
	to    key.NodeID // zero: there was nothing to move any more
	bytes int64
	still bool // the old holder has its row yet
	keeps bool // older generations are kept
}

func (m *mover) note(it Listed, one movedSeat, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at.AtRisk -= btoi(it.Margin <= 0)
	m.at.Name = it.Name
	if err != nil {
		m.at.Failed++
		m.out.NotMoved++
		m.out.Denied += btoi(errors.Is(err, ErrDenied))
		if len(m.out.Failed) < maxNotMoved {
			m.out.Failed = append(m.out.Failed, NotMoved{Name: it.Name, ID: it.ID, Why: fmt.Sprintf("%.300s", err.Error())})
		}
		m.tell(m.at)
		return
	}
	m.at.Done++
	m.at.Bytes += one.bytes
	if !one.to.IsZero() {
		m.out.Moved++
		m.out.Bytes += one.bytes
		m.out.Still += btoi(one.still)
		if m.other == nil {
			m.other = make(map[key.NodeID]int)
		}
		m.other[one.to]++
		m.keeps += btoi(one.keeps)
	}
	m.tell(m.at)
}

// result says what was done, and what that means.
func (m *mover) result(took time.Duration) *Moved {
	o, r := m.out, m.s.roster()
	o.Took = took
	slices.SortFunc(o.Failed, func(a, b NotMoved) int { return strings.Compare(a.Name, b.Name) })
	if elsewhere := o.Moved - m.other[m.to]; !m.to.IsZero() && elsewhere > 0 {
		o.Notes = append(o.Notes, fmt.Sprintf("%d seats went to other nodes than %s, which cannot take them: it has or had a seat of these secrets, or operator and zone limits stand against it", elsewhere, r.name(m.to)))
	}
	if old := r[m.from]; o.Moved > 0 && !old.Online && !old.Revoked {
		o.Notes = append(o.Notes, fmt.Sprintf("puts count on %s until it is removed from the network, or each secret was put or reshared once more", r.name(m.from)))
	}
	if m.stopped {
		o.Notes = append(o.Notes, "it was ended: the node is not drained any more")
	}
	if m.keeps > 0 {
		o.Notes = append(o.Notes, fmt.Sprintf("%d secrets keep older generations, whose rows stay where they are", m.keeps))
	}
	for _, id := range m.silent {
		if id != m.from {
			o.Notes = append(o.Notes, fmt.Sprintf("%s did not answer: what only it lists was not looked at", r.name(id)))
		}
	}
	if m.from == m.s.self {
		if n := m.s.cust.index.others(m.p.Key.Public()); n > 0 {
			o.Notes = append(o.Notes, fmt.Sprintf("this node holds seats of %d secrets of other owners, who move them themselves", n))
		}
	}
	return o
}

// errNoNode: nobody can take a seat.
var errNoNode = errors.New("no node can take the seat")
