package keystore

import (
	"bytes"
	"context"
	"fmt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// changes is what the audit log is to say of a step: deletions, changes of the
// policy and refreshes, whoever brought them, and what its seats did with a write
// whose writer did not come back.
func (c *custodian) changes(old, next *secretState) []AuditRecord {
	var out []AuditRecord
	for _, t := range next.tombs {
		if old.buried(t) != nil {
			continue
		}
		e := AuditRecord{Kind: "delete", ID: next.id, Person: t.Owner, Detail: fmt.Sprintf("generations up to %d", t.Gen)}
		if t.Scope == share.ScopeOne {
			e.Detail = fmt.Sprintf("generation %d", t.Gen)
		}
		if len(t.request) > 0 {
			if r, err := share.ReadRequest(c.cfg.ID, t.request); err == nil {
				e.Person, e.Request = r.Person, r.Hash
			}
		}
		out = append(out, e)
	}
	for _, k := range next.marks {
		if o := old.markOf(k.Hash); k.State == markDead && (o == nil || o.State != markDead) {
			out = append(out, AuditRecord{Kind: "settle", ID: next.id, Person: next.owner, Detail: k.settleDetail()})
		}
	}
	for _, e := range next.pending {
		if old.find(e.Hash) == nil && old.markOf(e.Hash) != nil {
			out = append(out, AuditRecord{Kind: "settle", ID: next.id, Person: next.owner, Detail: fmt.Sprintf("generation %d: its row was repaired to complete it", e.Gen)})
		}
	}
	was, is := old.current(), next.current()
	if was != nil && is != nil && !bytes.Equal(was.Policy, is.Policy) {
		e := AuditRecord{Kind: "policy", ID: next.id, Person: is.Owner, Detail: fmt.Sprintf("from generation %d on: unreadable", is.Gen)}
		if is.policy != nil {
			e.Detail = fmt.Sprintf("from generation %d on: %s", is.Gen, is.policy.Words(nil))
		}
		out = append(out, e)
	}
	return append(out, refreshChange(old, next)...)
}

// refreshChange says that another row is in force, or that the old one is gone.
func refreshChange(old, next *secretState) []AuditRecord {
	was, is := old.committed, next.committed
	if was == nil || is == nil || was.Hash != is.Hash || is.proof == nil {
		return nil
	}
	e := AuditRecord{Kind: "refresh", ID: next.id}
	hadBase := was.refresh != nil && was.refresh.base != nil
	switch {
	case is.proof != was.proof:
		e.Detail = fmt.Sprintf("generation %d, epoch %d: another row is in force", is.Gen, is.epoch)
	case hadBase && (is.refresh == nil || is.refresh.base == nil):
		e.Detail = fmt.Sprintf("generation %d, epoch %d: the old row is gone", is.Gen, is.epoch)
	default:
		return nil
	}
	return []AuditRecord{e}
}

// recordOwn writes what a person at this node is about to do with a request.
// After an error, which wraps [ErrStopped], it must not happen.
func (s *Store) recordOwn(ctx context.Context, kind string, r *share.SignedRequest, p Person, detail string) error {
	if _, err := s.cust.audit(ctx, AuditRecord{Kind: kind, ID: r.ID, Person: p.Key.Public(), Request: r.Hash, Detail: detail}); err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return nil
}

// NamesOf returns the names of those of the person's own secrets among ids of
// which this node holds a manifest. It asks no other node.
//
// Errors: [ErrInput], that of ctx, and those of a store that does not serve.
func (s *Store) NamesOf(ctx context.Context, p Person, ids []key.Hash) (map[key.Hash]string, error) {
	if p.Key.IsZero() {
		return nil, fmt.Errorf("%w: no person", ErrInput)
	}
	select {
	case <-s.cust.loaded:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.cust.loadErr != nil {
		return nil, s.cust.loadErr
	}
	index := share.IndexKey(p.Key, s.cfg.ID)
	defer clear(index[:])
	me, out := p.Key.Public(), map[key.Hash]string{}
	for _, id := range ids {
		if _, ok := out[id]; ok {
			continue
		}
		held, err := s.cust.peek(ctx, id)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || held.owner != me {
			continue // a damaged record has no name
		}
		for _, v := range held.versions() {
			if label, err := openLabel(&index, &v.Manifest); err == nil {
				out[id] = label.Name
				break
			}
		}
	}
	return out, nil
}
