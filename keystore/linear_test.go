package keystore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
)

// A linearizability checker for a register with compare-and-set and with
// operations of which nobody knows whether they took effect (Wing and Gong,
// with Lowe's memory of what was tried).

// linOp is one operation of a history. One that is in doubt took effect at some
// moment after it began, or never: its end is never. One that is known to have
// had no effect is no part of a history.
type linOp struct {
	kind       byte   // w: write, c: compare-and-set, r: read
	value      string // written, or read
	want       string // of c: what must be there
	begin, end int64
	doubt      bool
}

const linNever = math.MaxInt64

func (o linOp) String() string {
	return fmt.Sprintf("%c %q (want %q) [%d, %d] doubt %v", o.kind, o.value, o.want, o.begin, o.end, o.doubt)
}

// linear searches an order of the operations that a single register could have
// executed.
type linear struct {
	ops  []linOp
	done []byte // a bit for each
	left int
	seen map[string]bool
	most int
}

// certain settles the doubts: values are all different, so what nobody read may
// as well never have been written, and what somebody read was, before he had it.
func certain(ops []linOp) []linOp {
	out := slices.DeleteFunc(slices.Clone(ops), func(o linOp) bool { return o.doubt })
	for {
		more := false
		for _, o := range ops {
			if !o.doubt || slices.ContainsFunc(out, func(c linOp) bool { return c.value == o.value && c.kind != 'r' }) {
				continue
			}
			o.doubt, o.end = false, linNever
			for _, c := range out {
				if c.kind == 'r' && c.value == o.value || c.kind == 'c' && c.want == o.value {
					o.end = min(o.end, c.end)
				}
			}
			if o.end != linNever {
				out, more = append(out, o), true
			}
		}
		if !more {
			return out
		}
	}
}

// linearizable reports whether there is such an order. If not, it returns the
// operations around the first that none was found for.
func linearizable(ops []linOp, initial string) (bool, []linOp) {
	ops = certain(ops)
	slices.SortStableFunc(ops, func(a, b linOp) int { return cmp.Compare(a.begin, b.begin) })
	l := &linear{ops: ops, done: make([]byte, (len(ops)+7)/8), left: len(ops), seen: map[string]bool{}}
	if l.search(initial, 0) {
		return true, nil
	}
	return false, ops[max(0, l.most-6):min(len(ops), l.most+10)]
}

func (l *linear) has(i int) bool { return l.done[i/8]>>(i%8)&1 == 1 }

// flip orders the operation, or takes that back.
func (l *linear) flip(i int) {
	l.done[i/8] ^= 1 << (i % 8)
	l.left += 1 - 2*btoi(l.has(i))
}

// fits reports what is there after the operation, if it can be the next.
func (o linOp) fits(there string) (string, bool) {
	switch o.kind {
	case 'r':
		return there, o.value == there
	case 'c':
		return o.value, o.want == there
	}
	return o.value, true
}

// search: first is the first operation that is not ordered yet.
func (l *linear) search(there string, first int) bool {
	for first < len(l.ops) && l.has(first) {
		first++
	}
	l.most = max(l.most, first)
	// The next one began before each that is left has ended.
	if l.left == 0 {
		return true
	}
	end := int64(linNever)
	for i := first; i < len(l.ops) && l.ops[i].begin <= end; i++ {
		if !l.has(i) {
			end = min(end, l.ops[i].end)
		}
	}
	k := string(l.done) + there
	if l.seen[k] {
		return false
	}
	l.seen[k] = true
	for i := first; i < len(l.ops) && l.ops[i].begin <= end; i++ {
		if l.has(i) {
			continue
		}
		next, ok := l.ops[i].fits(there)
		if !ok {
			continue
		}
		l.flip(i)
		if l.search(next, first) {
			return true
		}
		l.flip(i)
		if l.ops[i].kind == 'r' {
			return false // a read that fits now is never better later
		}
	}
	return false
}

// TestLinearizable: the checker tells good histories from bad ones.
func TestLinearizable(t *testing.T) {
	w := func(v string, begin, end int64) linOp { return linOp{kind: 'w', value: v, begin: begin, end: end} }
	r := func(v string, begin, end int64) linOp { return linOp{kind: 'r', value: v, begin: begin, end: end} }
	c := func(want, v string, begin, end int64) linOp {
		return linOp{kind: 'c', want: want, value: v, begin: begin, end: end}
	}
	doubt := func(o linOp) linOp { o.doubt = true; return o }
	for name, h := range map[string]struct {
		ops []linOp
		ok  bool
	}{
		"nothing":                          {nil, true},
		"one after the other":              {[]linOp{w("a", 1, 2), r("a", 3, 4), w("b", 5, 6), r("b", 7, 8)}, true},
		"a stale read":                     {[]linOp{w("a", 1, 2), w("b", 3, 4), r("a", 5, 6)}, false},
		"a read during a write, old":       {[]linOp{w("a", 1, 2), w("b", 3, 9), r("a", 4, 5)}, true},
		"a read during a write, new":       {[]linOp{w("a", 1, 2), w("b", 3, 9), r("b", 4, 5)}, true},
		"new, then old":                    {[]linOp{w("a", 1, 2), w("b", 3, 9), r("b", 4, 5), r("a", 6, 7)}, false},
		"new and old at once":              {[]linOp{w("a", 1, 2), w("b", 3, 9), r("b", 4, 7), r("a", 5, 8)}, true},
		"out of nowhere":                   {[]linOp{w("a", 1, 2), r("x", 3, 4)}, false},
		"before it was written":            {[]linOp{w("a", 1, 2), r("b", 3, 4), w("b", 5, 6)}, false},
		"the first value":                  {[]linOp{r("", 1, 2), w("a", 3, 4)}, true},
		"both of two compare-and-sets":     {[]linOp{w("a", 1, 2), c("a", "b", 3, 9), c("a", "c", 4, 8)}, false},
		"one after the other's":            {[]linOp{w("a", 1, 2), c("a", "b", 3, 9), c("b", "c", 4, 8)}, true},
		"a compare-and-set too late":       {[]linOp{w("a", 1, 2), w("b", 3, 4), c("a", "c", 5, 6)}, false},
		"in doubt, never":                  {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), r("a", 5, 6)}, true},
		"in doubt, at once":                {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), r("b", 5, 6)}, true},
		"in doubt, much later":             {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), r("a", 5, 6), r("b", 7, 8)}, true},
		"in doubt, and gone again":         {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), r("b", 5, 6), r("a", 7, 8)}, false},
		"in doubt, before it began":        {[]linOp{w("a", 1, 2), r("b", 3, 4), doubt(w("b", 5, 6))}, false},
		"in doubt and another, both":       {[]linOp{w("a", 1, 2), doubt(c("a", "b", 3, 4)), c("a", "c", 3, 5)}, true},
		"both, seen":                       {[]linOp{w("a", 1, 2), doubt(c("a", "b", 3, 4)), c("a", "c", 3, 5), r("b", 6, 7)}, false},
		"in doubt under what comes after":  {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), w("c", 5, 6), r("c", 7, 8)}, true},
		"in doubt over what comes after":   {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), w("c", 5, 6), r("b", 7, 8)}, true},
		"in doubt over, and under again":   {[]linOp{w("a", 1, 2), doubt(w("b", 3, 4)), w("c", 5, 6), r("b", 7, 8), r("c", 9, 10)}, false},
		"the same write read by two, once": {[]linOp{w("a", 1, 2), w("b", 3, 9), w("c", 3, 9), r("b", 10, 11), r("c", 12, 13)}, false},
	} {
		if ok, at := linearizable(h.ops, ""); ok != h.ok {
			t.Errorf("%s: %v %v", name, ok, at)
		}
	}
	// A long history, and the same with one stale read.
	var long []linOp
	for i := range int64(2000) {
		long = append(long, w(fmt.Sprint(i), 10*i, 10*i+15), r(fmt.Sprint(i), 10*i+5, 10*i+9))
		if i%50 == 0 {
			long = append(long, doubt(w(fmt.Sprint("doubt ", i), 10*i, 10*i+1)))
		}
	}
	if ok, at := linearizable(long, ""); !ok {
		t.Errorf("a long history: %v", at)
	}
	long[2501].value = "1000"
	if ok, _ := linearizable(long, ""); ok {
		t.Error("a long history with a stale read")
	}
}

// linRecord is a history that goroutines write.
type linRecord struct {
	mu  sync.Mutex
	ops []linOp
}

func (r *linRecord) add(o linOp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, o)
}

func linNow() int64 { return time.Now().UnixNano() }

// delays makes every message late by a time that the seed, its ends and its
// number give.
func (f *fakeNet) delays(seed int, most time.Duration) {
	var mu sync.Mutex
	count := map[string]int{}
	wait := func(way string, from, to key.NodeID, verb uint64) {
		k := fmt.Sprint(way, from, to, verb)
		mu.Lock()
		count[k]++
		h := fnv.New64a()
		fmt.Fprint(h, seed, k, count[k])
		mu.Unlock()
		time.Sleep(time.Duration(h.Sum64() % uint64(most)))
	}
	f.set(func(from, to key.NodeID, verb uint64) error { wait("q", from, to, verb); return nil },
		func(from, to key.NodeID, verb uint64) error { wait("a", from, to, verb); return nil })
}

// linRounds is one owner at two nodes that write one name at the same time,
// round after round, while others read it.
type linRounds struct {
	*testing.T
	f     *fakeNet
	p     Person
	rec   linRecord
	round int
	gen   uint64 // what is there when a round begins
	there string
}

func (l *linRounds) get(n *fakeNode, after time.Duration) {
	time.Sleep(after)
	begin := linNow()
	r, err := n.up().Recover(context.Background(), l.p, "a", RecoverOptions{})
	if err != nil {
		l.Errorf("round %d: get at %s: %v", l.round, n.member.Name, explain(err))
		return
	}
	l.rec.add(linOp{kind: 'r', value: string(r.Value), begin: begin, end: linNow()})
}

// put is one write of a round; it returns the generation, 0 if it is not known
// to be stored.
func (l *linRounds) put(n *fakeNode, value string, o PutOptions) (gen uint64, doubt bool) {
	op := linOp{kind: 'w', value: value, begin: linNow()}
	if o.IfGen != nil {
		op.kind, op.want = 'c', l.there
	}
	r, err := n.up().Put(context.Background(), l.p, "a", []byte(value), o)
	op.end = linNow()
	var c *ConflictError
	var d *InDoubtError
	switch {
	case err == nil:
	case errors.As(err, &d):
		op.doubt = true
	case errors.As(err, &c) && o.IfGen != nil:
		return 0, false // not stored: it must never be read
	default:
		l.Errorf("round %d: put at %s: %v", l.round, n.member.Name, explain(err))
		return 0, false
	}
	l.rec.add(op)
	return r.Gen, op.doubt
}

func (l *linRounds) play(conditional bool) (acked map[uint64]string, doubts int) {
	l.f.delays(l.round, []time.Duration{2, 20, 120, 700}[l.round%4]*time.Millisecond)
	acked = map[uint64]string{}
	var mu sync.Mutex
	var g sync.WaitGroup
	for i, n := range l.f.nodes[:2] {
		g.Go(func() {
			time.Sleep(time.Duration(i*l.round%5) * 10 * time.Millisecond)
			// With 700 ms a way an attempt takes seconds, and a few of them more
			// than the default timeout.
			v, o := fmt.Sprintf("round %d at %s", l.round, n.member.Name), PutOptions{Timeout: 2 * time.Minute}
			if conditional {
				o.IfGen = &l.gen
			}
			gen, doubt := l.put(n, v, o)
			mu.Lock()
			defer mu.Unlock()
			doubts += btoi(doubt)
			if gen != 0 {
				if acked[gen] != "" {
					l.Errorf("round %d: generation %d was acknowledged twice", l.round, gen)
				}
				acked[gen] = v
			}
		})
	}
	for i, n := range l.f.nodes[2:] {
		g.Go(func() { l.get(n, time.Duration((i*37+l.round*13)%200)*time.Millisecond) })
	}
	g.Wait()
	return acked, doubts
}

// agree waits until nothing changes any more and reads at every node. What is
// in doubt has completed by then, or is dead.
func (l *linRounds) agree(doubts int) {
	l.f.set(nil, nil)
	time.Sleep(5 * time.Second)
	if doubts > 0 {
		time.Sleep(3 * time.Minute)
		info, err := l.f.up().Info(context.Background(), l.p, "a")
		if err != nil || len(info.Pending) > 0 {
			l.Errorf("round %d: after minutes still pending: %v %v", l.round, info.Pending, err)
		}
	}
	for i, n := range l.f.nodes {
		begin := linNow()
		r, err := n.up().Recover(context.Background(), l.p, "a", RecoverOptions{})
		if err != nil {
			l.Fatalf("round %d: get at %s: %v", l.round, n.member.Name, explain(err))
		}
		l.rec.add(linOp{kind: 'r', value: string(r.Value), begin: begin, end: linNow()})
		if i == 0 {
			l.gen, l.there = r.Gen, string(r.Value)
		} else if r.Gen != l.gen || string(r.Value) != l.there {
			l.Errorf("round %d: %s reads generation %d, %s %d", l.round, l.f.nodes[0].member.Name, l.gen, n.member.Name, r.Gen)
		}
	}
}

// TestTwoNodesOneOwner: 200 rounds of two puts at once. Of two compare-and-sets
// at most one is acknowledged, plain puts all are and the last wins, and all
// that was written and read is the history of one register.
func TestTwoNodesOneOwner(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		l := &linRounds{T: t, f: f, p: p}
		mustPut(t, f.nodes[0].store, p, "a", []byte("first"), PutOptions{})
		l.gen, l.there = 1, "first"
		counts := map[string]int{}
		rounds := 200
		if testing.Short() {
			rounds = 20
		}
		for l.round = range rounds {
			conditional := l.round%2 == 0
			acked, doubts := l.play(conditional)
			l.agree(doubts)
			counts[fmt.Sprintf("conditional %v: %d acknowledged, %d in doubt", conditional, len(acked), doubts)]++
			switch {
			case conditional && len(acked) > 1:
				t.Fatalf("round %d: two compare-and-sets were acknowledged: %v", l.round, acked)
			case !conditional && len(acked) != 2:
				t.Errorf("round %d: plain puts did not end: %v", l.round, acked)
			case !conditional && acked[l.gen] == "":
				t.Errorf("round %d: generation %d is there, of %v", l.round, l.gen, acked)
			}
			for gen := range acked {
				if gen > l.gen {
					t.Errorf("round %d: generation %d was acknowledged, and %d is there", l.round, gen, l.gen)
				}
			}
		}
		t.Logf("%v", counts)
		if ok, at := linearizable(l.rec.ops, "first"); !ok {
			for _, o := range at {
				t.Logf("%v", o)
			}
			t.Errorf("%d operations are no history of one register", len(l.rec.ops))
		}
	})
}
