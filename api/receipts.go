package api

import (
	"context"
	"net/http"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

func (s *Server) receiptEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathReceiptVerify: {http.MethodPost: {person: true, body: true, serve: s.verifyReceipt}},
	}
}

// verifyReceipt answers 200 also to a receipt that proves nothing: the question
// was answered.
func (s *Server) verifyReceipt(r *request) (answer, error) {
	var in apitype.ReceiptRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	if len(in.Receipt) == 0 || len(in.Receipt) > apitype.MaxReceipt {
		return answer{}, unprocessable("a receipt has 1 to %d bytes", apitype.MaxReceipt)
	}
	v, err := keystore.VerifyReceipt(in.Receipt)
	if err != nil {
		return reply(http.StatusOK, apitype.Receipt{Why: bounded(err.Error())})
	}
	n, err := s.namesFor(r)
	if err != nil {
		return answer{}, err
	}
	out := receipt(v)
	out.OwnerName, out.By, out.Approvals = n.who(v.Owner), n.who(v.Requester), n.said(v.Approvals)
	s.place(r.ctx, &out)
	return reply(http.StatusOK, out)
}

// place says whether the receipt is of this node's network, and what the roster
// calls its holders.
func (s *Server) place(ctx context.Context, out *apitype.Receipt) {
	if out.Here = s.cfg.Mesh.Status(ctx).Network == out.Network; !out.Here {
		return
	}
	names := make(map[string]string)
	for _, p := range s.cfg.Mesh.Peers(ctx) {
		names[p.Node] = p.Name
	}
	for i := range out.Releases {
		out.Releases[i].Name = names[out.Releases[i].Node]
	}
}

// VerifyReceipt verifies a receipt offline and says what it proves.
func VerifyReceipt(b []byte) apitype.Receipt {
	v, err := keystore.VerifyReceipt(b)
	if err != nil {
		return apitype.Receipt{Why: bounded(err.Error())}
	}
	return receipt(v)
}

func receipt(v keystore.ReceiptView) apitype.Receipt {
	out := apitype.Receipt{
		Valid: true, Network: v.Network.String(), Request: v.Request.String(), Words: v.Words, ID: v.ID.String(),
		Owner: v.Owner.String(), Manifest: v.Manifest.String(), Gen: v.Gen, Requester: v.Requester.String(), Reason: bounded(v.Reason),
		Created: v.Created.UTC(), K: v.K, N: v.N, Policy: v.Policy, Waited: v.Waits,
	}
	for _, a := range v.Approvals {
		out.Approvals = append(out.Approvals, apitype.Said{Person: a.Person.String(), Note: bounded(a.Note)})
	}
	for _, r := range v.Releases {
		out.Releases = append(out.Releases, apitype.Release{Node: r.Node.String(), X: int(r.X), Audit: r.Audit})
	}
	return out
}
