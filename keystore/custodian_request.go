package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// requests are those that this holder keeps, in memory as on disk. A request is
// changed under the lock of its secret. Safe for concurrent use.
type requests struct {
	most      int // of one operator
	mu        sync.Mutex
	byID      map[key.Hash]map[key.Hash]*requestState
	operators map[string]usage
}

func newRequests(most int) *requests {
	return &requests{most: most, byID: map[key.Hash]map[key.Hash]*requestState{}, operators: map[string]usage{}}
}

// charge counts a request to the operator by way of whose node it came.
func (q *requests) charge(r *requestState, sign int) {
	u := q.operators[r.operator]
	u.records, u.bytes = u.records+sign, u.bytes+int64(sign)*r.size()
	if u == (usage{}) {
		delete(q.operators, r.operator)
		return
	}
	q.operators[r.operator] = u
}

func (q *requests) get(id, hash key.Hash) *requestState {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.byID[id][hash]
}

func (q *requests) put(r *requestState, id, hash key.Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byID[id] == nil {
		q.byID[id] = map[key.Hash]*requestState{}
	}
	if old := q.byID[id][hash]; old != nil {
		q.charge(old, -1)
	}
	q.charge(r, 1)
	q.byID[id][hash] = r
}

func (q *requests) drop(id, hash key.Hash) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.byID[id][hash]
	if r == nil {
		return
	}
	q.charge(r, -1)
	if delete(q.byID[id], hash); len(q.byID[id]) == 0 {
		delete(q.byID, id)
	}
}

// of are those on one secret.
func (q *requests) of(id key.Hash) []*requestState {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]*requestState, 0, len(q.byID[id]))
	for _, r := range q.byID[id] {
		if !r.damaged {
			out = append(out, r)
		}
	}
	return out
}

// all are those that can be read, on any secret.
func (q *requests) all() []*requestState {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []*requestState
	for _, m := range q.byID {
		for _, r := range m {
			if !r.damaged {
				out = append(out, r)
			}
		}
	}
	return out
}

// has reports whether a word with this hash is here.
func (q *requests) has(id, hash key.Hash) bool {
	for _, r := range q.of(id) {
		if slices.ContainsFunc(r.words, func(w *word) bool { return w.hash == hash }) {
			return true
		}
	}
	return false
}

// room says why one more request by way of this operator's nodes is not taken,
// and which that has ended may go for it.
func (q *requests) room(next *requestState) (*requestState, string) {
	open, kept := 0, 0
	var old *requestState
	for _, r := range q.of(next.ID) {
		if r.Person != next.Person {
			continue
		}
		kept++
		open += btoi(r.open())
		if r.released && r.closed == custody.Open && (old == nil || r.until < old.until) {
			old = r
		}
	}
	if next.open() && open >= maxUnderWay {
		return nil, fmt.Sprintf("%d requests of this person for it are under way here", open)
	}
	q.mu.Lock()
	all := q.operators[next.operator]
	full := all.records >= q.most || all.bytes+next.size() > maxOfOperator
	q.mu.Unlock()
	switch {
	case kept < maxKept && !full:
		return nil, ""
	case old != nil:
		return old, ""
	}
	return nil, "too many requests are kept here"
}

// buildRequests loads what is kept, and the running time.
func (c *custodian) buildRequests() error {
	var ran uint64
	var rec clockRecord
	b, err := c.cfg.Shelf.Load(clockPlace())
	switch {
	case err == nil:
		if err := key.Unmarshal(b, &rec); err != nil {
			return fmt.Errorf("the running time: %w", err)
		}
		ran = rec.Seconds
	case c.cfg.Shelf.Corrupt(err):
		c.log.Error("the running time is damaged; delays that run begin anew")
	case !c.cfg.Shelf.NotFound(err):
		return fmt.Errorf("loading the running time: %w", err)
	}
	for _, id := range c.cfg.Shelf.IDs(share.BucketRequest) {
		for _, p := range c.cfg.Shelf.Places(share.BucketRequest, id) {
			if p.X != 0 {
				continue // of one who asks or is asked at this node
			}
			r, err := c.loadRequest(p)
			if err != nil {
				return err
			}
			for _, s := range r.starts {
				ran = max(ran, s.at)
			}
			c.requests.put(r, p.ID, p.Sub)
		}
	}
	c.clock.start(ran)
	return nil
}

// loadRequest reads one record. A damaged one stands for the request still: it
// may have been vetoed, so nothing is given to it.
func (c *custodian) loadRequest(p share.Place) (*requestState, error) {
	b, err := c.cfg.Shelf.Load(p)
	if err != nil && !c.cfg.Shelf.Corrupt(err) && !c.cfg.Shelf.NotFound(err) {
		return nil, fmt.Errorf("loading a request: %w", err)
	}
	if err == nil {
		var r *requestState
		if r, err = requestOf(c.cfg.ID, p, b); err == nil {
			return r, nil
		}
	}
	c.log.Error("the record of a request is damaged; it is refused", "err", err)
	return &requestState{SignedRequest: &share.SignedRequest{Request: share.Request{ID: p.ID}, Hash: p.Sub}, damaged: true}, nil
}

// arrival is a request as it came, with what came along.
type arrival struct {
	*share.SignedRequest
	from      key.NodeID
	bytes     []byte
	approvals [][]byte
	names     []custody.NameBox
	look      bool // nothing is to be released
}

// decision is what this holder says to an arrival.
type decision struct {
	state    *secretState
	held     *requestState // nil: it is not kept
	facts    holderFacts
	outcome  uint8
	why      string
	progress *custody.Progress
}

// consent is what the holder's steps judge by.
func (d *decision) consent(r *share.SignedRequest) *consent {
	return &consent{SignedRequest: r, held: d.held, facts: d.facts, approvers: noApprovers}
}

func noApprovers(func(key.PersonPublic) bool) []key.PersonPublic { return nil }

// openRequest verifies a request. The clock is not asked about one that is kept
// here: its time is running time.
func (c *custodian) openRequest(b []byte) (*share.SignedRequest, *requestState, error) {
	r, err := share.ReadRequest(c.cfg.ID, b)
	if err != nil {
		return nil, nil, err
	}
	held := c.requests.get(r.ID, r.Hash)
	if held == nil {
		err = r.CheckTime(unix())
	}
	return r, held, err
}

// judges are the versions whose policies a request must satisfy.
func (s *secretState) judges(r *share.SignedRequest) ([]*version, string) {
	current := s.current()
	if current == nil {
		return nil, "nothing is committed here"
	}
	if r.Verb != share.VerbRecover {
		return []*version{current.version}, ""
	}
	e, why := s.wanted(r)
	if e == nil {
		return nil, why
	}
	return []*version{current.version, e.version}, ""
}

// delayed reports whether the request may have to wait for a delay, so that its
// time is running time: not when the word of who asks is enough.
func (r *requestState) delayed(judges []*version) bool {
	con := &consent{SignedRequest: r.SignedRequest}
	return slices.ContainsFunc(judges, func(v *version) bool {
		return v.policy != nil && v.policy.LongestWait() > 0 && !con.alone(v)
	})
}

// keep takes in a request of a party with the words on it, makes what changes
// durable after the audit log has it, and decides. An error means that the
// store or the log failed, or the caller gave up.
func (c *custodian) keep(ctx context.Context, a arrival) (*decision, error) {
	release, err := c.locks.take(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	h, err := c.state(a.ID)
	if err != nil {
		return nil, err
	}
	d := &decision{state: h.secretState, facts: c.facts(a.from)}
	judges, why := h.judges(a.SignedRequest)
	if a.Verb == share.VerbRehearse {
		why = "a rehearsal is not kept"
	}
	if why != "" || !h.isParty(a.Person) {
		d.outcome, d.why = custody.Refused, why
		return d, nil
	}
	if a.Person != judges[0].Owner && c.cfg.clockOff() {
		// What others than the owner ask for rests on the times in their words.
		d.outcome, d.why = custody.Denied, "the clock of this holder is off"
		return d, nil
	}
	held := c.requests.get(a.ID, a.Hash)
	fresh := held == nil
	switch {
	case fresh:
		held = newRequestState(d.facts, a.SignedRequest, a.bytes)
	case held.damaged:
		d.outcome, d.why = held.outcome(nil)
		return d, nil
	case held.expired(d.facts, held.delayed(judges)):
		d.outcome, d.why = custody.Refused, share.ErrExpired.Error()
		return d, nil
	}
	return d, c.takeIn(ctx, a, d, held, judges, fresh)
}

// takeIn is the part of keep that changes the request.
func (c *custodian) takeIn(ctx context.Context, a arrival, d *decision, held *requestState, judges []*version, fresh bool) error {
	next, entries := c.hearAll(a, d, held, judges)
	next, named := next.name(boxesOf(a.names), c.boundTo(a.from, a.Person))
	next, verdicts, moved := next.settle(d.facts, judges)
	d.outcome, d.why = next.outcome(verdicts)
	var old *requestState
	if fresh {
		why, pass := next.worthKeeping(judges)
		if why == "" && !pass {
			old, why = c.requests.room(next)
		}
		if why == "" && !pass && c.cfg.Shelf.Room(len(next.bytes)) != nil {
			why = "no room on this disk"
		}
		if why != "" || pass {
			d.progress = next.progress(d.facts, false, verdicts)
			if why != "" {
				d.outcome, d.why = custody.Denied, why
			}
			return nil
		}
		entries = slices.Insert(entries, 0, AuditRecord{Kind: "request", ID: a.ID, Person: a.Person, Node: a.from, Request: a.Hash, Detail: a.Purpose})
	}
	if fresh || named || moved || len(entries) > 0 {
		if err := c.saveRequest(ctx, d.state, next, old, entries); err != nil {
			return err
		}
	}
	d.held, d.progress = next, next.progress(d.facts, true, verdicts)
	return nil
}

// worthKeeping says why a request that is new here is not kept, or that there
// is no need: what its owner's own word satisfies at once.
func (r *requestState) worthKeeping(judges []*version) (why string, pass bool) {
	if r.closed != custody.Open {
		return "", false
	}
	con := &consent{SignedRequest: r.SignedRequest}
	alone := !slices.ContainsFunc(judges, func(v *version) bool { return !con.alone(v) })
	life := r.Expires - r.Created
	for _, v := range judges {
		if v.policy == nil || con.alone(v) && life > share.RequestLifeOwner || life > v.longest() {
			con.approvers = noApprovers
			return policyWhy(con.verdict(v).Missing), false
		}
	}
	return "", alone && r.Person == judges[0].Owner
}

// hearAll takes in the words that came along, those of parties, and returns
// what the log is to say of them.
func (c *custodian) hearAll(a arrival, d *decision, r *requestState, judges []*version) (*requestState, []AuditRecord) {
	var entries []AuditRecord
	for _, b := range a.approvals {
		o, err := key.DecodeObject(b)
		if err != nil || !d.state.isParty(o.Key) || slices.ContainsFunc(r.words, func(w *word) bool { return bytes.Equal(w.bytes, b) }) {
			continue
		}
		said, err := share.OpenApproval(c.cfg.ID, b, d.facts.now)
		if err != nil {
			continue
		}
		next, ok := r.hear(newWord(d.facts, said, b, o.Hash(c.cfg.ID)), judges)
		if !ok {
			continue
		}
		r = next
		entries = append(entries, AuditRecord{
			Kind: wordKind(said, r.closed), ID: a.ID, Person: said.Person, Node: a.from, Request: a.Hash, Detail: said.Note,
		})
	}
	return r, entries
}

func wordKind(a *share.Approval, closed uint8) string {
	switch {
	case a.Verdict == share.VerdictApprove:
		return "approve"
	case closed == custody.Vetoed:
		return "veto"
	case closed == custody.Withdrawn:
		return "withdraw"
	}
	return "deny"
}

// boxesOf bounds the name boxes.
func boxesOf(in []custody.NameBox) []custody.NameBox {
	if len(in) > custody.MaxNames || slices.ContainsFunc(in, func(b custody.NameBox) bool { return len(b.Box) > custody.MaxNameBox }) {
		return nil
	}
	return in
}

// boundTo reports whether the roster binds the person to the node.
func (c *custodian) boundTo(node key.NodeID, p key.PersonPublic) bool {
	return slices.Contains(c.members.get(c.cfg.Network).persons[node], p)
}

// saveRequest makes a request durable, with the running time, once the log has
// the entries. old goes for it.
func (c *custodian) saveRequest(ctx context.Context, s *secretState, r, old *requestState, entries []AuditRecord) error {
	if _, err := c.audit(ctx, entries...); err != nil {
		return err
	}
	ran := c.clock.now()
	recs := []share.Record{
		{Place: requestPlace(r.ID, r.Hash), Value: r.record()},
		{Place: clockPlace(), Value: key.Marshal(&clockRecord{Seconds: ran})},
	}
	if old != nil {
		recs = append(recs, share.Record{Place: requestPlace(old.ID, old.Hash)})
	}
	if err := c.cfg.Shelf.Commit(context.WithoutCancel(ctx), recs...); err != nil {
		return err
	}
	c.clock.saved(ran)
	if old != nil {
		c.requests.drop(old.ID, old.Hash)
		c.notices.forget(old.Hash)
		c.clock.forget(old.Hash)
		c.passing.forgetWords(old)
	}
	c.requests.put(r, r.ID, r.Hash)
	c.clock.forget(r.Hash) // to be looked at now
	c.passing.addWords(s, r, c.self)
	c.notices.wake()
	return nil
}

// approve serves APPROVE: a party's word on a request of a party.
func (c *custodian) approve(ctx context.Context, from key.NodeID, q *custody.Approve) (key.Body, error) {
	r, _, err := c.openRequest(q.Request)
	if err != nil {
		return &custody.ApproveReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	o, err := key.DecodeObject(q.Approval)
	if err != nil {
		return &custody.ApproveReply{Outcome: custody.Refused, Why: bounded(err.Error())}, nil
	}
	s, err := c.visible(ctx, r.ID, r.Person)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		c.failed(err)
		return &custody.ApproveReply{Outcome: custody.Failed}, nil
	case s == nil || !s.isParty(o.Key):
		c.refusals.stranger(from)
		return &custody.ApproveReply{Outcome: custody.Denied}, nil
	}
	if why := c.badWord(r.Hash, q.Approval); why != nil {
		return &custody.ApproveReply{Outcome: custody.Refused, Why: bounded(why.Error())}, nil
	}
	d, err := c.keep(ctx, arrival{SignedRequest: r, from: from, bytes: q.Request, approvals: [][]byte{q.Approval}})
	if err != nil {
		return &custody.ApproveReply{Outcome: custody.Failed, Why: c.failed(err).why}, ctx.Err()
	}
	reply := &custody.ApproveReply{Outcome: custody.OK, Progress: d.progress}
	if d.held == nil {
		reply.Outcome, reply.Why = custody.Refused, bounded(d.why)
		if d.outcome == custody.OK {
			reply.Why = "it needs no approval"
		}
	}
	return reply, nil
}

var errSubject = errors.New("the word is on something else")

// badWord says what is wrong with a party's word on a request.
func (c *custodian) badWord(request key.Hash, b []byte) error {
	a, err := share.OpenApproval(c.cfg.ID, b, unix())
	if err == nil && a.Subject != request {
		err = errSubject
	}
	return err
}
