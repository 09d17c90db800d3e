package api

import (
	"net/http"
	"strings"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
)

const (
	patternPeer = apitype.PathPeers + "/{id}"
	patternPing = patternPeer + "/ping"
)

func (s *Server) peerEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		patternPeer: {http.MethodDelete: {serve: s.removePeer}},
		patternPing: {http.MethodPost: {serve: s.pingPeer}},
	}
}

// routePeer finds the pattern below the peers, and the node's id in it.
func routePeer(method, rest string) (pattern, id string) {
	if apitype.PathPeers+"/"+rest == apitype.PathInvites {
		return apitype.PathInvites, ""
	}
	for _, p := range []string{patternDrain, patternReplace} {
		if id, ok := strings.CutSuffix(rest, strings.TrimPrefix(p, patternPeer)); ok {
			return p, id
		}
	}
	if method == http.MethodPost {
		if id, ok := strings.CutSuffix(rest, "/ping"); ok {
			return patternPing, id
		}
	}
	return patternPeer, rest
}

// peerID reads the id in the path. Names will not do: nodes choose them.
func peerID(r *request) (key.NodeID, *apitype.Problem) {
	var id key.NodeID
	if err := id.UnmarshalText([]byte(r.name)); err != nil {
		return id, apitype.NewProblem(apitype.Invalid, "the path names a node by its id, node-...")
	}
	return id, nil
}

// removePeer takes membership away from a node for ever.
func (s *Server) removePeer(r *request) (answer, error) {
	id, bad := peerID(r)
	if bad != nil {
		return answer{}, bad
	}
	if err := s.cfg.Mesh.Remove(r.ctx, id); err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Removed{Node: id.String()})
}

// pingPeer measures a round trip.
func (s *Server) pingPeer(r *request) (answer, error) {
	id, bad := peerID(r)
	if bad != nil {
		return answer{}, bad
	}
	d, err := s.cfg.Mesh.Ping(r.ctx, id)
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Ping{Node: id.String(), RTT: float64(d.Microseconds()) / 1000})
}
