package api

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

const secretPath = "/api/v1/secrets/demo%2Fdb"

// everything is one good request of each endpoint.
func everything() []req {
	return []req{
		{path: "/healthz"}, {path: "/readyz"},
		{path: "/api/v1/version"}, {path: "/api/v1/openapi.yaml"}, {path: "/api/v1/status"}, {path: "/api/v1/peers"},
		{method: "POST", path: "/api/v1/peers/invites", body: `{}`},
		{path: "/api/v1/secrets"}, {path: secretPath},
		{method: "PUT", path: secretPath, body: `{"value":"aHVudGVyMg=="}`},
		{method: "DELETE", path: secretPath},
		{method: "POST", path: secretPath + "/recover", body: `{}`},
	}
}

func (q req) open() bool { return q.path == "/healthz" || q.path == "/readyz" }

func (q req) with(change func(*req)) req {
	q.header = q.header.Clone()
	if q.header == nil {
		q.header = http.Header{}
	}
	change(&q)
	return q
}

func TestEverythingWorks(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		e := newEnv(t)
		for _, q := range everything() {
			q.tcp = tcp
			if r := e.do(q); r.status != 200 && r.status != 201 {
				t.Errorf("tcp=%v %s %s: status %d: %.300s", tcp, q.method, q.path, r.status, r.body)
			}
		}
	}
}

// TestRebinding: a page that owns a name can point it at 127.0.0.1; its requests
// are then of the same origin for the browser, and only Host tells.
func TestRebinding(t *testing.T) {
	e := newEnv(t)
	_, port, _ := net.SplitHostPort(e.addr)
	for _, q := range everything() {
		for _, tcp := range []bool{false, true} {
			hosts := []string{"evil.example", "evil.example:" + port, "127.0.0.1.evil.example:" + port, "localhost.evil.example", "node.example.", "NODE.example:1", "keymesh:" + port, "localhost:1", "[::1]:" + port, "127.0.0.1"}
			if tcp {
				hosts = append(hosts, "keymesh", "localhost")
			} else {
				hosts = append(hosts, e.addr, "localhost:"+port)
			}
			for _, h := range hosts {
				e.want(q.with(func(q *req) { q.host, q.tcp = h, tcp }), apitype.Forbidden)
			}
		}
	}
	if e.secrets.puts != 0 {
		t.Error("a refused request reached the keystore")
	}
}

func TestHostsThatAreAllowed(t *testing.T) {
	e := newEnv(t)
	_, port, _ := net.SplitHostPort(e.addr)
	for _, h := range []string{e.addr, "localhost:" + port, "node.example"} {
		e.ok(req{path: "/api/v1/version", host: h, tcp: true}, 200, nil)
	}
	for _, h := range []string{"keymesh", "localhost", "node.example"} {
		e.ok(req{path: "/api/v1/version", host: h}, 200, nil)
	}
}

func TestWebPages(t *testing.T) {
	e := newEnv(t)
	marks := []http.Header{
		{"Origin": {"http://evil.example"}}, {"Origin": {"null"}}, {"Origin": {""}}, {"Origin": {"http://" + e.addr}},
		{"Referer": {"http://evil.example/x"}}, {"Referer": {""}},
		{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Sec-Fetch-Site": {"none", "cross-site"}}, {"Sec-Fetch-Site": {""}},
	}
	for _, q := range everything() {
		for _, m := range marks {
			for _, tcp := range []bool{false, true} {
				e.want(q.with(func(q *req) {
					q.tcp = tcp
					for k, v := range m {
						q.header[k] = v
					}
				}), apitype.Forbidden)
			}
		}
	}
	e.ok(req{path: "/api/v1/version", header: http.Header{"Sec-Fetch-Site": {"none"}}}, 200, nil)
	if e.secrets.puts != 0 {
		t.Error("a refused request reached the keystore")
	}
}

// TestPreflight: no answer gives a browser leave.
func TestPreflight(t *testing.T) {
	e := newEnv(t)
	h := http.Header{"Origin": {"http://evil.example"}, "Access-Control-Request-Method": {"PUT"}, "Access-Control-Request-Private-Network": {"true"}}
	e.want(req{method: "OPTIONS", path: secretPath, header: h}, apitype.Forbidden)
	e.want(req{method: "OPTIONS", path: secretPath}, apitype.Method)
}

func TestToken(t *testing.T) {
	e := newEnv(t)
	good := string(testToken)
	for _, q := range everything() {
		if q.open() {
			e.ok(q.with(func(q *req) { q.tcp, q.noToken = true, true }), 200, nil)
			continue
		}
		e.want(q.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
		for _, a := range []string{"Bearer", "Bearer ", "Bearer " + good[1:], "Bearer " + good[:len(good)-1], "Bearer " + good + "x", "Bearer  " + good, "Basic " + good, good, "Bearer " + strings.ToUpper(good), "Basic " + base64.StdEncoding.EncodeToString([]byte(":"+good))} {
			r := e.do(q.with(func(q *req) { q.tcp = true; q.header.Set("Authorization", a) }))
			if p := r.problem(t); p.Type != apitype.Unauthorized || r.header.Get("WWW-Authenticate") == "" {
				t.Errorf("Authorization %q: %+v", a, p)
			}
		}
		e.want(q.with(func(q *req) {
			q.tcp = true
			q.header["Authorization"] = []string{"Bearer " + good, "Bearer " + good}
		}), apitype.Unauthorized)
	}
	if e.secrets.puts != 0 {
		t.Error("a refused request reached the keystore")
	}
	if strings.Contains(e.log.String(), good) {
		t.Error("the log has the token")
	}
}

// TestTokenIsNoPassOnTheSocket: there the kernel decides.
func TestOtherUser(t *testing.T) {
	for name, cred := range map[string]struct {
		uid  uint32
		err  error
		pass bool
	}{
		"own":   {uid: 1000, pass: true},
		"root":  {uid: 0, pass: true},
		"other": {uid: 1001},
		"none":  {err: errors.New("no credentials")},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, func(e *env) {
				e.server.uid = 1000
				e.server.credentials = func(c net.Conn) (uint32, error) {
					if _, ok := c.(*net.UnixConn); !ok {
						t.Errorf("asked of a %T", c)
					}
					return cred.uid, cred.err
				}
			})
			for _, q := range everything() {
				if cred.pass || q.open() {
					if r := e.do(q); r.status >= 300 {
						t.Errorf("%s: status %d", q.path, r.status)
					}
					continue
				}
				e.want(q, apitype.Forbidden)
				e.want(q.with(func(q *req) { q.header.Set("Authorization", "Bearer "+string(testToken)) }), apitype.Forbidden)
			}
			if !cred.pass && e.secrets.puts != 0 {
				t.Error("a refused request reached the keystore")
			}
		})
	}
}

// TestHandlerAlone: without Serve nobody asked for credentials.
func TestHandlerAlone(t *testing.T) {
	e := newEnv(t)
	for kind, want := range map[Kind]int{Unix: 403, TCP: 403, Kind(7): 403} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://keymesh/api/v1/status", nil)
		e.server.Handler(kind).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("kind %d: status %d", kind, w.Code)
		}
	}
}

func TestContentTypeOfWrites(t *testing.T) {
	e := newEnv(t)
	for _, q := range everything() {
		if q.body == "" {
			continue
		}
		e.want(q.with(func(q *req) { q.noType = true }), apitype.MediaType)
		for _, ct := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1", "application/jsonx", "application/json, text/plain", "application/json; profile=x", "garbage/;;"} {
			e.want(q.with(func(q *req) { q.header.Set("Content-Type", ct) }), apitype.MediaType)
		}
		e.want(q.with(func(q *req) { q.header["Content-Type"] = []string{"application/json", "text/plain"} }), apitype.MediaType)
		e.want(q.with(func(q *req) { q.header.Set("Content-Encoding", "gzip") }), apitype.MediaType)
		for _, ct := range []string{"application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
			if r := e.do(q.with(func(q *req) { q.header.Set("Content-Type", ct) })); r.status >= 300 {
				t.Errorf("%s %q: %d", q.path, ct, r.status)
			}
		}
	}
}

func TestBodiesThatAreTooLong(t *testing.T) {
	e := newEnv(t)
	long := `{"value":"` + strings.Repeat("A", apitype.MaxBody) + `"}`
	for _, q := range everything() {
		if q.body == "" {
			continue
		}
		e.want(q.with(func(q *req) { q.body = long }), apitype.TooLarge)
	}
	// The same without a length in advance.
	resp, err := e.unix.Do(mustRequest(t, "PUT", "http://keymesh"+secretPath, io.MultiReader(strings.NewReader(long))))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("chunked: status %d", resp.StatusCode)
	}
	if e.secrets.puts != 0 {
		t.Error("something was stored")
	}
}

func mustRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

// raw sends bytes over the socket and returns the answer.
func (e *env) raw(text string, closeWrite bool) (int, string) {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		e.t.Fatal(err)
	}
	if closeWrite {
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			e.t.Fatal(err)
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestBodiesThatEndEarly: what was cut off is not taken for whole, although it
// is a whole JSON value.
func TestBodiesThatEndEarly(t *testing.T) {
	e := newEnv(t)
	head := "PUT " + secretPath + " HTTP/1.1\r\nHost: keymesh\r\nContent-Type: application/json\r\n"
	body := `{"value":""}`
	for name, text := range map[string]string{
		"length":  fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body)+5, body),
		"chunked": fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", head, len(body), body),
	} {
		if status, answer := e.raw(text, true); status != 400 {
			t.Errorf("%s: status %d: %s", name, status, answer)
		}
	}
	if e.secrets.puts != 0 {
		t.Error("something was stored")
	}
}

func TestBodiesWhereNoneBelongs(t *testing.T) {
	e := newEnv(t)
	for _, q := range everything() {
		if q.body == "" {
			e.want(q.with(func(q *req) { q.body = `{}` }), apitype.Invalid)
		}
	}
}

// TestRequestTargets: forms of the request line that reach no name by mistake.
func TestRequestTargets(t *testing.T) {
	e := newEnv(t)
	for target, want := range map[string]int{
		"http://evil.example/api/v1/version": 403, // the target's host counts, not the header's
		"http://keymesh/api/v1/version":      200,
		"//api/v1/version":                   404,
		"/api/v1/version/":                   404,
		"/api/v1//version":                   404,
		"/api/v1/./version":                  404,
		"/API/v1/version":                    404,
		"/api/v1/version%00":                 404,
		"/api%2Fv1/version":                  404,
		"*":                                  404,
	} {
		status, body := e.raw("GET "+target+" HTTP/1.1\r\nHost: keymesh\r\nConnection: close\r\n\r\n", false)
		if status != want {
			t.Errorf("%s: status %d, want %d: %s", target, status, want, body)
		}
	}
	if status, _ := e.raw("GET /api/v1/version HTTP/1.1\r\nHost: keymesh\r\nHost: evil\r\n\r\n", false); status != 400 {
		t.Errorf("two Host headers: %d", status)
	}
	if status, _ := e.raw("GET /api/v1/version HTTP/1.0\r\n\r\n", false); status != 403 {
		t.Errorf("no Host header: %d", status)
	}
	if status, _ := e.raw("GET /api/v1/version HTTP/1.1\r\nHost: keymesh\r\nX: "+strings.Repeat("a", 64<<10)+"\r\n\r\n", false); status != 431 {
		t.Errorf("headers of 64 KiB: %d", status)
	}
}

func TestPathsAndMethodsThatDoNotExist(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/", "/api", "/api/v1", "/api/v1/secrets/../status", "/metrics", "/api/v1/jobs", "/api/v1/jobs/1", "/api/v1/audits", "/api/v1/event", "/api/v1/tokens", "/api/v1/peer/x", "/v1/secret/x", "/debug/pprof/", "/favicon.ico"} {
		r := e.do(req{path: path})
		if r.status != 404 && r.status != 400 {
			t.Errorf("%s: status %d", path, r.status)
		}
	}
	for _, verb := range []string{"shred", "move"} {
		r := e.do(req{method: "POST", path: secretPath + "/" + verb, body: `{}`})
		if p := r.problem(t); p.Type != apitype.Method || r.header.Get("Allow") != "DELETE, GET, PUT" {
			t.Errorf("%s: %+v, Allow %q", verb, p, r.header.Get("Allow"))
		}
	}
	for _, q := range []req{{method: "POST", path: "/api/v1/secrets"}, {method: "DELETE", path: "/api/v1/peers"}, {method: "PATCH", path: secretPath}, {method: "TRACE", path: secretPath}, {method: "GET", path: "/api/v1/peers/invites"}, {method: "POST", path: "/healthz"}} {
		e.want(q, apitype.Method)
	}
}

func TestQueries(t *testing.T) {
	e := newEnv(t)
	for _, q := range everything() {
		for _, query := range []string{"x=1", "timeout=1&timeout=1", "timeout=1;x=1", "timeout=%zz", "As=other"} {
			e.want(q.with(func(q *req) { q.path += "?" + query }), apitype.Invalid)
		}
		if q.open() {
			continue
		}
		for _, v := range []string{"", "0", "-1", "121", "1e1", "0x10", "NaN", "Inf", "1.", "30s", "1_0", "0.0001", "999999999999"} {
			r := e.do(q.with(func(q *req) { q.path += "?timeout=" + v }))
			if v == "1." { // is one second
				continue
			}
			if r.status != 400 {
				t.Errorf("%s timeout=%q: %d", q.path, v, r.status)
			}
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=", "prefix=" + strings.Repeat("a", 513), "cursor=" + strings.Repeat("a", 4097), "gen=1"} {
		e.want(req{path: "/api/v1/secrets?" + query}, apitype.Invalid)
	}
	for _, query := range []string{"gen=0", "gen=-1", "gen=x", "gen=", "gen=01", "gen=+1", "now=", "now=1", "now=yes", "all=true"} {
		e.want(req{method: "DELETE", path: secretPath + "?" + query}, apitype.Invalid)
	}
}

func TestTooManyRequests(t *testing.T) {
	e := newEnv(t)
	for range cap(e.server.slots) {
		e.server.slots <- struct{}{}
	}
	for _, q := range everything() {
		if q.open() {
			e.ok(q, 200, nil)
			continue
		}
		r := e.do(q)
		if p := r.problem(t); p.Type != apitype.RateLimited || r.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %+v", q.path, p)
		}
	}
	<-e.server.slots
	e.ok(req{path: "/api/v1/version"}, 200, nil)
	e.ok(req{path: "/api/v1/version"}, 200, nil) // the slot came back
}

func TestRequestID(t *testing.T) {
	e := newEnv(t)
	send := func(id string) string {
		return e.ok(req{path: "/api/v1/peers", header: http.Header{"X-Request-Id": {id}}}, 200, nil).header.Get("X-Request-Id")
	}
	if got := send("my-id_1.2"); got != "my-id_1.2" || !strings.Contains(e.log.String(), "request=my-id_1.2") {
		t.Errorf("id %q; log %s", got, e.log)
	}
	for _, bad := range []string{"", strings.Repeat("a", 65), "a b", "a\"b", "ä"} {
		if got := send(bad); got == bad || len(got) < 20 {
			t.Errorf("id %q became %q", bad, got)
		}
	}
}

func TestPanics(t *testing.T) {
	for name, v := range map[string]any{"error": errors.New(marker), "text": marker, "abort": http.ErrAbortHandler} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.secrets.panic, e.mesh.panic = v, v
			for _, q := range everything() {
				switch q.path {
				case "/healthz", "/readyz", "/api/v1/version", "/api/v1/openapi.yaml", "/api/v1/peers/invites":
					continue
				}
				p := e.want(q, apitype.Internal)
				if p.Detail != "" {
					t.Errorf("%s: detail %q", q.path, p.Detail)
				}
			}
			if log := e.log.String(); strings.Contains(log, marker) || !strings.Contains(log, "api: panic") {
				t.Errorf("log: %s", log)
			}
			if len(e.server.slots) != 0 {
				t.Error("slots were not given back")
			}
		})
	}
}
