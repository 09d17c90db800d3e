package keystore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// dawdle is a holder that says of everything passed on that it misses it, and
// then takes nearly all the time there is for each full message.
func dawdle(ctx context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
	switch verb {
	case custody.VerbPass:
		var q custody.Pass
		if err := key.Unmarshal(body, &q); err != nil {
			return nil, err
		}
		r := &custody.PassReply{}
		for i := range q.Items {
			r.Missing = append(r.Missing, uint32(i))
		}
		return key.Marshal(r), nil
	case custody.VerbCommit:
		select {
		case <-time.After(passTimeout - 100*time.Millisecond):
		case <-ctx.Done():
		}
		return nil, errLost
	}
	return call()
}

// TestDawdlerDelaysItselfOnly: certificates reach a node that was away within a
// few rounds, however slow another holder makes its own turns (W3).
func TestDawdlerDelaysItselfOnly(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		liar, away := f.nodes[3], f.nodes[4]
		const secrets = 200
		name := func(i int) string { return fmt.Sprint("s", i) }
		for i := range secrets {
			mustPut(t, f.nodes[0].store, p, name(i), []byte("v"), PutOptions{})
			settle(t, f, p, name(i), 1)
		}
		f.set(func(_, to key.NodeID, _ uint64) error {
			if to == away.id {
				return errLost
			}
			return nil
		}, nil)
		for i := range secrets {
			mustPut(t, f.nodes[0].store, p, name(i), []byte("w"), PutOptions{})
		}
		time.Sleep(time.Minute)
		f.nodes[0].stop() // the writer is gone: passing on alone is left
		liar.lies(dawdle)
		for _, n := range f.nodes[1:3] { // after a restart everything is passed on again
			n.stop()
			n.start()
		}
		time.Sleep(40 * time.Second)
		f.set(func(from, _ key.NodeID, _ uint64) error {
			if from == liar.id {
				return errLost // nor does it help
			}
			return nil
		}, nil)
		before, begin := fmt.Sprint(away.shelf.dump(share.BucketState)), time.Now()
		for fmt.Sprint(away.shelf.dump(share.BucketState)) == before {
			time.Sleep(time.Second)
			if time.Since(begin) > 2*time.Minute {
				t.Fatal("the node that was away has heard of no certificate after two minutes")
			}
		}
		if took := time.Since(begin); took > 3*passEvery {
			t.Errorf("the node that was away heard of its certificates after %v; a round is %v", took, passEvery)
		}
	})
}
