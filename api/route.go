package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

// Patterns of paths with a name. They are what the log shows.
const (
	patternSecret  = apitype.PathSecrets + "/{name}"
	patternRecover = patternSecret + "/recover"
	patternNone    = "(no such path)"
)

// endpoint is one method of one path.
type endpoint struct {
	open   bool     // without credentials, and not counted
	person bool     // acts for a person: ?as=
	body   bool     // wants a JSON body
	upload string   // wants a long body of this type, which it reads itself
	query  []string // parameters beside as and timeout
	serve  func(*request) (answer, error)
}

// request is a request that passed the guard and was parsed.
type request struct {
	ctx     context.Context // ends a little after timeout
	id      string
	name    string // of the secret
	as      string
	person  keystore.Person
	query   url.Values
	header  http.Header
	timeout time.Duration
	wait    time.Duration // for what is asked about to change; at most timeout
	body    []byte
	upload  io.Reader // of an endpoint with upload
}

// answer is a status with a body. A secret body is zeroed once it was written.
type answer struct {
	status   int
	body     []byte
	media    string // default: JSON
	gen      uint64 // ETag; 0: none
	secret   bool
	replayed bool
	location string // of what goes on; empty: none
	// stream writes a body too long to be kept; nil: body is all. When it fails
	// the connection breaks, so that nobody takes a part for the whole.
	stream func(ctx context.Context, w io.Writer) error
}

func (s *Server) endpoints() map[string]map[string]endpoint {
	get := func(e endpoint) map[string]endpoint { return map[string]endpoint{http.MethodGet: e} }
	return map[string]map[string]endpoint{
		apitype.PathHealthz: get(endpoint{open: true, serve: s.healthz}),
		apitype.PathReadyz:  get(endpoint{open: true, serve: s.readyz}),
		apitype.PathVersion: get(endpoint{serve: s.version}),
		apitype.PathOpenAPI: get(endpoint{serve: s.openAPI}),
		apitype.PathStatus:  get(endpoint{person: true, serve: s.status}),
		apitype.PathPeers:   get(endpoint{serve: s.peers}),
		apitype.PathInvites: {http.MethodPost: {body: true, serve: s.invite}},
		apitype.PathSecrets: get(endpoint{person: true, query: []string{"prefix", "cursor", "limit"}, serve: s.list}),
		patternSecret: {
			http.MethodGet:    {person: true, serve: s.info},
			http.MethodPut:    {person: true, body: true, serve: s.put},
			http.MethodDelete: {person: true, query: []string{"gen", "now"}, serve: s.delete},
		},
		patternRecover: {http.MethodPost: {person: true, body: true, serve: s.recover}},
	}
}

// route finds the pattern of a request and the raw name in it. A name is one
// segment, or several when its slashes are not escaped; for a POST the last
// segment is the verb. Nothing is cleaned or redirected on the way: a path that
// needs it has a name that is refused.
func route(method, escaped string) (pattern, name string) {
	if rest, ok := strings.CutPrefix(escaped, apitype.PathRequests+"/"); ok {
		return routeRequest(rest)
	}
	if rest, ok := strings.CutPrefix(escaped, apitype.PathPeers+"/"); ok {
		return routePeer(method, rest)
	}
	if rest, ok := strings.CutPrefix(escaped, apitype.PathJobs+"/"); ok {
		return patternJob, rest
	}
	rest, ok := strings.CutPrefix(escaped, apitype.PathSecrets+"/")
	if !ok {
		return escaped, ""
	}
	if method == http.MethodPost {
		for _, verb := range secretVerbs() {
			if name, ok := strings.CutSuffix(rest, "/"+verb); ok {
				return patternSecret + "/" + verb, name
			}
		}
	}
	return patternSecret, rest
}

// secretVerbs are what may follow the name of a secret in a POST.
func secretVerbs() []string {
	return []string{"recover", apitype.JobVerify, apitype.JobRepair, apitype.JobRefresh, apitype.JobReshare, apitype.JobRehearse}
}

// find returns the endpoint, or the problem that there is none.
func (s *Server) find(r *http.Request) (endpoint, string, string, *apitype.Problem) {
	pattern, name := route(r.Method, r.URL.EscapedPath())
	methods, ok := s.routes[pattern]
	if !ok {
		p := apitype.NewProblem(apitype.NotFound, "this version has no such path")
		p.Hint = "GET " + apitype.PathOpenAPI + " lists what there is"
		return endpoint{}, patternNone, "", p
	}
	e, ok := methods[r.Method]
	if !ok {
		p := apitype.NewProblem(apitype.Method, "this version knows no %.20q here", r.Method)
		p.Hint = "allowed: " + allow(methods)
		return endpoint{}, pattern, "", p
	}
	return e, pattern, name, nil
}

func allow(methods map[string]endpoint) string {
	var out []string
	for m := range methods {
		out = append(out, m)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// parse fills in everything but the body.
func (s *Server) parse(e endpoint, raw, pattern string, r *http.Request) (*request, *apitype.Problem) {
	out := &request{header: r.Header, timeout: keystore.DefaultTimeout}
	if strings.HasPrefix(pattern, patternSecret) {
		name, p := secretName(raw)
		if p != nil {
			return nil, p
		}
		out.name = name
	}
	if strings.HasPrefix(pattern, patternRequest) || strings.HasPrefix(pattern, patternPeer) || pattern == patternJob {
		out.name = raw
	}
	var p *apitype.Problem
	if out.query, p = parseQuery(r.URL.RawQuery, e); p != nil {
		return nil, p
	}
	if out.query.Has("timeout") {
		if out.timeout, p = parseTimeout(out.query.Get("timeout")); p != nil {
			return nil, p
		}
	}
	if out.query.Has("wait") {
		if out.wait, p = parseWait(out.query.Get("wait")); p != nil {
			return nil, p
		}
		if !out.query.Has("timeout") {
			out.timeout = max(out.timeout, out.wait)
		}
		out.wait = min(out.wait, out.timeout)
	}
	if e.person {
		out.as = out.query.Get("as")
		person, ok := s.cfg.Persons(out.as)
		if !ok {
			// Not 404, which would say that the secret does not exist.
			return nil, unprocessable("this node has no person called %.60q", out.as)
		}
		out.person = person
	}
	return out, nil
}

func secretName(raw string) (string, *apitype.Problem) {
	name, err := url.PathUnescape(raw)
	if err != nil {
		return "", apitype.NewProblem(apitype.Invalid, "the name in the path is not properly escaped")
	}
	if err := keystore.CheckName(name); err != nil {
		return "", apitype.NewProblem(apitype.Invalid, "the name is refused: %.300s", err)
	}
	return name, nil
}

func parseQuery(raw string, e endpoint) (url.Values, *apitype.Problem) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, apitype.NewProblem(apitype.Invalid, "the query is malformed")
	}
	for k, v := range q {
		known := k == "timeout" || k == "as" && e.person || slices.Contains(e.query, k)
		switch {
		case !known:
			return nil, apitype.NewProblem(apitype.Invalid, "unknown query parameter %.60q", k)
		case len(v) != 1:
			return nil, apitype.NewProblem(apitype.Invalid, "the query parameter %s is there twice", k)
		}
	}
	return q, nil
}

// parseTimeout reads seconds, with up to three decimals.
func parseTimeout(v string) (time.Duration, *apitype.Problem) {
	bad := apitype.NewProblem(apitype.Invalid, "timeout is a number of seconds, above 0 and at most %d", apitype.MaxTimeout)
	if len(v) > 8 || strings.Trim(v, "0123456789.") != "" {
		return 0, bad
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || f < 0.001 || f > apitype.MaxTimeout {
		return 0, bad
	}
	return time.Duration(f * float64(time.Second)), nil
}
