package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

// Handler returns the handler for a kind of listener. [Server.Serve] uses it;
// under another http.Server the unix kind refuses everybody, since nobody asked
// for credentials.
func (s *Server) Handler(kind Kind) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		id := requestID(r)
		head(w.Header(), id)
		pattern := patternNone
		a := s.safely(id, func() answer {
			e, p, name, none := s.find(r)
			pattern = p
			if bad := s.guard(kind, r, none == nil && e.open); bad != nil {
				if s.cfg.Audit != nil {
					s.cfg.Audit.AuditRefused(kind, bad.Status)
				}
				return problem(bad, id)
			}
			if none != nil {
				if none.Type == apitype.Method {
					w.Header().Set("Allow", allow(s.routes[pattern]))
				}
				return problem(none, id)
			}
			return s.answer(w, r, e, pattern, name, id)
		})
		s.write(w, r, a, id)
		s.access(kind, r.Method, pattern, a.status, len(a.body), id, started)
		if a.secret {
			clear(a.body)
		}
	})
}

func head(h http.Header, id string) {
	h.Set(apitype.HeaderID, id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// requestID takes the caller's id when it is a harmless one.
func requestID(r *http.Request) string {
	id := r.Header.Get(apitype.HeaderID)
	const ok = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	if id == "" || len(id) > 64 || strings.Trim(id, ok) != "" {
		return rand.Text()
	}
	return id
}

// safely turns a panic into a problem that says nothing of it. The log gets the
// panic's type and the stack, not its value, which might be anything.
func (s *Server) safely(id string, f func() answer) (a answer) {
	defer func() {
		if v := recover(); v != nil {
			what := fmt.Sprintf("%T", v)
			if e, ok := v.(runtime.Error); ok {
				what = e.Error()
			}
			s.log.Error("api: panic", "what", what, "request", id, "stack", string(debug.Stack()))
			a = problem(apitype.NewProblem(apitype.Internal, ""), id)
		}
	}()
	return f()
}

// answer serves a request that the guard let through.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, e endpoint, pattern, name, id string) answer {
	if !e.open {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			w.Header().Set("Retry-After", "1")
			return problem(hinted(apitype.NewProblem(apitype.RateLimited, "the node serves %d requests already", cap(s.slots))), id)
		}
	}
	req, bad := s.parse(e, name, pattern, r)
	if bad != nil {
		return problem(bad, id)
	}
	if req.body, bad = readBody(w, r, e); bad != nil {
		return problem(bad, id)
	}
	defer clear(req.body)
	if e.upload != "" {
		req.upload = r.Body
		// The time for a body is that of the request, not that of a small one.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(req.timeout + grace))
	}
	// The keystore ends by req.timeout with an account of who is missing; the
	// context is for what does not look at it.
	ctx, cancel := context.WithTimeout(r.Context(), req.timeout+grace)
	defer cancel()
	req.ctx, req.id = keystore.WithRequestID(ctx, id), id
	a, err := e.serve(req)
	if err != nil {
		return s.answerError(err, req, pattern)
	}
	return a
}

const grace = 2 * time.Second

// failure is an error with what was being done.
type failure struct {
	error
	op op
}

func (f failure) Unwrap() error { return f.error }

func (s *Server) answerError(err error, req *request, pattern string) answer {
	var pend *keystore.PendingError
	if errors.As(err, &pend) {
		if a, err := pendingAnswer(pend); err == nil {
			return a
		}
	}
	return problem(s.explain(err, pattern, req.id, req.name, req.query.Get("prefix")), req.id)
}

// explain is the problem of an error. What is a fault of the node is logged,
// without the names.
func (s *Server) explain(err error, pattern, id string, names ...string) *apitype.Problem {
	var f failure
	errors.As(err, &f)
	p := problemOf(err, f.op)
	if p.Type == apitype.Internal || p.Type == apitype.Damaged {
		s.log.Error("api: request failed", "route", pattern, "request", id, "err", publicText(err.Error(), names...))
	}
	return p
}

// publicText takes out of an error's text what might be the name of a secret:
// the names in the request and everything in quotes.
func publicText(text string, names ...string) string {
	for _, name := range names {
		if name == "" {
			continue
		}
		text = strings.ReplaceAll(text, name, "NAME")
		escaped := strconv.Quote(name)
		text = strings.ReplaceAll(text, escaped[1:len(escaped)-1], "NAME")
	}
	var out strings.Builder
	inside := false
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			inside = !inside
			out.WriteByte('"')
		case inside && text[i] == '\\':
			i++ // what is escaped does not end the quotes
		case !inside:
			out.WriteByte(text[i])
		}
	}
	return fmt.Sprintf("%.500s", out.String())
}

// readBody reads the body of a request whose endpoint wants one, into one
// buffer, so that no copy of a value is left behind by growing.
func readBody(w http.ResponseWriter, r *http.Request, e endpoint) ([]byte, *apitype.Problem) {
	if e.upload != "" {
		return nil, checkMedia(r, e.upload)
	}
	if !e.body {
		if r.ContentLength != 0 {
			return nil, apitype.NewProblem(apitype.Invalid, "this request has no body")
		}
		return nil, nil
	}
	if bad := checkMedia(r, apitype.TypeJSON); bad != nil {
		return nil, bad
	}
	size := r.ContentLength
	if size > apitype.MaxBody {
		return nil, tooLong(w, r)
	}
	if size < 0 {
		size = apitype.MaxBody + 1
	}
	buf := make([]byte, size)
	n, err := fill(r.Body, buf)
	switch {
	case n > apitype.MaxBody:
		clear(buf)
		return nil, tooLong(w, r)
	case err != nil:
		clear(buf)
		return nil, apitype.NewProblem(apitype.Invalid, "the body ended early")
	}
	return buf[:n], nil
}

// fill reads until the end or until buf is full. Unlike io.ReadFull it tells a
// body that is shorter than buf from one that was cut off.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// tooLong reads a moderate rest away, since many clients look at an answer only
// once they have sent everything, and closes the connection.
func tooLong(w http.ResponseWriter, r *http.Request) *apitype.Problem {
	if r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, r.Body, 4*apitype.MaxBody)
	}
	w.Header().Set("Connection", "close")
	return apitype.NewProblem(apitype.TooLarge, "a request body has at most %d bytes and a value %d", apitype.MaxBody, apitype.MaxValue)
}

// reply encodes v, which must not hold a secret.
func reply(status int, v any) (answer, error) {
	b, err := json.Marshal(v)
	return answer{status: status, body: b}, err
}

func problem(p *apitype.Problem, id string) answer {
	out := *p
	out.RequestID = id
	b, err := json.Marshal(&out)
	if err != nil { // no field of a problem can cause it
		return answer{status: http.StatusInternalServerError, media: "text/plain"}
	}
	return answer{status: p.Status, body: b, media: apitype.TypeProblemJSON}
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, a answer, id string) {
	h := w.Header()
	if a.media == "" {
		a.media = apitype.TypeJSON
	}
	h.Set("Content-Type", a.media)
	if a.stream == nil {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	if a.gen != 0 {
		h.Set("ETag", strconv.Quote(strconv.FormatUint(a.gen, 10)))
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.replayed {
		h.Set("Idempotency-Replayed", "true")
	}
	if a.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="keymesh"`)
	}
	w.WriteHeader(a.status)
	if a.stream == nil {
		_, _ = w.Write(a.body) // a caller that is gone does not want it
		return
	}
	// Else the time for reading a request would end the answer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err := a.stream(r.Context(), slowWriter{w}); err != nil {
		s.log.Warn("api: a long answer broke off", "request", id, "err", publicText(err.Error()))
		panic(http.ErrAbortHandler)
	}
}

// slowWriter gives each write its own time: a long answer may take as long as
// its reader goes on reading.
type slowWriter struct{ w http.ResponseWriter }

// Flush sends what was written.
func (w slowWriter) Flush() error { return http.NewResponseController(w.w).Flush() }

const streamWrite = 30 * time.Second

// Write implements io.Writer.
func (w slowWriter) Write(p []byte) (int, error) {
	if err := http.NewResponseController(w.w).SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// access logs a request. Reads that went well are many and say little.
func (s *Server) access(kind Kind, method, pattern string, status, size int, id string, started time.Time) {
	level := slog.LevelInfo
	if status < 400 && method == http.MethodGet {
		level = slog.LevelDebug
	}
	if len(method) > 10 {
		method = method[:10]
	}
	s.log.LogAttrs(context.Background(), level, "api",
		slog.String("kind", kind.String()), slog.String("method", method), slog.String("route", pattern),
		slog.Int("status", status), slog.Int("bytes", size),
		slog.Duration("took", time.Since(started)), slog.String("request", id))
}
