package client

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

func TestAuditCalls(t *testing.T) {
	var got *http.Request
	var body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		answer(w, 200, "application/json", `{"items":[],"last":9,"next":7,"intact":true}`)
	})
	c.As = "bob"
	since := uint64(7)
	page, err := c.Audit(t.Context(), &since, 3)
	if err != nil || page.Last != 9 || page.Next != 7 || got.URL.Query().Get("since") != "7" || got.URL.Query().Get("limit") != "3" || got.URL.Query().Get("as") != "bob" {
		t.Errorf("%+v, %v, %s", page, err, got.URL)
	}
	if _, err := c.Audit(t.Context(), nil, 3); err != nil || got.URL.Query().Has("since") {
		t.Errorf("%v, %s", err, got.URL)
	}
	if check, err := c.AuditVerify(t.Context()); err != nil || !check.Intact || got.Method != "GET" || got.URL.Path != apitype.PathAuditVerify || got.URL.Query().Has("as") {
		t.Errorf("%v, %s %s", err, got.Method, got.URL)
	}
	if check, err := c.AuditVerifyExport(t.Context(), strings.NewReader("lines")); err != nil || !check.Intact || got.Method != "POST" || body != "lines" ||
		got.Header.Get("Content-Type") != apitype.TypeAudit {
		t.Errorf("%v, %s %q", err, got.Method, body)
	}
}

// TestAuditExport takes only a whole export for one.
func TestAuditExport(t *testing.T) {
	const export = "{\"keymesh\":\"audit log\"}\n{\"end\":0}\n"
	var serveIt http.HandlerFunc
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { serveIt(w, r) })
	serveIt = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, apitype.TypeAudit, export) }
	var out bytes.Buffer
	if n, err := c.AuditExport(t.Context(), &out); err != nil || out.String() != export || n != int64(len(export)) {
		t.Errorf("%d, %v, %q", n, err, out.String())
	}
	serveIt = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", apitype.TypeAudit)
		_, _ = io.WriteString(w, export)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	if _, err := c.AuditExport(t.Context(), io.Discard); !errors.Is(err, errCut) || apitype.ExitCode(err) != apitype.ExitUnreachable {
		t.Errorf("broken off: %v", err)
	}
	serveIt = func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 507, apitype.TypeProblemJSON, `{"type":"urn:keymesh:problem:damaged","title":"t","status":507,"exit_code":10}`)
	}
	var p *apitype.Problem
	if _, err := c.AuditExport(t.Context(), &out); !errors.As(err, &p) || apitype.ExitCode(err) != apitype.ExitStorage {
		t.Errorf("a problem: %v", err)
	}
	serveIt = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, "text/html", "hello") }
	var bad *BadAnswer
	if _, err := c.AuditExport(t.Context(), &out); !errors.As(err, &bad) {
		t.Errorf("a page: %v", err)
	}
	full := errors.New("no room")
	serveIt = func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, apitype.TypeAudit, export) }
	if _, err := c.AuditExport(t.Context(), failing{full}); !errors.Is(err, full) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
