package mesh

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/memnet"
)

func TestErrorsAcrossTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 2)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		p, to := peers[0].node, peers[1].node.ID()
		var remote *RemoteError
		if _, err := p.Call(t.Context(), to, 99, nil); !errors.As(err, &remote) || remote.Text != "no such verb here" {
			t.Errorf("the handler's error came as %v", err)
		}
		if _, err := p.Call(t.Context(), to, 5, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("a verb of the mesh itself: %v", err)
		}
		if _, err := p.Call(t.Context(), key.GenerateNode().ID(), 40, nil); !errors.Is(err, ErrUnknownNode) {
			t.Errorf("an unknown node: %v", err)
		}
		if _, err := p.Call(t.Context(), to, 40, make([]byte, frame.MaxBody+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a large body: %v", err)
		}
		if got, err := p.Call(t.Context(), to, 40, make([]byte, frame.MaxBody)); err != nil || len(got) != frame.MaxBody {
			t.Errorf("the largest body: %d bytes, %v", len(got), err)
		}
		if got, err := p.Call(t.Context(), p.ID(), 40, []byte("me")); err != nil || string(got) != "me" {
			t.Errorf("a call to itself: %q, %v", got, err)
		}
		peers[1].stop()
		if _, err := p.Call(t.Context(), to, 40, nil); !errors.Is(err, ErrNoLink) {
			t.Errorf("a peer that is off: %v", err)
		}
	})
}

func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y := a.newPeer(t, net, "x"), a.newPeer(t, net, "y", "x:1")
		y.handle = func(ctx context.Context, _ key.NodeID, _ uint64, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		peers := []*peer{x, y}
		x.start()
		y.start()
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		for _, limit := range []time.Duration{time.Second, time.Hour} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			start := time.Now()
			_, err := x.node.Call(ctx, y.node.ID(), 40, nil)
			var remote *RemoteError
			if !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &remote) {
				t.Errorf("%v", err)
			}
			if d := time.Since(start); d != min(limit, DefaultTimeout) {
				t.Errorf("a call limited to %v took %v", limit, d)
			}
			cancel()
		}
		// A call under way when the link breaks is told apart.
		go func() { time.Sleep(time.Second); net.Host("y").Crash() }()
		if _, err := x.node.Call(t.Context(), y.node.ID(), 40, nil); !errors.Is(err, ErrLost) {
			t.Errorf("the link broke: %v", err)
		}
		<-y.ended
		y.node = nil
	})
}

// TestManyCalls: more callers than may be in flight wait for one another, and
// nobody is answered busy.
func TestManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y := a.newPeer(t, net, "x"), a.newPeer(t, net, "y", "x:1")
		var now, most atomic.Int64
		slow := func(_ context.Context, _ key.NodeID, _ uint64, body []byte) ([]byte, error) {
			k := now.Add(1)
			for m := most.Load(); k > m && !most.CompareAndSwap(m, k); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return body, nil
		}
		x.handle, y.handle = slow, slow
		peers := []*peer{x, y}
		x.start()
		y.start()
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		const calls = 300
		errs := make(chan error, 2*calls)
		for _, pair := range [][2]*peer{{x, y}, {y, x}} {
			for range calls {
				go func() {
					body := bytes.Repeat([]byte("b"), 100_000)
					got, err := pair[0].node.Call(t.Context(), pair[1].node.ID(), 40, body)
					if err == nil && !bytes.Equal(got, body) {
						err = errors.New("other bytes")
					}
					errs <- err
				}()
			}
		}
		for range 2 * calls {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if most.Load() > 2*maxCalls {
			t.Fatalf("%d at a time on two nodes", most.Load())
		}
		time.Sleep(time.Second)
		for _, p := range peers {
			if s := p.node.Status(); s.BytesHeld != 0 {
				t.Errorf("%s still holds %d bytes", p.name, s.BytesHeld)
			}
		}
	})
}

func TestPushAndBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		got := make(chan string, 10)
		var peers []*peer
		for _, name := range []string{"a", "b", "c"} {
			p := a.newPeer(t, net, name, "a:1")
			p.handle = func(_ context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
				got <- name + " got " + string(body)
				return nil, errors.New("nobody hears this")
			}
			p.start()
			peers = append(peers, p)
		}
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		peers[0].node.Broadcast(t.Context(), 40, []byte("all"))
		if err := peers[1].node.Push(t.Context(), peers[0].node.ID(), 40, []byte("one")); err != nil {
			t.Fatal(err)
		}
		seen := strings.Join([]string{<-got, <-got, <-got}, ", ")
		for _, want := range []string{"a got one", "b got all", "c got all"} {
			if !strings.Contains(seen, want) {
				t.Errorf("%q lacks %q", seen, want)
			}
		}
	})
}

func TestMetered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		peers := a.cluster(t, net, 2)
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		call := func(verb uint64) error {
			_, err := peers[0].node.Call(t.Context(), peers[1].node.ID(), verb, nil)
			return err
		}
		served, busy := 0, 0
		for range 200 {
			if err := call(70); err == nil {
				served++
			} else if errors.Is(err, ErrBusy) {
				busy++
			} else {
				t.Fatal(err)
			}
		}
		if served != meteredBurst || busy != 200-meteredBurst {
			t.Errorf("%d served, %d busy", served, busy)
		}
		for range 200 {
			if err := call(40); err != nil {
				t.Fatalf("an unmetered verb: %v", err)
			}
		}
		time.Sleep(time.Second)
		served = 0
		for range 200 {
			if call(70) == nil {
				served++
			}
		}
		if served != meteredRate {
			t.Errorf("%d served a second later", served)
		}
	})
}

func TestOfferAndRoundTripTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, net := newAuthority(t), memnet.New()
		x, y := a.newPeer(t, net, "x"), a.newPeer(t, net, "y", "x:1")
		var full atomic.Bool
		y.cfg.Accepting = func() bool { return !full.Load() }
		peers := []*peer{x, y}
		x.start()
		y.start()
		defer stopAll(peers)
		waitMesh(t, peers, time.Second)
		m := x.node.Members()[0]
		if !m.Accepting || string(m.SealingKey) != "sealing key of y" || m.Operator != "op-y" || m.Public.ID() != m.ID {
			t.Fatalf("%+v", m)
		}
		full.Store(true)
		time.Sleep(2 * pingEvery)
		if x.node.Members()[0].Accepting {
			t.Fatal("the standing offer was taken back, and the peer does not know")
		}
		if s := y.node.Self(); s.Accepting || s.Name != "y" {
			t.Fatalf("self: %+v", s)
		}
	})
}
