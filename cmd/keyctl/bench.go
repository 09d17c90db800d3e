package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

type benchFlags struct {
	workers []int
	count   int
	span    time.Duration
	size    int
}

const benchLong = `Bench stores secrets of random bytes in the running mesh, recovers each of them,
checks every byte, and deletes them. It prints p50, p99 and rate for each number
of clients at once.

--socket and --addr may be given several times; the clients take the nodes in
turn. --timeout bounds one call. Names begin with bench/. Holders keep a
tombstone of a few hundred bytes for each deleted secret.`

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:               "bench",
		GroupID:           groupTool,
		Short:             "Measure stores and recoveries in the running mesh",
		Long:              benchLong,
		Example:           "  keyctl bench\n  keyctl bench --concurrency 16 --time 10s -o json\n  keyctl bench --socket a/api.sock --socket b/api.sock",
		Args:              exactArgs(0, "keyctl bench"),
		ValidArgsFunction: noCompletion,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("count") && f.span != 0 {
				return usage("--count and --time exclude each other", "use one of the two")
			}
			return a.bench(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.IntSliceVar(&f.workers, "concurrency", []int{1, 64}, "`CLIENTS,...` at once; one measurement for each")
	fl.IntVar(&f.count, "count", 500, "stores, and recoveries, for each number of clients")
	fl.DurationVar(&f.span, "time", 0, "measure for so long instead, stores and recoveries each")
	fl.IntVar(&f.size, "size", 256, "bytes of a value")
	fl.SortFlags = false
	return cmd
}

func (f benchFlags) check() error {
	const help = "keyctl bench --help"
	for _, w := range f.workers {
		if w < 1 || w > 1024 {
			return usage("--concurrency is between 1 and 1024", help)
		}
	}
	switch {
	case len(f.workers) == 0 || len(f.workers) > 16:
		return usage("--concurrency takes 1 to 16 numbers", help)
	case f.count < 1 || f.count > 1_000_000:
		return usage("--count is between 1 and 1000000", help)
	case f.span < 0 || f.span > time.Hour:
		return usage("--time is at most 1h", help)
	case f.size < 0 || f.size > apitype.MaxValue:
		return usage(fmt.Sprintf("--size is between 0 and %d", apitype.MaxValue), help)
	}
	return nil
}

// benchJSON is the answer of bench.
type benchJSON struct {
	Size  int        `json:"size"`
	Nodes []string   `json:"nodes"`
	Runs  []benchRun `json:"runs"`
	Left  int        `json:"left"` // secrets that could not be deleted
	// Pending deletions have yet to reach some holders.
	Pending int `json:"pending"`
}

// benchRun is one row: one operation at one number of clients.
type benchRun struct {
	Op          string  `json:"op"` // put or get
	Concurrency int     `json:"concurrency"`
	Count       int     `json:"count"` // that succeeded
	Errors      int     `json:"errors"`
	Seconds     float64 `json:"seconds"`
	Rate        float64 `json:"per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
}

func (a *app) bench(ctx context.Context, f benchFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	places, err := a.places()
	if err != nil {
		return err
	}
	out := benchJSON{Size: f.size, Runs: []benchRun{}}
	l, err := newLoad(f, a.opts.timeout)
	if err != nil {
		return err
	}
	for _, p := range places {
		node, err := a.nodeAt(p)
		if err != nil {
			return err
		}
		if _, err := l.ask(ctx, node); err != nil {
			return apiError("cannot measure through "+p.String(), "keyctl bench", err)
		}
		l.nodes = append(l.nodes, node)
		out.Nodes = append(out.Nodes, p.String())
	}
	first := a.measure(ctx, l, f, &out)
	if ctx.Err() != nil {
		return &failure{exit: apitype.ExitInterrupted, what: "interrupted", hint: a.leftHint(out.Left)}
	}
	if err := a.printBench(out); err != nil {
		return err
	}
	if out.Pending > 0 {
		a.note("note: %s have yet to reach some holders, which happens by itself", plural(out.Pending, "deletion"))
	}
	if first != nil {
		return apiError("some operations failed, the first of them", "keyctl bench", first)
	}
	if out.Left > 0 {
		return &failure{exit: apitype.ExitNode, what: plural(out.Left, "secret") + " could not be deleted", hint: a.leftHint(out.Left)}
	}
	return nil
}

func (a *app) leftHint(left int) string {
	if left == 0 {
		return "everything that was stored is deleted again"
	}
	return "keyctl ls bench/ shows them; keyctl rm NAME --yes deletes one"
}

// measure runs every row and cleans up after each pair. It returns the first
// error of an operation.
func (a *app) measure(ctx context.Context, l *load, f benchFlags, out *benchJSON) error {
	var first error
	for i, workers := range f.workers {
		l.begin(i)
		for _, op := range []string{"put", "get"} {
			if ctx.Err() != nil {
				break
			}
			if a.chatty() {
				a.note("%s, %s at once ...", op, plural(workers, "client"))
			}
			run, err := l.run(ctx, op, workers)
			out.Runs = append(out.Runs, run)
			if first == nil {
				first = err
			}
		}
		left, pending := l.cleanUp(ctx)
		out.Left += left
		out.Pending += pending
	}
	return first
}

func (a *app) printBench(out benchJSON) error {
	if a.json() {
		return a.printJSON(out)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s a value, over %s\n", plural(out.Size, "byte"), plural(len(out.Nodes), "node"))
	t := newTable("OP", "CLIENTS", "COUNT", "ERRORS", "P50 MS", "P99 MS", "MAX MS", "PER SECOND")
	for _, r := range out.Runs {
		t.row(r.Op, fmt.Sprint(r.Concurrency), fmt.Sprint(r.Count), fmt.Sprint(r.Errors),
			fmt.Sprintf("%.2f", r.P50), fmt.Sprintf("%.2f", r.P99), fmt.Sprintf("%.2f", r.Max), fmt.Sprintf("%.1f", r.Rate))
	}
	return a.print([]byte(b.String() + t.text()))
}

// percentile is the nearest-rank percentile of sorted times, in milliseconds.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(p * float64(len(sorted))))
	return millis(sorted[max(rank, 1)-1])
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// ask makes sure that a node answers before a crowd is sent to it.
func (l *load) ask(ctx context.Context, node *client.Client) (apitype.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return node.Status(ctx)
}
