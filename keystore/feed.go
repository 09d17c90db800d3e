package keystore

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// maxEvents is how many events of one person are kept, in memory.
const maxEvents = 256

// Kinds of an [Event].
const (
	EventRequest   = "request"   // a request came in
	EventWord      = "word"      // words on it are known that were not before
	EventReleased  = "released"  // a holder gave its row
	EventVetoed    = "vetoed"    // it was ended for good
	EventWithdrawn = "withdrawn" // who asked took it back
)

// Event is something that happened to a request that a person here owns the
// secret of, may approve or may stop.
type Event struct {
	// ID names the event within this run of the node; ids of one run are in
	// order, those of another run are of no use.
	ID      string
	Time    time.Time
	Kind    string
	Request RequestView // as it was then
}

// Events are what [Store.Events] returns.
type Events struct {
	List []Event // the oldest first
	// Gap: events between the one asked after and the first of List may be lost.
	Gap  bool
	Last string // id of the newest event there is, to ask after
	// Changed is closed at the next event.
	Changed <-chan struct{}
}

// fed is an event as it is kept.
type fed struct {
	seq  uint64
	at   time.Time
	kind string
	n    *told // immutable
}

// ring is what is kept for one person.
type ring struct {
	last    uint64
	list    []fed
	changed chan struct{}
}

// feed keeps the last events of each person here. Safe for concurrent use.
type feed struct {
	run   string // names this run
	mu    sync.Mutex
	rings map[key.PersonPublic]*ring
}

func newFeed() *feed {
	return &feed{run: rand.Text()[:10], rings: map[key.PersonPublic]*ring{}}
}

// of is the ring of a person of this node. The caller holds mu.
func (f *feed) of(p key.PersonPublic) *ring {
	r := f.rings[p]
	if r == nil {
		r = &ring{changed: make(chan struct{})}
		f.rings[p] = r
	}
	return r
}

// changed notes what is new in a request for those persons here whom it
// concerns. old is nil for one that came in.
func (f *feed) changed(here []key.PersonPublic, old, n *told) {
	kinds := news(old, n)
	if len(kinds) == 0 {
		return
	}
	who := n.v.audience()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range here {
		if !slices.Contains(who, p) {
			continue
		}
		r := f.of(p)
		for _, kind := range kinds {
			r.last++
			r.list = append(r.list, fed{r.last, time.Now(), kind, n})
		}
		if over := len(r.list) - maxEvents; over > 0 {
			r.list = slices.Clone(r.list[over:])
		}
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

func news(old, n *told) []string {
	var out []string
	heard, closed, released := 0, uint8(custody.Open), false
	if old == nil {
		out = append(out, EventRequest)
	} else {
		heard, closed, released = len(old.words), closedBy(old.request, old.v, old.words), old.released
	}
	switch now := closedBy(n.request, n.v, n.words); {
	case now != closed && now == custody.Vetoed:
		out = append(out, EventVetoed)
	case now != closed && now == custody.Withdrawn:
		out = append(out, EventWithdrawn)
	case len(n.words) > heard:
		out = append(out, EventWord)
	}
	if n.released && !released {
		out = append(out, EventReleased)
	}
	return out
}

// Events returns what happened after the event with the id after: "" stands for
// now, "0" for all that is kept. They are kept in memory, the last 256 of a
// person: a restart forgets them, while [Store.Requests] still has the requests.
//
// Errors: [ErrInput].
func (s *Store) Events(_ context.Context, p Person, after string) (Events, error) {
	if p.Key.IsZero() || !slices.Contains(s.here(), p.Key.Public()) {
		return Events{}, fmt.Errorf("%w: nobody of this node", ErrInput)
	}
	f := s.asks.feed
	f.mu.Lock()
	r := f.of(p.Key.Public())
	out := Events{Last: f.run + "." + strconv.FormatUint(r.last, 10), Changed: r.changed}
	list := slices.Clone(r.list)
	f.mu.Unlock()
	if after == "" {
		return out, nil
	}
	seq, known := f.parse(after, list)
	out.Gap = !known
	members := s.roster()
	for _, e := range list {
		if e.seq <= seq {
			continue
		}
		v := s.viewOf(e.n.request, e.n.v, e.n.words, e.n.name, p, members)
		if e.n.released && v.State == "open" {
			v.State = "released"
		}
		out.List = append(out.List, Event{ID: f.run + "." + strconv.FormatUint(e.seq, 10), Time: e.at, Kind: e.kind, Request: v})
	}
	return out, nil
}

// ownName is the name in the label of the person's own secret, or "".
func (s *Store) ownName(p Person, v *version) string {
	index := share.IndexKey(p.Key, s.cfg.ID)
	defer clear(index[:])
	if label, err := openLabel(&index, &v.Manifest); err == nil {
		return label.Name
	}
	return ""
}

// parse finds the place of an id, and says whether everything after it is in the
// list.
func (f *feed) parse(after string, list []fed) (seq uint64, known bool) {
	if after == "0" {
		return 0, true
	}
	run, number, _ := strings.Cut(after, ".")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || run != f.run {
		return 0, false
	}
	return seq, len(list) == 0 || list[0].seq <= seq+1
}
