package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/crypto/key"
)

// auditLag is how long an entry may be without a witness while peers are linked.
const auditLag = time.Hour

// auditState is how the log stands by what is known here; nobody is asked.
func (d *daemon) auditState() apitype.AuditState {
	out := apitype.AuditState{Last: d.audit.End().Seq}
	if err := d.audit.Err(); err != nil {
		out.Error = err.Error()
	}
	names := map[key.NodeID]string{}
	for _, m := range d.node.Members() {
		names[m.ID] = m.Name
	}
	for _, w := range d.audit.Witnesses() {
		name := names[w.Peer]
		if name == "" {
			name = w.Peer.Short()
		}
		p := d.auditPeer(w.Peer, name, false, w)
		switch p.Contradiction {
		case apitype.AuditOwn:
			out.Wrong = append(out.Wrong, fmt.Sprintf("this node's audit log was cut or rewritten: %s holds its signature for entry %d, which is not there", name, p.Position))
		case apitype.AuditTheirs:
			out.Wrong = append(out.Wrong, fmt.Sprintf("the audit log of %s was cut or rewritten: it has signed two histories", name))
		default:
			out.Witnessed = max(out.Witnessed, min(p.Position, out.Last))
		}
	}
	return out
}

// checkAudit is what doctor says of it.
func (d *daemon) checkAudit(ctx context.Context, s apitype.AuditState, linked bool) apitype.Check {
	const name = "audit"
	switch {
	case s.Error != "":
		return found(name, apitype.LevelBad, "the audit log cannot be written, so nothing is released: "+s.Error, "look at the disk, then restart the node")
	case len(s.Wrong) > 0:
		return found(name, apitype.LevelBad, strings.Join(s.Wrong, "; "), "keyctl audit verify -o json has the signed proof; keep that data directory as it is and ask its operator")
	}
	if linked && s.Witnessed < s.Last && time.Since(d.started) > auditLag {
		next, err := d.audit.Tail(ctx, s.Witnessed, 1)
		if err != nil {
			return found(name, apitype.LevelBad, "the audit log cannot be read: "+err.Error(), "keyctl audit verify says what is damaged")
		}
		if len(next) == 1 && time.Since(time.Unix(int64(min(next[0].Time, 1<<40)), 0)) > auditLag {
			return found(name, apitype.LevelWarn, fmt.Sprintf("no peer keeps the audit log's entries %d to %d, the first of them since %s", s.Witnessed+1, s.Last, time.Unix(int64(next[0].Time), 0).UTC().Format(time.DateTime)),
				"peers that are linked take the log's head about every minute: look at their versions and at both logs")
		}
	}
	return found(name, apitype.LevelOK, fmt.Sprintf("the audit log has %d entries, the first %d witnessed by peers", s.Last, s.Witnessed), "")
}
