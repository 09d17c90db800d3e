package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"

	"keymesh/api/apitype"
)

// guard decides whether a request may be looked at (security.md, "Local API").
// A web page can make a browser send requests to a local port, with a Host of
// its choice (DNS rebinding), but not without an Origin, Referer or
// Sec-Fetch-Site that gives it away, not with a foreign Host that we accept,
// not with a JSON content type across origins, and never with the token.
func (s *Server) guard(kind Kind, r *http.Request, open bool) *apitype.Problem {
	if !s.hostAllowed(kind, r) {
		return apitype.NewProblem(apitype.Forbidden, "the Host header names another host")
	}
	for _, h := range []string{"Origin", "Referer"} {
		if _, ok := r.Header[h]; ok {
			return apitype.NewProblem(apitype.Forbidden, "a request with %s comes from a web page", h)
		}
	}
	for _, v := range r.Header["Sec-Fetch-Site"] {
		if v != "none" && v != "same-origin" {
			return apitype.NewProblem(apitype.Forbidden, "a request from another site")
		}
	}
	if open {
		return nil
	}
	switch kind {
	case Unix:
		return s.checkCaller(r)
	case TCP:
		return s.checkToken(r)
	}
	return apitype.NewProblem(apitype.Forbidden, "")
}

func (s *Server) hostAllowed(kind Kind, r *http.Request) bool {
	if slices.Contains(s.cfg.Hosts, r.Host) {
		return true
	}
	if kind == Unix {
		return r.Host == "keymesh" || r.Host == "localhost"
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	if r.Host == local.String() {
		return true
	}
	_, port, err := net.SplitHostPort(local.String())
	return err == nil && r.Host == "localhost:"+port
}

func (s *Server) checkCaller(r *http.Request) *apitype.Problem {
	c, ok := r.Context().Value(callerKey{}).(caller)
	if ok && (c.uid == s.uid || c.uid == 0) {
		return nil
	}
	return apitype.NewProblem(apitype.Forbidden, "the socket serves only the user that the node runs as, and root")
}

// checkToken compares hashes, so that neither content nor length shows in time.
func (s *Server) checkToken(r *http.Request) *apitype.Problem {
	given := r.Header["Authorization"]
	if len(s.cfg.Token) >= minToken && len(given) == 1 {
		scheme, token, _ := strings.Cut(given[0], " ")
		want, got := sha256.Sum256(s.cfg.Token), sha256.Sum256([]byte(token))
		if strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
			return nil
		}
	}
	p := apitype.NewProblem(apitype.Unauthorized, "the request has no valid bearer token")
	p.Hint = "send the content of the node's token file as Authorization: Bearer TOKEN"
	return p
}

// checkMedia refuses what a plain HTML form could send: want is none of that.
func checkMedia(r *http.Request, want string) *apitype.Problem {
	bad := apitype.NewProblem(apitype.MediaType, "send the body with Content-Type: %s", want)
	if ct := r.Header["Content-Type"]; len(ct) != 1 {
		return bad
	}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != want {
		return bad
	}
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return bad
		}
	}
	if _, ok := r.Header["Content-Encoding"]; ok {
		return apitype.NewProblem(apitype.MediaType, "send the body without Content-Encoding")
	}
	return nil
}
