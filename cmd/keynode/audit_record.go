package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keymesh/api"
	"keymesh/crypto/key"
	"keymesh/keystore"
	"keymesh/mesh"
	"keymesh/storage"
)

// auditWait bounds the wait for the log's disk.
const auditWait = 20 * time.Second

// record writes an entry about an act of this node; after an error the act must
// not happen.
func record(ctx context.Context, log *storage.Audit, e storage.AuditEntry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditWait)
	defer cancel()
	e.RequestID = keystore.RequestID(ctx)
	_, err := log.Append(ctx, e)
	return auditProblem(err)
}

// recordPerson is record for what is done to a person of this node.
func (d *daemon) recordPerson(ctx context.Context, kind string, p key.PersonPublic, detail string) error {
	return record(ctx, d.audit, storage.AuditEntry{Kind: kind, Person: p.String(), Detail: detail})
}

// auditedBook is the mesh's book with what it says of membership in the audit
// log first: a ticket is not handed out and nobody is admitted without that.
type auditedBook struct {
	book
	log *storage.Audit
}

// Save implements mesh.PeerBook.
func (b auditedBook) Save(notes []mesh.Note) error {
	for _, n := range notes {
		old, err := b.db.Load(notePlace(n))
		if err != nil && !b.db.NotFound(err) && !b.db.Corrupt(err) {
			return err
		}
		for _, m := range n.Membership(old) {
			e := storage.AuditEntry{Kind: m.Kind, Detail: m.Detail}
			if !m.Node.IsZero() {
				e.Node = m.Node.String()
			}
			if err := record(context.Background(), b.log, e); err != nil {
				return err
			}
		}
	}
	return b.book.Save(notes)
}

// maxTallies bounds the parties that are counted apart.
const maxTallies = 1024

// tally is one kind of failed authentication by one party.
type tally struct {
	kind string
	node key.NodeID // zero: it did not prove to be one
	from string     // then where it came from
}

// tallies count failed authentications: whoever is nobody must not fill the log.
// Safe for concurrent use.
type tallies struct {
	mu     sync.Mutex
	counts map[tally]uint64
}

func (t *tallies) add(k tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[tally]uint64{}
	}
	if _, ok := t.counts[k]; !ok && len(t.counts) >= maxTallies {
		k = tally{kind: k.kind} // all others together
	}
	t.counts[k]++
}

// flush returns the counts as entries and begins anew.
func (t *tallies) flush() []storage.AuditEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []storage.AuditEntry
	for k, n := range t.counts {
		e := storage.AuditEntry{Kind: k.kind, Detail: fmt.Sprintf("%d refused", n)}
		switch {
		case !k.node.IsZero():
			e.Node = k.node.String()
		case k.from != "":
			e.Detail += " from " + k.from
		}
		out = append(out, e)
	}
	clear(t.counts)
	slices.SortFunc(out, func(a, b storage.AuditEntry) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Node, b.Node), strings.Compare(a.Detail, b.Detail))
	})
	return out
}

// AuditRefused implements api.Audit.
func (d *daemon) AuditRefused(kind api.Kind, status int) {
	d.tallies.add(tally{kind: "api-refused", from: fmt.Sprintf("%s, status %d", kind, status)})
}

// linkRefused counts connections that the mesh turned away.
func (d *daemon) linkRefused(node key.NodeID, host string, ticket bool) {
	t := tally{kind: "link-refused", node: node}
	if ticket {
		t.kind = "ticket-refused"
	}
	if node.IsZero() {
		t.from = host
	}
	d.tallies.add(t)
}

// tallyEvery is how often counts become entries.
const tallyEvery = time.Minute

// recordTallies writes what was counted, until ctx ends and then once more.
func (d *daemon) recordTallies(ctx context.Context) error {
	t := time.NewTicker(tallyEvery)
	defer t.Stop()
	for over := false; !over; {
		select {
		case <-ctx.Done():
			over = true
		case <-t.C:
		}
		for _, e := range d.tallies.flush() {
			if err := record(ctx, d.audit, e); err != nil {
				d.log.Error("refusals could not be recorded", "err", err)
				break
			}
		}
	}
	return nil
}
