package api

import (
	"context"
	"net/http"
	"slices"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const (
	patternVerify = patternSecret + "/" + apitype.JobVerify
	patternRepair = patternSecret + "/" + apitype.JobRepair
)

func (s *Server) repairEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		patternVerify: {http.MethodPost: {person: true, serve: s.verify}},
		patternRepair: {http.MethodPost: {person: true, body: true, serve: s.repair}},
	}
}

// verify asks the seats of a secret for their proofs.
func (s *Server) verify(r *request) (answer, error) {
	p, name, timeout := r.person, r.name, r.timeout
	return s.startJob(r, apitype.JobVerify, func(ctx context.Context) (jobOutcome, error) {
		v, err := s.cfg.Secrets.Verify(ctx, p, name, timeout)
		if err != nil {
			return jobOutcome{}, err
		}
		out := apitype.Verified{
			Name: v.Name, ID: v.ID.String(), Manifest: text(v.Manifest), Gen: v.Gen, Epoch: v.Epoch,
			N: v.N, K: v.K, W: v.W, Good: v.Good, Margin: v.Good - v.K, Exit: seatsExit(v.Seats, v.Good, v.K),
		}
		return jobOutcome{seats: seats(v.Seats), result: out}, nil
	})
}

// seatsExit is the exit code of what seats have proven, of which need are to be
// good.
func seatsExit(list []keystore.SeatState, good, need int) int {
	switch {
	case slices.ContainsFunc(list, func(st keystore.SeatState) bool { return st.State == "corrupt" }):
		return apitype.ExitIntegrity
	case good < need:
		return apitype.ExitQuorum
	}
	return apitype.ExitOK
}

// repair brings the seats of a secret back.
func (s *Server) repair(r *request) (answer, error) {
	var in apitype.RepairRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	to, bad := s.holders(r.ctx, in.To)
	if bad != nil {
		return answer{}, bad
	}
	p, name := r.person, r.name
	o := keystore.RepairOptions{To: to, Timeout: r.timeout}
	return s.startJob(r, apitype.JobRepair, func(ctx context.Context) (jobOutcome, error) {
		res, err := s.cfg.Secrets.Repair(ctx, p, name, o)
		if err != nil {
			return jobOutcome{}, err
		}
		return repairedOutcome(res), nil
	})
}

func repairedOutcome(r *keystore.Repaired) jobOutcome {
	out := apitype.Repaired{
		Verified: apitype.Verified{
			Name: r.Name, ID: r.ID.String(), Manifest: text(r.Manifest), Gen: r.Gen, Epoch: r.Epoch,
			N: r.N, K: r.K, W: r.W, Good: r.Good, Margin: r.Good - r.K, Exit: seatsExit(r.Seats, r.Good, r.N),
		},
		Moved: []apitype.Moved{}, Liars: badRows(r.Liars), Notes: present(r.Notes),
	}
	for _, m := range r.Moved {
		out.Moved = append(out.Moved, apitype.Moved{X: int(m.X), From: m.From.String(), To: m.To.String()})
	}
	return jobOutcome{seats: seats(r.Seats), result: out}
}
