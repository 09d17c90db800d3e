package keystore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"keymesh/crypto/key"
)

// AuditRecord is one act for the audit log. It has no name, value or row in it.
// Fields that do not matter are zero.
type AuditRecord struct {
	// Kind is one of: request, approve, deny, veto, withdraw, confirm, release,
	// refuse, strangers, policy, delete; suspect, trust, help, repair, leave,
	// reassign; of a person at this node: asked, approved, denied, cancelled.
	Kind    string
	ID      key.Hash         // of the secret
	Person  key.PersonPublic // who acted
	Node    key.NodeID       // the node that it came from
	Request key.Hash
	Detail  string // bounded words, a peer's among them
	// RequestID is that of the local API's request that caused it, or empty; see
	// [WithRequestID].
	RequestID string
}

type requestIDKey struct{}

// WithRequestID makes id the one that the audit log of this node shows for what
// is done with the context.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns what WithRequestID put there, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Auditor is the audit log of this node.
type Auditor interface {
	// Append returns the entry's position, from 1, once it is on disk. After an
	// error the act that it is about must not happen.
	Append(ctx context.Context, r AuditRecord) (uint64, error)
}

// auditTimeout bounds the wait for the disk.
const auditTimeout = 20 * time.Second

// audit writes entries, in order, and returns the position of the last. Without
// an audit log it is 0. The caller's patience does not count: what is about to
// happen is written, or it does not happen.
func (c *custodian) audit(ctx context.Context, entries ...AuditRecord) (uint64, error) {
	if c.cfg.Audit == nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	var at uint64
	for _, r := range entries {
		var err error
		r.RequestID = RequestID(ctx)
		if at, err = c.cfg.Audit.Append(ctx, r); err != nil {
			return 0, fmt.Errorf("the audit log: %w", err)
		}
	}
	return at, nil
}

// Bounds of what refusals write to the log: parties' are entries, repeated ones
// once; beyond maxRefusals a minute, and all of strangers', are counts.
const (
	maxRefusals  = 30   // entries of one person a minute
	maxRefusers  = 4096 // persons and peers that are counted apart
	maxRefusedAt = 8192 // refusals that are remembered
)

type refusalKey struct {
	request key.Hash
	why     string
}

type refuser struct {
	node   key.NodeID
	person key.PersonPublic // zero: a stranger
}

// refusals counts what was refused. Safe for concurrent use.
type refusals struct {
	mu     sync.Mutex
	told   young[refusalKey, struct{}]
	minute map[key.PersonPublic]int
	counts map[refuser]uint64
}

func newRefusals() *refusals {
	return &refusals{
		told:   newYoung[refusalKey, struct{}](maxRefusedAt),
		minute: map[key.PersonPublic]int{}, counts: map[refuser]uint64{},
	}
}

// stranger counts one refusal of a peer.
func (r *refusals) stranger(node key.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count(refuser{node: node})
}

func (r *refusals) count(who refuser) {
	if _, ok := r.counts[who]; !ok && len(r.counts) >= maxRefusers {
		who = refuser{} // all others together
	}
	r.counts[who]++
}

// party reports whether a refusal is worth an entry of its own.
func (r *refusals) party(node key.NodeID, person key.PersonPublic, k refusalKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.told.get(k); ok {
		return false
	}
	if r.minute[person] >= maxRefusals || len(r.minute) >= maxRefusers {
		r.count(refuser{node, person})
		return false
	}
	r.minute[person]++
	r.told.put(k, struct{}{})
	return true
}

// flush returns the counts of the last minute as entries and starts the next.
func (r *refusals) flush() []AuditRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []AuditRecord
	for who, n := range r.counts {
		e := AuditRecord{Kind: "strangers", Node: who.node, Person: who.person, Detail: fmt.Sprintf("%d refused", n)}
		if !who.person.IsZero() {
			e.Kind, e.Detail = "refuse", fmt.Sprintf("%d more refused", n)
		}
		out = append(out, e)
	}
	clear(r.counts)
	clear(r.minute)
	return out
}

// refused writes that a party was refused. An error means that even that must
// not be answered.
func (c *custodian) refused(ctx context.Context, from key.NodeID, e AuditRecord) error {
	if c.cfg.Audit == nil || !c.refusals.party(from, e.Person, refusalKey{e.Request, e.Detail}) {
		return nil
	}
	e.Kind, e.Node = "refuse", from
	_, err := c.audit(ctx, e)
	return err
}
