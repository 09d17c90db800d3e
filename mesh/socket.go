package mesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"keymesh/mesh/frame"
)

const (
	meshPath    = "/mesh/v1"
	subprotocol = "keymesh.v1"

	// authTime and frame.MaxPreAuth bound what a stranger may cost.
	authTime = 5 * time.Second

	readBuffer = 4 << 10
	// writeBuffer holds one full TLS record, so that a record is one WebSocket
	// frame and one system call. The buffers are pooled: a silent link has none.
	writeBuffer = 16<<10 + 512
	// maxMessage bounds one WebSocket message, which carries one TLS record.
	maxMessage = 64 << 10
)

var errBudget = errors.New("more than 8 KiB before authentication")

// guarded is a network connection that a stranger is at the other end of: it
// reads a bounded number of bytes and keeps one hard deadline until trust.
type guarded struct {
	net.Conn
	left    atomic.Int64
	trusted atomic.Bool
}

func newGuarded(c net.Conn, budget int64, deadline time.Time) *guarded {
	g := &guarded{Conn: c}
	g.left.Store(budget)
	c.SetDeadline(deadline)
	return g
}

// Read implements net.Conn.
func (g *guarded) Read(p []byte) (int, error) {
	if g.trusted.Load() {
		return g.Conn.Read(p)
	}
	left := g.left.Load()
	if left <= 0 {
		return 0, errBudget
	}
	n, err := g.Conn.Read(p[:min(int64(len(p)), left)])
	g.left.Add(-int64(n))
	return n, err
}

// The library clears deadlines after the upgrade; the hard one has to stay.

// SetDeadline implements net.Conn.
func (g *guarded) SetDeadline(t time.Time) error {
	if !g.trusted.Load() {
		return nil
	}
	return g.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (g *guarded) SetReadDeadline(t time.Time) error {
	if !g.trusted.Load() {
		return nil
	}
	return g.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (g *guarded) SetWriteDeadline(t time.Time) error {
	if !g.trusted.Load() {
		return nil
	}
	return g.Conn.SetWriteDeadline(t)
}

// trust lifts the limits.
func (g *guarded) trust() {
	g.trusted.Store(true)
	g.Conn.SetDeadline(time.Time{})
}

// socket is a WebSocket as a stream for the inner TLS: binary messages only.
type socket struct {
	*websocket.Conn
	r io.Reader // the current message
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	for {
		if s.r == nil {
			kind, r, err := s.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("a WebSocket message that is not binary")
			}
			s.r = r
		}
		n, err := s.r.Read(p)
		if err == io.EOF {
			s.r = nil
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	if err := s.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// hijack is the least http.ResponseWriter that an upgrade needs. A refusal is
// written at once and the connection closed by the caller.
type hijack struct {
	conn   net.Conn
	br     *bufio.Reader
	header http.Header
	wrote  bool
}

func (h *hijack) Header() http.Header { return h.header }

func (h *hijack) WriteHeader(code int) {
	if h.wrote {
		return
	}
	h.wrote = true
	fmt.Fprintf(h.conn, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", code, http.StatusText(code))
}

func (h *hijack) Write(p []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.br, bufio.NewWriterSize(h.conn, 16)), nil
}

// upgrade answers the HTTP request of a connection and returns the stream.
func upgrade(c net.Conn, pool *sync.Pool) (*socket, error) {
	br := bufio.NewReaderSize(c, readBuffer)
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	w := &hijack{conn: c, br: br, header: http.Header{}}
	if code := refuse(req); code != 0 {
		w.WriteHeader(code)
		return nil, fmt.Errorf("answered %d to a request that is no link", code)
	}
	up := websocket.Upgrader{
		Subprotocols: []string{subprotocol}, WriteBufferSize: writeBuffer, WriteBufferPool: pool,
		CheckOrigin: func(*http.Request) bool { return true }, // refuse saw to it
	}
	ws, err := up.Upgrade(w, req, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(maxMessage)
	return &socket{Conn: ws}, nil
}

// refuse returns the status for a request that is not a node's, or 0. Browsers
// send Origin and nodes never do.
func refuse(req *http.Request) int {
	switch {
	case req.URL.Path != meshPath:
		return http.StatusNotFound
	case len(req.Header.Values("Origin")) > 0:
		return http.StatusForbidden
	case req.ContentLength != 0:
		return http.StatusBadRequest
	}
	for _, p := range websocket.Subprotocols(req) {
		if p == subprotocol {
			return 0
		}
	}
	return http.StatusBadRequest
}

// dialer is how the node reaches "host:port".
type dialer func(ctx context.Context, addr string) (net.Conn, error)

// connect dials an address of any of the three forms. raw is the connection
// below, still guarded.
func connect(ctx context.Context, addr string, dial dialer, pool *sync.Pool) (s *socket, raw *guarded, err error) {
	ctx, cancel := context.WithTimeout(ctx, authTime)
	defer cancel()
	deadline, _ := ctx.Deadline()
	d := websocket.Dialer{
		Subprotocols: []string{subprotocol}, ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: pool,
		NetDialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
			c, err := dial(ctx, hostport)
			if err != nil {
				return nil, err
			}
			raw = newGuarded(c, frame.MaxPreAuth, deadline)
			return raw, nil
		},
	}
	u := url.URL{Scheme: "ws", Path: meshPath, Host: bare(addr)}
	if strings.HasPrefix(addr, "wss://") {
		u.Scheme = "wss"
		// The outer certificate matters to proxies only; its chain is bigger than
		// what an unauthenticated peer may send.
		d.NetDialTLSContext = outerTLS(d.NetDialContext, &raw, deadline)
	}
	ws, resp, err := d.DialContext(ctx, u.String(), nil)
	if err != nil {
		if resp != nil && resp.StatusCode == http.StatusServiceUnavailable {
			return nil, nil, fmt.Errorf("%w: it has too many connections that are not authenticated", errCrowded)
		}
		if raw != nil {
			raw.Conn.Close()
		}
		return nil, nil, err
	}
	if ws.Subprotocol() != subprotocol || len(resp.Header.Values("Sec-Websocket-Extensions")) > 0 {
		ws.Close()
		return nil, nil, errors.New("the far side does not speak " + subprotocol + " without extensions")
	}
	ws.SetReadLimit(maxMessage)
	return &socket{Conn: ws}, raw, nil
}

// errCrowded: something that speaks this protocol is there, and is busy.
var errCrowded = errors.New("the node is crowded")
