package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// Recover returns the value of a secret, by default of its latest generation.
// It is exactly the bytes that were put, or there is an error: rows are checked
// against the commitments that the owner signed, the data key against its key
// check, the payload by its seal.
//
// Errors: [ErrInput]; [ErrNotFound] when there is none, or no such generation;
// [ErrDenied] when every holder that answered refused; [QuorumError] naming who
// is missing; [IntegrityError] naming who lied, when that is why k rows are
// missing, or when what holders show is older than what was seen certified
// before; [PendingError] when approvals or delays are missing: the request lives
// on, see [Store.Continue]; [ErrVetoed]; [ConflictError] with Fork when two
// certified manifests of one generation exist; [ErrTimeout].
func (s *Store) Recover(ctx context.Context, p Person, name string, o RecoverOptions) (Recovered, error) {
	h, err := s.wanted(p, name, o)
	if err != nil {
		return Recovered{}, err
	}
	defer h.done()
	if len(o.Reason) > share.MaxPurpose {
		return Recovered{}, fmt.Errorf("%w: the reason has more than %d bytes", ErrInput, share.MaxPurpose)
	}
	out, err := s.recover(ctx, p, h, o, nil)
	var pend *PendingError
	if errors.As(err, &pend) && o.Wait > 0 {
		return s.Continue(ctx, p, pend.Request, o.Wait)
	}
	return out, err
}

// wanted is what the person asks for: a secret of their own by its name, or any
// by its id.
func (s *Store) wanted(p Person, name string, o RecoverOptions) (*secret, error) {
	if o.ID.IsZero() {
		return s.secret(p, name)
	}
	if p.Key.IsZero() {
		return nil, fmt.Errorf("%w: no person", ErrInput)
	}
	if name != "" {
		if err := CheckName(name); err != nil {
			return nil, err
		}
	}
	return &secret{owner: p.Key.Public(), name: name, id: o.ID}, nil
}

// stated reports whether the error already says what the deadline did.
func (g *reading) stated(err error) bool {
	var q *QuorumError
	return errors.As(err, &q) || errors.Is(err, ErrTimeout)
}

// reading is one recovery under way. One goroutine owns it.
type reading struct {
	s      *Store
	p      Person
	h      *secret
	o      RecoverOptions
	roster roster
	view   *view
	wide   bool // all nodes were asked what they have

	request *share.SignedRequest
	key     *seal.PrivateKey
	kept    *ask // when the request is journaled
	names   []custody.NameBox
	words   []*heardWord
	use     *share.SignedManifest // with the nodes that hold its seats now
	seats   map[key.NodeID]*seatRead
	ct      []byte
	ctFrom  key.NodeID
	bad     map[key.NodeID]string
	need    int      // words that nothing is higher
	spread  key.Hash // the manifest whose certificate was sent to seats that lag
	told    bool     // seats were shown a newer epoch
}

// seatRead is how far a seat of the manifest in use is.
type seatRead struct {
	asked   int
	busy    bool
	rows    map[epochKey]gotRow // good ones
	held    *custody.Progress
	current bool   // says that nothing certified is higher than what is used
	state   string // of SeatState
	why     string
}

// maxSwitches bounds how often a reading goes over to a higher manifest that
// shows up while it runs.
const maxSwitches = 8

func (g *reading) run(ctx context.Context) (Recovered, error) {
	g.bad = make(map[key.NodeID]string)
	defer g.erase()
	if err := g.choose(ctx); err != nil {
		return Recovered{}, err
	}
	for range maxSwitches {
		next, err := g.collect(ctx)
		if err != nil {
			return Recovered{}, err
		}
		if next == nil {
			return g.join()
		}
		g.use = g.view.placed(next.m)
	}
	return Recovered{}, &QuorumError{Op: "get, overtaken by one write after another,", Need: int(g.use.K), Seats: g.states()}
}

// erase overwrites the rows of a seat.
func (r *seatRead) erase() {
	for _, got := range r.rows {
		clear(got.row)
	}
	r.rows = nil
}

// erase overwrites what a reading holds of the secret.
func (g *reading) erase() {
	for _, r := range g.seats {
		r.erase()
	}
}

// latest: the caller wants whatever is the latest.
func (g *reading) latest() bool { return g.o.Gen == 0 && g.o.Manifest.IsZero() }

// choose finds the manifest to use.
func (g *reading) choose(ctx context.Context) error {
	if g.latest() {
		g.s.atHand(ctx, g.view)
		best, fork := g.view.latest()
		if best != nil && fork == nil && g.fresh(best) && !(g.canFork(best) && g.s.known.look(g.h.id)) {
			g.use = g.view.placed(best.m)
			return nil
		}
	}
	return g.ask(ctx)
}

// canFork: the network has nodes enough for two lines of the secret, each with
// w seats of its own (W4). Then all nodes are asked now and then.
func (g *reading) canFork(c *certified) bool {
	holders := 0
	for _, m := range g.roster {
		holders += btoi(m.Holder)
	}
	return holders >= 2*int(c.m.W)
}

// fresh: nothing higher was ever seen certified.
func (g *reading) fresh(c *certified) bool {
	mark, err := g.s.mark(g.h.id)
	return err == nil && mark.Gen <= c.m.Gen
}

// ask asks all nodes what they have and chooses from that.
func (g *reading) ask(ctx context.Context) error {
	g.wide = true
	g.roster = g.s.roster()
	l := g.s.locate(ctx, g.p, g.view, g.roster, g.roster.everyone(), g.enough)
	for _, b := range l.lied {
		g.bad[b.Node] = b.Why
	}
	if c := g.view.complete(); c != nil {
		g.s.spread(ctx, c)
	}
	best, fork := g.view.latest()
	switch {
	case !g.o.Manifest.IsZero():
		return g.byHash(l)
	case fork != nil:
		return forkError(best, fork)
	case g.o.Gen != 0:
		return g.byGen(l, best)
	case best == nil || g.view.deleted(best.m.Gen):
		return g.notThere(l, best)
	}
	if err := g.notBehind(l, best); err != nil {
		return err
	}
	g.use = g.view.placed(best.m)
	g.s.remember(best, false)
	g.s.known.look(g.h.id)
	return nil
}

// enough: everyone with a link has answered, or the seats of the latest
// manifest have said all that is needed to use it.
func (g *reading) enough(l *located) bool {
	best, fork := g.view.latest()
	if best != nil && fork == nil && g.latest() && !g.canFork(best) && !g.view.deleted(best.m.Gen) && len(g.view.live(best.m.Gen)) == 0 && g.fresh(best) {
		said := 0
		for _, seat := range best.m.Seats {
			said += btoi(g.view.nothingAbove(seat.Node, best.m.Gen))
		}
		if said >= believed(&best.m.Manifest) {
			return true
		}
	}
	for id := range l.failed {
		if l.roster[id].Online {
			return false
		}
	}
	return best != nil || len(l.failed) <= maxUnheard
}

// maxUnheard is how many nodes may be silent when a name is said to be unknown.
// A generation is acknowledged only once w seats have committed it; of these at
// most f = w-k lie, so with s silent nodes at least w-f-s = k-s honest ones
// that have it have answered. k is 2 or more: with one silent node there is
// always one that knows, whatever the secret's numbers are.
const maxUnheard = 1

// notThere says that there is no such secret, if enough nodes have said so.
func (g *reading) notThere(l *located, best *certified) error {
	silent := l.silent()
	for _, st := range silent {
		if !g.roster[st.Node].Holder {
			silent = slices.DeleteFunc(silent, func(o SeatState) bool { return o.Node == st.Node })
		}
	}
	mark, err := g.s.mark(g.h.id)
	if err != nil {
		return err
	}
	if t := g.view.tomb(); t != nil && len(t.consent) == 0 && g.view.deleted(mark.Gen) {
		g.s.known.drop(g.h.id) // else its policy is needed to judge the tombstone again
	}
	if mark.Gen != 0 && !g.view.deleted(mark.Gen) && best == nil && len(silent) == 0 {
		return g.rolledBack(mark, l)
	}
	if len(silent) > maxUnheard || mark.Gen != 0 && !g.view.deleted(mark.Gen) {
		return &QuorumError{Op: "saying that there is no such secret", Need: len(l.answered) + len(silent) - maxUnheard, Have: len(l.answered), Seats: silent}
	}
	return ErrNotFound
}

// notBehind refuses a generation below the highest ever seen certified.
func (g *reading) notBehind(l *located, best *certified) error {
	mark, err := g.s.mark(g.h.id)
	if err != nil {
		return err
	}
	if mark.Gen <= best.m.Gen || g.view.deleted(mark.Gen) {
		return nil
	}
	if silent := l.silent(); len(silent) > 0 {
		return &QuorumError{Op: fmt.Sprintf("get of generation %d, which was seen certified,", mark.Gen), Need: len(l.answered) + 1, Have: len(l.answered), Seats: silent}
	}
	return g.rolledBack(mark, l)
}

// rolledBack: everyone has answered, and what was seen certified is gone.
func (g *reading) rolledBack(mark readerMark, l *located) error {
	e := &IntegrityError{Need: 1}
	for id := range l.answered {
		gen := uint64(0)
		if h := g.view.held[id]; h != nil {
			gen = h.gen
		}
		e.Bad = append(e.Bad, BadRow{Node: id, Name: g.roster.name(id), Why: fmt.Sprintf("shows generation %d; %d was certified", gen, mark.Gen)})
	}
	sortBad(e.Bad)
	return e
}

// byHash uses the manifest that the caller named, which is how either side of
// a fork is read.
func (g *reading) byHash(l *located) error {
	m := g.view.byHash[g.o.Manifest]
	if m == nil || g.o.Gen != 0 && m.Gen != g.o.Gen {
		return g.notThere(l, nil)
	}
	g.use = g.view.placed(m)
	return nil
}

// byGen uses a generation that is kept as history, or the latest one.
func (g *reading) byGen(l *located, best *certified) error {
	votes := make(map[key.Hash]int)
	for _, h := range g.view.held {
		for _, hash := range append(slices.Clone(h.history), h.committed) {
			if m := g.view.byHash[hash]; m != nil && m.Gen == g.o.Gen {
				votes[hash]++
			}
		}
	}
	most := 0
	for hash, n := range votes {
		if m := g.view.byHash[hash]; n > most && !g.view.deleted(m.Gen) {
			most, g.use = n, g.view.placed(m)
		}
	}
	switch {
	case g.use != nil:
		return nil
	case best == nil:
		return g.notThere(l, nil)
	case g.unknown(l, best):
		return ErrNotFound
	}
	return &QuorumError{Op: "saying that there is no such generation", Need: len(l.answered) + 1, Have: len(l.answered), Seats: l.silent()}
}

// unknown: a generation above the latest would be known to one of n-k+1 of its
// seats that does not lie, and fewer than k silent nodes cannot have the rows of an older one.
func (g *reading) unknown(l *located, best *certified) bool {
	if g.o.Gen < best.m.Gen {
		return len(l.failed) < share.MinK
	}
	said := 0
	for _, seat := range best.m.Seats {
		said += btoi(g.view.nothingAbove(seat.Node, g.o.Gen-1))
	}
	return said >= believed(&best.m.Manifest)
}

func forkError(a, b *certified) error {
	return &ConflictError{Want: a.m.Gen, Have: b.m.Gen, Fork: []key.Hash{a.m.Hash, b.m.Hash},
		Why: "two certified lines of this secret exist; read either by its manifest, and put with force to heal"}
}

// expired reports whether nothing of m is released any more.
func expired(m *share.Manifest) bool { return m.Expires != 0 && unix() >= m.Expires }

// words describes the policy of a manifest.
func (s *Store) words(p Person, m *share.Manifest, r roster) string {
	pol, err := policy.Parse(m.Policy)
	if err != nil {
		return "not readable by this version"
	}
	return pol.Words(s.namer(p, m, r))
}

// namer names persons in words: by the names that the one who asks gave them,
// else by their nodes.
func (s *Store) namer(me Person, m *share.Manifest, r roster) func(key.PersonPublic) string {
	return func(p key.PersonPublic) string {
		if p == m.Owner {
			return "the owner"
		}
		if me.Names != nil {
			if name := me.Names(p); name != "" {
				return name
			}
		}
		for _, member := range r {
			if slices.Contains(member.Persons, p) {
				return "the person of " + r.name(member.ID)
			}
		}
		return p.String()[:len("person-")+8]
	}
}

// hedge is how long the first seats have before the others are asked.
const hedge = 300 * time.Millisecond

// fewReads is up to how many recoveries at a time ask one seat more than they
// need: beyond, what the machine has to do decides, not the slowest seat.
const fewReads = 4

// reply of one seat, verified in its own goroutine.
type rowReply struct {
	state   *custody.State
	outcome uint8
	seconds uint64
	why     string
	of      key.Hash // the manifest whose row it is
	rows    map[epochKey]gotRow
	held    *custody.Progress
	payload []byte
	moves   [][]byte // Reassigns of the manifest in force there
	lie     string   // why the answer is dropped
}
