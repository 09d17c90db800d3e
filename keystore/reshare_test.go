package keystore

import (
	"context"
	"errors"
	"testing"

	"keymesh/crypto/key"
)

// TestReshare: another shape, other holders, and back; the value stays, and a
// value written in between is not undone.
func TestReshare(t *testing.T) {
	bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		ctx := context.Background()
		mustPut(t, s, p, "a", []byte("value"), PutOptions{N: 5, K: 3})
		settle(t, f, p, "a", 1)
		r, err := s.Reshare(ctx, p, "a", PutOptions{N: 7, K: 4})
		if err != nil || r.Gen != 2 || r.N != 7 || r.K != 4 {
			t.Fatalf("%+v %v", r, explain(err))
		}
		settle(t, f, p, "a", 2)
		mustGet(t, f.nodes[3].store, p, "a", []byte("value"))
		to := []key.NodeID{f.nodes[1].id, f.nodes[2].id, f.nodes[3].id}
		if r, err = s.Reshare(ctx, p, "a", PutOptions{Holders: to}); err != nil || r.N != 3 || r.K != 2 {
			t.Fatalf("%+v %v", r, explain(err))
		}
		settle(t, f, p, "a", 3)
		for _, st := range r.Seats {
			if st.Node != to[0] && st.Node != to[1] && st.Node != to[2] {
				t.Errorf("a seat at %s", st.Name)
			}
		}
		mustGet(t, f.nodes[5].store, p, "a", []byte("value"))
		if _, err := s.Reshare(ctx, p, "nothing", PutOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("of nothing: %v", err)
		}
		if _, err := s.Reshare(ctx, p, "a", PutOptions{N: 2, K: 3}); !errors.Is(err, ErrInput) {
			t.Errorf("3 of 2: %v", err)
		}
		mustGet(t, f.nodes[5].store, p, "a", []byte("value"))
	})
}

// TestReshareDoesNotUndo: a put that lands between the read and the write wins.
func TestReshareDoesNotUndo(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		done := make(chan error, 1)
		go func() {
			_, err := f.nodes[0].store.Reshare(context.Background(), p, "a", PutOptions{N: 5, K: 2})
			done <- err
		}()
		_, errPut := f.nodes[1].store.Put(context.Background(), p, "a", []byte("new"), PutOptions{})
		errShare := <-done
		var conflict *ConflictError
		var doubt *InDoubtError
		if errShare != nil && !errors.As(errShare, &conflict) && !errors.As(errShare, &doubt) {
			t.Errorf("reshare: %v", explain(errShare))
		}
		if errPut != nil {
			t.Fatalf("put: %v", explain(errPut))
		}
		mustGet(t, f.nodes[2].store, p, "a", []byte("new"))
	})
}
