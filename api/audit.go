package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

// Audit is what the API needs of the node's audit log. An *apitype.Problem among
// its errors is answered as it is; other errors are internal ones.
type Audit interface {
	// AuditPage returns at most limit entries after position since, or the
	// newest when since is nil, with the names of p's own secrets.
	AuditPage(ctx context.Context, p keystore.Person, since *uint64, limit int) (apitype.AuditPage, error)
	// AuditVerify asks the peers for what they keep and reads the whole log. An
	// error means that it could not be done; what is wrong is in the answer.
	AuditVerify(ctx context.Context) (apitype.AuditCheck, error)
	// AuditExport writes the whole log in a form that needs no key to check.
	AuditExport(ctx context.Context, w io.Writer) error
	// AuditVerifyExport checks an export of any node.
	AuditVerifyExport(ctx context.Context, r io.Reader) (apitype.AuditExportCheck, error)
	// AuditRefused notes that a request was turned away with 401 or 403. It
	// must not wait.
	AuditRefused(kind Kind, status int)
}

// auditEndpoints are the paths of the audit log.
func (s *Server) auditEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathAudit: {http.MethodGet: {person: true, query: []string{"since", "limit"}, serve: s.auditPage}},
		apitype.PathAuditVerify: {
			http.MethodGet:  {serve: s.auditVerify},
			http.MethodPost: {upload: apitype.TypeAudit, serve: s.auditVerifyExport},
		},
		apitype.PathAuditExport: {http.MethodGet: {serve: s.auditExport}},
	}
}

// auditLog is the node's, or the problem that there is none.
func (s *Server) auditLog() (Audit, error) {
	if s.cfg.Audit == nil {
		return nil, apitype.NewProblem(apitype.Unavailable, "this node keeps no audit log")
	}
	return s.cfg.Audit, nil
}

func (s *Server) auditPage(r *request) (answer, error) {
	log, err := s.auditLog()
	if err != nil {
		return answer{}, err
	}
	var since *uint64
	if r.query.Has("since") {
		n, err := strconv.ParseUint(r.query.Get("since"), 10, 64)
		if err != nil {
			return answer{}, apitype.NewProblem(apitype.Invalid, "since is the position of an entry, or 0")
		}
		since = &n
	}
	limit := 100
	if r.query.Has("limit") {
		if limit, err = strconv.Atoi(r.query.Get("limit")); err != nil || limit < 1 || limit > apitype.MaxPage {
			return answer{}, apitype.NewProblem(apitype.Invalid, "limit is a number of entries, 1 to %d", apitype.MaxPage)
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	out, err := log.AuditPage(ctx, r.person, since, limit)
	if err != nil {
		return answer{}, err
	}
	out.Items = append([]apitype.AuditEntry{}, out.Items...)
	return reply(http.StatusOK, out)
}

func (s *Server) auditVerify(r *request) (answer, error) {
	log, err := s.auditLog()
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	out, err := log.AuditVerify(ctx)
	if err != nil {
		return answer{}, err
	}
	out.Peers = append([]apitype.AuditPeer{}, out.Peers...)
	return reply(http.StatusOK, out)
}

func (s *Server) auditExport(*request) (answer, error) {
	log, err := s.auditLog()
	if err != nil {
		return answer{}, err
	}
	if bad := s.takeStream(); bad != nil {
		return answer{}, bad
	}
	return answer{status: http.StatusOK, media: apitype.TypeAudit, stream: func(ctx context.Context, w io.Writer) error {
		defer func() { <-s.streams }()
		return log.AuditExport(ctx, w)
	}}, nil
}

// takeStream takes a slot for a long answer or body.
func (s *Server) takeStream() *apitype.Problem {
	select {
	case s.streams <- struct{}{}:
		return nil
	default:
		return hinted(apitype.NewProblem(apitype.RateLimited, "the node serves %d exports already", cap(s.streams)))
	}
}

func (s *Server) auditVerifyExport(r *request) (answer, error) {
	log, err := s.auditLog()
	if err != nil {
		return answer{}, err
	}
	if bad := s.takeStream(); bad != nil {
		return answer{}, bad
	}
	defer func() { <-s.streams }()
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	in := &untilDone{ctx: ctx, r: r.upload}
	out, err := log.AuditVerifyExport(ctx, in)
	switch {
	case in.long:
		return answer{}, apitype.NewProblem(apitype.TooLarge, "an export that a node checks has at most %d bytes", apitype.MaxAuditExport)
	case in.err != nil:
		return answer{}, fmt.Errorf("reading an export: %w", in.err)
	case err != nil:
		return answer{}, err
	}
	return reply(http.StatusOK, out)
}

// untilDone reads until the request's time is over, and remembers why it did not
// read to the end.
type untilDone struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	long bool
	err  error
}

// Read implements io.Reader.
func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		u.err = err
		return 0, err
	}
	n, err := u.r.Read(p)
	if u.n += int64(n); u.n > apitype.MaxAuditExport {
		u.long = true
		return 0, io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		u.err = apitype.NewProblem(apitype.Invalid, "the body ended early")
	}
	return n, err
}
