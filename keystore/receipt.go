package keystore

import (
	"fmt"
	"math"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/policy"
)

// receipt puts together the receipt of a recovery that used rows of one epoch of these seats, of
// parts that were verified when they came; nil when the words that came do not
// satisfy the policy, as when holders kept some back, which is logged: the value
// is returned all the same.
func (g *reading) receipt(used []key.NodeID, of epochKey) []byte {
	var approvals, releases [][]byte
	for _, w := range g.words {
		if w.Verdict == share.VerdictApprove {
			approvals = append(approvals, w.bytes)
		}
	}
	for _, id := range used {
		releases = append(releases, g.seats[id].rows[of].release)
	}
	b := share.PackBundle(g.s.cfg.ID, g.use, g.request, approvals, releases, g.view.placement(g.use).Moves()...)
	if g.kept == nil {
		return b // the requester's own word is enough
	}
	if _, err := VerifyReceipt(b); err != nil {
		g.s.log.Error("no receipt of a recovery can be made", "request", g.request.Hash, "err", err)
		return nil
	}
	return b
}

// VerifyReceipt verifies the receipt of a recovery, offline and anywhere: its
// signatures, and that the words in it satisfy the policy that the owner signed,
// given that the holders waited for the delays and that their operators
// confirmed where the policy asks for that: both are the holders' word, which
// their releases are. The network is the one that the receipt names; the caller
// compares it with the one it means. Errors wrap [share.ErrBundle].
func VerifyReceipt(b []byte) (ReceiptView, error) {
	net, err := share.BundleNetwork(b)
	if err != nil {
		return ReceiptView{}, err
	}
	r, err := share.OpenBundle(net, b)
	if err != nil {
		return ReceiptView{}, err
	}
	m := &r.Manifest.Manifest
	pol, err := policy.Parse(m.Policy)
	if err != nil {
		return ReceiptView{}, fmt.Errorf("%w: its policy is not readable by this version: %w", share.ErrBundle, err)
	}
	signers := []key.PersonPublic{r.Request.Person}
	for _, a := range r.Approvals {
		if !pol.IsParty(m.Owner, a.Person) {
			return ReceiptView{}, fmt.Errorf("%w: an approval of somebody whom the policy does not name", share.ErrBundle)
		}
		signers = append(signers, a.Person)
	}
	waited := make(map[int]uint64, policy.MaxNodes)
	for leaf := range policy.MaxNodes {
		waited[leaf] = math.MaxUint64
	}
	verdict := pol.Evaluate(policy.Evidence{Owner: m.Owner, Signers: signers, Operator: true, Waited: waited})
	if !pol.IsParty(m.Owner, r.Request.Person) || !verdict.OK {
		return ReceiptView{}, fmt.Errorf("%w: its words do not satisfy the policy: missing %.400q", share.ErrBundle, verdict.Missing)
	}
	if slices.ContainsFunc(r.Moves, func(mv *share.SignedReassign) bool { return mv.ByOwner }) && !ownerAlone(m) {
		return ReceiptView{}, fmt.Errorf("%w: its owner alone has given seats away, which the policy does not allow", share.ErrBundle)
	}
	return receiptView(r, pol), nil
}

// approvals are the words of others that the recovery rests on.
func (g *reading) approvals() (out []ApprovalView) {
	for _, w := range g.words {
		if w.Verdict == share.VerdictApprove {
			out = append(out, ApprovalView{w.Person, w.Verdict, w.Note})
		}
	}
	return out
}

func receiptView(r *share.Bundle, pol *policy.Policy) ReceiptView {
	m, q := r.Manifest, r.Request
	out := ReceiptView{
		Network: r.Network, Request: q.Hash, Words: key.Words(q.Hash, 6), ID: m.ID, Owner: m.Owner,
		Manifest: m.Hash, Gen: m.Gen, Requester: q.Person, Reason: q.Purpose, Created: timeOf(q.Created),
		K: int(m.K), N: m.N(), Policy: pol.Words(func(p key.PersonPublic) string {
			if p == m.Owner {
				return "the owner"
			}
			return p.String()
		}),
	}
	signers := []key.PersonPublic{q.Person}
	for _, a := range r.Approvals {
		out.Approvals = append(out.Approvals, ApprovalView{a.Person, a.Verdict, a.Note})
		signers = append(signers, a.Person)
	}
	for _, x := range r.Releases {
		out.Releases = append(out.Releases, ReleaseView{x.Node, x.X, x.Audit})
	}
	now := pol.Evaluate(policy.Evidence{Owner: m.Owner, Signers: slices.Clone(signers), Operator: true})
	out.Waits = now.Wait
	return out
}
