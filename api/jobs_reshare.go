package api

import (
	"context"
	"net/http"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

const patternReshare = patternSecret + "/" + apitype.JobReshare

// reshare deals a secret anew to another shape or other holders.
func (s *Server) reshare(r *request) (answer, error) {
	var in apitype.ReshareRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	o, err := s.putOptions(r, &apitype.PutRequest{Value: apitype.Bytes{}, N: in.N, K: in.K, W: in.W, Holders: in.Holders,
		AllowColocated: in.AllowColocated, New: in.New})
	if err != nil {
		return answer{}, err
	}
	p, name := r.person, r.name
	return s.startJob(r, apitype.JobReshare, func(ctx context.Context) (jobOutcome, error) {
		res, err := s.cfg.Secrets.Reshare(ctx, p, name, o)
		if err != nil {
			return jobOutcome{}, failure{err, op{write: true, conditional: true}}
		}
		return resharedOutcome(res), nil
	})
}

func resharedOutcome(r keystore.PutResult) jobOutcome {
	out := putResult(r, false)
	return jobOutcome{seats: out.Seats, result: out}
}

func (s *Server) reshareEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{patternReshare: {http.MethodPost: {person: true, body: true, serve: s.reshare}}}
}
