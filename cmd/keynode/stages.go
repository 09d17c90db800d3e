package main

import (
	"context"
	"errors"
	"fmt"
)

// A stage is a part of the daemon that runs until its context ends.
type stage struct {
	name string
	run  func(ctx context.Context) error
}

// runStages starts the stages in order and, when ctx ends or one of them
// returns, stops them in the opposite order, each only after the one above it
// has returned: the API drains before the keystore, the keystore before the
// mesh, the mesh before the store on disk. It returns the error of the stage
// that ended by itself, or nil when ctx ended.
func runStages(ctx context.Context, stages ...stage) error {
	type running struct {
		stage
		cancel context.CancelFunc
		done   chan error
	}
	ended := make(chan int, len(stages))
	all := make([]running, len(stages))
	for i, s := range stages {
		sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		all[i] = running{s, cancel, make(chan error, 1)}
		go func() {
			all[i].done <- s.run(sctx)
			ended <- i
		}()
	}
	first := -1
	select {
	case <-ctx.Done():
	case first = <-ended:
	}
	var errs []error
	for i := len(all) - 1; i >= 0; i-- {
		all[i].cancel()
		err := <-all[i].done
		switch {
		case err == nil && i == first:
			errs = append(errs, fmt.Errorf("%s ended by itself", all[i].name))
		case err != nil && !errors.Is(err, context.Canceled):
			errs = append(errs, fmt.Errorf("%s: %w", all[i].name, err))
		}
	}
	return errors.Join(errs...)
}
