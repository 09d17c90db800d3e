package mesh

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"keymesh/crypto/key"
	"keymesh/mesh/memnet"
)

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
