package mesh

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/memnet"
	"keymesh/mesh/roster"
)

// attacker speaks the wire protocol by hand.
type attacker struct {
	t    testing.TB
	raw  net.Conn
	conn *tls.Conn
	in   *frame.Reader
}

// attack opens the inner TLS to addr with the key.
func attack(t testing.TB, host *memnet.Host, addr string, k key.NodePrivate) *attacker {
	t.Helper()
	ws, raw, err := connect(t.Context(), addr, host.Dial, &sync.Pool{})
	if err != nil {
		t.Fatal(err)
	}
	raw.trust()
	cert, err := certificate(k)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(ws, tlsConfig(cert, pinned(key.NodeID{})))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return &attacker{t: t, raw: raw, conn: conn, in: frame.NewReader(conn, frame.MaxSize)}
}

func (x *attacker) close() { x.raw.Close() }

func (x *attacker) send(kind frame.Kind, call, verb uint64, body []byte) error {
	_, err := x.conn.Write(frame.Append(nil, kind, call, verb, body))
	return err
}

// next returns the next frame that is no gossip and no ping.
func (x *attacker) next() (frame.Head, []byte, error) {
	for {
		h, err := x.in.Next()
		if err != nil {
			return h, nil, err
		}
		b, err := x.in.Body()
		if err != nil || h.Verb >= FirstVerb || h.Kind == frame.Reply || h.Kind == frame.Failed || h.Verb == verbHello {
			return h, b, err
		}
	}
}

// silence fails unless the connection ends without another frame.
func (x *attacker) silence(what string) {
	x.t.Helper()
	x.conn.SetReadDeadline(time.Now().Add(time.Minute))
	if h, b, err := x.next(); err == nil {
		x.t.Errorf("%s: answered with %v %q", what, h, b)
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		x.t.Errorf("%s: the connection stays open", what)
	}
	x.close()
}

func helloOf(t testing.TB, cfg Config) []byte {
	t.Helper()
	cfg.Listener, cfg.Book = nil, nil
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n.self, err = n.sign(1, time.Now()); err != nil {
		t.Fatal(err)
	}
	return n.hello(time.Now(), 1)
}

// intrude becomes a linked member by hand.
func intrude(t testing.TB, host *memnet.Host, addr string, cfg Config) *attacker {
	t.Helper()
	x := attack(t, host, addr, cfg.Key)
	x.send(frame.Request, 1, verbHello, helloOf(t, cfg))
	for _, want := range []frame.Kind{frame.Reply, frame.Request} {
		if h, b, err := x.next(); err != nil || h.Kind != want || h.Verb != verbHello {
			t.Fatalf("HELLO: %v %q %v", h, b, err)
		}
	}
	x.send(frame.Reply, 1, verbHello, key.Marshal(&welcome{Version: version}))
	return x
}

// victim runs one node at v:1 and returns it with an attacker's host.
func victim(t testing.TB) (a *authority, v *peer, net *memnet.Network, evil *memnet.Host) {
	t.Helper()
	a, net = newAuthority(t), memnet.New()
	v = a.newPeer(t, net, "v")
	return a, v, net, net.Host("evil")
}

// unharmed checks that the node still takes a well-behaved member, and keeps
// nothing of the attack.
func unharmed(t testing.TB, a *authority, net *memnet.Network, v *peer) {
	t.Helper()
	time.Sleep(6 * time.Second)
	if s := v.node.Status(); s.HalfOpen != 0 || s.BytesHeld != 0 {
		t.Errorf("left over: %+v", s)
	}
	good := a.newPeer(t, net, "good", "v:1")
	good.start()
	defer good.stop()
	waitMesh(t, []*peer{v, good}, 2*time.Second)
	if _, err := good.node.Call(t.Context(), v.node.ID(), 40, []byte("x")); err != nil {
		t.Error(err)
	}
}

// TestFlood: a member that sends and never reads loses its link, costs bounded
// memory, and others are served meanwhile.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.handle = func(ctx context.Context, from key.NodeID, verb uint64, body []byte) ([]byte, error) {
			if verb == 41 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return echo(ctx, from, verb, body)
		}
		v.start()
		defer v.stop()
		good := a.newPeer(t, net, "g", "v:1")
		good.start()
		defer good.stop()
		waitMesh(t, []*peer{v, good}, time.Second)
		x := intrude(t, evil, "v:1", a.newPeer(t, net, "evil").cfg)
		for i := range uint64(1000) {
			x.conn.SetWriteDeadline(time.Now().Add(time.Minute))
			if err := x.send(frame.Request, i+1, 41, make([]byte, 1<<20)); err != nil {
				break
			}
			if s := v.node.Status(); s.BytesHeld > maxInFlight+2<<20 {
				t.Fatalf("%d bytes are held for one peer", s.BytesHeld)
			}
		}
		if _, err := good.node.Call(t.Context(), v.node.ID(), 40, []byte("x")); err != nil {
			t.Fatalf("a good peer during a flood: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if v.online() != 1 {
			t.Errorf("%d links are left, want the good one", v.online())
		}
		x.close()
		// Answers pile up with a peer that does not read them.
		x = intrude(t, evil, "v:1", a.newPeer(t, net, "evil2").cfg)
		for i := range uint64(1000) {
			x.conn.SetWriteDeadline(time.Now().Add(time.Minute))
			if err := x.send(frame.Request, i+1, 42, make([]byte, 200<<10)); err != nil {
				break
			}
		}
		time.Sleep(2 * time.Minute)
		if v.online() != 1 {
			t.Errorf("%d links are left, want the good one", v.online())
		}
		x.close()
		time.Sleep(time.Minute)
		if s := v.node.Status(); s.BytesHeld != 0 {
			t.Errorf("%d bytes are still held", s.BytesHeld)
		}
	})
}

func TestInFlightLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.handle = func(ctx context.Context, _ key.NodeID, _ uint64, _ []byte) ([]byte, error) {
			time.Sleep(10 * time.Second)
			return nil, nil
		}
		v.start()
		defer v.stop()
		x := intrude(t, evil, "v:1", a.newPeer(t, net, "evil").cfg)
		defer x.close()
		for i := range uint64(100) {
			x.send(frame.Request, i+2, 41, nil)
		}
		busy := 0
		for range 100 {
			h, b, err := x.next()
			if err != nil {
				t.Fatal(err)
			}
			if h.Kind == frame.Failed && errors.Is(failure(b), ErrBusy) {
				busy++
			}
		}
		if busy != 100-maxCalls {
			t.Errorf("%d of 100 calls at once were answered busy", busy)
		}
	})
}

// TestPeerThatNeverAnswers: calls end by their contexts, and the room they took
// is given back once no honest peer would still be at them.
func TestPeerThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		asked := make(chan uint64, 200)
		go func() {
			for {
				h, err := x.in.Next()
				if err != nil {
					return
				}
				if h.Verb == verbPing && h.Kind == frame.Request {
					b, _ := x.in.Body()
					x.send(frame.Reply, h.Call, verbPing, b)
				} else if h.Verb == 40 {
					asked <- h.Call
				}
			}
		}()
		round := func() {
			var wg sync.WaitGroup
			for range maxCalls + 10 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if _, err := v.node.Call(ctx, cfg.Key.ID(), 40, nil); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
		}
		time.Sleep(time.Second)
		round()
		if len(asked) != maxCalls {
			t.Errorf("%d calls were sent", len(asked))
		}
		round()
		if len(asked) != maxCalls {
			t.Errorf("%d calls are in flight", len(asked))
		}
		time.Sleep(2 * abandonTime)
		round()
		if len(asked) < 2*maxCalls-5 { // the mesh asks for digests meanwhile, in vain
			t.Errorf("%d calls were sent in all", len(asked))
		}
		if v.online() != 1 {
			t.Error("the link is gone")
		}
	})
}

func TestUnknownAndMisplacedVerbs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		x := intrude(t, evil, "v:1", a.newPeer(t, net, "evil").cfg)
		for i, verb := range []uint64{0, verbHello, verbJoin, verbAnnounce, verbHave, 9, 31} {
			x.send(frame.Request, uint64(i)+2, verb, []byte{0xa0})
			h, b, err := x.next()
			if err != nil || h.Kind != frame.Failed || h.Call != uint64(i)+2 || !errors.Is(failure(b), ErrRefused) {
				t.Fatalf("verb %d: %v %q %v", verb, h, b, err)
			}
		}
		for _, verb := range []uint64{0, verbHello, verbPing, verbDigest, 31, 99, 1 << 40} {
			x.send(frame.Push, 0, verb, []byte("pushed"))
		}
		x.send(frame.Reply, 77, 40, make([]byte, 1<<20)) // to a question that nobody asked
		x.send(frame.Failed, 78, 40, nil)
		for i, verb := range []uint64{verbDigest, verbFetch} {
			x.send(frame.Request, uint64(i)+20, verb, []byte{0xa0})
			if h, b, err := x.next(); err != nil || h.Kind != frame.Failed {
				t.Fatalf("rubbish to verb %d: %v %q %v", verb, h, b, err)
			}
		}
		x.send(frame.Request, 30, 1<<40, []byte("x"))
		if h, b, err := x.next(); err != nil || h.Kind != frame.Reply {
			t.Fatalf("an unknown verb is the handler's: %v %q %v", h, b, err)
		}
		x.close()
		for name, rubbish := range map[string][]byte{"length": {0xff, 0xff, 0xff, 0xff}, "no array": append([]byte{0, 0, 0, 25}, make([]byte, 25)...)} {
			x = intrude(t, evil, "v:1", a.newPeer(t, net, "evil-"+name[:2]).cfg)
			x.conn.Write(rubbish)
			x.silence("rubbish: " + name)
		}
		x = intrude(t, evil, "v:1", a.newPeer(t, net, "evil3").cfg)
		x.conn.Write(binary.BigEndian.AppendUint32(nil, frame.MaxSize)) // one more than fits, with its length
		x.silence("huge frame")
		unharmed(t, a, net, v)
	})
}

// TestRecordRate: announcements over ten a second are not looked at.
func TestRecordRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		var items []roster.Item
		for i := range uint64(200) {
			rec, err := roster.NewNodeRecord(cfg.Key, a.id, roster.NodeRecord{Seq: i + 2, Sealing: roster.SealingHash(cfg.SealingKey), Member: cfg.Member, Issuer: cfg.Issuer, Expires: uint64(time.Now().Add(time.Hour).Unix())})
			if err != nil {
				t.Fatal(err)
			}
			items = append(items, roster.Item{Object: rec.Object})
		}
		x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: items}))
		time.Sleep(100 * time.Millisecond)
		if rec := v.node.record(cfg.Key.ID()); rec.Body.Seq != recordBurst+1 {
			t.Errorf("%d records were taken at once, want %d", rec.Body.Seq-1, recordBurst)
		}
	})
}

// TestStrangeAddresses: a record does not make nodes hammer at an address.
func TestStrangeAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		dials := map[string]int{}
		var mu sync.Mutex
		open, most := 0, 0
		v.cfg.Dial = func(ctx context.Context, addr string) (netConn, error) {
			mu.Lock()
			dials[addr]++
			open++
			most = max(most, open)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			open--
			mu.Unlock()
			return nil, ctx.Err()
		}
		v.start()
		defer v.stop()
		for i := range 8 {
			cfg := a.newPeer(t, net, fmt.Sprintf("evil%d", i)).cfg
			cfg.Advertise = []string{fmt.Sprintf("bystander%d:80", i)}
			intrude(t, evil, "v:1", cfg).close()
		}
		time.Sleep(time.Hour + time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if len(dials) != 8 || most > maxStrange {
			t.Errorf("%d addresses, %d at a time", len(dials), most)
		}
		for addr, k := range dials {
			if k > strangeTries+6 {
				t.Errorf("%s was dialled %d times in an hour", addr, k)
			}
		}
	})
}

// TestWhereAPeerComesFromIsNoStrangersDoor: its host is known by its
// connection, other addresses of its record are not.
func TestWhereAPeerComesFromIsNoStrangersDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		cfg.Advertise = []string{"wss://evil:7", "bystander:80", "ws://evil.example:9"}
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		time.Sleep(time.Second)
		v.node.mu.Lock()
		defer v.node.mu.Unlock()
		c := v.node.peers[cfg.Key.ID()]
		if len(c.proven) != 1 || !c.proven["wss://evil:7"] {
			t.Errorf("%v", c.proven)
		}
	})
}
