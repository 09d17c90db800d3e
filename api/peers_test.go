package api

import (
	"context"
	"errors"
	"testing"

	"keymesh/api/apitype"
)

func TestRemoveAndPing(t *testing.T) {
	for _, c := range []struct{ method, tail string }{{"DELETE", ""}, {"POST", "/ping"}} {
		t.Run(c.method, func(t *testing.T) {
			e := newEnv(t)
			q := req{method: c.method, path: apitype.PathPeers + "/" + nodeID(3).String() + c.tail}
			var out apitype.Ping
			e.ok(q, 200, &out)
			if e.mesh.removed != nodeID(3) || out.Node != nodeID(3).String() || c.method == "POST" && out.RTT != 1.5 {
				t.Errorf("%+v %v", out, e.mesh.removed)
			}
			e.mesh.removed = nodeID(0)
			for _, bad := range []string{"alpha", "..%2Finvites", nodeID(3).String() + "x", "a/b"} {
				e.want(q.with(func(q *req) { q.path = apitype.PathPeers + "/" + bad + c.tail }), apitype.Invalid)
			}
			if e.mesh.removed != nodeID(0) {
				t.Error("a malformed id was acted on")
			}
			errs := []apitype.Type{apitype.Unprocessable, apitype.NotFound}
			if c.method == "POST" {
				errs = append(errs, apitype.Quorum)
			}
			for _, typ := range errs {
				e.mesh.err = apitype.NewProblem(typ, "no")
				e.want(q, typ)
			}
			e.want(q.with(func(q *req) { q.tcp, q.noToken = true, true }), apitype.Unauthorized)
			e.want(q.with(func(q *req) { q.host = "evil.example" }), apitype.Forbidden)
			fillSlots(e.server, func() { e.want(q, apitype.RateLimited) })
			e.mesh.err = errors.New("x")
			e.want(q, apitype.Internal)
			e.mesh.err = context.DeadlineExceeded
			e.want(q, apitype.Timeout)
		})
	}
}
