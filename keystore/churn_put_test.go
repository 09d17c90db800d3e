package keystore

import (
	"context"
	"testing"
	"time"
)

// After a move the old node is removed, and another one is off: puts and gets go
// on.
func TestMoveThenPut(t *testing.T) {
	churn(t, 6, 2, func(t *testing.T, f *fakeNet, p Person) {
		s, old := f.nodes[0].store, f.nodes[4]
		old.stop()
		if m := mustMove(t, s, p, old.id, f.nodes[5].id); m.Moved != 2 {
			t.Fatalf("%+v", m)
		}
		info, err := s.Info(context.Background(), p, "s/000")
		if err != nil || info.Stuck != 1 {
			t.Fatalf("%+v %v", info, err)
		}
		old.revoke()
		time.Sleep(time.Minute)
		if info, err = s.Info(context.Background(), p, "s/000"); err != nil || info.Stuck != 2 || info.Loses != 3 {
			t.Fatalf("%+v %v", info, err)
		}
		f.nodes[1].stop()
		r := mustPut(t, s, p, "s/000", []byte("w"), PutOptions{})
		if r.Acked < 4 {
			t.Fatalf("%+v", r)
		}
		mustGet(t, f.nodes[3].store, p, "s/000", []byte("w"))
	})
}
