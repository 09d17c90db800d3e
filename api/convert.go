package api

import (
	"errors"
	"fmt"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
	"keymesh/keystore/policy"
)

func nodeIDs(ids []key.NodeID) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

func text(h key.Hash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

func seats(in []keystore.SeatState) []apitype.Seat {
	out := make([]apitype.Seat, 0, len(in))
	for _, s := range in {
		out = append(out, apitype.Seat{
			Node: s.Node.String(), Name: s.Name, Operator: s.Operator, Zone: s.Zone,
			X: int(s.X), State: s.State, Why: bounded(s.Why),
		})
	}
	return out
}

func putResult(r keystore.PutResult, dry bool) apitype.PutResult {
	return apitype.PutResult{
		Name: r.Name, ID: r.ID.String(), Manifest: text(r.Manifest), Gen: r.Gen,
		N: r.N, K: r.K, W: r.W, Acked: r.Acked, Seats: seats(r.Seats), Notes: r.Notes,
		Created: r.Created, DryRun: dry,
	}
}

func recovered(r keystore.Recovered) apitype.Recovered {
	return apitype.Recovered{
		Value: r.Value, Name: r.Name, ID: r.ID.String(), Manifest: text(r.Manifest), Gen: r.Gen,
		Used: nodeIDs(r.Used), Bad: badRows(r.Bad), Policy: r.Policy,
		Request: text(r.Request), Receipt: r.Receipt,
	}
}

func listed(l keystore.Listed) apitype.Listed {
	return apitype.Listed{
		Name: l.Name, ID: l.ID.String(), Gen: l.Gen, N: l.N, K: l.K, W: l.W, Acked: l.Acked,
		Size: l.Size, Labels: l.Labels, Created: l.Created, Expires: l.Expires, Margin: l.Margin,
		LastRead: l.LastRead, LastVerified: l.LastVerified,
	}
}

func info(i keystore.Info) apitype.Info {
	return apitype.Info{
		Listed:   listed(i.Listed),
		Manifest: i.Manifest.String(), Owner: i.Owner.String(), Description: i.Description,
		Policy: i.Policy, Keep: i.Keep, Repair: i.Repair, Seats: seats(i.Seats), Standby: nodeIDs(i.Standby),
		Generations: append([]uint64{}, i.Generations...), Pending: i.Pending,
		LosesIf: apitype.Margin{Count: i.Loses, Words: i.LosesIf},
		LeaksIf: apitype.Margin{Count: i.Leaks, Words: i.LeaksIf},
		StuckIf: apitype.Margin{Count: i.Stuck, Words: i.StuckIf},
	}
}

var errClause = errors.New("a clause has exactly one of any, all, k_of, owner, key, code, delay, operator")

var errText = errors.New("a clause inside another is an object, no text")

// clause converts one clause. The strict decoder has bounded the depth already;
// the bound here keeps a policy.Policy within its own.
func clause(in *apitype.Policy, depth int) (*policy.Policy, error) {
	if depth > policy.MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d clauses", policy.MaxDepth)
	}
	if in.Text != "" {
		return nil, errText
	}
	set := 0
	for _, has := range []bool{in.Any != nil, in.All != nil, in.KOf != nil, in.Owner, in.Key != "", in.Code != "", in.Delay != nil, in.Operator} {
		if has {
			set++
		}
	}
	if set != 1 {
		return nil, errClause
	}
	switch {
	case in.Any != nil:
		subs, err := clauses(in.Any, depth)
		return policy.Any(subs...), err
	case in.All != nil:
		subs, err := clauses(in.All, depth)
		return policy.All(subs...), err
	case in.KOf != nil:
		return kOf(in.KOf, depth)
	case in.Key != "":
		p, err := person(in.Key)
		return policy.Key(p), err
	case in.Code != "":
		p, err := person(in.Code)
		return policy.Code(p), err
	case in.Delay != nil:
		return delay(in.Delay)
	case in.Operator:
		return policy.Operator(), nil
	}
	return policy.Owner(), nil
}

func kOf(in *apitype.KOf, depth int) (*policy.Policy, error) {
	if in.K < 1 || in.K > policy.MaxNodes {
		return nil, fmt.Errorf("k_of wants 1 to %d clauses, not %d", policy.MaxNodes, in.K)
	}
	subs, err := clauses(in.Of, depth)
	return policy.KOf(in.K, subs...), err
}

func clauses(in []apitype.Policy, depth int) ([]*policy.Policy, error) {
	if len(in) > policy.MaxNodes {
		return nil, fmt.Errorf("more than %d clauses", policy.MaxNodes)
	}
	var out []*policy.Policy
	for i := range in {
		p, err := clause(&in[i], depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func delay(in *apitype.Delay) (*policy.Policy, error) {
	var veto []key.PersonPublic
	for _, v := range in.Veto {
		if v == "owner" {
			veto = append(veto, policy.OwnerKey())
			continue
		}
		p, err := person(v)
		if err != nil {
			return nil, err
		}
		veto = append(veto, p)
	}
	return policy.Delay(in.Seconds, veto...), nil
}

func person(s string) (key.PersonPublic, error) {
	p, err := key.ParsePerson(s)
	if err != nil {
		return p, fmt.Errorf("%.80q is no person: %w", s, err)
	}
	return p, key.CheckPublic(p)
}
