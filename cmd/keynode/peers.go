package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"keymesh/api"
	"keymesh/api/apitype"
	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/mesh"
	"keymesh/mesh/roster"
)

var _ api.Mesh = (*daemon)(nil)

func (d *daemon) wireAPI() error {
	var token []byte
	var hosts []string
	if d.cfg.APITCP != "" {
		var err error
		if token, err = apiToken(d.dir); err != nil {
			return err
		}
		hosts = apiHosts(d.cfg.APITCP)
	}
	var err error
	d.api, err = api.New(api.Config{
		Secrets: d.keys, Requests: d.keys, Mesh: d, Persons: d.person, Identities: d, Contacts: d, Audit: d, Log: d.log, Token: token, Hosts: hosts,
		Version: versionInfo(),
	})
	return err
}

func roleNames(r roster.Roles) []string {
	var out []string
	for _, x := range []struct {
		role roster.Roles
		name string
	}{{roster.Holder, "holder"}, {roster.Client, "client"}, {roster.Relay, "relay"}} {
		if r.Has(x.role) {
			out = append(out, x.name)
		}
	}
	return out
}

func parseRoles(names []string) (roster.Roles, error) {
	if len(names) == 0 {
		return roster.Holder | roster.Client, nil
	}
	var out roster.Roles
	for _, n := range names {
		switch n {
		case "holder":
			out |= roster.Holder
		case "client":
			out |= roster.Client
		case "relay":
			out |= roster.Relay
		default:
			return 0, apitype.NewProblem(apitype.Unprocessable, "role %.40q is not holder, client or relay", n)
		}
	}
	return out, nil
}

func peer(m mesh.Member, self bool) apitype.Peer {
	persons := make([]string, len(m.Persons))
	for i, p := range m.Persons {
		persons[i] = p.String()
	}
	return apitype.Peer{
		Persons: persons,
		Node:    m.ID.String(), Name: m.Name, Operator: m.Operator, Zone: m.Zone, Roles: roleNames(m.Roles), Capacity: m.Capacity,
		Addrs: m.Addrs, Self: self, Online: m.Online || self, Lapsed: m.Lapsed, Revoked: m.Revoked, Accepting: m.Accepting, Twin: m.Twin,
		Issuer: m.Issuer, RTT: float64(m.RTT) / float64(time.Millisecond), LastSeen: m.LastSeen, Expires: m.CertExpires,
		Fingerprint: m.ID.Fingerprint(),
	}
}

func (d *daemon) self() apitype.Peer {
	p := peer(d.node.Self(), true)
	p.Accepting, p.Twin = d.keys.Accepting(), d.node.Status().Twin
	return p
}

// Peers implements api.Mesh.
func (d *daemon) Peers(context.Context) []apitype.Peer {
	out := []apitype.Peer{d.self()}
	for _, m := range d.node.Members() {
		out = append(out, peer(m, false))
	}
	slices.SortFunc(out, func(a, b apitype.Peer) int { return cmpString(a.Name+a.Node, b.Name+b.Node) })
	return out
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Status implements api.Mesh.
func (d *daemon) Status(ctx context.Context) apitype.Mesh {
	st, db := d.node.Status(), d.db.Stats()
	out := apitype.Mesh{Network: d.id.Network.String(), Node: d.self(), Started: d.started}
	issuers := 0
	for _, p := range d.Peers(ctx) {
		if p.Revoked {
			out.Revoked++
			continue
		}
		out.Members++
		if p.Online {
			out.Online++
		}
		if p.Lapsed {
			out.Lapsed++
		}
		if p.Issuer {
			issuers++
		}
		if slices.Contains(p.Roles, "holder") {
			out.Holders++
			if p.Online {
				out.Reachable++
			}
		}
	}
	out.Storage = apitype.Storage{Records: db.Records, Bytes: db.Bytes, MaxBytes: int64(d.cfg.StorageMax)}
	if err := d.db.Err(); err != nil {
		out.Storage.Error = err.Error()
	}
	out.Audit = d.auditState()
	out.Checks = append(d.checks(st, issuers), d.checkAudit(ctx, out.Audit, out.Online > 1))
	for _, c := range out.Checks {
		if c.Level != apitype.LevelOK {
			out.Warnings = append(out.Warnings, c.Text)
		}
	}
	return out
}

// Ready implements api.Mesh: enough holders are linked to write with the
// default shape.
func (d *daemon) Ready(context.Context) bool {
	if d.db.Err() != nil || d.audit.Err() != nil {
		return false
	}
	holders := 0
	for _, m := range append(d.node.Members(), d.node.Self()) {
		self := m.ID == d.id.Node.ID()
		if m.Roles.Has(roster.Holder) && !m.Revoked && (m.Online || self) {
			holders++
		}
	}
	n, k, ok := share.DefaultShape(holders)
	return ok && holders >= share.DefaultW(n, k)
}

// Remove implements api.Mesh.
func (d *daemon) Remove(ctx context.Context, id key.NodeID) error {
	switch {
	case d.iss == nil:
		return apitype.NewProblem(apitype.Unprocessable, "this node cannot remove others: it has no issuer key")
	case id == d.id.Node.ID():
		return apitype.NewProblem(apitype.Unprocessable, "a node does not remove itself")
	case !d.isMember(id):
		return apitype.NewProblem(apitype.NotFound, "the roster has no such node")
	}
	return d.node.Revoke(ctx, id)
}

// Ping implements api.Mesh.
func (d *daemon) Ping(ctx context.Context, id key.NodeID) (time.Duration, error) {
	if id == d.id.Node.ID() {
		return 0, apitype.NewProblem(apitype.Unprocessable, "this is the node itself")
	}
	rtt, err := d.node.Ping(ctx, id)
	switch {
	case err == nil:
		return rtt, nil
	case errors.Is(err, mesh.ErrUnknownNode):
		return 0, apitype.NewProblem(apitype.NotFound, "the roster has no such node")
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded):
		return 0, apitype.NewProblem(apitype.Timeout, "no answer in time")
	}
	return 0, apitype.NewProblem(apitype.Quorum, "it cannot be reached: %.200s", err)
}

func (d *daemon) isMember(id key.NodeID) bool {
	return slices.ContainsFunc(d.node.Members(), func(m mesh.Member) bool { return m.ID == id })
}

// Invite implements api.Mesh.
func (d *daemon) Invite(ctx context.Context, r apitype.InviteRequest) (apitype.Invite, error) {
	if d.iss == nil {
		return apitype.Invite{}, apitype.NewProblem(apitype.Unprocessable, "this node admits nobody: it has no issuer key")
	}
	if r.Issuer {
		return apitype.Invite{}, apitype.NewProblem(apitype.Unprocessable, "a second issuer needs the network's seed; this version cannot make one")
	}
	if r.TTL > uint64(roster.MaxTicketLife/time.Second) {
		return apitype.Invite{}, apitype.NewProblem(apitype.Unprocessable, "a ticket lives at most 24 h")
	}
	roles, err := parseRoles(r.Roles)
	if err != nil {
		return apitype.Invite{}, err
	}
	addrs := d.node.Self().Addrs
	if len(addrs) == 0 {
		return apitype.Invite{}, apitype.NewProblem(apitype.Unprocessable, "this node tells no address: nobody could reach it with a ticket; set advertise")
	}
	if r.Operator == "" {
		r.Operator = d.node.Self().Operator
	}
	if err := roster.CheckLabel(r.Operator); err != nil {
		return apitype.Invite{}, apitype.NewProblem(apitype.Unprocessable, "operator %.80q: use 1 to 63 of a-z, 0-9 and -._@", r.Operator)
	}
	if r.Capacity == 0 {
		r.Capacity = defaultCapacity
	}
	t, err := d.iss.Invite(ctx, mesh.Invitation{Operator: r.Operator, Roles: roles, Capacity: r.Capacity, TTL: time.Duration(r.TTL) * time.Second, Addrs: addrs})
	if err != nil {
		return apitype.Invite{}, err
	}
	text, err := t.Text()
	if err != nil {
		return apitype.Invite{}, err
	}
	return apitype.Invite{
		Ticket: string(text), Operator: t.Operator, Roles: roleNames(t.Roles), Expires: time.Unix(int64(t.Expires), 0).UTC(),
		Issuer: t.Issuer.String(), Fingerprint: t.Issuer.Fingerprint(),
	}, nil
}
