package keystore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeleteAgain: a deletion that still waits for a holder is gone on with, in
// its own words, and is done once that holder is back.
func TestDeleteAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		s, p, ctx := f.nodes[0].store, newPerson(), context.Background()
		r := mustPut(t, s, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", r.Gen)
		f.nodes[4].stop()
		first, err := s.Delete(ctx, p, "a", DeleteOptions{})
		if err != nil || first.Done || len(first.Missing) != 1 || first.Gen != r.Gen {
			t.Fatalf("%+v %v", first, err)
		}
		if _, err := s.Delete(ctx, p, "a", DeleteOptions{Gen: r.Gen}); err == nil {
			t.Error("another deletion goes on with it")
		}
		_, err = s.Delete(ctx, p, "a", DeleteOptions{})
		var doubt *InDoubtError
		if !errors.As(err, &doubt) || doubt.Op != "delete" || doubt.Gen != r.Gen || len(doubt.Seats) != 1 || doubt.Seats[0].Node != f.nodes[4].member.ID {
			t.Fatalf("again: %v", explain(err))
		}
		f.nodes[4].start()
		time.Sleep(10 * time.Minute)
		if _, err := s.Delete(ctx, p, "a", DeleteOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("when all have heard: %v", explain(err))
		}
	})
}

// TestExpiredIsSaid: what has expired is not called unknown only.
func TestExpiredIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		s, p, ctx := f.nodes[0].store, newPerson(), context.Background()
		mustPut(t, s, p, "a", []byte("v"), PutOptions{TTL: new(time.Minute)})
		time.Sleep(2 * time.Minute)
		if _, err := s.Recover(ctx, p, "a", RecoverOptions{}); !errors.Is(err, ErrExpired) || !errors.Is(err, ErrNotFound) {
			t.Errorf("recover: %v", explain(err))
		}
		if _, err := s.Info(ctx, p, "a"); !errors.Is(err, ErrExpired) {
			t.Errorf("info: %v", explain(err))
		}
		if _, err := s.Info(ctx, p, "b"); errors.Is(err, ErrExpired) {
			t.Errorf("unknown: %v", explain(err))
		}
	})
}
