package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
	"keymesh/mesh/memnet"
)

// bubble is a server on a network in memory, on virtual time.
type bubble struct {
	t       *testing.T
	secrets *fakeSecrets
	net     *memnet.Network
	stop    context.CancelFunc
	ended   chan error
}

func inBubble(t *testing.T, f func(*bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, secrets: sampleSecrets(), net: memnet.New(), ended: make(chan error, 1)}
		s, err := New(Config{Secrets: b.secrets, Requests: sampleRequests(), Mesh: sampleMesh(), Persons: func(string) (keystore.Person, bool) { return keystore.Person{}, true }})
		if err != nil {
			t.Fatal(err)
		}
		s.credentials = func(net.Conn) (uint32, error) { return s.uid, nil }
		l, err := b.net.Listen("node:1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		b.stop = stop
		go func() { b.ended <- s.serve(ctx, l, Unix) }()
		f(b)
		stop()
		if err := <-b.ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func (b *bubble) dial(text string) net.Conn {
	b.t.Helper()
	c, err := b.net.Dial(b.t.Context(), "node:1")
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// untilClosed reads c to its end and returns what came and after how long.
func untilClosed(c net.Conn) (string, time.Duration) {
	begin := time.Now()
	b, _ := io.ReadAll(c)
	c.Close()
	return string(b), time.Since(begin)
}

const putHead = "PUT /api/v1/secrets/a HTTP/1.1\r\nHost: keymesh\r\nContent-Type: application/json\r\n"

func TestSlowHeaders(t *testing.T) {
	inBubble(t, func(b *bubble) {
		for _, text := range []string{"", "G", "GET /healthz HTTP/1.1\r\nHost: keymesh\r\nX: "} {
			if got, took := untilClosed(b.dial(text)); took > 6*time.Second {
				t.Errorf("%q: closed after %v with %q", text, took, got)
			}
		}
		// A byte now and then does not buy more time.
		c := b.dial("GET /healthz HTTP/1.1\r\nX: ")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				time.Sleep(time.Second)
				if _, err := c.Write([]byte("a")); err != nil {
					return
				}
			}
		}()
		if _, took := untilClosed(c); took > 6*time.Second {
			t.Errorf("a trickle was served for %v", took)
		}
		<-ended
	})
}

func TestSlowBody(t *testing.T) {
	inBubble(t, func(b *bubble) {
		got, took := untilClosed(b.dial(putHead + "Content-Length: 100\r\n\r\n{\"value\":"))
		if took > 31*time.Second || !strings.Contains(got, "400 Bad Request") || b.secrets.puts != 0 {
			t.Errorf("after %v: %q; %d puts", took, got, b.secrets.puts)
		}
	})
}

func TestIdleConnections(t *testing.T) {
	inBubble(t, func(b *bubble) {
		got, took := untilClosed(b.dial("GET /healthz HTTP/1.1\r\nHost: keymesh\r\n\r\n"))
		if took < 50*time.Second || took > 61*time.Second || !strings.Contains(got, "200 OK") {
			t.Errorf("closed after %v: %q", took, got)
		}
	})
}

// TestSlowReader: a caller that does not read its answer is dropped.
func TestSlowReader(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.secrets.rec.Value = make([]byte, apitype.MaxValue)
		c := b.dial(strings.Replace(putHead, "PUT /api/v1/secrets/a", "POST /api/v1/secrets/a/recover", 1) + "Content-Length: 2\r\n\r\n{}")
		defer c.Close()
		time.Sleep(155 * time.Second)
		if got, _ := io.ReadAll(c); len(got) >= apitype.MaxValue {
			t.Errorf("%d bytes arrived after all", len(got))
		}
	})
}

func answerOf(t *testing.T, c net.Conn) (*http.Response, string) {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return r, string(body)
}

func TestDrainWaits(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.secrets.block, b.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
		c := b.dial(putHead + "Content-Length: 12\r\n\r\n{\"value\":\"\"}")
		defer c.Close()
		<-b.secrets.entered
		b.stop()
		synctest.Wait()
		if d, err := b.net.Dial(t.Context(), "node:1"); err == nil {
			d.Close()
			t.Error("a new connection while draining")
		}
		time.Sleep(5 * time.Second)
		close(b.secrets.block)
		if r, body := answerOf(t, c); r.StatusCode != 200 {
			t.Errorf("status %d: %s", r.StatusCode, body)
		}
	})
}

func TestDrainEnds(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.secrets.block, b.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
		c := b.dial(putHead + "Content-Length: 12\r\n\r\n{\"value\":\"\"}")
		defer c.Close()
		<-b.secrets.entered
		begin := time.Now()
		b.stop()
		r, body := answerOf(t, c)
		if r.StatusCode != 202 || !strings.Contains(body, string(apitype.InDoubt)) {
			t.Errorf("status %d: %s", r.StatusCode, body)
		}
		if err := <-b.ended; err != nil || time.Since(begin) > 12*time.Second {
			t.Errorf("ended after %v: %v", time.Since(begin), err)
		}
		b.ended <- nil
	})
}

// TestLongRequests: the time for reading a request does not bound the answer.
func TestLongRequests(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.secrets.block, b.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
		c := b.dial(strings.Replace(putHead, "/a ", "/a?timeout=120 ", 1) + "Content-Length: 12\r\n\r\n{\"value\":\"\"}")
		defer c.Close()
		time.Sleep(110 * time.Second)
		close(b.secrets.block)
		if r, body := answerOf(t, c); r.StatusCode != 200 {
			t.Errorf("status %d: %s", r.StatusCode, body)
		}
		// The connection stays usable and is still closed when idle.
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: keymesh\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if got, took := untilClosed(c); took > 61*time.Second || !strings.Contains(got, "200 OK") {
			t.Errorf("closed after %v: %q", took, got)
		}
	})
}

// TestStoreThatHangs: a request ends by its own timeout even if the keystore
// does not look at it.
func TestStoreThatHangs(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.secrets.block, b.secrets.entered = make(chan struct{}), make(chan struct{}, 1)
		begin := time.Now()
		c := b.dial(strings.Replace(putHead, "/a ", "/a?timeout=3 ", 1) + "Content-Length: 12\r\n\r\n{\"value\":\"\"}")
		defer c.Close()
		if r, body := answerOf(t, c); r.StatusCode != 202 || time.Since(begin) > 6*time.Second {
			t.Errorf("after %v: status %d: %s", time.Since(begin), r.StatusCode, body)
		}
	})
}

func TestConnectionCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		inner, err := n.Listen("node:1")
		if err != nil {
			t.Fatal(err)
		}
		l := newCapped(inner, 2)
		accepted := make(chan net.Conn, 10)
		done := make(chan error, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					done <- err
					return
				}
				accepted <- c
			}
		}()
		for range 3 {
			c, err := n.Dial(t.Context(), "node:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		synctest.Wait()
		if len(accepted) != 2 {
			t.Fatalf("%d connections at once", len(accepted))
		}
		first := <-accepted
		first.Close()
		first.Close() // frees its slot once
		synctest.Wait()
		if len(accepted) != 2 {
			t.Errorf("%d connections after one was closed", len(accepted))
		}
		l.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept ended with %v", err)
		}
		for len(accepted) > 0 {
			(<-accepted).Close()
		}
	})
}

func TestServeRefusesListeners(t *testing.T) {
	e := newEnv(t)
	tokenless, err := New(Config{Secrets: e.secrets, Requests: sampleRequests(), Mesh: e.mesh, Persons: e.server.cfg.Persons})
	if err != nil {
		t.Fatal(err)
	}
	open := func(network, addr string) net.Listener {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, c := range map[string]struct {
		s    *Server
		l    net.Listener
		kind Kind
	}{
		"every address": {e.server, open("tcp", ":0"), TCP},
		"no token":      {tokenless, open("tcp", "127.0.0.1:0"), TCP},
		"tcp as unix":   {e.server, open("tcp", "127.0.0.1:0"), Unix},
		"unix as tcp":   {e.server, open("unix", filepath.Join(t.TempDir(), "s")), TCP},
		"no kind":       {e.server, open("tcp", "127.0.0.1:0"), 0},
	} {
		if err := c.s.Serve(t.Context(), c.l, c.kind); err == nil {
			t.Errorf("%s: served", name)
		}
		if _, err := c.l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is still open: %v", name, err)
		}
	}
}

// TestPeerCredentials: what the kernel says of this process.
func TestPeerCredentials(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if uid, err := peerUID(c); err != nil || uid != uint32(os.Getuid()) {
		t.Errorf("peerUID = %d, %v", uid, err)
	}
	c.Close()
	if uid, err := peerUID(c); err == nil {
		t.Errorf("of a closed connection: %d", uid)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := peerUID(a); err == nil {
		t.Error("of a pipe: no error")
	}
	if fmt.Sprint(Unix, TCP) != "unix tcp" {
		t.Errorf("kinds print as %v", []Kind{Unix, TCP})
	}
}
