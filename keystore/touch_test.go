package keystore

import (
	"context"
	"testing"
	"time"
)

// TestTouched: a listing says when this node last read and last verified a
// secret, to the hour, also after a restart, and a get does not write each time.
func TestTouched(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		ctx := context.Background()
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", 1)
		one := func() Listed {
			t.Helper()
			page, err := f.nodes[0].store.List(ctx, p, ListOptions{})
			if err != nil || len(page.Items) != 1 {
				t.Fatalf("%+v %v", page, err)
			}
			return page.Items[0]
		}
		if l := one(); !l.LastRead.IsZero() || !l.LastVerified.IsZero() {
			t.Fatalf("before anything: %+v", l)
		}
		mustGet(t, s, p, "a", []byte("v"))
		first := one().LastRead
		if first.IsZero() {
			t.Fatal("a get leaves no time")
		}
		time.Sleep(10 * time.Minute)
		mustGet(t, s, p, "a", []byte("v"))
		if l := one(); !l.LastRead.Equal(first) {
			t.Errorf("written again after ten minutes: %v", l.LastRead)
		}
		time.Sleep(time.Hour)
		mustGet(t, s, p, "a", []byte("v"))
		if _, err := s.Verify(ctx, p, "a", 0); err != nil {
			t.Fatal(err)
		}
		mustPut(t, s, p, "a", []byte("w"), PutOptions{})
		time.Sleep(time.Second)
		l := one()
		if !l.LastRead.After(first) || l.LastVerified.IsZero() || l.Gen != 2 {
			t.Errorf("later: %+v", l)
		}
	})
}
