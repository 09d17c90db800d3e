package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"keymesh/api"
	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore"
	"keymesh/storage"
)

var _ api.Audit = (*daemon)(nil)

// auditProblem makes the errors of a log that does not serve a problem; others
// stay as they are.
func auditProblem(err error) error {
	switch {
	case errors.Is(err, storage.ErrDamaged), errors.Is(err, storage.ErrRewritten):
		p := apitype.NewProblem(apitype.Damaged, "the audit log: %.300s", err)
		p.Hint = "keyctl audit verify says more"
		return p
	case errors.Is(err, storage.ErrStopped):
		p := apitype.NewProblem(apitype.Damaged, "the audit log has stopped: %.300s", err)
		p.Hint = "look at the disk, then restart the node"
		return p
	}
	return err
}

// AuditPage implements api.Audit.
func (d *daemon) AuditPage(ctx context.Context, p keystore.Person, since *uint64, limit int) (apitype.AuditPage, error) {
	last := d.audit.End().Seq
	out := apitype.AuditPage{Last: last}
	from := last - min(last, uint64(limit))
	if since != nil {
		from = *since
	}
	entries, err := d.audit.Tail(ctx, from, limit)
	if err != nil {
		return apitype.AuditPage{}, auditProblem(err)
	}
	var ids []key.Hash
	for _, e := range entries {
		if !e.ID.IsZero() {
			ids = append(ids, e.ID)
		}
	}
	names, err := d.keys.NamesOf(ctx, p, ids)
	if err != nil {
		return apitype.AuditPage{}, err
	}
	out.Next = from
	for _, e := range entries {
		out.Items = append(out.Items, auditEntry(e, names[e.ID]))
		out.Next, out.Last = e.Seq, max(out.Last, e.Seq)
	}
	return out, nil
}

func auditEntry(e storage.AuditEntry, name string) apitype.AuditEntry {
	out := apitype.AuditEntry{
		Position: e.Seq, Time: time.Unix(int64(min(e.Time, 1<<40)), 0).UTC(), Kind: e.Kind, Name: name, Person: e.Person, Node: e.Node,
		Detail: e.Detail, RequestID: e.RequestID, Hash: e.Hash.String(),
	}
	if !e.ID.IsZero() {
		out.ID = e.ID.String()
	}
	if !e.Request.IsZero() {
		out.Request = e.Request.String()
	}
	return out
}

// AuditVerify implements api.Audit.
func (d *daemon) AuditVerify(ctx context.Context) (apitype.AuditCheck, error) {
	out := apitype.AuditCheck{Node: d.id.Node.ID().String(), Intact: true}
	out.Asked, out.Answered = d.keys.ExchangeHeads(ctx)
	end := d.audit.End()
	out.Last, out.Hash = end.Seq, end.Hash.String()
	out.First = min(out.Last, 1)
	if err := d.audit.Verify(ctx); err != nil {
		if ctx.Err() != nil {
			return apitype.AuditCheck{}, ctx.Err()
		}
		out.Intact, out.Wrong = false, err.Error()
	}
	if err := d.audit.Err(); err != nil {
		out.Stopped = err.Error()
	}
	out.Peers = d.auditPeers()
	for _, p := range out.Peers {
		out.Witnessed = max(out.Witnessed, min(p.Position, out.Last))
	}
	return out, nil
}

// auditPeers are the peers of which heads are kept, and those without that are
// online, by name.
func (d *daemon) auditPeers() []apitype.AuditPeer {
	kept := map[key.NodeID]storage.Witness{}
	for _, w := range d.audit.Witnesses() {
		kept[w.Peer] = w
	}
	var out []apitype.AuditPeer
	for _, m := range d.node.Members() {
		w, ok := kept[m.ID]
		delete(kept, m.ID)
		if ok || m.Online {
			out = append(out, d.auditPeer(m.ID, m.Name, m.Online && !m.Revoked, w))
		}
	}
	for id, w := range kept {
		out = append(out, d.auditPeer(id, "", false, w))
	}
	slices.SortFunc(out, func(a, b apitype.AuditPeer) int { return cmpString(a.Name+a.Node, b.Name+b.Node) })
	return out
}

func (d *daemon) auditPeer(id key.NodeID, name string, online bool, w storage.Witness) apitype.AuditPeer {
	out := apitype.AuditPeer{Node: id.String(), Name: name, Online: online, Proof: w.Proof}
	out.Position, out.Signed = d.auditHead(w.Mine)
	out.Theirs, out.TheirsSigned = d.auditHead(w.Theirs)
	switch len(w.Proof) {
	case 0:
	case 1:
		out.Contradiction = apitype.AuditOwn
		at, signed := d.auditHead(w.Proof[0])
		if at > out.Position {
			out.Position, out.Signed = at, signed
		}
	default:
		out.Contradiction = apitype.AuditTheirs
	}
	return out
}

// auditHead reads a head that was verified when it was kept.
func (d *daemon) auditHead(b []byte) (uint64, time.Time) {
	if len(b) == 0 {
		return 0, time.Time{}
	}
	h, err := share.OpenAuditHead(d.id.Network, b)
	if err != nil {
		return 0, time.Time{}
	}
	return h.Seq, time.Unix(int64(min(h.Time, 1<<40)), 0).UTC()
}

// AuditExport implements api.Audit.
func (d *daemon) AuditExport(ctx context.Context, w io.Writer) error {
	return d.audit.Export(ctx, w, func(h share.AuditHead) key.Object { return share.SignAuditHead(d.id.Node, d.id.Network, h) })
}

// AuditVerifyExport implements api.Audit.
func (d *daemon) AuditVerifyExport(_ context.Context, r io.Reader) (apitype.AuditExportCheck, error) {
	rep, err := d.audit.VerifyExport(r)
	if err != nil {
		return apitype.AuditExportCheck{Wrong: err.Error()}, nil
	}
	return exportCheck(rep), nil
}

func exportCheck(rep storage.ExportReport) apitype.AuditExportCheck {
	out := apitype.AuditExportCheck{Intact: true, Node: rep.Node.String(), Last: rep.Seq, Hash: rep.Hash.String(), Heads: rep.Heads}
	if rep.Signed > 0 {
		out.Signed = time.Unix(int64(min(rep.Signed, 1<<40)), 0).UTC()
	}
	return out
}
