package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// ErrRewritten: an audit log lacks what its node has signed, or says something
// else there: it was cut or rewritten.
var ErrRewritten = errors.New("an audit log was cut or rewritten")

// Limits of an entry, in bytes.
const (
	MaxAuditKind      = 32
	MaxAuditDetail    = 512
	MaxAuditRequestID = 64
)

// AuditEntry is one line of the audit log. It holds no name, value or row.
type AuditEntry struct {
	Seq  uint64 // from 1, without gaps; set by the log
	Time uint64 // unix seconds by the node's clock; set by the log when 0
	// Kind says what happened: 1 to [MaxAuditKind] of a-z, 0-9, '.' and '-',
	// a letter first.
	Kind    string
	ID      key.Hash // of the secret; zero: none
	Person  string   // text form of a [key.PersonPublic], or ""
	Node    string   // text form of a [key.NodeID], or ""
	Request key.Hash // H(request); zero: none
	// Detail is free text of at most [MaxAuditDetail] bytes. The log escapes
	// what is not printable and cuts the rest, so that a peer's words neither
	// forge lines nor keep an act from being recorded.
	Detail string
	// RequestID is X-Request-Id, treated like Detail, at most
	// [MaxAuditRequestID] bytes.
	RequestID string
	Prev      key.Hash // Hash of the entry before, or the start of the chain; set by the log
	Hash      key.Hash // over all of the above (SPEC.md); set by the log
}

// position is the end of a chain.
type position struct {
	seq  uint64
	hash key.Hash
}

// segment is one file of the log, as its header describes it.
type segment struct {
	number  uint32   // from 1
	first   uint64   // seq of its first entry
	prev    key.Hash // hash of the entry before
	earlier int64    // bytes of the segment before; 0 for the first
}

// Audit is an open audit log: append-only, chained by hashes, sealed at rest,
// on disk before Append returns. It is safe for concurrent use. The caller
// calls Run once and, after it returned, Close.
type Audit struct {
	dir    string
	id     storeID
	net    key.NetworkID
	node   key.NodeID
	keys   auditKeys
	log    *slog.Logger
	rotate int64 // bytes after which a segment is closed
	marker *os.File

	queue   queue[*auditWait]
	admit   *semaphore.Weighted
	stopped atomic.Pointer[error]

	// Owned by OpenAudit, then by the writer.
	file *os.File // audit.log, locked

	mu    sync.Mutex              // guards what follows
	pos   position                // on disk
	end   int64                   // bytes of audit.log that count
	segs  []segment               // all of them; the last is audit.log
	index []indexPoint            // of audit.log
	older map[uint32][]indexPoint // of closed segments, where known
	mark  auditMark               // as last written
	runs  bool
	ran   chan struct{} // closed when Run returned
	done  bool          // closed

	reads    sync.RWMutex // held by who reads the files
	released bool         // guarded by reads: files and keys are gone

	witness witnesses
}

// indexPoint is where a group of a segment stands.
type indexPoint struct {
	first uint64
	off   int64
}

// Network and Node say whose log it is.
func (a *Audit) Network() key.NetworkID { return a.net }

// Node is the node that was given to [CreateAudit].
func (a *Audit) Node() key.NodeID { return a.node }

// Err returns nil while the log can be written, and else an error that wraps
// [ErrStopped] and says why. Then no act may take place that has to be recorded.
func (a *Audit) Err() error {
	if p := a.stopped.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops the log for good. The first cause stays: what a failed write or
// sync left on the disk is not known until the log is opened again.
func (a *Audit) fail(cause error) {
	err := fmt.Errorf("the audit log: %w", ErrStopped)
	if cause != nil {
		err = fmt.Errorf("the audit log: %w: %w", ErrStopped, cause)
	}
	if a.stopped.CompareAndSwap(nil, &err) && cause != nil {
		a.log.Error("the audit log has stopped", "dir", a.dir, "err", cause)
	}
	a.queue.close()
}

// Append records e and returns its number once it is on disk (fdatasync), and
// never before: who acts after an entry calls it first and acts when err is nil.
// Entries are numbered in the order in which they are written.
//
// ctx bounds only the wait for a place in the queue (1,024 entries); then Append
// waits for the outcome, a group or two. Until Run was called it waits. Errors:
// [ErrInput] when Kind, Person or Node are not of their form (nothing was done),
// the error of ctx (nothing was done), and [ErrStopped]: the entry may or may
// not be found when the log is opened again, and no later one succeeds.
func (a *Audit) Append(ctx context.Context, e AuditEntry) (seq uint64, err error) {
	if err := e.prepare(); err != nil {
		return 0, err
	}
	if err := a.Err(); err != nil {
		return 0, err
	}
	if err := a.admit.Acquire(ctx, 1); err != nil {
		return 0, fmt.Errorf("waiting for the queue of the audit log: %w", err)
	}
	defer a.admit.Release(1)
	w := &auditWait{entry: e, done: make(chan error, 1)}
	if !a.queue.push(w) {
		return 0, a.stopErr()
	}
	if err := <-w.done; err != nil {
		return 0, err
	}
	return w.entry.Seq, nil
}

func (a *Audit) stopErr() error {
	if err := a.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the audit log: %w", ErrStopped)
}

// Head returns the end of the log as it is on disk, to be signed with
// [share.SignAuditHead]. Its time never falls, also over restarts: it is on
// disk when Head returns. Errors: [ErrStopped].
func (a *Audit) Head() (share.AuditHead, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.Err(); err != nil {
		return share.AuditHead{}, err
	}
	if a.done {
		return share.AuditHead{}, a.stopErr()
	}
	if now := unixNow(); now > a.mark.headTime {
		a.mark.headTime = now
		if err := a.writeMark(true); err != nil {
			a.fail(err)
			return share.AuditHead{}, a.Err()
		}
	}
	return share.AuditHead{Node: a.node, Seq: a.pos.seq, Hash: a.pos.hash, Time: a.mark.headTime}, nil
}

// End returns how the log ends on disk, also when nothing can be written any
// more. Unlike a Head it is not to be signed: it has no time.
func (a *Audit) End() share.AuditHead {
	a.mu.Lock()
	defer a.mu.Unlock()
	return share.AuditHead{Node: a.node, Seq: a.pos.seq, Hash: a.pos.hash}
}

func unixNow() uint64 { return uint64(max(0, time.Now().Unix())) }

// Close ends Run and waits for it, and closes the files. It may be called more
// than once. Appends that were queued before a Run that never came get
// ErrStopped.
func (a *Audit) Close() error {
	a.queue.close()
	a.mu.Lock()
	if a.done {
		a.mu.Unlock()
		return nil
	}
	a.done = true
	runs := a.runs
	a.mu.Unlock()
	if runs {
		<-a.ran
	}
	var err error
	if a.Err() == nil {
		err = a.marker.Sync()
	}
	a.fail(nil)
	a.write() // answers what nobody ran for
	a.reads.Lock()
	defer a.reads.Unlock()
	a.released = true
	return errors.Join(err, a.release())
}

// release closes what is open and forgets the keys.
func (a *Audit) release() error {
	var err error
	if a.file != nil {
		err = errors.Join(unix.Flock(int(a.file.Fd()), unix.LOCK_UN), a.file.Close())
	}
	if a.marker != nil {
		err = errors.Join(err, a.marker.Close())
	}
	a.keys.erase()
	return err
}

func (a *Audit) path(name string) string { return filepath.Join(a.dir, name) }
