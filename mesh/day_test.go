package mesh

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/mesh/memnet"
)

// TestDay runs 64 nodes through restarts, partitions and address changes, and
// wants all 2016 links back each time. By default it lasts 12 minutes of
// virtual time; KEYMESH_DAY=1 makes it 24 hours, which takes a quarter of an
// hour of real time, almost all of it pings (go test -timeout 60m).
func TestDay(t *testing.T) {
	nodes, length, gap := 64, 12*time.Minute, 2*time.Minute
	if os.Getenv("KEYMESH_DAY") != "" {
		length, gap = 24*time.Hour, time.Hour
	} else if testing.Short() {
		nodes = 16
	}
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		d := &day{t: t, net: memnet.New(), rng: rand.New(rand.NewPCG(1, 2)), gap: gap}
		d.a = newAuthority(t)
		d.peers = d.a.cluster(t, d.net, nodes)
		defer stopAll(d.peers)
		t.Logf("first full mesh after %v", waitMesh(t, d.peers, time.Minute))
		for _, p := range d.peers {
			p.cfg.Bootstrap = nil // from here on the books have to do
		}
		start := time.Now()
		for i := 0; time.Since(start) < length; i++ {
			time.Sleep(d.gap/2 + time.Duration(d.rng.Int64N(int64(d.gap/2))))
			what := []func() string{d.restart, d.partition, d.move}[i%3]()
			back := waitMesh(t, d.peers, 6*time.Minute)
			t.Logf("%8v  %-34s all links back after %v", time.Since(start).Round(time.Second), what, back)
		}
	})
	t.Logf("%d nodes, %v of virtual time in %v", nodes, length, time.Since(real).Round(time.Second))
}

type day struct {
	t     *testing.T
	a     *authority
	net   *memnet.Network
	rng   *rand.Rand
	peers []*peer
	gap   time.Duration
	moves int
}

// some picks 1 to n random nodes.
func (d *day) some(n int) []*peer {
	k := 1 + d.rng.IntN(n)
	var out []*peer
	for _, i := range d.rng.Perm(len(d.peers))[:k] {
		out = append(out, d.peers[i])
	}
	return out
}

func (d *day) restart() string {
	ps := d.some(8)
	for _, p := range ps {
		if d.rng.IntN(2) == 0 {
			p.host.Crash()
			p.cancel()
			<-p.ended // a dead listener may be why it ended
		} else {
			p.stop()
		}
	}
	time.Sleep(time.Duration(d.rng.Int64N(int64(d.gap))))
	for _, p := range ps {
		p.start()
	}
	return fmt.Sprintf("%d restarted", len(ps))
}

func (d *day) partition() string {
	ps := d.some(len(d.peers) / 2)
	in := map[*peer]bool{}
	for _, p := range ps {
		in[p] = true
	}
	both := func(f func(a, b string)) {
		for _, p := range ps {
			for _, q := range d.peers {
				if !in[q] {
					f(p.host.Name(), q.host.Name())
				}
			}
		}
	}
	both(d.net.Cut)
	time.Sleep(time.Duration(d.rng.Int64N(int64(d.gap))))
	both(d.net.Heal)
	return fmt.Sprintf("%d cut off from %d", len(ps), len(d.peers)-len(ps))
}

func (d *day) move() string {
	ps := d.some(4)
	for _, p := range ps {
		p.stop()
		d.moves++
		p.host = d.net.Host(fmt.Sprintf("moved%d", d.moves))
		p.cfg.Dial = p.host.Dial
		p.cfg.Advertise = []string{"ws://" + p.host.Name() + ":1"}
	}
	time.Sleep(time.Duration(d.rng.Int64N(int64(d.gap))))
	for _, p := range ps {
		p.start()
	}
	return fmt.Sprintf("%d got another address", len(ps))
}
