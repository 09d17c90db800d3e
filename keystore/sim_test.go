package keystore

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// The seeded simulation. One seed is one schedule: which operations begin where
// and when, what is lost, doubled, late or out of order, who crashes at which
// point of a step, whose disk is lost or full, who lies and how.
//
// The holders are the real steps of holder*.go, each loaded from its own records
// after a crash. The writers, readers and finishers are the real ones where they
// decide: view, write (apply, judge, receipts, leave), the journal's records,
// reading (take, complete, openWith) and the reader's mark. What is modelled is
// only what carries their messages: goroutines and channels in dealer_write.go,
// reader_rows.go and journal_finish.go are here entries of one queue, out of
// which one is taken at a time by one seeded source. Nothing else in a schedule
// is random and no time passes in it: keys, rows and data keys come out of the
// seed, Ed25519 is deterministic. So a seed gives the same schedule, byte for
// byte, on every machine: [TestSimulationRepeats]. That is why the goroutines
// are not simulated here, whose order in a bubble no seed decides;
// [TestStoresSimulation] runs the whole Store with everything in it, on fewer
// schedules that repeat nearly as well.
//
// After every step the oracle (sim_check_test.go) looks at all disks. At the end
// the faults that can end end, and everything must come to rest: one value, at
// every node the same, and a further put must succeed.
//
//	go test ./keystore -run TestSimulation               300 schedules
//	KEYMESH_SCHEDULES=10000 go test ./keystore -run 'TestSimulation$' -timeout 60m
//	KEYMESH_SEED=17 go test ./keystore -run 'TestSimulation$' -v
//
// The last repeats one schedule and prints it.

// simSchedules is how many schedules run without KEYMESH_SCHEDULES, and within
// how many each planted fault must be found.
const simSchedules = 300

// simPlan is what a schedule may meet. The bounds of the protocol hold in all
// of them: liars and lost disks together are at most f of every manifest.
type simPlan struct {
	nodes        int
	shapes       [][2]int // k, n
	liars, lose  int
	loss, dup    int // of 100
	crash        int // of 1000 steps that change a disk
	fifo         int // of 100: the oldest message first
	cuts, full   bool
	tombs, moves bool
	badRows      bool // a writer's machine spoils rows on their way
	keep         uint8
	ops, steps   int
}

func newSimPlan(r *rand.Rand) simPlan {
	p := simPlan{
		loss: []int{0, 0, 3, 12}[r.IntN(4)], dup: []int{0, 5, 15}[r.IntN(3)], crash: []int{0, 10, 60, 150}[r.IntN(4)],
		fifo: []int{0, 50, 90}[r.IntN(3)], cuts: r.IntN(2) == 0, full: r.IntN(4) == 0, tombs: r.IntN(3) == 0,
		moves: r.IntN(2) == 0, badRows: r.IntN(6) == 0, ops: 4 + r.IntN(10), steps: 150 + r.IntN(250),
	}
	faults := 1
	switch r.IntN(4) {
	case 0:
		p.shapes, p.nodes = [][2]int{{3, 5}}, 5 // every node is a seat: hasty puts
	case 1:
		p.shapes, p.nodes = [][2]int{{3, 5}, {2, 3}}, 7
	case 2:
		p.shapes, p.nodes = [][2]int{{3, 5}}, 7
	case 3:
		p.shapes, p.nodes, faults = [][2]int{{2, 5}, {3, 7}}, 8, 2
	}
	for range faults {
		switch r.IntN(3) {
		case 0:
			p.liars++
		case 1:
			p.lose++
		}
	}
	if r.IntN(4) == 0 {
		p.keep = uint8(1 + r.IntN(2))
	}
	return p
}

// sim is one schedule under way. One goroutine owns it.
type sim struct {
	seed  uint64
	plan  simPlan
	fault simFault
	rand  *rand.Rand
	w     *hWorld
	now   uint64 // unix seconds
	t     int    // steps so far
	calm  bool   // the faults are over

	nodes   []*simNode
	queue   []*simMsg
	cut     map[[2]int]bool
	revoked map[key.NodeID]bool
	deals   []*simDeal
	byHash  map[key.Hash]*simDeal
	values  map[key.Hash]*version // all versions by hash
	parsed  map[string]*version   // by their bytes
	known   *receiptCache
	ops     []*simOp
	tombs   []*simTomb
	lost    int
	acked   []*simDeal
	changes int // of disks

	trace []string // nil: not kept
}

// simBroken is a violation; the oracle panics with it.
type simBroken struct{ why string }

func (s *sim) broken(format string, a ...any) { panic(simBroken{fmt.Sprintf(format, a...)}) }

// note adds a line to the trace.
func (s *sim) note(format string, a ...any) {
	if s.trace != nil {
		s.trace = append(s.trace, fmt.Sprintf("%4d  ", s.t)+fmt.Sprintf(format, a...))
	}
}

func (s *sim) chance(percent int) bool { return percent > 0 && s.rand.IntN(100) < percent }

func simPick[T any](s *sim, list []T) T { return list[s.rand.IntN(len(list))] }

func newSim(w *hWorld, seed uint64, fault simFault, trace bool) *sim {
	s := &sim{
		seed: seed, fault: fault, w: w, rand: rand.New(rand.NewPCG(seed, 0x6b65796d657368)), now: hNow,
		cut: map[[2]int]bool{}, revoked: map[key.NodeID]bool{}, byHash: map[key.Hash]*simDeal{},
		values: map[key.Hash]*version{}, parsed: map[string]*version{}, known: newReceiptCache(),
	}
	if trace {
		s.trace = []string{}
	}
	s.plan = newSimPlan(s.rand)
	for i := range s.plan.nodes {
		s.nodes = append(s.nodes, &simNode{s: s, i: i, key: w.nodes[i], id: w.nodes[i].ID(), disk: &secretState{id: w.id}, recs: map[share.Place][]byte{}, shelf: newMapShelf()})
	}
	for _, i := range s.rand.Perm(s.plan.nodes)[:s.plan.liars] {
		s.nodes[i].liar = true
	}
	for _, n := range s.nodes {
		n.start()
	}
	s.note("%d nodes, %+v, liars %v", len(s.nodes), s.plan, s.names(func(n *simNode) bool { return n.liar }))
	return s
}

func (s *sim) names(which func(*simNode) bool) []string {
	var out []string
	for _, n := range s.nodes {
		if which(n) {
			out = append(out, n.name())
		}
	}
	return out
}

// run plays the schedule to its end. The error is a violation.
func (s *sim) run() (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case simBroken:
			err = fmt.Errorf("step %d: %s", s.t, p.why)
		default:
			err = fmt.Errorf("step %d: panic: %v\n%s", s.t, p, debug.Stack())
		}
	}()
	if s.rand.IntN(5) > 1 {
		s.calm = true // most begin with a first generation in good order
		s.start(s.nodes[slices.IndexFunc(s.nodes, func(n *simNode) bool { return !n.liar })], "put")
		s.drain()
		s.calm = false
	}
	for end := s.t + s.plan.steps; s.t < end; {
		s.step()
	}
	s.rest()
	return nil
}

// step lets one thing happen.
func (s *sim) step() {
	s.t++
	s.now += uint64(s.rand.IntN(3))
	if s.rand.IntN(40) == 0 {
		s.now += uint64(s.rand.IntN(120))
	}
	if len(s.queue) > 0 && s.rand.IntN(100) < 80 {
		s.deliver(s.next())
	} else {
		s.happen()
	}
	s.check()
}

// next takes an entry out of the queue: any, or more often the oldest. Timers
// wait for their time while there is anything else.
func (s *sim) next() *simMsg {
	ready := make([]int, 0, len(s.queue))
	first := 0
	for i, m := range s.queue {
		if m.stage != simTimer || m.due <= s.t {
			ready = append(ready, i)
		}
		if m.due < s.queue[first].due {
			first = i
		}
	}
	at := first
	if len(ready) > 0 {
		if at = ready[0]; !s.chance(s.plan.fifo) {
			at = simPick(s, ready)
		}
	}
	m := s.queue[at]
	s.queue = slices.Delete(s.queue, at, at+1)
	return m
}

// happen is everything that is not a message.
func (s *sim) happen() {
	n := simPick(s, s.nodes)
	what := s.rand.IntN(100)
	switch {
	case what < 34:
		s.begin(n)
	case what < 54:
		n.passOn()
	case what < 61:
		n.finish()
	case what < 68:
		n.settle()
	case what < 70:
		n.flush()
	case what < 74 && s.plan.crash > 0 && n.up:
		n.crash("")
	case what < 84 && !n.up && !n.dead:
		n.start()
	case what < 88 && s.plan.cuts:
		s.split()
	case what < 92:
		s.heal()
	case what < 94 && s.plan.full && !n.dead:
		n.full = !n.full
		s.note("%s: disk full: %v", n.name(), n.full)
	case what < 96 && s.lost < s.plan.lose && !n.liar && !n.dead && s.t > 40:
		n.lose()
	}
}

// split cuts links: some pairs, or one part of the mesh from the rest.
func (s *sim) split() {
	if s.rand.IntN(2) == 0 {
		for range 1 + s.rand.IntN(4) {
			a, b := s.rand.IntN(len(s.nodes)), s.rand.IntN(len(s.nodes))
			s.cut[[2]int{min(a, b), max(a, b)}] = a != b
		}
		s.note("some links are cut")
		return
	}
	part := s.rand.Uint64()
	for a := range s.nodes {
		for b := a + 1; b < len(s.nodes); b++ {
			s.cut[[2]int{a, b}] = part>>a&1 != part>>b&1
		}
	}
	s.note("the mesh is split: %v", s.names(func(n *simNode) bool { return part>>n.i&1 == 1 }))
}

func (s *sim) heal() {
	if len(s.cut) > 0 {
		clear(s.cut)
		s.note("all links are back")
	}
}

func (s *sim) linked(a, b *simNode) bool { return !s.cut[[2]int{min(a.i, b.i), max(a.i, b.i)}] }

// Stages of an entry of the queue.
const (
	simRequest = iota
	simReply
	simTimer
)

// simMsg is one message on its way, or a timer.
type simMsg struct {
	stage    int
	what     string
	from, to *simNode
	inc      int // life of from that asked
	due      int
	do       func(*simNode) any
	got      func(any) // nil: no answer, or lost
	reply    any
	over     *bool // from has had an answer, or has given up
}

// call sends a request. got is called once, if from still lives: with the
// answer, or with nil when there is none.
func (s *sim) call(from, to *simNode, what string, do func(*simNode) any, got func(any)) {
	s.queue = append(s.queue, &simMsg{stage: simRequest, what: what, from: from, to: to, inc: from.inc, do: do, got: got, over: new(bool)})
}

// after is a timer of a node: steps later, or whenever nothing else is to do.
func (s *sim) after(n *simNode, what string, steps int, do func()) {
	if s.calm {
		steps *= 20 // there is time
	}
	s.queue = append(s.queue, &simMsg{stage: simTimer, what: what, from: n, inc: n.inc, due: s.t + steps, got: func(any) { do() }, over: new(bool)})
}

// answer tells the asker, once.
func (m *simMsg) answer(reply any) {
	if *m.over || !m.from.up || m.from.inc != m.inc {
		return
	}
	*m.over = true
	m.got(reply)
}

func (s *sim) deliver(m *simMsg) {
	if m.stage == simTimer {
		m.answer(nil)
		return
	}
	far := m.from != m.to
	lost := far && !s.calm && s.chance(s.plan.loss) || far && !s.linked(m.from, m.to)
	if m.stage == simReply {
		if lost {
			s.note("%s -> %s: the answer to %s is lost", m.to.name(), m.from.name(), m.what)
			m.answer(nil)
			return
		}
		m.answer(m.reply)
		return
	}
	if far && !s.calm && s.chance(s.plan.dup) {
		again := *m
		s.queue = append(s.queue, &again) // it will be executed a second time
		if s.rand.IntN(3) == 0 {
			s.note("%s: no answer to %s from %s in time", m.from.name(), m.what, m.to.name())
			m.answer(nil) // and this time the asker has given up before
			return
		}
	}
	if lost || !m.to.up || !far && m.to.inc != m.inc {
		s.note("%s -> %s: %s is lost", m.from.name(), m.to.name(), m.what)
		m.answer(nil)
		return
	}
	inc := m.to.inc
	reply := m.do(m.to)
	if m.to.inc != inc {
		m.answer(nil) // it crashed before it could answer
		return
	}
	s.note("%s -> %s: %s: %v", m.from.name(), m.to.name(), m.what, simWords{reply})
	m.stage, m.reply = simReply, reply
	s.queue = append(s.queue, m)
}

// drain lets everything in the queue happen.
func (s *sim) drain() {
	for limit := 0; len(s.queue) > 0; limit++ {
		if limit > 20_000 {
			s.broken("it never comes to rest: %d entries, %s", len(s.queue), s.queue[0].what)
		}
		s.t++
		s.deliver(s.next())
		s.check()
	}
}

// simRun runs one schedule, and once more with a trace when it fails.
func simRun(w *hWorld, seed uint64, fault simFault, trace bool) (*sim, error) {
	s := newSim(w, seed, fault, trace)
	err := s.run()
	return s, err
}

// simReport says how to repeat a schedule and what happened in it.
func simReport(w *hWorld, seed uint64, err error) string {
	s, again := simRun(w, seed, simFault{}, true)
	note := ""
	if again == nil || again.Error() != err.Error() {
		note = fmt.Sprintf("\nit does not repeat: %v", again)
	}
	trace := s.trace
	if len(trace) > 400 {
		trace = append([]string{trace[0], "      ..."}, trace[len(trace)-399:]...)
	}
	return fmt.Sprintf("seed %d: %v%s\n%s\nrepeat it with: KEYMESH_SEED=%d go test ./keystore -run 'TestSimulation$' -v", seed, err, note, strings.Join(trace, "\n"), seed)
}

func simWorld(t testing.TB) *hWorld { return newHWorld(t, 8) }

// simShards runs f for the seeds 1 to n in bubbles, two at a time.
func simShards(t *testing.T, n int, f func(t *testing.T, w *hWorld, seed uint64)) {
	const shards = 2
	for shard := range shards {
		t.Run(fmt.Sprint("shard", shard), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // no time passes in it
				w := simWorld(t)
				for seed := 1 + shard; seed <= n && !t.Failed(); seed += shards {
					f(t, w, uint64(seed))
				}
			})
		})
	}
}

// simEnv is a number in the environment, 0 when it is not set.
func simEnv(t *testing.T, name string) uint64 {
	v := os.Getenv(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil || n == 0 {
		t.Fatalf("%s=%q is no number", name, v)
	}
	return n
}

func simCount(t *testing.T) int {
	switch n := simEnv(t, "KEYMESH_SCHEDULES"); {
	case n > 0:
		return int(n)
	case testing.Short():
		return simSchedules / 10
	}
	return simSchedules
}

// TestSimulation is the schedules themselves.
func TestSimulation(t *testing.T) {
	if seed := simEnv(t, "KEYMESH_SEED"); seed != 0 {
		synctest.Test(t, func(t *testing.T) {
			s, err := simRun(simWorld(t), seed, simFault{}, true)
			t.Logf("%s", strings.Join(s.trace, "\n"))
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		})
		return
	}
	var mu sync.Mutex
	met := map[string]int{}
	t.Run("all", func(t *testing.T) {
		simShards(t, simCount(t), func(t *testing.T, w *hWorld, seed uint64) {
			s, err := simRun(w, seed, simFault{}, false)
			if err != nil {
				t.Errorf("%s", simReport(w, seed, err))
			}
			mu.Lock()
			defer mu.Unlock()
			s.tell(met)
		})
	})
	keys := make([]string, 0, len(met))
	for k := range met {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		t.Logf("%6d %s", met[k], k)
	}
	// A simulation in which nothing happens proves nothing.
	for _, k := range simMust {
		if met[k] == 0 && simCount(t) >= simSchedules {
			t.Errorf("never: %s", k)
		}
	}
}

// TestSimulationRepeats: a seed is a schedule.
func TestSimulationRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := simWorld(t)
		seen := map[string]bool{}
		for seed := uint64(1); seed <= 12; seed++ {
			a, _ := simRun(w, seed, simFault{}, true)
			b, _ := simRun(simWorld(t), seed, simFault{}, true)
			if !slices.Equal(a.trace, b.trace) {
				at := 0
				for at < min(len(a.trace), len(b.trace)) && a.trace[at] == b.trace[at] {
					at++
				}
				t.Errorf("seed %d gave two schedules:\n%v\n%v", seed, a.trace[at:min(at+3, len(a.trace))], b.trace[at:min(at+3, len(b.trace))])
			}
			seen[strings.Join(a.trace, "\n")] = true
		}
		if len(seen) != 12 {
			t.Errorf("12 seeds gave %d schedules", len(seen))
		}
	})
}
