package api

import (
	"context"
	"time"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const patternRehearse = patternSecret + "/" + apitype.JobRehearse

func (s *Server) rehearse(r *request) (answer, error) {
	p, name := r.person, r.name
	return s.startJob(r, apitype.JobRehearse, func(ctx context.Context) (jobOutcome, error) {
		res, err := s.cfg.Requests.Rehearse(ctx, p, name)
		if err != nil {
			return jobOutcome{}, err
		}
		return rehearsalOutcome(res), nil
	})
}

func rehearsalOutcome(r keystore.Rehearsal) jobOutcome {
	out := apitype.Rehearsal{
		Name: r.Name, ID: r.ID.String(), Manifest: text(r.Manifest), Gen: r.Gen, OK: r.OK, N: r.N, K: r.K,
		Proven: r.Proven, Margin: r.Margin, Payloads: r.Payload, Failed: badRows(r.Failed()),
		Have: r.Have, Need: r.Need, Missing: present(r.Missing), Wait: seconds(r.Wait),
		Approvers: []apitype.Approver{}, Policy: r.Policy, Why: bounded(r.Why),
	}
	for _, a := range r.Approvers {
		out.Approvers = append(out.Approvers, apitype.Approver{Person: a.Person.String(), Nodes: a.Nodes, Reachable: a.Reachable, Silent: seconds(a.Silent)})
	}
	switch {
	case len(out.Failed) > 0:
		out.Exit = apitype.ExitIntegrity
	case !out.OK:
		out.Exit = apitype.ExitQuorum
	}
	var states []keystore.SeatState
	for _, st := range r.Seats {
		states = append(states, st.SeatState)
	}
	list := seats(states)
	for i := range list {
		list[i].Silent = seconds(r.Seats[i].Silent.Round(time.Second))
	}
	return jobOutcome{seats: list, result: out}
}
