package keystore

import (
	"context"
	"errors"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// What was called not stored is not stored later, also when the node is killed
// right after it said so.
func TestNotStoredSurvivesAKill(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		full := true
		for _, n := range f.nodes {
			n.lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
				if verb == custody.VerbPrepare && full {
					return key.Marshal(&custody.PrepareReply{Outcome: custody.Full, Why: "quota"}), nil
				}
				return call()
			})
		}
		_, err := f.nodes[0].store.Put(context.Background(), p, "a", []byte("v"), PutOptions{N: 5, K: 3})
		if !errors.Is(err, ErrFull) {
			t.Fatalf("%v", explain(err))
		}
		f.nodes[0].stop()
		full = false
		f.nodes[0].start()
		time.Sleep(10 * time.Minute)
		if _, err := f.nodes[2].store.Recover(context.Background(), p, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("what was not stored is there: %v", explain(err))
		}
	})
}
