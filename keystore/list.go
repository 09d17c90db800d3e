package keystore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Limits of a page of a listing.
const (
	defaultList = 100
	maxListing  = 1000
	listTries   = 4
	listPause   = 100 * time.Millisecond // doubled each time
)

// List returns a page of the person's secrets in order of name, out of what all
// nodes say they hold; nothing of it is kept on this node. Names are sealed, so
// every page asks for everything and keeps what it needs. Silent names the
// holders that did not answer: what only they hold is not in the page.
//
// Errors: [ErrInput]; [QuorumError] when nobody answered; [ErrTimeout].
func (s *Store) List(ctx context.Context, p Person, o ListOptions) (Page, error) {
	if o.Limit == 0 {
		o.Limit = defaultList
	}
	if o.Limit < 1 || o.Limit > maxListing || p.Key.IsZero() {
		return Page{}, fmt.Errorf("%w: a page has 1 to %d secrets of a person", ErrInput, maxListing)
	}
	ctx, cancel := within(ctx, o.Timeout)
	defer cancel()
	l := &listing{s: s, owner: p.Key.Public(), o: o, index: share.IndexKey(p.Key, s.cfg.ID), kept: make(map[key.Hash]*listItem), seen: make(map[[32]byte]key.Hash)}
	defer clear(l.index[:])
	r := s.roster()
	silent, err := s.sweep(ctx, p, r, l.take)
	if err != nil {
		return Page{}, err
	}
	page := l.page()
	page.Silent = silent
	return page, nil
}

// sweep asks every node for all it holds of the person and hands each item to
// take, one at a time. It returns the holders that did not answer to the end.
func (s *Store) sweep(ctx context.Context, p Person, r roster, take func(node key.NodeID, st *custody.State, moves [][]byte)) (silent []key.NodeID, err error) {
	var mu sync.Mutex
	answered := 0
	failed := make(map[key.NodeID]bool)
	nodes := r.everyone()
	for _, id := range nodes {
		failed[id] = r[id].Holder
	}
	gather(ctx, s, r, nodes, func(ctx context.Context, id key.NodeID) (struct{}, error) {
		return struct{}{}, s.sweepNode(ctx, p, id, func(st *custody.State, moves [][]byte) {
			mu.Lock()
			defer mu.Unlock()
			take(id, st, moves)
		})
	}, func(id key.NodeID, _ struct{}, err error) bool {
		if err == nil {
			answered++
			delete(failed, id)
		}
		return false
	})
	mu.Lock() // a node that is given up may still be delivering
	defer mu.Unlock()
	for id, holder := range failed {
		if holder {
			silent = append(silent, id)
		}
	}
	slices.SortFunc(silent, func(a, b key.NodeID) int { return slices.Compare(a[:], b[:]) })
	if answered == 0 {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: asking the holders for a listing", ErrTimeout)
		}
		return nil, &QuorumError{Op: "a listing", Need: 1, Seats: describeSilent(r, silent)}
	}
	return silent, nil
}

func describeSilent(r roster, silent []key.NodeID) []SeatState {
	out := make([]SeatState, len(silent))
	for i, id := range silent {
		out[i] = r.seat(id, 0, "unreachable", "")
	}
	return out
}

// sweepNode reads all pages of one node.
func (s *Store) sweepNode(ctx context.Context, p Person, id key.NodeID, take func(*custody.State, [][]byte)) error {
	msg := custody.List{Owner: p.Key.Public(), Limit: custody.MaxList}
	for {
		msg.Query = s.queries.get(s.cfg.ID, p, id)
		reply, err := s.listPage(ctx, id, &msg)
		if err != nil {
			return err
		}
		if reply.Outcome != custody.OK {
			return fmt.Errorf("outcome %d", reply.Outcome)
		}
		moves := make(map[uint64][][]byte, len(reply.Moves))
		for _, m := range reply.Moves {
			moves[m.Item] = m.Reassigns
		}
		for i := range reply.Items {
			take(&reply.Items[i], moves[uint64(i)])
		}
		// The cursor must advance, or a liar keeps this going for ever.
		if !reply.More || slices.Compare(reply.Next[:], msg.Cursor[:]) <= 0 {
			return nil
		}
		msg.Cursor = reply.Next
	}
}

// listPage asks for one page, again after a pause when the node is busy.
func (s *Store) listPage(ctx context.Context, id key.NodeID, msg *custody.List) (*custody.ListReply, error) {
	pause := listPause
	for try := 1; ; try++ {
		reply := new(custody.ListReply)
		err := s.callWithin(ctx, callTimeout, id, custody.VerbList, key.Marshal(msg), reply)
		if err == nil || try == listTries || !sleep(ctx, pause) {
			return reply, err
		}
		pause *= 2
	}
}

// listing keeps the first names after the cursor while the holders tell theirs.
type listing struct {
	s     *Store
	owner key.PersonPublic
	o     ListOptions
	index [32]byte
	kept  map[key.Hash]*listItem
	seen  map[[32]byte]key.Hash // by SHA-256 of a manifest of what was ever kept
	last  string                // the highest name kept, once there are enough
}

type listItem struct {
	name string
	id   key.Hash
	view *view
}

// peek reads a manifest's label without verifying the signature: the label is
// sealed under the owner's own key and bound to id and generation. What is
// shown is verified afterwards.
func (l *listing) peek(b []byte) (name string, id key.Hash, ok bool) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return "", id, false
	}
	var m share.Manifest
	if key.Unmarshal(o.Body, &m) != nil || m.Owner != l.owner {
		return "", id, false
	}
	label, err := openLabel(&l.index, &m)
	if err != nil {
		return "", id, false
	}
	return label.Name, m.ID, true
}

func (l *listing) take(node key.NodeID, st *custody.State, moves [][]byte) {
	id, ok := l.find(st)
	if !ok {
		return
	}
	item := l.kept[id]
	if item == nil {
		return
	}
	err := item.view.merge(node, st)
	if h := item.view.held[node]; err == nil && h != nil {
		err = item.view.learnMoves(h.committed, moves)
	}
	if err != nil {
		l.s.log.Debug("a holder lists what does not verify", "node", node.Short(), "err", err)
	}
}

// find says which secret an item is of, and keeps it when its name belongs to
// the page.
func (l *listing) find(st *custody.State) (key.Hash, bool) {
	if len(st.Manifest) == 0 {
		t, _, err := share.OpenTombstone(l.s.cfg.ID, st.Tombstone)
		if err != nil {
			return key.Hash{}, false
		}
		return t.ID, true
	}
	sum := sha256.Sum256(st.Manifest)
	if id, ok := l.seen[sum]; ok {
		return id, l.kept[id] != nil
	}
	name, id, ok := l.peek(st.Manifest)
	if !ok || name <= l.o.Cursor || !strings.HasPrefix(name, l.o.Prefix) || l.last != "" && name > l.last {
		return id, false
	}
	if l.kept[id] == nil {
		l.kept[id] = &listItem{name: name, id: id, view: l.s.newView(id)}
		l.shrink()
	}
	l.seen[sum] = id
	return id, true
}

// shrink drops the highest names beyond what a page needs: one more than its
// limit, and some for secrets that turn out to be deleted.
func (l *listing) shrink() {
	room := 2*l.o.Limit + 64
	if len(l.kept) <= room {
		return
	}
	items := l.sorted()
	for _, it := range items[room:] {
		delete(l.kept, it.id)
	}
	l.last = items[room-1].name
}

func (l *listing) sorted() []*listItem {
	items := make([]*listItem, 0, len(l.kept))
	for _, it := range l.kept {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b *listItem) int { return strings.Compare(a.name, b.name) })
	return items
}

func (l *listing) page() Page {
	var page Page
	shown := ""
	for _, it := range l.sorted() {
		best, _ := it.view.latest()
		if best == nil || it.view.deleted(best.m.Gen) || expired(&best.m.Manifest) {
			shown = it.name
			continue
		}
		if len(page.Items) == l.o.Limit {
			page.Next = page.Items[len(page.Items)-1].Name
			return page
		}
		label, err := openLabel(&l.index, &best.m.Manifest)
		if err != nil {
			continue
		}
		page.Items = append(page.Items, it.view.listed(best, label))
		shown = it.name
	}
	if l.last != "" {
		page.Next = shown // names above were dropped on the way
	}
	return page
}

// listed describes the latest manifest with what the holders of the view say.
func (v *view) listed(best *certified, label *share.Label) Listed {
	m := best.m
	out := Listed{Name: label.Name, ID: m.ID, Gen: m.Gen, K: int(m.K), N: m.N(), W: int(m.W), Size: label.Size,
		Labels: labelMap(label), Created: time.Unix(int64(m.Created), 0).UTC()}
	if m.Expires != 0 {
		out.Expires = time.Unix(int64(m.Expires), 0).UTC()
	}
	good := 0
	place := v.placement(m)
	for _, seat := range place.Seats() {
		out.holders = append(out.holders, seat.Node)
		h := v.held[seat.Node]
		if h == nil || h.committed != m.Hash {
			continue
		}
		out.Acked += btoi(h.row != custody.RowNone)
		good += btoi(h.row == custody.RowGood)
	}
	for _, r := range place.Moves() { // not over until the new holder has its row
		if h := v.held[place.Holder(r.X)]; h == nil || h.committed != m.Hash || h.row != custody.RowGood {
			out.holders = append(out.holders, r.Old)
		}
	}
	out.Margin = good - out.K
	out.LastRead, out.LastVerified = v.s.touched(m.ID)
	return out
}
