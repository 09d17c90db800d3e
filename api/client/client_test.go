package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/api/apitype"
)

const marker = "hunter2-MARKER"

// serve starts a fake node on a unix socket and returns a client of it.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	c := &Client{Socket: path}
	t.Cleanup(func() { c.CloseIdle(); s.Close() })
	return c
}

func answer(w http.ResponseWriter, status int, media, body string) {
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func quiet(t *testing.T, err error) {
	t.Helper()
	for _, bad := range []string{marker, base64.StdEncoding.EncodeToString([]byte(marker)), "demo/db", "demo%2Fdb"} {
		if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), bad) {
			t.Errorf("the error shows %q: %v", bad, err)
		}
	}
}

func put(c *Client, ctx context.Context) error {
	_, err := c.Put(ctx, "demo/db", apitype.PutRequest{Value: []byte(marker)}, PutConditions{})
	return err
}

func TestRequests(t *testing.T) {
	var got *http.Request
	var body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		answer(w, 200, "application/json", `{"value":""}`)
	})
	c.As, c.Agent = "bob & co", "keyctl/1"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, x := range wireCases(ctx, c) {
		if err := x.call(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		x.check(t, name, got, body)
	}
}

// wireCase is a call and what it must look like on the wire.
type wireCase struct {
	call          func() error
	method, path  string
	query, header map[string]string
	body          string
}

func wireCases(ctx context.Context, c *Client) map[string]wireCase {
	gen := uint64(7)
	return map[string]wireCase{
		"put": {func() error {
			_, err := c.Put(ctx, "a/b c%", apitype.PutRequest{Value: []byte("v"), N: 5, K: 3}, PutConditions{IfGen: &gen, Key: "k"})
			return err
		}, "PUT", "/api/v1/secrets/a%2Fb%20c%25", nil, map[string]string{"If-Match": `"7"`, "Idempotency-Key": "k", "Content-Type": "application/json"}, `{"value":"dg==","n":5,"k":3}`},
		"put if absent": {func() error {
			_, err := c.Put(ctx, "..", apitype.PutRequest{}, PutConditions{IfAbsent: true})
			return err
		}, "PUT", "/api/v1/secrets/%2E%2E", nil, map[string]string{"If-None-Match": `*`}, `{"value":""}`},
		"recover": {func() error {
			_, err := c.Recover(ctx, ".", apitype.RecoverRequest{Gen: 7, Reason: "r"})
			return err
		}, "POST", "/api/v1/secrets/%2E/recover", nil, nil, `{"gen":7,"reason":"r"}`},
		"list":    {func() error { _, err := c.List(ctx, ListOptions{Prefix: "a/", Cursor: "c&", Limit: 7}); return err }, "GET", "/api/v1/secrets", map[string]string{"prefix": "a/", "cursor": "c&", "limit": "7"}, nil, ""},
		"info":    {func() error { _, err := c.Info(ctx, "é?#"); return err }, "GET", "/api/v1/secrets/%C3%A9%3F%23", nil, nil, ""},
		"delete":  {func() error { _, err := c.Delete(ctx, "a", DeleteOptions{Gen: 7, Now: true}); return err }, "DELETE", "/api/v1/secrets/a", map[string]string{"gen": "7", "now": "true"}, nil, ""},
		"status":  {func() error { _, err := c.Status(ctx); return err }, "GET", "/api/v1/status", nil, nil, ""},
		"peers":   {func() error { _, err := c.Peers(ctx); return err }, "GET", "/api/v1/peers", nil, nil, ""},
		"version": {func() error { _, err := c.Version(ctx); return err }, "GET", "/api/v1/version", nil, nil, ""},
		"invite":  {func() error { _, err := c.Invite(ctx, apitype.InviteRequest{Operator: "o"}); return err }, "POST", "/api/v1/peers/invites", nil, nil, `{"operator":"o"}`},
		"remove":  {func() error { _, err := c.RemovePeer(ctx, "node-x"); return err }, "DELETE", "/api/v1/peers/node-x", nil, nil, ``},
		"ping":    {func() error { _, err := c.PingPeer(ctx, "node-x"); return err }, "POST", "/api/v1/peers/node-x/ping", nil, nil, ``},
		"healthy": {func() error { return c.Healthy(ctx) }, "GET", "/healthz", nil, nil, ""},
		"ready":   {func() error { return c.Ready(ctx) }, "GET", "/readyz", nil, nil, ""},
	}
}

func (x wireCase) check(t *testing.T, name string, got *http.Request, body string) {
	if got.Method != x.method || got.URL.EscapedPath() != x.path || body != x.body || got.Host != "keymesh" || got.UserAgent() != "keyctl/1" || got.Header.Get("Accept-Encoding") != "" {
		t.Errorf("%s: %s %s %q, headers %v", name, got.Method, got.URL.EscapedPath(), body, got.Header)
	}
	q := got.URL.Query()
	for k, v := range x.query {
		if q.Get(k) != v {
			t.Errorf("%s: %s = %q", name, k, q.Get(k))
		}
	}
	for k, v := range x.header {
		if got.Header.Get(k) != v {
			t.Errorf("%s: %s: %q", name, k, got.Header.Get(k))
		}
	}
	switch {
	case strings.HasPrefix(x.path, "/api/v1/secrets"), strings.HasSuffix(x.path, "status"):
		if q.Get("as") != "bob & co" {
			t.Errorf("%s: as = %q", name, q.Get("as"))
		}
	case q.Has("as"):
		t.Errorf("%s: as where no person acts", name)
	}
	if open := strings.HasSuffix(x.path, "z"); open == q.Has("timeout") || !open && !strings.HasPrefix(q.Get("timeout"), "19.") {
		t.Errorf("%s: timeout %q", name, q.Get("timeout"))
	}
}

func TestNamesThatCannotBeSent(t *testing.T) {
	c := &Client{Socket: "/nonexistent"}
	for _, name := range []string{"", strings.Repeat("a", 513)} {
		if _, err := c.Info(t.Context(), name); apitype.ExitCode(err) != apitype.ExitLocal {
			t.Errorf("%d bytes: %v", len(name), err)
		}
	}
	_, err := c.Put(t.Context(), "a", apitype.PutRequest{Value: make([]byte, apitype.MaxValue+1)}, PutConditions{})
	if !errors.Is(err, &apitype.Problem{Type: apitype.TooLarge}) {
		t.Errorf("too long a value: %v", err)
	}
}

func TestRecoveredValue(t *testing.T) {
	for _, v := range []string{"", marker, strings.Repeat("\xff", apitype.MaxValue)} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := apitype.EncodeRecovered(apitype.Recovered{Value: []byte(v), Gen: 7})
			answer(w, 200, "application/json; charset=utf-8", string(b))
		})
		got, err := c.Recover(t.Context(), "demo/db", apitype.RecoverRequest{})
		if err != nil || string(got.Value) != v || got.Value == nil || got.Gen != 7 {
			t.Errorf("%d bytes: got %d, %v", len(v), len(got.Value), err)
		}
	}
}

// TestAnswers: what a node, or something else at its address, may say.
func TestAnswers(t *testing.T) {
	problem := func(p *apitype.Problem) string {
		b, _ := json.Marshal(p)
		return string(b)
	}
	secret := `{"value":"` + base64.StdEncoding.EncodeToString([]byte(marker)) + `"`
	for name, x := range map[string]struct {
		status      int
		media, body string
		exit        int
		bad         bool // a *BadAnswer, not a *Problem
	}{
		"problem":             {424, "application/problem+json", problem(apitype.NewProblem(apitype.Quorum, "x")), 5, false},
		"in doubt":            {202, "application/problem+json", problem(apitype.NewProblem(apitype.InDoubt, "x")), 12, false},
		"newer type":          {409, "application/problem+json", `{"type":"urn:keymesh:problem:newer","status":409}`, 9, false},
		"claims another":      {403, "application/problem+json", `{"type":"urn:x","status":200,"exit_code":0}`, 4, false},
		"empty problem":       {503, "application/problem+json", `{}`, 5, false},
		"long problem":        {500, "application/problem+json", `{"detail":"` + strings.Repeat("x", 1<<20) + `"}`, 2, false},
		"broken problem":      {503, "application/problem+json", `{`, 5, true},
		"problem of 200":      {200, "application/problem+json", `{"type":"urn:x"}`, 2, false},
		"a page":              {200, "text/html", "<html>" + marker, 2, true},
		"a page that refuses": {403, "text/html", "no", 4, true},
		"bad gateway":         {502, "text/html", "no", 7, true},
		"bad request":         {400, "text/html", "no", 2, true},
		"a redirect":          {302, "text/html", "", 2, true},
		"no type":             {200, "", secret + `}`, 2, true},
		"json that is cut":    {200, "application/json", secret, 2, true},
		"json of a kind":      {200, "application/json", `{"value":7}`, 2, true},
		"no value":            {200, "application/json", `{}`, 2, true},
		"accepted":            {202, "application/json", secret + `}`, 2, true},
		"no content":          {204, "application/json", "", 2, true},
		"endless":             {200, "application/json", strings.Repeat(" ", defaultLimit+1) + secret + `}`, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) { answer(w, x.status, x.media, x.body) })
			got, err := c.Recover(t.Context(), "demo/db", apitype.RecoverRequest{})
			var p *apitype.Problem
			var b *BadAnswer
			switch {
			case err == nil || got.Value != nil:
				t.Fatalf("no error; value %d bytes", len(got.Value))
			case apitype.ExitCode(err) != x.exit:
				t.Errorf("exit %d, want %d: %v", apitype.ExitCode(err), x.exit, err)
			case errors.As(err, &b) != x.bad || errors.As(err, &p) == x.bad:
				t.Errorf("a %T: %v", err, err)
			case len(err.Error()) > 3000:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			quiet(t, err)
		})
	}
}

// TestEndlessStream: an answer without a length is read up to the limit only.
func TestEndlessStream(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	_, err := c.Recover(t.Context(), "demo/db", apitype.RecoverRequest{})
	var b *BadAnswer
	if !errors.As(err, &b) || b.Why != errTooLong.Error() {
		t.Errorf("%v", err)
	}
}

// TestNotHTTP: another protocol at the address, with a long first line.
func TestNotHTTP(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "SSH-2.0-"+strings.Repeat("x", 3000)+"\r\n\r\n")
			c.Close()
		}
	}()
	c := &Client{Socket: l.Addr().String()}
	_, err = c.Info(t.Context(), "demo/db")
	if apitype.ExitCode(err) != apitype.ExitUnreachable || len(err.Error()) > 500 {
		t.Errorf("%v", err)
	}
	quiet(t, err)
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := tl.Addr().String()
	tl.Close()
	for _, c := range []*Client{{Socket: filepath.Join(dir, "none")}, {Socket: stale}, {Socket: plain}, {Addr: "http://" + addr}} {
		err := put(c, t.Context())
		var u *Unreachable
		if !errors.As(err, &u) || u.Sent || apitype.ExitCode(err) != apitype.ExitUnreachable || !strings.Contains(err.Error(), c.Target()) {
			t.Errorf("%s: %v", c.Target(), err)
		}
		quiet(t, err)
	}
}

// TestBrokenConnections: once a write was sent, no answer means in doubt; a read
// did no harm.
func TestBrokenConnections(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}
	cut := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"value":"`)
		panic(http.ErrAbortHandler)
	}
	for name, h := range map[string]http.HandlerFunc{"no answer": hang, "half an answer": cut} {
		c := serve(t, h)
		for what, x := range map[string]struct {
			call func() error
			exit int
		}{
			"put":     {func() error { return put(c, t.Context()) }, apitype.ExitInDoubt},
			"delete":  {func() error { _, err := c.Delete(t.Context(), "demo/db", DeleteOptions{}); return err }, apitype.ExitInDoubt},
			"recover": {func() error { _, err := c.Recover(t.Context(), "demo/db", apitype.RecoverRequest{}); return err }, apitype.ExitUnreachable},
			"info":    {func() error { _, err := c.Info(t.Context(), "demo/db"); return err }, apitype.ExitUnreachable},
			"dry run": {func() error {
				_, err := c.Put(t.Context(), "demo/db", apitype.PutRequest{DryRun: true}, PutConditions{})
				return err
			}, apitype.ExitUnreachable},
		} {
			err := x.call()
			if apitype.ExitCode(err) != x.exit {
				t.Errorf("%s, %s: exit %d: %v", name, what, apitype.ExitCode(err), err)
			}
			quiet(t, err)
		}
	}
}

// TestDeadlines: a call ends by its context, or after 30 s without one, and the
// node is told of less than that.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 1)
		silent := func() *Client {
			c := &Client{Socket: "unused"}
			if err := c.setup(); err != nil {
				t.Fatal(err)
			}
			c.http.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				go func() {
					r, err := http.ReadRequest(bufio.NewReader(far))
					if err != nil {
						return
					}
					asked <- r.URL.Query().Get("timeout")
					_, _ = io.Copy(io.Discard, far)
				}()
				return near, nil
			}
			return c
		}
		for _, x := range []struct {
			limit time.Duration
			told  string
		}{{0, "29.500"}, {10 * time.Second, "9.500"}, {time.Second, "0.800"}, {time.Hour, "120.000"}} {
			c := silent()
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			want := DefaultTimeout
			if x.limit != 0 {
				ctx, cancel = context.WithTimeout(ctx, x.limit)
				want = x.limit
			}
			begin := time.Now()
			err := put(c, ctx)
			if apitype.ExitCode(err) != apitype.ExitTimeout || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != want || !strings.Contains(err.Error(), "may still complete") {
				t.Errorf("after %v: %v", time.Since(begin), err)
			}
			quiet(t, err)
			if told := <-asked; told != x.told {
				t.Errorf("with %v the node was told %s", x.limit, told)
			}
			cancel()
			c.CloseIdle()
		}
		c := silent()
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-asked; cancel() }()
		if err := put(c, ctx); apitype.ExitCode(err) != apitype.ExitInterrupted {
			t.Errorf("interrupted: %v", err)
		}
		if err := put(c, ctx); apitype.ExitCode(err) != apitype.ExitInterrupted || strings.Contains(err.Error(), "may still") {
			t.Errorf("interrupted before: %v", err)
		}
		c.CloseIdle()
	})
}

func TestAddresses(t *testing.T) {
	for addr, ok := range map[string]bool{
		"http://127.0.0.1:7947": true, "http://127.0.0.1:7947/": true, "http://localhost:1": true, "http://[::1]:1": true, "https://node.example": true,
		"http://node.example": false, "http://192.0.2.1:1": false, "http://127.0.0.1.evil.example": false, "http://[::ffff:127.0.0.1]:1": true,
		"127.0.0.1:7947": false, "ftp://127.0.0.1": false, "http://": false, "http://u:pw-" + marker + "@127.0.0.1": false, "http://127.0.0.1/x": false, "http://127.0.0.1?x": false, "http://127.0.0.1#x": false, "http://127.0.0.1:x": false, "": true,
	} {
		c := &Client{Addr: addr, Token: []byte("token-token-token")}
		err := c.setup()
		if (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
		quiet(t, err)
	}
	if err := (&Client{Addr: "http://node.example"}).setup(); err != nil {
		t.Errorf("without a token: %v", err)
	}
}

func TestToken(t *testing.T) {
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		answer(w, 200, "application/json", "{}")
	}))
	defer s.Close()
	c := &Client{Addr: s.URL, Token: []byte("abc")}
	defer c.CloseIdle()
	if _, err := c.Version(t.Context()); err != nil || got != "Bearer abc" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNoProxyNoRedirect: the environment does not decide where a secret goes,
// and neither does what answers.
func TestNoProxyNoRedirect(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
	hits := 0
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits++
		http.Redirect(w, r, s.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	c := &Client{Addr: s.URL}
	defer c.CloseIdle()
	if tr := func() *http.Transport { _ = c.setup(); return c.http.Transport.(*http.Transport) }(); tr.Proxy != nil {
		t.Error("a proxy")
	}
	var b *BadAnswer
	if err := put(c, t.Context()); !errors.As(err, &b) || hits != 1 {
		t.Errorf("%d requests, %v", hits, err)
	}
}

func TestZeroValue(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if got := DefaultSocket(); got != "/run/keymesh/api.sock" {
		t.Errorf("without a socket below XDG_RUNTIME_DIR: %s", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "keymesh"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "keymesh", "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, "application/json", `{"version":"v1"}`)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	var c Client
	defer c.CloseIdle()
	if v, err := c.Version(t.Context()); err != nil || v.Version != "v1" {
		t.Errorf("%+v, %v", v, err)
	}
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	if got := DefaultSocket(); got != "/run/keymesh/api.sock" {
		t.Errorf("a relative XDG_RUNTIME_DIR: %s", got)
	}
}
