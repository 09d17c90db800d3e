package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// order records what happened.
type order struct{ seen chan string }

func (o order) stage(name string, drain time.Duration) stage {
	return stage{name, func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(drain)
		o.seen <- name
		return ctx.Err()
	}}
}

func TestStagesStopInTheOppositeOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := order{make(chan string, 3)}
		time.AfterFunc(time.Second, cancel)
		// The later a stage was started the longer it drains: without waiting for
		// it the ones below would end first.
		if err := runStages(ctx, o.stage("disk", 0), o.stage("mesh", time.Second), o.stage("api", 2*time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := []string{<-o.seen, <-o.seen, <-o.seen}; !slices.Equal(got, []string{"api", "mesh", "disk"}) {
			t.Errorf("stopped in the order %v", got)
		}
	})
}

func TestStageThatFailsStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := order{make(chan string, 2)}
		cause := errors.New("fsync: input/output error")
		err := runStages(t.Context(), o.stage("disk", 0), stage{"mesh", func(context.Context) error { return cause }}, o.stage("api", 0))
		if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "mesh: ") {
			t.Errorf("error %v", err)
		}
		if len(o.seen) != 2 {
			t.Errorf("%d of 2 other stages ended", len(o.seen))
		}
	})
}

func TestStageThatEndsByItselfIsAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := runStages(t.Context(), stage{"disk", func(context.Context) error { return nil }})
		if err == nil || !strings.Contains(err.Error(), "disk ended by itself") {
			t.Errorf("error %v", err)
		}
	})
}
