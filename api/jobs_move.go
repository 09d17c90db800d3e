package api

import (
	"context"
	"net/http"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

const (
	patternDrain   = patternPeer + "/" + apitype.JobDrain
	patternReplace = patternPeer + "/" + apitype.JobReplace
)

// moveLimit is how long moving all seats of a node may take.
const moveLimit = 24 * time.Hour

// drain moves the seats of a node to wherever placement says.
func (s *Server) drain(r *request) (answer, error) {
	id, bad := peerID(r)
	if bad != nil {
		return answer{}, bad
	}
	return s.move(r, apitype.JobDrain, patternDrain, id, key.NodeID{})
}

// replace moves the seats of a node to another one.
func (s *Server) replace(r *request) (answer, error) {
	id, bad := peerID(r)
	if bad != nil {
		return answer{}, bad
	}
	var in apitype.ReplaceRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	var to key.NodeID
	if err := to.UnmarshalText([]byte(in.New)); err != nil || to.IsZero() {
		return answer{}, unprocessable("new is the id of the node that takes the seats, node-...")
	}
	return s.move(r, apitype.JobReplace, patternReplace, id, to)
}

func (s *Server) move(r *request, verb, pattern string, from, to key.NodeID) (answer, error) {
	p := r.person
	return s.startJobFor(r, verb, pattern, moveLimit, func(ctx context.Context, j *job) (jobOutcome, error) {
		m, err := s.cfg.Secrets.Move(ctx, p, from, to, func(at keystore.MoveProgress) { j.progress.Store(moveProgress(at)) })
		if err != nil {
			return jobOutcome{}, err
		}
		return jobOutcome{result: moveResult(m)}, nil
	})
}

func moveProgress(p keystore.MoveProgress) *apitype.MoveProgress {
	return &apitype.MoveProgress{Found: p.Found, Done: p.Done, Left: max(0, p.Found-p.Done-p.Failed), Failed: p.Failed, AtRisk: p.AtRisk, Bytes: p.Bytes, Last: p.Name}
}

func moveResult(m *keystore.Moved) apitype.MoveResult {
	out := apitype.MoveResult{Node: m.From.String(), Moved: m.Moved, Bytes: m.Bytes, Seconds: float64(m.Took.Milliseconds()) / 1000,
		NotMoved: m.NotMoved, Still: m.Still, Failed: make([]apitype.MoveStays, 0, len(m.Failed)), Notes: present(m.Notes)}
	if !m.To.IsZero() {
		out.New = m.To.String()
	}
	for _, f := range m.Failed {
		out.Failed = append(out.Failed, apitype.MoveStays{Name: f.Name, ID: f.ID.String(), Why: f.Why})
	}
	if m.NotMoved > 0 {
		out.Exit = apitype.ExitQuorum
	}
	if m.NotMoved > 0 && m.Denied == m.NotMoved {
		out.Exit = apitype.ExitDenied
	}
	return out
}

// undrain lets a node have seats again. What was moved stays where it is.
func (s *Server) undrain(r *request) (answer, error) {
	id, bad := peerID(r)
	if bad != nil {
		return answer{}, bad
	}
	if err := s.cfg.Secrets.Drain(r.ctx, r.person, id, false); err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Undrained{Node: id.String()})
}

func (s *Server) moveEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		patternDrain:   {http.MethodPost: {person: true, serve: s.drain}, http.MethodDelete: {person: true, serve: s.undrain}},
		patternReplace: {http.MethodPost: {person: true, body: true, serve: s.replace}},
	}
}
