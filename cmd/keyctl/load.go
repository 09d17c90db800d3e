package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// load makes the traffic of bench. One measurement runs at a time; its clients
// share the counters.
type load struct {
	nodes   []*client.Client
	flags   benchFlags
	timeout time.Duration // of one call
	seed    [32]byte      // values are derived from it, so that none is kept
	prefix  string        // of names; random, so that runs do not meet
	stored  int           // names of this pair that may exist
}

func newLoad(f benchFlags, timeout time.Duration) (*load, error) {
	l := &load{flags: f, timeout: timeout}
	if _, err := rand.Read(l.seed[:]); err != nil {
		return nil, err
	}
	return l, nil
}

// begin starts pair i of stores and recoveries with fresh names.
func (l *load) begin(i int) {
	l.prefix = fmt.Sprintf("bench/%s-%d/", hex.EncodeToString(l.seed[:6]), i)
	l.stored = 0
}

func (l *load) name(i int) string { return fmt.Sprintf("%s%07d", l.prefix, i) }

// value is the value of name: SHA-256 of the seed, the name and a counter.
func (l *load) value(name string) []byte {
	out := make([]byte, 0, l.flags.size+sha256.Size)
	for i := uint64(0); len(out) < l.flags.size; i++ {
		block := binary.BigEndian.AppendUint64(append(l.seed[:], name...), i)
		sum := sha256.Sum256(block)
		out = append(out, sum[:]...)
	}
	return out[:l.flags.size]
}

// sample is what one client measured.
type sample struct {
	times  []time.Duration
	errors int
	first  error
}

// run measures op with so many clients and returns its row and the first error.
// It returns after its last goroutine ended.
func (l *load) run(ctx context.Context, op string, workers int) (benchRun, error) {
	total := l.flags.count
	if op == "get" {
		total = l.stored
	}
	begin := time.Now()
	var next atomic.Int64
	samples := make([]sample, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { samples[w] = l.client(ctx, op, &next, total, begin) })
	}
	wg.Wait()
	if op == "put" {
		l.stored = int(next.Load())
		if l.flags.span == 0 {
			l.stored = min(l.stored, total)
		}
	}
	return l.row(op, workers, time.Since(begin), samples)
}

// client works until the count is reached or time is up; what it has begun by
// then it ends, since a write that is cut off would be in doubt. Recoveries by
// time go round and round over what was stored.
func (l *load) client(ctx context.Context, op string, next *atomic.Int64, total int, start time.Time) sample {
	var s sample
	for ctx.Err() == nil && (l.flags.span == 0 || time.Since(start) < l.flags.span) {
		i := int(next.Add(1)) - 1
		switch {
		case l.flags.span == 0 && i >= total, op == "get" && total == 0:
			return s
		case op == "get":
			i %= total
		}
		begin := time.Now()
		err := l.once(ctx, op, i)
		switch {
		case err == nil:
			s.times = append(s.times, time.Since(begin))
		case ctx.Err() != nil:
			return s // interrupted
		default:
			s.errors++
			if s.first == nil {
				s.first = err
			}
		}
	}
	return s
}

// node is the one that name i belongs to: another node may act for another
// person, who does not have it.
func (l *load) node(i int) *client.Client { return l.nodes[i%len(l.nodes)] }

// once does one operation on name i.
func (l *load) once(ctx context.Context, op string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	node, name := l.node(i), l.name(i)
	value := l.value(name)
	if op == "put" {
		_, err := node.Put(ctx, name, apitype.PutRequest{Value: value}, client.PutConditions{})
		return err
	}
	res, err := node.Recover(ctx, name, apitype.RecoverRequest{})
	if err == nil && !bytes.Equal(res.Value, value) {
		// It cannot happen; bench looks because nothing would be worse.
		return &failure{exit: apitype.ExitIntegrity, what: "the recovered bytes differ from those stored"}
	}
	return err
}

func (l *load) row(op string, workers int, took time.Duration, samples []sample) (benchRun, error) {
	var all []time.Duration
	var first error
	run := benchRun{Op: op, Concurrency: workers, Seconds: took.Seconds()}
	for _, s := range samples {
		all = append(all, s.times...)
		run.Errors += s.errors
		if first == nil {
			first = s.first
		}
	}
	slices.Sort(all)
	run.Count = len(all)
	run.P50, run.P99, run.Max = percentile(all, 0.50), percentile(all, 0.99), percentile(all, 1)
	if took > 0 {
		run.Rate = float64(len(all)) / took.Seconds()
	}
	return run, first
}

// Cleaning up goes on after an interruption, but not for ever.
const (
	cleanUpTime    = 2 * time.Minute
	cleanUpWorkers = 16
)

// cleanUp deletes what this pair may have stored. It returns how many could not
// be deleted, and of how many deletions some holders have yet to hear: their
// nodes see to that by themselves.
func (l *load) cleanUp(ctx context.Context) (left, pending int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	var next, failed, late atomic.Int64
	var wg sync.WaitGroup
	for range cleanUpWorkers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < l.stored; i = int(next.Add(1)) - 1 {
				switch err := l.remove(ctx, l.node(i), l.name(i)); {
				case errors.Is(err, &apitype.Problem{Type: apitype.InDoubt}):
					late.Add(1)
				case err != nil && !errors.Is(err, &apitype.Problem{Type: apitype.NotFound}):
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(failed.Load()), int(late.Load())
}

func (l *load) remove(ctx context.Context, node *client.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	_, err := node.Delete(ctx, name, client.DeleteOptions{})
	return err
}
