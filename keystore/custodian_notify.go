package keystore

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// Telling the nodes of the owner and of those whom the policy names about a
// request (protocol.md section 7): when it comes, at half time of a delay, and
// when it ends. Each node is told again until it acknowledges. What was
// acknowledged is in memory: after a start the present stage is told once more.

const (
	notifyEvery   = 5 * time.Second
	notifyFirst   = 5 * time.Second  // before the second attempt; doubled then
	notifyLast    = 10 * time.Minute // the longest pause
	notifyTimeout = 10 * time.Second
	notifyBatch   = 64          // requests that one node is told of in a round
	notifyRest    = time.Minute // between looks at what everyone has heard
)

// notice is what one node knows of one request.
type notice struct {
	acked uint8 // the stage that it acknowledged
	tried uint8 // the stage that was sent last
	next  time.Time
	pause time.Duration
}

// notices is who knows what. Safe for concurrent use.
type notices struct {
	mu     sync.Mutex
	stages map[key.Hash]uint8
	nodes  map[key.Hash]map[key.NodeID]*notice
	rest   map[key.Hash]time.Time // until when nothing is due
	woken  chan struct{}
}

func newNotices() *notices {
	return &notices{
		stages: map[key.Hash]uint8{}, nodes: map[key.Hash]map[key.NodeID]*notice{},
		rest: map[key.Hash]time.Time{}, woken: make(chan struct{}, 1),
	}
}

func (n *notices) wake() {
	select {
	case n.woken <- struct{}{}:
	default:
	}
}

// reach notes that the request is at this stage at least.
func (n *notices) reach(hash key.Hash, stage uint8) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stages[hash] < stage {
		n.stages[hash] = stage
		delete(n.rest, hash)
		n.wake()
	}
}

func (n *notices) stage(hash key.Hash) uint8 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return max(n.stages[hash], custody.StageAsked)
}

func (n *notices) forget(hash key.Hash) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.stages, hash)
	delete(n.nodes, hash)
	delete(n.rest, hash)
}

// rests reports whether nobody is to be told of the request yet.
func (n *notices) rests(hash key.Hash) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Before(n.rest[hash])
}

// settle notes for how long nobody is to be told: until the next attempt, or
// until an offline node may be back.
func (n *notices) settle(hash key.Hash, stage uint8, concerned []key.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	until := time.Now().Add(notifyRest)
	for _, node := range concerned {
		if k := n.nodes[hash][node]; k == nil || k.acked < stage {
			until = time.Now().Add(notifyEvery)
		}
	}
	n.rest[hash] = until
}

// due reports whether the node is to be told of this stage now, and takes it
// that it is being told.
func (n *notices) due(hash key.Hash, node key.NodeID, stage uint8) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[hash] == nil {
		n.nodes[hash] = map[key.NodeID]*notice{}
	}
	k := n.nodes[hash][node]
	if k == nil {
		k = &notice{}
		n.nodes[hash][node] = k
	}
	switch {
	case k.acked >= stage:
		return false
	case k.tried < stage:
		k.tried, k.pause = stage, notifyFirst
	case time.Now().Before(k.next):
		return false
	}
	k.next = time.Now().Add(k.pause/2 + rand.N(k.pause))
	k.pause = min(2*k.pause, notifyLast)
	return true
}

func (n *notices) acked(hash key.Hash, node key.NodeID, stage uint8) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if k := n.nodes[hash][node]; k != nil {
		k.acked = max(k.acked, stage)
	}
}

// tell runs until ctx ends.
func (c *custodian) tell(ctx context.Context) {
	t := time.NewTicker(notifyEvery)
	defer t.Stop()
	var g sync.WaitGroup
	defer g.Wait()
	var busy sync.Map // nodes that are being told
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-c.notices.woken:
		}
		c.tellRound(ctx, &g, &busy)
	}
}

// notification is one thing to tell one node.
type notification struct {
	hash  key.Hash
	stage uint8
	body  *custody.Notify
}

// tellRound starts the turns of the nodes that are to be told something. A node
// whose turn goes on is passed over: one that dawdles delays itself only.
func (c *custodian) tellRound(ctx context.Context, g *sync.WaitGroup, busy *sync.Map) {
	m := c.members.get(c.cfg.Network)
	work := map[key.NodeID][]notification{}
	for _, r := range c.requests.all() {
		c.dueOf(ctx, m, r, work, busy)
	}
	for node, list := range work {
		if _, on := busy.LoadOrStore(node, true); on {
			continue
		}
		g.Go(func() {
			defer busy.Delete(node)
			for _, n := range list {
				if !c.tellOne(ctx, node, n) {
					return
				}
			}
		})
	}
}

// dueOf adds what is to be told of one request now.
func (c *custodian) dueOf(ctx context.Context, m *memberView, r *requestState, work map[key.NodeID][]notification, busy *sync.Map) {
	if r.closed != custody.Open {
		c.notices.reach(r.Hash, custody.StageClosed)
	}
	if c.notices.rests(r.Hash) {
		return
	}
	s, err := c.peek(ctx, r.ID)
	if err != nil || s.current() == nil {
		return
	}
	audience := s.current().audience()
	var all []key.NodeID
	stage := c.notices.stage(r.Hash)
	for node, persons := range m.persons {
		concerned := slices.ContainsFunc(persons, func(p key.PersonPublic) bool { return slices.Contains(audience, p) })
		if !concerned {
			continue
		}
		all = append(all, node)
		_, on := busy.Load(node)
		if !on && (node == c.self || m.online[node]) && len(work[node]) < notifyBatch && c.notices.due(r.Hash, node, stage) {
			work[node] = append(work[node], notification{r.Hash, stage, c.notifyBody(s, r, node, stage)})
		}
	}
	c.notices.settle(r.Hash, stage, all)
}

// audience is whom requests on this version concern.
func (v *version) audience() []key.PersonPublic {
	out := []key.PersonPublic{v.Owner}
	if v.policy != nil {
		out = append(append(out, v.policy.Approvers(v.Owner)...), v.policy.VetoKeys(v.Owner)...)
	}
	return out
}

func (c *custodian) notifyBody(s *secretState, r *requestState, node key.NodeID, stage uint8) *custody.Notify {
	out := &custody.Notify{Request: r.bytes, Manifest: s.current().Bytes(), Stage: stage}
	for _, w := range r.words {
		out.Words = append(out.Words, w.bytes)
	}
	for _, b := range r.names {
		if b.Node == node {
			out.Name = b.Box
		}
	}
	if judges, why := s.judges(r.SignedRequest); why == "" && r.open() {
		out.Wait, _ = waitOf(r.judge(c.facts(c.self), judges))
	}
	return out
}

// tellOne reports whether the node answered.
func (c *custodian) tellOne(ctx context.Context, node key.NodeID, n notification) bool {
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	var b []byte
	var err error
	if node == c.self {
		b, err = c.answer(ctx, c.self, custody.VerbNotify, key.Marshal(n.body))
	} else {
		b, err = c.cfg.Network.Call(ctx, node, custody.VerbNotify, key.Marshal(n.body))
	}
	var reply custody.NotifyReply
	if err != nil || key.Unmarshal(b, &reply) != nil {
		return false
	}
	if reply.Outcome == custody.OK {
		c.notices.acked(n.hash, node, n.stage)
	}
	return true
}

// notified serves NOTIFY: what is told to persons at this node goes to their
// inbox.
func (c *custodian) notified(ctx context.Context, from key.NodeID, q *custody.Notify) (key.Body, error) {
	if c.inbox == nil {
		return &custody.NotifyReply{Outcome: custody.Refused}, nil
	}
	return c.inbox(ctx, from, q)
}
