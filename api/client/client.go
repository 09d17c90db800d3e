// Package client is the Go client of a node's local API. The zero [Client]
// works: it talks to the socket where a node listens by default.
//
// An error is a [*apitype.Problem] when the node answered with one, an
// [*Unreachable] when there was no answer, a [*BadAnswer] when what answered is
// no node, or wraps the context's error. apitype.ExitCode knows them all. No
// error holds a value or a token.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"keymesh/api/apitype"
)

// Client talks to one node. Set its fields before the first call; safe for
// concurrent use afterwards.
type Client struct {
	// Socket is the path of the node's unix socket. Socket and Addr both empty
	// mean [DefaultSocket].
	Socket string
	// Addr is the node's URL, "http://127.0.0.1:7947", with the Token from its
	// token file. A token is not sent in clear to any other machine.
	Addr  string
	Token []byte
	// As names the person to act for; empty: the node's default person.
	As string
	// Agent is the User-Agent; empty: "keymesh".
	Agent string

	once sync.Once
	http *http.Client
	base string
	err  error
}

// Limits of the client.
const (
	dialTimeout = 5 * time.Second
	// DefaultTimeout bounds a call whose context has no deadline.
	DefaultTimeout = 30 * time.Second
)

// DefaultSocket returns $XDG_RUNTIME_DIR/keymesh/api.sock if that exists,
// otherwise /run/keymesh/api.sock.
func DefaultSocket() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		p := filepath.Join(dir, "keymesh", "api.sock")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return "/run/keymesh/api.sock"
}

// Target says whom the client talks to, for people.
func (c *Client) Target() string {
	switch {
	case c.Addr != "":
		return c.Addr
	case c.Socket != "":
		return c.Socket
	}
	return DefaultSocket()
}

// CloseIdle closes connections that no call uses.
func (c *Client) CloseIdle() {
	if c.setup() == nil {
		c.http.CloseIdleConnections()
	}
}

func (c *Client) setup() error {
	c.once.Do(func() {
		dial := &net.Dialer{Timeout: dialTimeout}
		t := &http.Transport{
			// No proxy, whatever the environment says: the node is local.
			DialContext:            dial.DialContext,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    128,
			MaxResponseHeaderBytes: 64 << 10,
			IdleConnTimeout:        50 * time.Second, // below the node's, so that the client closes first
			TLSHandshakeTimeout:    dialTimeout,
			ExpectContinueTimeout:  time.Second,
		}
		if c.Addr == "" {
			path := c.Target()
			t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial.DialContext(ctx, "unix", path)
			}
			c.base = "http://keymesh"
		} else {
			c.base, c.err = baseURL(c.Addr, len(c.Token) > 0)
		}
		c.http = &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	})
	return c.err
}

func baseURL(addr string, token bool) (string, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return "", errors.New("the address is not a URL")
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("the address %.200q is not of the form http://127.0.0.1:PORT", u.Redacted())
	}
	if u.Scheme == "http" && token && !loopback(u.Hostname()) {
		return "", errors.New("a token is not sent in clear to another machine: use https or a loopback address")
	}
	return u.Scheme + "://" + u.Host, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Unreachable is an error of the connection: no answer came.
type Unreachable struct {
	Target string
	// Sent: a write had been sent, so that it may happen or have happened.
	Sent bool
	Err  error
}

func (e *Unreachable) Error() string {
	if e.Sent {
		return fmt.Sprintf("the connection to the node at %s broke before it answered: %.300s", e.Target, e.Err)
	}
	return fmt.Sprintf("no node answers at %s: %.300s", e.Target, e.Err)
}

// Unwrap returns the error of the connection.
func (e *Unreachable) Unwrap() error { return e.Err }

// ExitCode is 8, or 12 when a write had been sent: the node completes it or
// lets it die by itself, also after a restart.
func (e *Unreachable) ExitCode() int {
	if e.Sent {
		return apitype.ExitInDoubt
	}
	return apitype.ExitUnreachable
}

// BadAnswer is an answer that no node gives.
type BadAnswer struct {
	Target string
	Status int
	Why    string
}

func (e *BadAnswer) Error() string {
	return fmt.Sprintf("what answers at %s is not a node that this client knows: status %d, %s", e.Target, e.Status, e.Why)
}

// ExitCode is that of the status, and 2 for one that says that all is well.
func (e *BadAnswer) ExitCode() int {
	if code := apitype.ExitStatus(e.Status); e.Status >= 400 && code != apitype.ExitLocal {
		return code
	}
	return apitype.ExitNode
}
