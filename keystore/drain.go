package keystore

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// maxDrained bounds the nodes that a person drains at a time.
const maxDrained = 256

// drains is which nodes get no seats any more: for a person those that the
// person drains, and for everyone this node once it drains itself. Both are on
// disk. Safe for concurrent use; the zero value needs a shelf.
type drains struct {
	shelf Shelf

	mu     sync.Mutex
	known  map[key.PersonPublic][]key.NodeID // read from the shelf, or written
	looked bool
	closed bool // this node takes no new seats; valid once looked
}

// drainRecord are the nodes that a person drains.
type drainRecord struct {
	key.Head
	Nodes []key.NodeID `cbor:"1,keyasint"`
}

// closedRecord is there while this node takes no new seats.
type closedRecord struct {
	key.Head
	Since uint64 `cbor:"1,keyasint"` // unix seconds
}

func drainPlace(p key.PersonPublic) share.Place {
	return share.Place{Bucket: share.BucketNode, ID: key.T("keymesh/v1/owner/drained", p[:])}
}

func closedPlace() share.Place {
	return share.Place{Bucket: share.BucketNode, ID: key.T("keymesh/v1/holder/closed")}
}

func newDrains(shelf Shelf) *drains {
	return &drains{shelf: shelf, known: make(map[key.PersonPublic][]key.NodeID)}
}

// of are the nodes that the person drains. The result is not to be changed.
func (d *drains) of(p key.PersonPublic) ([]key.NodeID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.load(p)
}

// load is of with mu held.
func (d *drains) load(p key.PersonPublic) ([]key.NodeID, error) {
	if nodes, ok := d.known[p]; ok {
		return nodes, nil
	}
	var r drainRecord
	b, err := d.shelf.Load(drainPlace(p))
	switch {
	case err != nil && d.shelf.NotFound(err):
	case err != nil:
		return nil, err
	default:
		if err := key.Unmarshal(b, &r); err != nil {
			return nil, err
		}
	}
	d.known[p] = r.Nodes
	return r.Nodes, nil
}

// set notes durably that the person drains a node, or does not any more.
func (d *drains) set(ctx context.Context, p key.PersonPublic, node key.NodeID, on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	nodes, err := d.load(p)
	if err != nil {
		return err
	}
	if slices.Contains(nodes, node) == on {
		return nil
	}
	next := slices.DeleteFunc(slices.Clone(nodes), func(n key.NodeID) bool { return n == node })
	if on {
		next = append(next, node)
	}
	if len(next) > maxDrained {
		return fmt.Errorf("%w: %d nodes are being drained already", ErrInput, len(nodes))
	}
	rec := share.Record{Place: drainPlace(p)}
	if len(next) > 0 {
		rec.Value = key.Marshal(&drainRecord{Nodes: next})
	}
	if err := d.shelf.Commit(context.WithoutCancel(ctx), rec); err != nil {
		delete(d.known, p)
		return err
	}
	d.known[p] = next
	return nil
}

// isClosed reports whether this node takes no new seats. A record that cannot
// be read counts.
func (d *drains) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.looked {
		_, err := d.shelf.Load(closedPlace())
		d.looked, d.closed = true, err == nil || !d.shelf.NotFound(err)
	}
	return d.closed
}

// close makes this node take no new seats, durably, or take them again.
func (d *drains) close(ctx context.Context, on bool) error {
	if d.isClosed() == on {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	rec := share.Record{Place: closedPlace()}
	if on {
		rec.Value = key.Marshal(&closedRecord{Since: unix()})
	}
	if err := d.shelf.Commit(context.WithoutCancel(ctx), rec); err != nil {
		d.looked = false
		return err
	}
	d.looked, d.closed = true, on
	return nil
}

// rosterFor is the roster as a put of the person uses it: nodes that the person
// drains come last.
func (s *Store) rosterFor(p Person) roster {
	r := s.roster()
	nodes, err := s.cust.drains.of(p.Key.Public())
	if err != nil {
		s.log.Error("which nodes are being drained", "err", err)
	}
	for _, id := range nodes {
		if m, ok := r[id]; ok {
			m.draining = true
			r[id] = m
		}
	}
	return r
}

// withDrained is the roster without the marks of what is being drained, and
// whether there were any.
func (r roster) withDrained() (roster, bool) {
	out, any := make(roster, len(r)), false
	for id, m := range r {
		any = any || m.draining
		m.draining = false
		out[id] = m
	}
	return out, any
}

// Closed reports whether this node drains itself: it takes no new seats until
// [Store.Drain] is called with false.
func (s *Store) Closed() bool { return s.cust.drains.isClosed() }

// Drain makes the person's puts at this node give no seat to a node any more,
// durably, or as before again when on is false. This node itself then takes no
// new seats of anybody. What the node holds stays there: see [Store.Move].
//
// Errors: [ErrInput] for a node that the roster does not have, unless on is
// false.
func (s *Store) Drain(ctx context.Context, p Person, node key.NodeID, on bool) error {
	if p.Key.IsZero() {
		return fmt.Errorf("%w: no person", ErrInput)
	}
	if _, ok := s.roster()[node]; on && !ok {
		return fmt.Errorf("%w: the network has no node %s", ErrInput, node.Short())
	}
	if node == s.self {
		if err := s.cust.drains.close(ctx, on); err != nil {
			return err
		}
	}
	if err := s.cust.drains.set(ctx, p.Key.Public(), node, on); err != nil {
		return err
	}
	detail := "it is drained: it gets no new seats"
	if !on {
		detail = "it is not drained any more"
	}
	s.cust.note(ctx, AuditRecord{Kind: "drain", Person: p.Key.Public(), Node: node, Detail: detail})
	return nil
}
