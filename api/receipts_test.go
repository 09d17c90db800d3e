package api

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/policy"
)

// trueReceipt is one that holds: a asked, b approved, three of five released.
func trueReceipt(t *testing.T, net key.NetworkID) (owner, a, b key.PersonPublic, nodes []key.NodeID, raw []byte) {
	t.Helper()
	ok, ak, bk := key.GeneratePerson(), key.GeneratePerson(), key.GeneratePerson()
	pol := policy.Any(policy.Owner(), policy.KOf(2, policy.Key(ak.Public()), policy.Key(bk.Public())))
	m := share.Manifest{Owner: ok.Public(), Salt: hash(9), Gen: 4, Suite: share.SuiteShamir, K: 3, W: 4, KC: hash(3), Payload: hash(4), Length: 272,
		Label: bytes.Repeat([]byte{1}, 297), Policy: pol.Encode(), Created: 1_767_000_000}
	m.ID = share.ID(m.Owner, m.Salt)
	var keys []key.NodePrivate
	for x := range uint8(5) {
		keys = append(keys, key.GenerateNode())
		nodes = append(nodes, keys[x].ID())
		m.Seats = append(m.Seats, share.Seat{X: x + 1, Node: keys[x].ID(), C: hash(x)})
	}
	slices.SortFunc(m.Seats, func(p, q share.Seat) int { return int(p.X) - int(q.X) })
	signed, err := share.SignManifest(ok, net, m)
	if err != nil {
		t.Fatal(err)
	}
	q := share.SignRequest(ak, net, share.Request{ID: m.ID, Ephemeral: bytes.Repeat([]byte{7}, 1216), Nonce: hash(6), Verb: share.VerbRecover,
		Purpose: "he is ill", Created: 1_767_000_100, Expires: 1_767_000_100 + 3600})
	yes := share.SignApproval(bk, net, share.Approval{Subject: q.Hash, Verdict: share.VerdictApprove, Expires: q.Expires, Note: "spoke to a"}).Encode()
	var releases [][]byte
	for x := range uint8(3) {
		releases = append(releases, share.SignRelease(keys[x], net, share.Release{Request: q.Hash, Manifest: signed.Hash, X: x + 1, Audit: 40 + uint64(x)}).Encode())
	}
	return m.Owner, ak.Public(), bk.Public(), nodes, share.PackBundle(net, signed, q, [][]byte{yes}, releases)
}

func receiptBody(raw []byte) string {
	return `{"receipt":"` + base64.StdEncoding.EncodeToString(raw) + `"}`
}

func TestReceiptVerify(t *testing.T) {
	e := newEnv(t)
	net := key.NetworkID{1} // the sample's
	owner, a, b, nodes, raw := trueReceipt(t, net)
	e.mesh.peers[0].Node, e.mesh.peers[0].Name = nodes[1].String(), "zeta"
	verify := func(raw []byte) (out apitype.Receipt) {
		t.Helper()
		e.ok(req{method: "POST", path: apitype.PathReceiptVerify, body: receiptBody(raw)}, 200, &out)
		return out
	}
	got := verify(raw)
	if !got.Valid || !got.Here || got.Owner != owner.String() || got.Requester != a.String() || got.Gen != 4 || got.K != 3 || got.N != 5 || got.Reason != "he is ill" ||
		len(got.Approvals) != 1 || got.Approvals[0].Person != b.String() || len(got.Releases) != 3 || got.Releases[1].Name != "zeta" || got.Releases[1].Audit != 41 {
		t.Errorf("%+v", got)
	}
	text := strings.Join(got.Lines(), "\n")
	for _, want := range []string{got.ID, owner.String(), a.String(), "approved by " + b.String(), `"spoke to a"`, `"he is ill"`, "zeta " + nodes[1].String(), "position 41", "2025-12-29", "3 of 5 holders", net.String()} {
		if !strings.Contains(text, want) {
			t.Errorf("the words lack %q:\n%s", want, text)
		}
	}
	for i := 0; i < len(raw); i += 97 {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if got := verify(bad); got.Valid || got.Why == "" || got.Request != "" || !strings.Contains(got.Lines()[0], "proves nothing") {
			t.Fatalf("byte %d changed: %+v", i, got)
		}
	}
	_, _, _, _, raw = trueReceipt(t, key.NetworkID{9})
	if got := verify(raw); !got.Valid || got.Here {
		t.Errorf("of another network: %+v", got)
	}
}

func TestReceiptRefusals(t *testing.T) {
	e := newEnv(t)
	good := req{method: "POST", path: apitype.PathReceiptVerify, body: receiptBody([]byte("x"))}
	for body, want := range map[string]apitype.Type{
		`{}`: apitype.Unprocessable, `{"receipt":""}`: apitype.Unprocessable, `{"receipt":"%"}`: apitype.Invalid, `{"x":1}`: apitype.Invalid,
		receiptBody(make([]byte, apitype.MaxReceipt+1)): apitype.Unprocessable,
	} {
		q := good
		q.body = body
		e.want(q, want)
	}
	refusals(e, good)
	e.mesh.panic = "x"
	net := key.NetworkID{1}
	_, _, _, _, raw := trueReceipt(t, net)
	good.body = receiptBody(raw)
	e.want(good, apitype.Internal)
}
