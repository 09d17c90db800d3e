package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
)

func TestBucket(t *testing.T) {
	b, now := newBucket(10, 3), time.Unix(1000, 0)
	for i, want := range []bool{true, true, true, false} {
		if b.take(now, 1) != want {
			t.Errorf("token %d", i)
		}
	}
	if b.take(now.Add(50*time.Millisecond), 1) || !b.take(now.Add(110*time.Millisecond), 1) {
		t.Error("one token comes every 100 ms")
	}
	if b.take(now.Add(-time.Hour), 1) {
		t.Error("a clock that goes back makes tokens")
	}
	b.take(now.Add(time.Hour), 0)
	if !b.take(now.Add(time.Hour), 3) || b.take(now.Add(time.Hour), 1) {
		t.Error("more than the burst was saved up")
	}
}

// TestFairQueue: a peer with a thousand jobs does not delay the one job of
// another.
func TestFairQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFair(2)
		var mu sync.Mutex
		var order []string
		job := func(name string) func() {
			return func() {
				time.Sleep(time.Second)
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
			}
		}
		start := func(g func()) { go g() }
		for range 20 {
			f.submit(key.NodeID{1}, job("greedy"), start)
		}
		f.submit(key.NodeID{2}, job("modest"), start)
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(order) != 21 {
			t.Fatalf("%d jobs ran", len(order))
		}
		at := 0
		for order[at] != "modest" {
			at++
		}
		if at > 4 {
			t.Errorf("it was served after %d of the greedy peer's jobs", at)
		}
		if f.running != 0 || len(f.lanes) != 0 || len(f.turn) != 0 {
			t.Errorf("left over: %+v", f)
		}
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{}
		gone := make(chan struct{})
		for range maxCalls {
			if err := g.enter(t.Context(), gone, 0); err != nil {
				t.Fatal(err)
			}
		}
		if g.try(0) {
			t.Error("one more than fits")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.enter(ctx, gone, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		done := make(chan error, 2)
		go func() { done <- g.enter(t.Context(), gone, 0) }()
		synctest.Wait()
		go func() { done <- g.enter(t.Context(), gone, 0) }()
		synctest.Wait()
		g.leave(0)
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(gone)
		if err := <-done; !errors.Is(err, ErrNoLink) {
			t.Errorf("when the link ends: %v", err)
		}
		for range maxCalls {
			g.leave(0)
		}
		if g.calls != 0 || g.bytes != 0 || len(g.queue) != 0 {
			t.Errorf("left over: %+v", g)
		}
		// Bytes are bounded too, but a single large one always passes.
		if !g.try(maxInFlight+1) || g.try(1) {
			t.Error("bytes")
		}
		g.leave(maxInFlight + 1)
		if !g.try(maxInFlight) || !g.try(0) || g.try(1) {
			t.Error("bytes at the limit")
		}
	})
}

func TestAddressGuard(t *testing.T) {
	for addr, want := range map[string][2]bool{ // refused, refused where loopback is allowed
		"127.0.0.1": {true, false}, "127.9.9.9": {true, false}, "::1": {true, false}, "::ffff:127.0.0.1": {true, false},
		"0.0.0.0": {true, true}, "::": {true, true}, "0.1.2.3": {true, true}, "255.255.255.255": {true, true},
		"169.254.169.254": {true, true}, "169.254.0.1": {true, true}, "fe80::1": {true, true}, "fe80::1%eth0": {true, true}, "::ffff:169.254.169.254": {true, true},
		"fd00:ec2::254": {true, true}, "224.0.0.1": {true, true}, "ff02::1": {true, true},
		"64:ff9b::7f00:1": {true, true}, "64:ff9b:1::127.0.0.1": {true, true}, "2002:7f00:1::": {true, true}, "64:ff9b::a9fe:a9fe": {true, true}, "::127.0.0.1": {true, true},
		"10.0.0.1": {false, false}, "192.168.1.1": {false, false}, "100.64.0.1": {false, false}, "8.8.8.8": {false, false}, "fd00:ec2::1": {false, false},
		"2001:db8::1": {false, false}, "64:ff9b::808:808": {false, false}, "2002:808:808::1": {false, false}, "fd12::1": {false, false},
	} {
		a := netip.MustParseAddr(addr)
		for i, loopback := range []bool{false, true} {
			if err := checkIP(a, loopback); (err != nil) != want[i] || err != nil && !errors.Is(err, errAddress) {
				t.Errorf("%s with loopback %v: %v", addr, loopback, err)
			}
		}
	}
}

// TestGuardedDial checks the guard where it counts: after resolution.
func TestGuardedDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if _, err := guardedDial(false)(t.Context(), host+":"+port); !errors.Is(err, errAddress) {
			t.Errorf("%s: %v", host, err)
		}
		c, err := guardedDial(true)(t.Context(), host+":"+port)
		if err != nil {
			t.Errorf("%s where loopback is allowed: %v", host, err)
			continue
		}
		c.Close()
	}
	for s, want := range map[string]bool{"ws://127.0.0.1:1": true, "localhost:1": true, "wss://[::1]:1": true, "10.0.0.1:1": false, "example.org:1": false} {
		if onLoopback(nil, []string{s}) != want {
			t.Errorf("%s: %v", s, !want)
		}
	}
	if !onLoopback(l, nil) {
		t.Error("a listener on loopback")
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:5": "10.0.0.1", "[::ffff:10.0.0.1]:5": "10.0.0.1", "[2001:db8::1]:5": "2001:db8::/64", "[2001:db8::2%eth0]:6": "2001:db8::/64", "name:7": "name", "rubbish": "rubbish",
	} {
		if got := hostOf(stringAddr(in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

type stringAddr string

func (stringAddr) Network() string  { return "tcp" }
func (a stringAddr) String() string { return string(a) }

func TestBackoff(t *testing.T) {
	for fails := range 40 {
		most := time.Duration(0)
		for range 200 {
			d := backoff(fails)
			if d <= 0 || d > backoffMax+time.Millisecond {
				t.Fatalf("%v after %d failures", d, fails)
			}
			most = max(most, d)
		}
		if fails >= 12 && most < backoffMax/2 || fails == 1 && most > backoffMin+time.Millisecond {
			t.Errorf("at most %v after %d failures", most, fails)
		}
	}
}
