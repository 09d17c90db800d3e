package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
)

// Bounds of the wishes in requests; the keystore has its own for the rest.
const (
	maxTTL    = 100 * 365 * 24 * 60 * 60 // seconds
	maxSeats  = 32
	maxKeep   = 1 << 16
	maxReason = 512
	maxCursor = 4096
)

func unprocessable(f string, a ...any) *apitype.Problem {
	return apitype.NewProblem(apitype.Unprocessable, f, a...)
}

func (s *Server) put(r *request) (answer, error) {
	var in apitype.PutRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		clear(in.Value)
		return answer{}, bad
	}
	defer clear(in.Value)
	o, err := s.putOptions(r, &in)
	if err != nil {
		return answer{}, err
	}
	idem, bad := idempotencyKey(r.header)
	switch {
	case bad != nil:
		return answer{}, bad
	case in.DryRun:
		return s.plan(r, len(in.Value), o)
	case idem == "":
		return s.store(r, in.Value, o)
	}
	pub := r.person.Key.Public()
	scope := s.replays.digest(pub[:], []byte(r.name), []byte(idem))
	same := s.replays.digest([]byte(r.header.Get("If-Match")), []byte(r.header.Get("If-None-Match")), r.body)
	return s.replays.do(r.ctx, scope, same, func() (answer, error) { return s.store(r, in.Value, o) })
}

func (s *Server) store(r *request, value []byte, o keystore.PutOptions) (answer, error) {
	res, err := s.cfg.Secrets.Put(r.ctx, r.person, r.name, value, o)
	if err != nil {
		return answer{}, failure{err, op{write: true, conditional: o.IfGen != nil || o.IfAbsent}}
	}
	status := http.StatusOK
	if res.Created {
		status = http.StatusCreated
	}
	out := putResult(res, false)
	s.sayPolicy(r, res.Policy, &out)
	a, err := reply(status, out)
	a.gen = res.Gen
	return a, err
}

func (s *Server) plan(r *request, size int, o keystore.PutOptions) (answer, error) {
	res, err := s.cfg.Secrets.Plan(r.ctx, r.person, r.name, size, o)
	if err != nil {
		p := problemOf(err, op{write: true, conditional: o.IfGen != nil || o.IfAbsent})
		if p.Type == apitype.InDoubt { // nothing was to be written
			p = problemOf(keystore.ErrTimeout, op{})
		}
		if p.Type == apitype.Internal {
			return answer{}, failure{err, op{}}
		}
		return answer{}, p
	}
	out := putResult(res, true)
	s.sayPolicy(r, res.Policy, &out)
	return reply(http.StatusOK, out)
}

// putOptions checks what needs no holder to be checked.
func (s *Server) putOptions(r *request, in *apitype.PutRequest) (o keystore.PutOptions, err error) {
	var bad *apitype.Problem
	switch {
	case in.Value == nil:
		return o, apitype.NewProblem(apitype.Invalid, "the member value is missing; an empty secret is \"\"")
	case len(in.Value) > apitype.MaxValue:
		return o, apitype.NewProblem(apitype.TooLarge, "the value has %d bytes; at most %d are possible", len(in.Value), apitype.MaxValue)
	case in.N < 0 || in.N > maxSeats || in.K < 0 || in.K > maxSeats || in.W < 0 || in.W > maxSeats:
		return o, unprocessable("n, k and w are at most %d", maxSeats)
	case in.N != 0 && in.K == 0:
		return o, unprocessable("n without k: say how many of the %d seats are to suffice", in.N)
	case in.N != 0 && in.K > in.N:
		return o, unprocessable("k = %d is more than n = %d", in.K, in.N)
	case in.K == 1:
		return o, unprocessable("k = 1 would let every holder read the secret")
	case in.Keep != nil && (*in.Keep < 0 || *in.Keep > maxKeep):
		return o, unprocessable("keep is 0 to %d", maxKeep)
	case in.TTL != nil && *in.TTL > maxTTL:
		return o, unprocessable("ttl is at most %d seconds", maxTTL)
	case in.Repair != "" && in.Repair != "owner" && in.Repair != "quorum":
		return o, unprocessable("repair is owner or quorum")
	}
	o = keystore.PutOptions{
		N: in.N, K: in.K, W: in.W, Labels: in.Labels, Description: in.Description,
		Keep:           in.Keep,
		AllowColocated: in.AllowColocated, New: in.New, Force: in.Force, Timeout: r.timeout,
	}
	if in.TTL != nil {
		o.TTL = new(time.Duration(*in.TTL) * time.Second)
	}
	if in.Repair != "" {
		o.Repair = new(uint8(share.RepairOwner))
	}
	if in.Repair == "quorum" {
		*o.Repair = share.RepairQuorum
	}
	if o.IfGen, o.IfAbsent, bad = conditions(r.header); bad != nil {
		return o, bad
	}
	if o.Holders, bad = s.holders(r.ctx, in.Holders); bad != nil {
		return o, bad
	}
	if in.Policy != nil {
		p, err := s.policyOf(r, in.Policy)
		if err != nil {
			return o, err
		}
		o.Policy = p.Encode()
	}
	return o, nil
}

// conditions reads If-Match and If-None-Match (RFC 9110 section 13.1): one
// strong entity tag that is a generation, or "*".
func conditions(h http.Header) (ifGen *uint64, ifAbsent bool, bad *apitype.Problem) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	if len(match)+len(none) > 1 {
		return nil, false, apitype.NewProblem(apitype.Invalid, "at most one of If-Match and If-None-Match")
	}
	if len(none) == 1 {
		if none[0] != "*" {
			return nil, false, apitype.NewProblem(apitype.Invalid, "If-None-Match is *")
		}
		return nil, true, nil
	}
	if len(match) == 0 {
		return nil, false, nil
	}
	bad = apitype.NewProblem(apitype.Invalid, "If-Match is a generation in quotes, as in \"7\"")
	digits, ok := strings.CutPrefix(match[0], `"`)
	digits, ok2 := strings.CutSuffix(digits, `"`)
	if !ok || !ok2 {
		return nil, false, bad
	}
	gen, ok := generation(digits)
	if !ok {
		return nil, false, bad
	}
	return &gen, false, nil
}

// generation reads a generation in its one decimal form.
func generation(s string) (uint64, bool) {
	gen, err := strconv.ParseUint(s, 10, 64)
	return gen, err == nil && gen > 0 && strconv.FormatUint(gen, 10) == s
}

func idempotencyKey(h http.Header) (string, *apitype.Problem) {
	v := h.Values(apitype.HeaderIdem)
	if len(v) == 0 {
		return "", nil
	}
	if len(v) > 1 || v[0] == "" || len(v[0]) > 128 || strings.ContainsFunc(v[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", apitype.NewProblem(apitype.Invalid, "%s is 1 to 128 printable ASCII characters without spaces", apitype.HeaderIdem)
	}
	return v[0], nil
}

// holders resolves ids and names of nodes.
func (s *Server) holders(ctx context.Context, in []string) ([]key.NodeID, *apitype.Problem) {
	if len(in) == 0 {
		return nil, nil
	}
	if len(in) > maxSeats {
		return nil, unprocessable("%d holders; at most %d are possible", len(in), maxSeats)
	}
	peers := s.cfg.Mesh.Peers(ctx)
	var out []key.NodeID
	seen := map[key.NodeID]bool{}
	for _, h := range in {
		id, bad := holder(h, peers)
		if bad != nil {
			return nil, bad
		}
		if seen[id] {
			return nil, unprocessable("the holder %.80q is there twice", h)
		}
		seen[id] = true
		out = append(out, id)
	}
	return out, nil
}

func holder(text string, peers []apitype.Peer) (key.NodeID, *apitype.Problem) {
	if id, err := key.ParseNodeID(text); err == nil {
		return id, nil
	}
	found := ""
	for _, p := range peers {
		if p.Name != text || p.Revoked {
			continue
		}
		if found != "" {
			return key.NodeID{}, unprocessable("several nodes are called %.80q: give the id", text)
		}
		found = p.Node
	}
	id, err := key.ParseNodeID(found)
	if err != nil {
		return key.NodeID{}, unprocessable("no node is called %.80q", text)
	}
	return id, nil
}

func (s *Server) recover(r *request) (answer, error) {
	var in apitype.RecoverRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	o := keystore.RecoverOptions{Gen: in.Gen, Reason: in.Reason, Timeout: r.timeout}
	if len(in.Reason) > maxReason || strings.ContainsFunc(in.Reason, unicode.IsControl) {
		return answer{}, unprocessable("a reason has at most %d bytes and no control characters", maxReason)
	}
	if in.Manifest != "" {
		m, err := key.ParseHash(in.Manifest)
		if err != nil {
			return answer{}, unprocessable("manifest: %s", err)
		}
		o.Manifest = m
	}
	return s.recoverWith(r, r.name, o)
}

// recoverWith recovers and answers with the value, or with what is missing.
func (s *Server) recoverWith(r *request, name string, o keystore.RecoverOptions) (answer, error) {
	res, err := s.cfg.Secrets.Recover(r.ctx, r.person, name, o)
	if err != nil {
		clear(res.Value)
		return answer{}, err
	}
	defer clear(res.Value)
	n, err := s.namesFor(r)
	if err != nil {
		return answer{}, err
	}
	out := recovered(res)
	out.Said = n.said(res.Approvals)
	body, err := apitype.EncodeRecovered(out)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: body, secret: true, gen: res.Gen}, nil
}

func (s *Server) delete(r *request) (answer, error) {
	o := keystore.DeleteOptions{Timeout: r.timeout}
	if r.query.Has("gen") {
		gen, ok := generation(r.query.Get("gen"))
		if !ok {
			return answer{}, apitype.NewProblem(apitype.Invalid, "gen is a generation, 1 or more")
		}
		o.Gen = gen
	}
	switch v := r.query.Get("now"); {
	case !r.query.Has("now") || v == "false":
	case v == "true":
		o.Now = true
	default:
		return answer{}, apitype.NewProblem(apitype.Invalid, "now is true or false")
	}
	res, err := s.cfg.Secrets.Delete(r.ctx, r.person, r.name, o)
	if err != nil {
		return answer{}, failure{err, op{write: true, deletes: true}}
	}
	if !res.Done {
		what := fmt.Sprintf("everything up to generation %d", res.Gen)
		if o.Gen != 0 {
			what = fmt.Sprintf("generation %d", res.Gen)
		}
		p := apitype.NewProblem(apitype.InDoubt, "%d of %d seats have not acknowledged the deletion of %s yet", len(res.Missing), len(res.Seats), what)
		p.Need, p.Have, p.Gen = len(res.Seats), len(res.Seats)-len(res.Missing), res.Gen
		p.Peers = states(res.Seats)
		p.Hint = "the others have deleted it; the missing ones are told when they are back, or repeat the request"
		return answer{}, p
	}
	return reply(http.StatusOK, apitype.DeleteResult{Name: res.Name, ID: res.ID.String(), Gen: res.Gen, Done: true, Seats: seats(res.Seats)})
}

func (s *Server) list(r *request) (answer, error) {
	o := keystore.ListOptions{Prefix: r.query.Get("prefix"), Cursor: r.query.Get("cursor"), Timeout: r.timeout}
	if len(o.Prefix) > apitype.MaxName || len(o.Cursor) > maxCursor {
		return answer{}, apitype.NewProblem(apitype.Invalid, "prefix or cursor is too long")
	}
	if r.query.Has("limit") {
		n, err := strconv.Atoi(r.query.Get("limit"))
		if err != nil || n < 1 || n > apitype.MaxPage {
			return answer{}, apitype.NewProblem(apitype.Invalid, "limit is 1 to %d", apitype.MaxPage)
		}
		o.Limit = n
	}
	res, err := s.cfg.Secrets.List(r.ctx, r.person, o)
	if err != nil {
		return answer{}, err
	}
	out := apitype.Page{Items: make([]apitype.Listed, 0, len(res.Items)), Next: res.Next, Silent: nodeIDs(res.Silent)}
	for _, l := range res.Items {
		out.Items = append(out.Items, listed(l))
	}
	return reply(http.StatusOK, out)
}

func (s *Server) info(r *request) (answer, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	res, err := s.cfg.Secrets.Info(ctx, r.person, r.name)
	if err != nil {
		return answer{}, err
	}
	out := info(res)
	if n, err := s.namesFor(r); err == nil {
		out.PolicyText = n.text(res.Encoded)
	}
	a, err := reply(http.StatusOK, out)
	a.gen = res.Gen
	return a, err
}
