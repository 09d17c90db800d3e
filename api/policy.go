package api

import (
	"context"
	"errors"
	"net/http"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

// maxAs bounds who is asked about in one test of a policy.
const maxAs = policy.MaxNodes

// policyOf reads the policy of a request, in text or as a clause, and refuses
// one that makes no sense for secrets of the person who asks. Errors name the
// line and the clause.
func (s *Server) policyOf(r *request, in *apitype.Policy) (*policy.Policy, error) {
	owner := r.person.Key.Public()
	if in.Text == "" {
		p, err := clause(in, 1)
		if err == nil {
			err = p.CheckOwner(owner)
		}
		return p, refusedPolicy(err)
	}
	n, err := s.namesFor(r)
	if err != nil {
		return nil, err
	}
	p, err := policy.ParseTOMLOf([]byte(in.Text), owner, n.find)
	return p, refusedPolicy(err)
}

// refusedPolicy is the problem of a policy, with what to do.
func refusedPolicy(err error) error {
	if err == nil {
		return nil
	}
	p := unprocessable("policy: %.500s", err)
	p.Hint = "keyctl contact ls (GET " + apitype.PathContacts + ") shows whom a policy can name, keyctl policy test (POST " + apitype.PathPolicy + ") tries one"
	return p
}

// words says an encoded policy to the person who asks; "" when it cannot be
// read.
func (n *names) words(encoded []byte) string {
	p, err := policy.Parse(encoded)
	if err != nil {
		return ""
	}
	return p.Words(n.called)
}

// text is the encoded policy as put takes it.
func (n *names) text(encoded []byte) string {
	p, err := policy.Parse(encoded)
	if err != nil || p.Check() != nil {
		return ""
	}
	return string(p.FormatTOML(n.petname))
}

// sayPolicy adds to the account of a put what its policy means.
func (s *Server) sayPolicy(r *request, encoded []byte, out *apitype.PutResult) {
	n, err := s.namesFor(r)
	if err != nil {
		return // the put is what counts
	}
	out.Policy = n.words(encoded)
	if p, err := policy.Parse(encoded); err == nil && out.DryRun {
		out.Alone = n.alone(p, 0)
	}
}

func (s *Server) testPolicy(r *request) (answer, error) {
	var in apitype.PolicyTest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	switch {
	case (in.Name == "") == (in.Policy == nil):
		return answer{}, unprocessable("one of name and policy is to be given")
	case len(in.As) > maxAs:
		return answer{}, unprocessable("at most %d persons", maxAs)
	case in.After > policy.MaxDelay*policy.MaxDepth:
		return answer{}, unprocessable("after is at most %d seconds", policy.MaxDelay*policy.MaxDepth)
	}
	n, err := s.namesFor(r)
	if err != nil {
		return answer{}, err
	}
	p, gen, err := s.tested(r, &in)
	if err != nil {
		return answer{}, err
	}
	e := policy.Evidence{Owner: r.person.Key.Public()}
	for _, as := range in.As {
		if as == "operator" {
			e.Operator = true
			continue
		}
		k, err := n.person(as)
		if err != nil {
			return answer{}, unprocessable("%.80q: %.300s", as, err)
		}
		e.Signers = append(e.Signers, k)
	}
	out := n.verdict(p, p.After(e, in.After))
	out.Gen, out.Alone = gen, n.alone(p, in.After)
	return reply(http.StatusOK, out)
}

// tested is the policy that a test is about, and the generation that has it.
func (s *Server) tested(r *request, in *apitype.PolicyTest) (*policy.Policy, uint64, error) {
	if in.Policy != nil {
		p, err := s.policyOf(r, in.Policy)
		return p, 0, err
	}
	if err := keystore.CheckName(in.Name); err != nil {
		return nil, 0, apitype.NewProblem(apitype.Invalid, "the name is refused: %.300s", err)
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	info, err := s.cfg.Secrets.Info(ctx, r.person, in.Name)
	if err != nil {
		return nil, 0, err
	}
	p, err := policy.Parse(info.Encoded)
	if err != nil {
		return nil, 0, unprocessable("this version cannot read the policy of the secret")
	}
	return p, info.Gen, nil
}

var errNobody = errors.New("no such person; keyctl contact ls shows whom you know")

// person resolves who would sign.
func (n *names) person(as string) (key.PersonPublic, error) {
	if as == "owner" {
		return n.me.Key.Public(), nil
	}
	if k, err := key.ParsePerson(as); err == nil {
		return k, key.CheckPublic(k)
	}
	k, err := n.find(as)
	if err != nil && as != policy.CodeName && policy.CheckPetname(as) != nil {
		err = errNobody
	}
	return k, err
}

func (n *names) verdict(p *policy.Policy, e policy.Evidence) apitype.PolicyVerdict {
	x := p.Explain(e, n.called)
	out := apitype.PolicyVerdict{
		Policy: p.Words(n.called), Text: string(p.FormatTOML(n.petname)), OK: x.OK, Wait: x.Wait,
		Have: x.Have, Need: x.Need, Missing: present(x.Missing), Ways: []apitype.Way{},
	}
	for _, w := range x.Ways {
		out.Ways = append(out.Ways, apitype.Way{Policy: w.Words, OK: w.OK, Wait: w.Wait, Missing: present(w.Missing), Veto: w.Veto})
	}
	for _, k := range x.Idle {
		out.Idle = append(out.Idle, n.sayKey(k))
	}
	return out
}

func (n *names) sayKey(k key.PersonPublic) string {
	if s := n.called(k); s != "" {
		return s
	}
	return k.String()
}

// alone tries each person whom the policy names by themselves.
func (n *names) alone(p *policy.Policy, after uint64) []apitype.Alone {
	owner := n.me.Key.Public()
	out := []apitype.Alone{}
	for _, k := range p.Approvers(owner) {
		e := p.After(policy.Evidence{Owner: owner, Signers: []key.PersonPublic{k}}, after)
		v := p.Evaluate(e)
		out = append(out, apitype.Alone{Name: n.sayKey(k), OK: v.OK, Wait: v.Wait, Missing: present(p.Missing(e, n.called))})
	}
	return out
}
