package mesh

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// real starts n nodes on 127.0.0.1.
func (a *authority) real(t testing.TB, n int) []*peer {
	t.Helper()
	peers := make([]*peer, n)
	first := ""
	for i := range peers {
		p := a.newPeer(t, nil, fmt.Sprintf("r%d", i+1))
		p.host = nil
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.cfg.Listener, p.cfg.Dial = l, nil
		p.cfg.Advertise = []string{"ws://" + l.Addr().String()}
		if i == 0 {
			first = l.Addr().String()
		} else {
			p.cfg.Bootstrap = []string{first}
		}
		peers[i] = p
	}
	for _, p := range peers {
		p.start()
	}
	t.Cleanup(func() { stopAll(peers) })
	return peers
}

// until polls a condition of real sockets, which tell no test when they are
// done, on a ticker.
func until(t testing.TB, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		<-tick.C
		if time.Since(start) > limit {
			t.Fatalf("not so after %v", limit)
		}
	}
	return time.Since(start)
}

func TestRealSockets(t *testing.T) {
	n := 5
	if s := os.Getenv("MESH_TEST_NODES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	a := newAuthority(t)
	peers := a.real(t, n)
	d := until(t, 20*time.Second, func() bool { return meshed(peers) })
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d nodes in one process: full mesh after %v; heap and stacks %d KiB a node", n, d, (m.HeapInuse+m.StackInuse)/1024/uint64(n))
	big := bytes.Repeat([]byte("x"), 1<<20)
	for _, body := range [][]byte{nil, []byte("y"), big} {
		got, err := peers[0].node.Call(t.Context(), peers[1].node.ID(), 40, body)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes came back as %d, %v", len(body), len(got), err)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	a := newAuthority(b)
	peers := a.real(b, 2)
	until(b, 5*time.Second, func() bool { return meshed(peers) })
	for _, size := range []int{100, 1400, 1 << 20} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%dB-%d", size, clients), func(b *testing.B) {
				body := make([]byte, size)
				to := peers[1].node.ID()
				var wg sync.WaitGroup
				for c := range clients {
					wg.Go(func() {
						for i := c; i < b.N; i += clients {
							if _, err := peers[0].node.Call(context.Background(), to, 40, body); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.SetBytes(int64(2 * size))
			})
		}
	}
}

func BenchmarkMembers(b *testing.B) {
	a := newAuthority(b)
	peers := a.real(b, 5)
	until(b, 5*time.Second, func() bool { return meshed(peers) })
	for b.Loop() {
		peers[0].node.Members()
	}
}
