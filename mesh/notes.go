package mesh

import (
	"fmt"
	"slices"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// Membership is something about the membership of a node that a note says for
// the first time.
type Membership struct {
	// Kind is one of: invite (a ticket was made), join (it was used), renew
	// (this node's certificate), member (a record of a node unknown before),
	// renewed (another node's certificate), revoked.
	Kind   string
	Node   key.NodeID // zero: none, or not known yet
	Detail string     // of signed words, bounded
}

// Membership compares a note with the value that it replaces, nil for none, and
// returns what is new in it. A note that cannot be read says nothing.
func (n Note) Membership(old []byte) []Membership {
	if n.Value == nil {
		return nil
	}
	switch n.Kind {
	case NoteRecord:
		return recordNews(n.Value, old)
	case NoteRevocation:
		return revocationNews(n.Value, old)
	case NoteSelf:
		return selfNews(n.Value, old)
	case NoteTicket:
		return ticketNews(n.Value, old)
	}
	return nil
}

func recordNews(value, old []byte) []Membership {
	is, ok := memberOf(value)
	was, had := memberOf(old)
	switch {
	case !ok || had && was.Serial == is.Serial && was.Expires == is.Expires:
		return nil
	case had:
		return []Membership{{"renewed", is.Node, certDetail(is)}}
	}
	return []Membership{{"member", is.Node, certDetail(is)}}
}

// memberOf is the certificate in a NoteRecord.
func memberOf(value []byte) (c roster.MemberCert, ok bool) {
	var v recordNote
	var r roster.NodeRecord
	if len(value) == 0 || key.Unmarshal(value, &v) != nil || key.Unmarshal(v.Object.Body, &r) != nil {
		return c, false
	}
	return c, key.Unmarshal(r.Member.Body, &c) == nil
}

func certDetail(c roster.MemberCert) string {
	return fmt.Sprintf("%.63s of operator %.63s, until %s", c.Name, c.Operator, time.Unix(int64(min(c.Expires, 1<<40)), 0).UTC().Format(time.DateOnly))
}

func revocationNews(value, old []byte) []Membership {
	is, ok := revokedBy(value)
	if !ok {
		return nil
	}
	was, _ := revokedBy(old)
	var out []Membership
	for _, node := range is.Nodes {
		if !slices.Contains(was.Nodes, node) {
			out = append(out, Membership{Kind: "revoked", Node: node})
		}
	}
	for _, issuer := range is.Issuers {
		if !slices.Contains(was.Issuers, issuer) {
			out = append(out, Membership{Kind: "revoked", Detail: fmt.Sprintf("issuer %s", issuer)})
		}
	}
	return out
}

func revokedBy(value []byte) (r roster.Revocation, ok bool) {
	var v revocationNote
	return r, len(value) > 0 && key.Unmarshal(value, &v) == nil && key.Unmarshal(v.Item.Object.Body, &r) == nil
}

func selfNews(value, old []byte) []Membership {
	var is, was selfNote
	var c roster.MemberCert
	if len(old) == 0 || key.Unmarshal(value, &is) != nil || key.Unmarshal(old, &was) != nil ||
		string(is.Member.Body) == string(was.Member.Body) || key.Unmarshal(is.Member.Body, &c) != nil {
		return nil
	}
	return []Membership{{"renew", c.Node, certDetail(c)}}
}

func ticketNews(value, old []byte) []Membership {
	var is, was ticketNote
	var t roster.Ticket
	if key.Unmarshal(value, &is) != nil || key.Unmarshal(is.Ticket, &t) != nil {
		return nil
	}
	had := len(old) > 0 && key.Unmarshal(old, &was) == nil
	var c roster.MemberCert
	switch {
	case !is.UsedBy.IsZero() && (!had || was.UsedBy.IsZero()) && key.Unmarshal(is.Member.Body, &c) == nil:
		return []Membership{{"join", is.UsedBy, certDetail(c)}}
	case is.UsedBy.IsZero() && !had:
		return []Membership{{Kind: "invite", Detail: fmt.Sprintf("for operator %.63s, until %s", t.Operator, time.Unix(int64(min(t.Expires, 1<<40)), 0).UTC().Format(time.DateTime))}}
	}
	return nil
}
