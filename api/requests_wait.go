package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/keystore"
)

// How often a request is looked at while its change is waited for.
const (
	firstLook = 250 * time.Millisecond
	lastLook  = 2 * time.Second
)

// oneRequest answers with a request as it stands: at once, or, with wait, when
// it has changed from what the caller has seen.
func (s *Server) oneRequest(r *request) (answer, error) {
	h, err := requestHash(r)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	v, err := s.look(ctx, r, h)
	if err != nil {
		return answer{}, err
	}
	seen := v.Version
	if r.query.Has("seen") {
		seen = r.query.Get("seen")
	}
	free, ok := s.jobs.slot()
	defer free()
	for end, pause := time.Now().Add(r.wait), firstLook; ok && v.State == "open" && v.Version == seen; pause = min(pause*3/2, lastLook) {
		left := time.Until(end)
		if left <= 0 || !nap(ctx, min(pause, left)) {
			break
		}
		next, err := s.look(ctx, r, h)
		if err != nil {
			return answer{}, err
		}
		v = next
	}
	return reply(http.StatusOK, v)
}

// nap waits, and reports whether the context lasts.
func nap(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// look returns the request with its version.
func (s *Server) look(ctx context.Context, r *request, h key.Hash) (apitype.Request, error) {
	v, err := s.cfg.Requests.Look(ctx, r.person, h)
	if err != nil {
		return apitype.Request{}, err
	}
	n, err := s.namesFor(r)
	if err != nil {
		return apitype.Request{}, err
	}
	out := n.requestView(v)
	out.Ready = v.Ready
	still := out
	still.Wait = 0
	b, err := json.Marshal(still)
	if err != nil {
		return apitype.Request{}, err
	}
	sum := s.replays.digest(b)
	out.Version = hex.EncodeToString(sum[:8])
	return out, nil
}

// ask serves POST /api/v1/requests: a recovery by the secret's id.
func (s *Server) ask(r *request) (answer, error) {
	var in apitype.Ask
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	o := keystore.RecoverOptions{Gen: in.Gen, Reason: in.Reason, Timeout: r.timeout}
	var err error
	switch {
	case len(in.Reason) > maxReason || strings.ContainsFunc(in.Reason, unicode.IsControl):
		return answer{}, unprocessable("a reason has at most %d bytes and no control characters", maxReason)
	case (in.Name == "") != (in.Tag == ""):
		return answer{}, unprocessable("name and tag go together: neither proves anything alone")
	case in.Manifest != "":
		if o.Manifest, err = key.ParseHash(in.Manifest); err != nil {
			return answer{}, unprocessable("manifest: %s", err)
		}
	}
	if o.ID, err = key.ParseHash(in.ID); err != nil || o.ID.IsZero() {
		return answer{}, unprocessable("id is the id of a secret, 64 hexadecimal digits")
	}
	if in.Name != "" {
		if err := keystore.CheckName(in.Name); err != nil {
			return answer{}, unprocessable("the name is refused: %.300s", err)
		}
		if o.Tag, err = key.ParseHash(in.Tag); err != nil {
			return answer{}, unprocessable("tag: %s", err)
		}
	}
	return s.recoverWith(r, in.Name, o)
}
