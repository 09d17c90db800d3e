package api

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"

	"keymesh/api/apitype"
)

//go:embed openapi.yaml
var openAPIDocument []byte

func (s *Server) openAPI(*request) (answer, error) {
	return answer{status: http.StatusOK, body: openAPIDocument, media: "application/yaml"}, nil
}

// state is the body of healthz and readyz.
type state struct {
	Status string `json:"status"`
}

func (s *Server) healthz(*request) (answer, error) {
	return reply(http.StatusOK, state{"ok"})
}

// readyz says no more than yes or no, since anyone may ask.
func (s *Server) readyz(r *request) (answer, error) {
	if !s.cfg.Mesh.Ready(r.ctx) {
		return answer{}, apitype.NewProblem(apitype.Unavailable, "")
	}
	return reply(http.StatusOK, state{"ok"})
}

func (s *Server) version(*request) (answer, error) {
	return reply(http.StatusOK, s.cfg.Version)
}

func (s *Server) peers(r *request) (answer, error) {
	items := s.cfg.Mesh.Peers(r.ctx)
	out := apitype.Peers{Items: make([]apitype.Peer, 0, len(items))}
	for _, p := range items {
		p.Roles = present(p.Roles)
		out.Items = append(out.Items, p)
	}
	return reply(http.StatusOK, out)
}

// present makes an empty list of none: required members are never null.
func present(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}

func (s *Server) invite(r *request) (answer, error) {
	var in apitype.InviteRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	if in.TTL > 24*60*60 {
		return answer{}, unprocessable("a ticket lives for at most 24 h")
	}
	for _, role := range in.Roles {
		if role != "holder" && role != "client" && role != "relay" {
			return answer{}, unprocessable("%.40q is no role: holder, client, relay", role)
		}
	}
	out, err := s.cfg.Mesh.Invite(r.ctx, in)
	if err != nil {
		return answer{}, err
	}
	out.Roles, out.Fingerprint = present(out.Roles), present(out.Fingerprint)
	a, err := reply(http.StatusCreated, out)
	a.secret = true // who has the ticket can join
	return a, err
}

func (s *Server) status(r *request) (answer, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	out := apitype.Status{Mesh: s.cfg.Mesh.Status(ctx), Version: s.cfg.Version.Version}
	out.Node.Roles = present(out.Node.Roles)
	out.Person = apitype.Person{Name: r.person.Name, Person: r.person.Key.Public().String()}
	n, err := s.cfg.Secrets.Summary(ctx, r.person)
	out.Secrets = apitype.Secrets{Total: n.Secrets, Short: n.Short, AtRisk: n.AtRisk, Below: n.Below}
	judge(&out, err)
	return reply(http.StatusOK, out)
}

// judge fills in how the mesh stands for this person. err is why the secrets
// could not be counted.
func judge(s *apitype.Status, err error) {
	reason := func(f string, a ...any) { s.Reasons = append(s.Reasons, fmt.Sprintf(f, a...)) }
	s.Health, s.Exit = apitype.Healthy, apitype.ExitOK
	degraded := func() { s.Health, s.Exit = apitype.Degraded, apitype.ExitDegraded }
	if n := s.Holders - s.Reachable; n > 0 {
		reason("%d of %d holders are not reachable", n, s.Holders)
		degraded()
	}
	if s.Storage.Error != "" {
		reason("this node's store: %.200s", s.Storage.Error)
		degraded()
	}
	if s.Audit.Error != "" {
		reason("this node's audit log: %.200s", s.Audit.Error)
		degraded()
	}
	for _, w := range s.Audit.Wrong {
		reason("%.200s", w)
		degraded()
	}
	if s.Lapsed > 0 {
		reason("%d certificates have expired", s.Lapsed)
		degraded()
	}
	if s.Secrets.Short > 0 {
		reason("%d secrets have holders without their row", s.Secrets.Short)
		degraded()
	}
	if s.Secrets.AtRisk > 0 {
		reason("%d secrets are one loss away from their threshold", s.Secrets.AtRisk)
		degraded()
	}
	if s.Secrets.Below > 0 {
		reason("%d secrets cannot be recovered now", s.Secrets.Below)
		s.Health, s.Exit = apitype.Critical, apitype.ExitQuorum
	}
	if err != nil {
		p := problemOf(err, op{})
		reason("the secrets could not be counted: %s", p.Error())
		s.Secrets = apitype.Secrets{}
		s.Health, s.Exit = apitype.Unknown, p.Exit
	}
}
