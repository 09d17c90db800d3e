package keystore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
	"keymesh/keystore/policy"
)

// Bounds of what this node is told of requests. Whoever is a member can name a
// person here in a policy of their own, so what comes by way of one operator's
// nodes, and what concerns one owner, leaves room for others. Requests on
// secrets that persons here own have a bound of their own.
const (
	maxTold         = 1024
	maxToldOwner    = 32 // on secrets of one owner who is not at this node
	maxToldOperator = 256
	maxToldHere     = 1024 // on secrets of persons here
)

// told is a request that this node was told of, with what is proven of it.
type told struct {
	request  *share.SignedRequest
	v        *version // whose policy a seat says is in force
	operator string   // of the seat that told first
	name     string   // proven, or empty
	tag      key.Hash
	words    []*heardWord
	released bool // a seat says that it gave its row
	wait     time.Duration
	at       time.Time // when wait was said, in this run
	// unsent are the seats that have not acknowledged a word of a person here.
	unsent map[key.PersonPublic][]key.NodeID
}

// toldRecord is the record of a told.
type toldRecord struct {
	key.Head
	Request  []byte         `cbor:"1,keyasint"`
	Manifest []byte         `cbor:"2,keyasint"`
	Operator string         `cbor:"3,keyasint"`
	Name     string         `cbor:"4,keyasint"`
	Tag      key.Hash       `cbor:"5,keyasint"`
	Words    [][]byte       `cbor:"6,keyasint"`
	Released bool           `cbor:"7,keyasint"`
	Unsent   []unsentRecord `cbor:"8,keyasint"`
}

type unsentRecord struct {
	_      struct{} `cbor:",toarray"`
	Person key.PersonPublic
	Nodes  []key.NodeID
}

func (n *told) clone() *told {
	c := *n
	c.unsent = make(map[key.PersonPublic][]key.NodeID, len(n.unsent))
	for p, nodes := range n.unsent {
		c.unsent[p] = nodes
	}
	return &c
}

func (n *told) record() []byte {
	r := &toldRecord{Request: n.request.Object.Encode(), Manifest: n.v.Bytes(), Operator: n.operator, Name: n.name, Tag: n.tag, Released: n.released}
	for _, w := range n.words {
		r.Words = append(r.Words, w.bytes)
	}
	for p, nodes := range n.unsent {
		r.Unsent = append(r.Unsent, unsentRecord{Person: p, Nodes: nodes})
	}
	slices.SortFunc(r.Unsent, func(a, b unsentRecord) int { return slices.Compare(a.Person[:], b.Person[:]) })
	return key.Marshal(r)
}

// readTold reads a record that this node wrote; it is verified all the same.
func (s *Store) readTold(raw []byte) (*told, error) {
	var r toldRecord
	if err := key.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	n, err := s.openTold(r.Request, r.Manifest)
	if err != nil {
		return nil, err
	}
	n.operator, n.name, n.tag, n.released = r.Operator, r.Name, r.Tag, r.Released
	n.words = s.openWords(n.request, n.v, r.Words)
	for _, u := range r.Unsent {
		n.unsent[u.Person] = u.Nodes
	}
	return n, nil
}

// openTold verifies a request and the manifest whose policy judges it: nothing
// else of what a seat tells is proven.
func (s *Store) openTold(request, manifest []byte) (*told, error) {
	r, err := share.ReadRequest(s.cfg.ID, request)
	if err != nil {
		return nil, err
	}
	m, err := share.OpenManifest(s.cfg.ID, manifest)
	if err != nil {
		return nil, err
	}
	n := &told{request: r, v: newVersion(m), unsent: make(map[key.PersonPublic][]key.NodeID)}
	if m.ID != r.ID || n.v.policy == nil || !n.v.isParty(r.Person) {
		return nil, fmt.Errorf("%w: its signer is no party, or it is on another secret", share.ErrRequest)
	}
	return n, nil
}

// here are the persons of this node.
func (s *Store) here() []key.PersonPublic {
	if s.cfg.Persons == nil {
		return nil
	}
	return s.cfg.Persons()
}

// notified serves NOTIFY. Everything is verified before it is kept: the
// request, that its signer is a party of a policy that its owner signed, that
// the sender has a seat of that secret, that somebody here is concerned, the
// words on it, and the name against the salt.
func (s *Store) notified(ctx context.Context, from key.NodeID, q *custody.Notify) (*custody.NotifyReply, error) {
	refused := &custody.NotifyReply{Outcome: custody.Refused}
	if len(q.Words) > maxHeard || len(q.Name) > custody.MaxNameBox || s.asks.load() != nil {
		return refused, nil
	}
	n, err := s.openTold(q.Request, q.Manifest)
	if err != nil || n.request.Verb == share.VerbRehearse || n.v.SeatOf(from) == nil || !s.concerned(n) {
		return refused, nil
	}
	delayed := n.v.policy.LongestWait() > 0
	if n.request.CheckTime(unix()) != nil && !(delayed && q.Stage > custody.StageAsked) {
		return refused, nil
	}
	n.operator = s.cust.facts(from).operator
	n.words = s.openWords(n.request, n.v, q.Words)
	n.released = q.Stage == custody.StageReleased
	n.wait, n.at = time.Duration(min(q.Wait, share.RequestLifeMax))*time.Second, time.Now()
	n.name, n.tag = s.openName(n, q.Name)
	switch err := s.asks.told(ctx, n); {
	case err == nil:
		return &custody.NotifyReply{Outcome: custody.OK}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return &custody.NotifyReply{Outcome: custody.Full}, nil
}

// concerned reports whether a person here owns the secret, may approve or may
// veto.
func (s *Store) concerned(n *told) bool {
	who := n.v.audience()
	return slices.ContainsFunc(s.here(), func(p key.PersonPublic) bool { return slices.Contains(who, p) })
}

// openName opens the box for this node; what does not give the salt of the
// manifest is no name.
func (s *Store) openName(n *told, box []byte) (string, key.Hash) {
	if len(box) == 0 || s.cfg.SealingKeys == nil {
		return "", key.Hash{}
	}
	for _, k := range s.cfg.SealingKeys() {
		plain, err := k.Open(nameInfo(s.self, n.request.Hash), box)
		if err != nil {
			continue
		}
		var name custody.Name
		err = key.Unmarshal(plain, &name)
		clear(plain)
		if err == nil && CheckName(name.Name) == nil && share.Salt(name.Tag, name.Name) == n.v.Salt {
			return name.Name, name.Tag
		}
	}
	return "", key.Hash{}
}

// told takes in what a seat told. Seats tell the same many times over: only
// what changes is written.
func (b *book) told(ctx context.Context, n *told) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	old := b.inbox[n.request.Hash]
	full := old == nil && b.full(n)
	b.mu.Unlock()
	if full {
		return ErrFull
	}
	next := n
	changed := true
	if old != nil {
		next = old.clone()
		next.words = merged(old.words, n.words)
		next.released = old.released || n.released
		next.wait, next.at = n.wait, n.at
		if next.name == "" {
			next.name, next.tag = n.name, n.tag
		}
		if n.v.Gen > old.v.Gen && n.v.Owner == old.v.Owner {
			next.v = n.v
		}
		changed = len(next.words) != len(old.words) || next.released != old.released || next.name != old.name || next.v != old.v
	}
	return b.put(ctx, next, changed)
}

// put keeps a told, on disk when it changed. The caller holds writing.
func (b *book) put(ctx context.Context, n *told, changed bool) error {
	if changed {
		rec := share.Record{Place: inboxPlace(n.request.ID, n.request.Hash), Value: n.record()}
		if err := b.s.cfg.Shelf.Commit(context.WithoutCancel(ctx), rec); err != nil {
			return err
		}
	}
	b.mu.Lock()
	old := b.inbox[n.request.Hash]
	b.inbox[n.request.Hash] = n
	b.mu.Unlock()
	b.feed.changed(b.s.here(), old, n)
	return nil
}

// full says whether there is room for one more like n. The caller holds mu.
func (b *book) full(n *told) bool {
	here := b.s.here()
	ours := slices.Contains(here, n.v.Owner)
	all, own, operator, owner := 0, 0, 0, 0
	for _, o := range b.inbox {
		if slices.Contains(here, o.v.Owner) {
			own++
			continue
		}
		all++
		operator += btoi(o.operator == n.operator)
		owner += btoi(o.v.Owner == n.v.Owner)
	}
	if ours {
		return own >= maxToldHere
	}
	return all >= maxTold || operator >= maxToldOperator || owner >= maxToldOwner
}

// find returns what this node was told of a request.
func (b *book) find(request key.Hash) *told {
	if b.load() != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inbox[request]
}

// Requests returns the requests that this person made at this node, and those
// of others that wait for the person's word or that the person may stop,
// youngest first. Nothing is asked of anybody; [Store.Continue] does.
//
// Errors: [ErrInput].
func (s *Store) Requests(ctx context.Context, p Person) ([]RequestView, error) {
	if p.Key.IsZero() {
		return nil, fmt.Errorf("%w: no person", ErrInput)
	}
	if err := s.asks.load(); err != nil {
		return nil, err
	}
	me, r := p.Key.Public(), s.roster()
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	var out []RequestView
	for _, a := range s.asks.asked {
		if a.request.Person == me {
			v := s.viewOf(a.request, newVersion(a.m), a.words, a.name, p, r)
			v.Wait = max(0, a.wait-time.Since(a.at))
			out = append(out, v)
		}
	}
	for _, n := range s.asks.inbox {
		if n.request.Person == me && n.request.Verb == share.VerbRecover || !slices.Contains(n.v.audience(), me) {
			continue // one's own recoveries are above; other requests seats tell of
		}
		v := s.viewOf(n.request, n.v, n.words, n.name, p, r)
		if v.Wait = max(0, n.wait-time.Since(n.at)); n.released && v.State == "open" {
			v.State = "released"
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b RequestView) int {
		return cmp.Or(b.Created.Compare(a.Created), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	return out, ctx.Err()
}

// viewOf shows a request to a person.
func (s *Store) viewOf(r *share.SignedRequest, v *version, words []*heardWord, name string, p Person, members roster) RequestView {
	me := p.Key.Public()
	if name == "" && v.Owner == me {
		name = s.ownName(p, v)
	}
	out := RequestView{
		Hash: r.Hash, Words: key.Words(r.Hash, 6), ID: r.ID, Name: name, Gen: r.Gen, Verb: r.Verb,
		Owner: v.Owner, Requester: r.Person, Reason: r.Purpose, Created: timeOf(r.Created), Expires: timeOf(r.Expires),
		Mine: r.Person == me, State: "open",
	}
	j := judgeWords(r, v, words)
	out.Have, out.Need, out.Missing = j.Have, j.Need, j.Missing
	if v.policy != nil {
		out.Missing = v.policy.Missing(evidenceOf(r, v, words), s.namer(p, &v.Manifest, members))
	}
	if m := s.changeOf(r); m != nil {
		out.Change = m.Policy
	}
	out.Approver = !out.Mine && v.policy != nil && slices.Contains(v.policy.Approvers(v.Owner), me)
	out.Veto = v.mayVeto(me)
	for _, w := range words {
		out.Approvals = append(out.Approvals, ApprovalView{w.Person, w.Verdict, w.Note})
	}
	switch closedBy(r, v, words) {
	case custody.Vetoed:
		out.Vetoed, out.State = true, "vetoed"
	case custody.Withdrawn:
		out.State = "withdrawn"
	default:
		if r.CheckTime(unix()) != nil {
			out.State = "expired"
		}
	}
	return out
}

// closedBy says whether a word on the request ended it for good.
func closedBy(r *share.SignedRequest, v *version, words []*heardWord) uint8 {
	closed := uint8(custody.Open)
	for _, w := range words {
		switch {
		case w.Verdict != share.VerdictVeto:
		case w.Person == r.Person:
			return custody.Withdrawn
		case v.mayVeto(w.Person):
			closed = custody.Vetoed
		}
	}
	return closed
}

// judgeWords is what the policy says of the words known here.
func judgeWords(r *share.SignedRequest, v *version, words []*heardWord) policy.Verdict {
	if v.policy == nil {
		return policy.Verdict{Missing: []string{"a policy that this node can read"}}
	}
	return v.policy.Evaluate(evidenceOf(r, v, words))
}

// evidenceOf are the signatures known here: no delay has passed and no operator
// has confirmed.
func evidenceOf(r *share.SignedRequest, v *version, words []*heardWord) policy.Evidence {
	signers := []key.PersonPublic{r.Person}
	for _, w := range words {
		denied := slices.ContainsFunc(words, func(o *heardWord) bool { return o.Person == w.Person && o.Verdict == share.VerdictVeto })
		if w.Verdict == share.VerdictApprove && !denied {
			signers = append(signers, w.Person)
		}
	}
	return policy.Evidence{Owner: v.Owner, Signers: signers}
}

func timeOf(unix uint64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(int64(min(unix, 1<<40)), 0)
}
