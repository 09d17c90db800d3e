package api

import (
	"context"
	"net/http"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const patternRefresh = patternSecret + "/" + apitype.JobRefresh

// refresh has the holders exchange their rows for others of the same value.
func (s *Server) refresh(r *request) (answer, error) {
	p, name, timeout := r.person, r.name, r.timeout
	return s.startJob(r, apitype.JobRefresh, func(ctx context.Context) (jobOutcome, error) {
		res, err := s.cfg.Secrets.Refresh(ctx, p, name, timeout)
		if err != nil {
			return jobOutcome{}, err
		}
		return refreshedOutcome(res), nil
	})
}

func refreshedOutcome(r *keystore.Refreshed) jobOutcome {
	out := apitype.Refreshed{Name: r.Name, ID: r.ID.String(), Gen: r.Gen, Epoch: r.Epoch, N: len(r.Seats), Dropped: badRows(r.Dropped)}
	for _, st := range r.Seats {
		if st.State == "committed" {
			out.InForce++
		}
	}
	return jobOutcome{seats: seats(r.Seats), result: out}
}

func (s *Server) refreshEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{patternRefresh: {http.MethodPost: {person: true, serve: s.refresh}}}
}
