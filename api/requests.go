package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

// Requests is what the API needs of the keystore for requests and the words on
// them; *keystore.Store has it.
type Requests interface {
	Requests(ctx context.Context, p keystore.Person) ([]keystore.RequestView, error)
	Look(ctx context.Context, p keystore.Person, request key.Hash) (keystore.RequestView, error)
	Approve(ctx context.Context, p keystore.Person, request key.Hash, note string) error
	Deny(ctx context.Context, p keystore.Person, request key.Hash, note string) error
	Cancel(ctx context.Context, p keystore.Person, request key.Hash) error
	Events(ctx context.Context, p keystore.Person, after string) (keystore.Events, error)
	Rehearse(ctx context.Context, p keystore.Person, name string) (keystore.Rehearsal, error)
}

const (
	patternRequest = apitype.PathRequests + "/{id}"
	patternApprove = patternRequest + "/approve"
	patternDeny    = patternRequest + "/deny"
)

func (s *Server) requestEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathRequests: {
			http.MethodGet:  {person: true, serve: s.listRequests},
			http.MethodPost: {person: true, body: true, serve: s.ask},
		},
		patternRequest: {
			http.MethodGet:    {person: true, query: []string{"wait", "seen"}, serve: s.oneRequest},
			http.MethodDelete: {person: true, serve: s.cancelRequest},
		},
		patternApprove: {http.MethodPost: {person: true, body: true, serve: s.approve}},
		patternDeny:    {http.MethodPost: {person: true, body: true, serve: s.deny}},
	}
}

// routeRequest is route for what follows [apitype.PathRequests].
func routeRequest(rest string) (pattern, id string) {
	if id, ok := strings.CutSuffix(rest, "/approve"); ok {
		return patternApprove, id
	}
	if id, ok := strings.CutSuffix(rest, "/deny"); ok {
		return patternDeny, id
	}
	return patternRequest, rest
}

// requestHash is the request that a path names.
func requestHash(r *request) (key.Hash, error) {
	h, err := key.ParseHash(r.name)
	if err != nil {
		return h, apitype.NewProblem(apitype.Invalid, "a request is named by 64 hexadecimal digits")
	}
	return h, nil
}

func (s *Server) listRequests(r *request) (answer, error) {
	all, err := s.cfg.Requests.Requests(r.ctx, r.person)
	if err != nil {
		return answer{}, err
	}
	n, err := s.namesFor(r)
	if err != nil {
		return answer{}, err
	}
	out := apitype.Requests{Items: make([]apitype.Request, 0, len(all))}
	for _, v := range all {
		out.Items = append(out.Items, n.requestView(v))
	}
	return reply(http.StatusOK, out)
}

func (s *Server) approve(r *request) (answer, error) { return s.say(r, s.cfg.Requests.Approve) }

func (s *Server) deny(r *request) (answer, error) { return s.say(r, s.cfg.Requests.Deny) }

func (s *Server) say(r *request, word func(context.Context, keystore.Person, key.Hash, string) error) (answer, error) {
	h, err := requestHash(r)
	if err != nil {
		return answer{}, err
	}
	var in apitype.Word
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	if len(in.Note) > share.MaxNote {
		return answer{}, unprocessable("a note has at most %d bytes", share.MaxNote)
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	if err := word(ctx, r.person, h, in.Note); err != nil {
		return answer{}, failure{err, op{write: true}} // too few seats: nothing counts yet
	}
	return reply(http.StatusOK, apitype.Heard{Request: h.String()})
}

func (s *Server) cancelRequest(r *request) (answer, error) {
	h, err := requestHash(r)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	if err := s.cfg.Requests.Cancel(ctx, r.person, h); err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Heard{Request: h.String()})
}

// pendingAnswer is 202 with where the request is.
func pendingAnswer(e *keystore.PendingError) (answer, error) {
	a, err := reply(http.StatusAccepted, apitype.Pending{
		Request: e.Request.String(), Have: e.Have, Need: e.Need, Missing: present(e.Missing),
		Wait: seconds(e.Wait), Expires: e.Expires.UTC(), Words: present(e.Words),
	})
	a.location = apitype.PathRequests + "/" + e.Request.String()
	return a, err
}

// seconds rounds up, so that a wait that is not over is not 0.
func seconds(d time.Duration) uint64 { return uint64((max(d, 0) + time.Second - 1) / time.Second) }

// verbName is what a verb of package share is called here.
func verbName(v uint8) string {
	switch v {
	case share.VerbPolicy:
		return "policy"
	case share.VerbDelete:
		return "delete"
	}
	return "recover"
}

// who is what the person who asks calls somebody, or "".
func (n *names) who(k key.PersonPublic) string {
	if k == n.me.Key.Public() {
		return n.me.Name
	}
	if k == n.me.Recovery {
		return "the recovery code"
	}
	return n.petname(k)
}

// policyFor says somebody else's policy.
func policyFor(encoded []byte, owner key.PersonPublic, n *names) string {
	p, err := policy.Parse(encoded)
	if err != nil {
		return ""
	}
	return p.Words(func(k key.PersonPublic) string {
		if k == owner {
			return "the owner"
		}
		return n.who(k)
	})
}

func (n *names) requestView(v keystore.RequestView) apitype.Request {
	out := apitype.Request{
		Verb: verbName(v.Verb), OwnerName: n.who(v.Owner), By: n.who(v.Requester),
		Request: v.Hash.String(), Words: present(v.Words), ID: v.ID.String(), Name: v.Name, Gen: v.Gen,
		Owner: v.Owner.String(), Requester: v.Requester.String(), Reason: bounded(v.Reason), State: v.State,
		Created: v.Created.UTC(), Expires: v.Expires.UTC(), Mine: v.Mine, Approver: v.Approver, Veto: v.Veto,
		Have: v.Have, Need: v.Need, Missing: present(v.Missing), Wait: seconds(v.Wait), Said: n.said(v.Approvals),
	}
	if v.Change != nil {
		out.Change = policyFor(v.Change, v.Owner, n)
	}
	return out
}

// said are the words on a request; never nil.
func (n *names) said(in []keystore.ApprovalView) []apitype.Said {
	out := make([]apitype.Said, 0, len(in))
	for _, a := range in {
		out = append(out, apitype.Said{Person: a.Person.String(), Name: n.who(a.Person), Denied: a.Verdict != share.VerdictApprove, Note: bounded(a.Note)})
	}
	return out
}
