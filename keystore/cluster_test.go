package keystore

import (
	"bytes"
	"context"
	"testing"
)

func mustPut(t *testing.T, s *Store, p Person, name string, value []byte, o PutOptions) PutResult {
	t.Helper()
	r, err := s.Put(context.Background(), p, name, value, o)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return r
}

func mustGet(t *testing.T, s *Store, p Person, name string, want []byte) Recovered {
	t.Helper()
	r, err := s.Recover(context.Background(), p, name, RecoverOptions{})
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if !bytes.Equal(r.Value, want) {
		t.Fatalf("got %d bytes instead of the %d put", len(r.Value), len(want))
	}
	return r
}

func TestPutRecover(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	r := mustPut(t, f.nodes[0].store, p, "demo/db", []byte("hunter2"), PutOptions{})
	if r.Gen != 1 || r.N != 5 || r.K != 3 || r.W != 4 || r.Acked < 4 || !r.Created {
		t.Fatalf("%+v", r)
	}
	for _, n := range f.nodes {
		g := mustGet(t, n.store, p, "demo/db", []byte("hunter2"))
		if g.Gen != 1 || len(g.Used) != 3 || len(g.Bad) != 0 {
			t.Fatalf("%+v", g)
		}
	}
}
