package mesh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

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

// request sends raw HTTP and returns the response.
func request(t testing.TB, host *memnet.Host, head string) *http.Response {
	t.Helper()
	c, err := host.Dial(t.Context(), "v:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, head)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	return resp
}

func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		const good = "GET /mesh/v1 HTTP/1.1\r\nHost: v\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: keymesh.v1\r\n"
		for name, c := range map[string]struct {
			head string
			want int
		}{
			"good":            {good, 101},
			"compression":     {good + "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", 101},
			"origin":          {good + "Origin: http://v\r\n", 403},
			"empty origin":    {good + "Origin:\r\n", 403},
			"null origin":     {good + "Origin: null\r\n", 403},
			"other path":      {strings.Replace(good, "/mesh/v1", "/", 1), 404},
			"below the path":  {strings.Replace(good, "/mesh/v1", "/mesh/v1/x", 1), 404},
			"POST":            {strings.Replace(good, "GET", "POST", 1), 405},
			"body":            {good + "Content-Length: 5\r\n", 400},
			"no subprotocol":  {strings.Replace(good, "keymesh.v1", "keymesh.v2", 1), 400},
			"no upgrade":      {strings.Replace(good, "websocket", "h2c", 1), 426},
			"websocket draft": {strings.Replace(good, ": 13", ": 8", 1), 400},
		} {
			resp := request(t, evil, c.head+"\r\n")
			if resp.StatusCode != c.want {
				t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.want)
			}
			if x := resp.Header.Values("Sec-Websocket-Extensions"); len(x) > 0 {
				t.Errorf("%s: compression was agreed on: %q", name, x)
			}
			if p := resp.Header.Get("Sec-Websocket-Protocol"); c.want == 101 && p != subprotocol {
				t.Errorf("%s: subprotocol %q", name, p)
			}
		}
		unharmed(t, a, net, v)
	})
}

func TestWebSocketMisuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		for name, misuse := range map[string]func(ws *websocket.Conn, raw netConn){
			"text":       func(ws *websocket.Conn, _ netConn) { ws.WriteMessage(websocket.TextMessage, []byte("hello")) },
			"compressed": func(_ *websocket.Conn, raw netConn) { raw.Write([]byte{0xc2, 0x81, 0, 0, 0, 0, 0x00}) },
			"unmasked":   func(_ *websocket.Conn, raw netConn) { raw.Write([]byte{0x82, 0x01, 0x00}) },
			"huge": func(_ *websocket.Conn, raw netConn) {
				raw.Write([]byte{0x82, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0})
			},
			"no TLS": func(ws *websocket.Conn, _ netConn) {
				ws.WriteMessage(websocket.BinaryMessage, []byte("GET / HTTP/1.1\r\n\r\n"))
			},
		} {
			ws, raw, err := connect(t.Context(), "v:1", evil.Dial, &sync.Pool{})
			if err != nil {
				t.Fatal(err)
			}
			raw.trust()
			misuse(ws.Conn, raw.Conn)
			start := time.Now()
			raw.Conn.SetReadDeadline(start.Add(time.Minute))
			io.Copy(io.Discard, raw.Conn)
			if d := time.Since(start); d > 0 {
				t.Errorf("%s: open for %v", name, d)
			}
			raw.Conn.Close()
		}
		unharmed(t, a, net, v)
	})
}

// texter is a socket that writes text messages.
type texter struct{ *socket }

func (s texter) Write(p []byte) (int, error) {
	return len(p), s.WriteMessage(websocket.TextMessage, p)
}

// TestTextMessages: the same bytes in text messages are no link.
func TestTextMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		for _, text := range []bool{false, true} {
			ws, raw, err := connect(t.Context(), "v:1", evil.Dial, &sync.Pool{})
			if err != nil {
				t.Fatal(err)
			}
			raw.trust()
			var c netConn = ws
			if text {
				c = texter{ws}
			}
			cert, _ := certificate(key.GenerateNode())
			err = tls.Client(c, tlsConfig(cert, pinned(key.NodeID{}))).Handshake()
			if (err != nil) != text {
				t.Errorf("text %v: %v", text, err)
			}
			raw.Conn.Close()
		}
		unharmed(t, a, net, v)
	})
}

// TestServerThatCompresses: a dialled peer must not turn compression on.
func TestServerThatCompresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v, net, evil := victim(t)
		l, err := evil.Listen(":1")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Sec-Websocket-Extensions", "permessage-deflate")
			up := websocket.Upgrader{EnableCompression: true, Subprotocols: []string{subprotocol}}
			if ws, err := up.Upgrade(w, r, nil); err == nil {
				defer ws.Close()
				ws.ReadMessage()
			}
		})}
		go srv.Serve(l)
		defer srv.Close()
		if _, _, err := connect(t.Context(), "evil:1", v.host.Dial, &sync.Pool{}); err == nil || !strings.Contains(err.Error(), "extensions") {
			t.Fatalf("%v", err)
		}
		time.Sleep(time.Second)
		if k := net.Host("v").Conns(); k != 0 {
			t.Fatalf("%d connections left", k)
		}
	})
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

// TestForgedRecords: what a member announces about others is believed only as
// far as it is signed.
func TestForgedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		good := a.newPeer(t, net, "g", "v:1")
		good.start()
		defer good.stop()
		waitMesh(t, []*peer{v, good}, time.Second)
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		now := time.Now()
		record := func(c Config, seq uint64, expires time.Duration) roster.NodeRecord {
			return roster.NodeRecord{Node: c.Key.ID(), Seq: seq, Addrs: []string{"evil:9"}, Member: c.Member, Issuer: c.Issuer, Expires: uint64(now.Add(expires).Unix())}
		}
		forge := func(k key.NodePrivate, r roster.NodeRecord) key.Object {
			return key.Sign(k, a.id, key.TypeNodeRecord, key.Marshal(&r))
		}
		flipped := forge(good.cfg.Key, record(good.cfg, 9, time.Hour))
		flipped.Sig[9] ^= 4
		other := newAuthority(t)
		foreign := cfg
		foreign.Issuer, foreign.Member = other.cert, other.member(t, cfg.Key.ID(), "evil", time.Hour)
		for name, o := range map[string]key.Object{
			"signed by another node": forge(cfg.Key, record(good.cfg, 9, time.Hour)),
			"a flipped bit":          flipped,
			"another's certificate":  forge(cfg.Key, func() roster.NodeRecord { r := record(cfg, 9, time.Hour); r.Member = good.cfg.Member; return r }()),
			"of another network":     forge(cfg.Key, record(foreign, 9, time.Hour)),
			"the same seq":           forge(good.cfg.Key, record(good.cfg, 1, time.Hour)),
			"ends in 27 hours":       forge(good.cfg.Key, record(good.cfg, 9, 27*time.Hour)),
			"too many addresses":     forge(good.cfg.Key, func() roster.NodeRecord { r := record(good.cfg, 9, time.Hour); r.Addrs = make([]string, 9); return r }()),
			"not a record":           key.Sign(good.cfg.Key, a.id, key.TypeManifest, []byte{0xa0}),
			"a member certificate":   good.cfg.Member,
			"a revocation by nobody": key.Sign(cfg.Key, a.id, key.TypeRevocation, key.Marshal(&roster.Revocation{Seq: 1, Nodes: []key.NodeID{good.cfg.Key.ID()}})),
			"larger than 1.5 KiB": forge(good.cfg.Key, func() roster.NodeRecord {
				r := record(good.cfg, 9, time.Hour)
				r.Ext = map[uint64][]byte{1: make([]byte, 1500)}
				return r
			}()),
			"a critical extension": forge(good.cfg.Key, func() roster.NodeRecord {
				r := record(good.cfg, 9, time.Hour)
				r.Ext = map[uint64][]byte{2: nil}
				return r
			}()),
			"a signature of low seq": forge(good.cfg.Key, record(good.cfg, 0, time.Hour)),
			"an address with a path": forge(good.cfg.Key, func() roster.NodeRecord {
				r := record(good.cfg, 9, time.Hour)
				r.Addrs = []string{"ws://a:1/x"}
				return r
			}()),
			"a record for the victim": forge(cfg.Key, record(v.cfg, 9, time.Hour)),
		} {
			x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: []roster.Item{{Object: o}}}))
			time.Sleep(time.Second)
			rec := v.node.record(good.cfg.Key.ID())
			if rec.Body.Seq != 1 || len(rec.Body.Addrs) != 1 || rec.Body.Addrs[0] != "ws://g:1" || v.node.roster.RevokedNode(good.cfg.Key.ID()) {
				t.Errorf("%s was believed: %+v", name, rec.Body)
			}
			if s := v.node.Status(); s.Members != 2 || s.Seq != 1 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		// The honest case, so that the test can fail.
		x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: []roster.Item{{Object: forge(good.cfg.Key, record(good.cfg, 9, time.Hour))}}}))
		time.Sleep(time.Second)
		if rec := v.node.record(good.cfg.Key.ID()); rec.Body.Seq < 9 {
			t.Errorf("a good record was not taken: %+v", rec.Body)
		}
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
