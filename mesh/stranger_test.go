package mesh

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

func TestStrangersGetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		other := newAuthority(t)
		member := a.newPeer(t, net, "evil").cfg
		stranger := func(change func(*hello)) []byte {
			var h hello
			if err := key.Unmarshal(helloOf(t, member), &h); err != nil {
				t.Fatal(err)
			}
			change(&h)
			return key.Marshal(&h)
		}
		foreign := member
		foreign.Network = other.id
		foreign.Issuer = other.cert
		foreign.Member = other.member(t, member.Key.ID(), "evil", time.Hour)
		selfMade := member
		mine := *a
		mine.issuer = key.GenerateAuthority()
		selfMade.Member = mine.member(t, member.Key.ID(), "evil", time.Hour)
		selfMade.Issuer = other.delegate(t, mine.issuer)
		thief := key.GenerateNode() // has the record of a member, but not its key
		for name, c := range map[string]struct {
			k    key.NodePrivate
			body []byte
		}{
			"no record":            {thief, stranger(func(h *hello) { h.Record = key.Object{} })},
			"another network":      {member.Key, helloOf(t, foreign)},
			"stolen record":        {thief, helloOf(t, member)},
			"rubbish":              {thief, []byte("HELLO")},
			"no common version":    {member.Key, stranger(func(h *hello) { h.Versions = []uint64{2, 3} })},
			"another sealing key":  {member.Key, stranger(func(h *hello) { h.Sealing = []byte("mine") })},
			"a flipped signature":  {member.Key, stranger(func(h *hello) { h.Record.Sig[5] ^= 1 })},
			"an unknown extension": {member.Key, stranger(func(h *hello) { h.Ext = map[uint64][]byte{4: nil} })},
		} {
			x := attack(t, evil, "v:1", c.k)
			if err := x.send(frame.Request, 1, verbHello, c.body); err != nil {
				t.Fatal(err)
			}
			x.silence(name)
		}
		// A self-made chain does not even make a record.
		if _, err := New(selfMade); !errors.Is(err, roster.ErrChain) {
			t.Errorf("a self-made issuer: %v", err)
		}
		for name, verb := range map[string]uint64{"a call": 40, "a digest": verbDigest, "a fetch": verbFetch, "a renewal": verbRenew, "a join at no issuer": verbJoin} {
			x := attack(t, evil, "v:1", thief)
			x.send(frame.Request, 1, verb, key.Marshal(&empty{}))
			x.silence(name + " instead of HELLO")
		}
		for name, kind := range map[string]frame.Kind{"a reply": frame.Reply, "a failure": frame.Failed} {
			x := attack(t, evil, "v:1", member.Key)
			x.send(kind, 1, verbHello, helloOf(t, member))
			x.silence(name + " instead of HELLO")
		}
		if s := v.node.Status(); s.Links != 0 || s.Members != 0 {
			t.Errorf("%+v", s)
		}
		unharmed(t, a, net, v)
	})
}

// TestHelloIsMutual: whoever is answered and then does not accept has no link.
func TestHelloIsMutual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := attack(t, evil, "v:1", cfg.Key)
		x.send(frame.Request, 1, verbHello, helloOf(t, cfg))
		x.next()
		x.next() // its HELLO, which stays unanswered
		time.Sleep(time.Second)
		if s := v.node.Status(); s.Links != 0 || s.HalfOpen != 1 {
			t.Errorf("up before its HELLO was answered: %+v", s)
		}
		time.Sleep(authTime)
		if s := v.node.Status(); s.Links != 0 || s.HalfOpen != 0 {
			t.Errorf("after 5 s: %+v", s)
		}
		unharmed(t, a, net, v)
	})
}

func TestHelloOfOwnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.cfg.Bootstrap = []string{"v:1"} // it meets itself, and goes on
		v.start()
		defer v.stop()
		time.Sleep(time.Hour)
		if s := v.node.Status(); s.Links != 0 || s.Counters["dials failed"] > 30 {
			t.Errorf("%+v", s)
		}
		x := attack(t, evil, "v:1", v.cfg.Key) // a copy of the machine
		x.send(frame.Request, 1, verbHello, helloOf(t, v.cfg))
		h, b, err := x.next()
		if err != nil || h.Kind != frame.Failed {
			t.Fatalf("%v %q %v", h, b, err)
		}
		x.silence("own id")
		unharmed(t, a, net, v)
	})
}

func TestRevokedPeerIsTurnedAwayInTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		var err error
		v.cfg.Issuing, err = NewIssuer(IssuerConfig{Key: a.issuer, Cert: a.cert, Network: a.id, Node: v.cfg.Key.ID(), Book: v.book})
		if err != nil {
			t.Fatal(err)
		}
		v.start()
		defer v.stop()
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		time.Sleep(time.Second)
		if err := v.node.Revoke(t.Context(), cfg.Key.ID()); err != nil {
			t.Fatal(err)
		}
		x.silence("the link of a node that was revoked")
		ws, raw, err := connect(t.Context(), "v:1", evil.Dial, &sync.Pool{})
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		cert, _ := certificate(cfg.Key)
		conn := tls.Client(ws, tlsConfig(cert, pinned(key.NodeID{})))
		conn.Handshake() // returns before the server has judged it
		conn.Write(frame.Append(nil, frame.Request, 1, verbHello, helloOf(t, cfg)))
		if h, err := frame.NewReader(conn, frame.MaxSize).Next(); err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Fatalf("a revoked node came as far as %v, %v", h, err)
		}
		unharmed(t, a, net, v)
	})
}

// TestTLS checks what of TLS is accepted.
func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		good, _ := certificate(key.GenerateNode())
		two := good
		two.Certificate = append([][]byte{good.Certificate[0]}, good.Certificate...)
		p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, p256.Public(), p256)
		if err != nil {
			t.Fatal(err)
		}
		sessions := tls.NewLRUClientSessionCache(10)
		for name, change := range map[string]func(*tls.Config){
			"":                 func(c *tls.Config) { c.ClientSessionCache = sessions },
			"no certificate":   func(c *tls.Config) { c.Certificates = nil },
			"two certificates": func(c *tls.Config) { c.Certificates = []tls.Certificate{two} },
			"ECDSA": func(c *tls.Config) {
				c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: p256}}
			},
			"TLS 1.2":         func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
			"no ALPN":         func(c *tls.Config) { c.NextProtos = nil },
			"other ALPN":      func(c *tls.Config) { c.NextProtos = []string{"h2"} },
			"classical curve": func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} },
		} {
			ws, raw, err := connect(t.Context(), "v:1", evil.Dial, &sync.Pool{})
			if err != nil {
				t.Fatal(err)
			}
			cfg := tlsConfig(good, func(key.NodeID) error { return nil })
			cfg.VerifyConnection = nil
			cfg.SessionTicketsDisabled = false
			change(cfg)
			conn := tls.Client(ws, cfg)
			err = conn.Handshake()
			if err == nil {
				conn.SetReadDeadline(time.Now().Add(time.Second))
				_, err = conn.Read(make([]byte, 1))
			}
			ne := netError(err)
			if timeout := ne != nil && ne.Timeout(); timeout != (name == "") {
				t.Errorf("%q: %v", name, err)
			}
			if name == "" {
				cs := conn.ConnectionState()
				if cs.CurveID != tls.X25519MLKEM768 || cs.Version != tls.VersionTLS13 {
					t.Errorf("negotiated %v %x", cs.CurveID, cs.Version)
				}
			}
			raw.Close()
		}
		if s, ok := sessions.Get("v:1"); ok {
			t.Errorf("a session ticket was given: %v", s)
		}
		if s, ok := sessions.Get(""); ok {
			t.Errorf("a session ticket was given: %v", s)
		}
		unharmed(t, a, net, v)
	})
}

func netError(err error) net.Error {
	var ne net.Error
	errors.As(err, &ne)
	return ne
}

// TestDialledIDIsPinned: another member at the address is not who was dialled.
func TestDialledIDIsPinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, _ := victim(t)
		v.start()
		defer v.stop()
		other := a.newPeer(t, net, "other")
		other.start()
		defer other.stop()
		<-v.node.running
		if _, err := v.node.approach(v.node.ctx, "other:1", key.GenerateNode().ID(), v.host.Dial); !errors.Is(err, errIdentity) {
			t.Fatalf("%v", err)
		}
		time.Sleep(time.Second)
		if s := other.node.Status(); s.Links != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestSilenceAndSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		closed := func(name string, c io.Reader, start time.Time) {
			t.Helper()
			io.Copy(io.Discard, c)
			if d := time.Since(start); d > authTime+time.Second {
				t.Errorf("%s: open for %v", name, d)
			}
		}
		dial := func() netConn {
			c, err := evil.Dial(t.Context(), "v:1")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c, start := dial(), time.Now()
		closed("silent", c, start)
		c, start = dial(), time.Now()
		go func() { // slow loris: a byte now and then
			for _, b := range []byte("GET /mesh/v1 HTTP/1.1\r\nHost: v\r\nX: " + strings.Repeat("x", 1000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(500 * time.Millisecond)
			}
		}()
		closed("slow request", c, start)
		for name, steps := range map[string]int{"silent after the upgrade": 0, "silent after TLS": 1, "half a HELLO": 2} {
			start = time.Now()
			ws, raw, err := connect(t.Context(), "v:1", evil.Dial, &sync.Pool{})
			if err != nil {
				t.Fatal(err)
			}
			raw.trust()
			var r io.Reader = ws
			if steps > 0 {
				cert, _ := certificate(key.GenerateNode())
				conn := tls.Client(ws, tlsConfig(cert, pinned(key.NodeID{})))
				if err := conn.Handshake(); err != nil {
					t.Fatal(err)
				}
				if steps > 1 {
					conn.Write([]byte{0, 0, 1, 0, 0x84, 1, 1, 1})
				}
				r = conn
			}
			closed(name, r, start)
		}
		unharmed(t, a, net, v)
	})
}

type netConn = net.Conn

func TestTooMuchBeforeAuthentication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		c, err := evil.Dial(t.Context(), "v:1")
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("GET /mesh/v1 HTTP/1.1\r\nHost: v\r\nX: " + strings.Repeat("x", 3*frame.MaxPreAuth)))
		start := time.Now()
		io.Copy(io.Discard, c)
		if time.Since(start) > 0 {
			t.Errorf("a request of 24 KiB was read for %v", time.Since(start))
		}
		cfg := a.newPeer(t, net, "evil").cfg
		for _, size := range []int{frame.MaxPreAuth, 1 << 20} {
			x := attack(t, evil, "v:1", cfg.Key)
			start = time.Now()
			x.send(frame.Request, 1, verbHello, make([]byte, size))
			x.silence("oversized HELLO")
			if time.Since(start) > 0 {
				t.Errorf("a HELLO of %d bytes was read for %v", size, time.Since(start))
			}
		}
		x := attack(t, evil, "v:1", cfg.Key)
		x.conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 0x84, 1, 1, 1, 0x40})
		x.silence("a frame of 4 GiB")
		unharmed(t, a, net, v)
	})
}

func TestHalfOpenLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, _ := victim(t)
		v.start()
		defer v.stop()
		var wg sync.WaitGroup
		turned, kept := 0, 0
		var mu sync.Mutex
		for h := range 6 {
			for range 10 {
				wg.Go(func() {
					c, err := net.Host(fmt.Sprintf("evil%d", h)).Dial(t.Context(), "v:1")
					if err != nil {
						t.Error(err)
						return
					}
					b, _ := io.ReadAll(c)
					mu.Lock()
					defer mu.Unlock()
					if bytes.Contains(b, []byte(" 503 ")) {
						turned++
					} else {
						kept++
					}
				})
			}
		}
		time.Sleep(time.Second)
		if s := v.node.Status(); s.HalfOpen != maxHalfOpen {
			t.Errorf("%d half-open", s.HalfOpen)
		}
		wg.Wait()
		if kept != maxHalfOpen || turned != 60-maxHalfOpen {
			t.Errorf("%d kept, %d turned away", kept, turned)
		}
		one := net.Host("evil")
		for range 20 {
			wg.Go(func() { c, _ := one.Dial(t.Context(), "v:1"); io.ReadAll(c) })
		}
		time.Sleep(time.Second)
		if s := v.node.Status(); s.HalfOpen != maxHalfHost {
			t.Errorf("%d half-open from one address", s.HalfOpen)
		}
		// Others still get in meanwhile.
		good := a.newPeer(t, net, "g", "v:1")
		good.start()
		waitMesh(t, []*peer{v, good}, time.Second)
		good.stop()
		wg.Wait()
		unharmed(t, a, net, v)
	})
}
