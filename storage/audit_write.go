package storage

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// auditWait is one Append on its way.
type auditWait struct {
	entry AuditEntry
	done  chan error // holds one; the writer sends exactly once
}

// Run writes what Append queues. It returns when ctx ends or Close is called,
// with nil, after everything queued was answered; when the log fails, with the
// error of [Audit.Err]. It is called once ([ErrRunning] after).
func (a *Audit) Run(ctx context.Context) error {
	a.mu.Lock()
	if a.runs || a.done {
		a.mu.Unlock()
		return ErrRunning
	}
	a.runs = true
	a.mu.Unlock()
	defer close(a.ran)
	defer context.AfterFunc(ctx, a.queue.close)()
	a.write()
	return a.Err()
}

// write appends groups until the queue is closed and empty. After a failure it
// answers what is queued with the error.
func (a *Audit) write() {
	for {
		group := a.queue.take(func(list []*auditWait) int { return min(len(list), maxGroup) })
		if group == nil {
			return
		}
		err := a.Err()
		if err == nil {
			if cause := a.appendGroup(group); cause != nil {
				a.fail(cause)
			}
			err = a.Err()
		}
		for _, w := range group {
			w.done <- err
		}
	}
}

// appendGroup writes a group: one write, one fdatasync. Any error is final.
func (a *Audit) appendGroup(group []*auditWait) error {
	if err := a.checkLogFile(); err != nil {
		return err
	}
	if a.end >= a.rotate {
		if err := a.closeSegment(); err != nil {
			return fmt.Errorf("closing a segment of the audit log: %w", err)
		}
	}
	pos, now := a.pos, unixNow()
	bodies := make([][]byte, len(group))
	for i, w := range group {
		e := &w.entry
		if e.Time == 0 {
			e.Time = now
		}
		e.Seq, e.Prev = pos.seq+1, pos.hash
		bodies[i] = e.encode()
		pos = position{e.Seq, e.Hash}
	}
	b := a.keys.sealGroup(a.segs[len(a.segs)-1].number, a.end, a.pos.seq+1, bodies)
	if _, err := a.file.WriteAt(b, a.end); err != nil {
		return fmt.Errorf("writing %s: %w", auditName, err)
	}
	if err := dataSync(a.file); err != nil {
		return fmt.Errorf("syncing %s: %w", auditName, err)
	}
	a.mu.Lock()
	a.index = addPoint(a.index, frame{off: a.end, first: a.pos.seq + 1})
	a.pos, a.end = pos, a.end+int64(len(b))
	// Before the answer: all that was acknowledged is marked.
	err := a.writeMark(false)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return a.checkLogFile() // it may have been moved away while we wrote to it
}

// dataSync is fdatasync: the size of the file is on disk too.
func dataSync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// closeSegment gives audit.log its later name and begins the next one. At no
// moment is there no audit.log; what a crash leaves of the names, OpenAudit
// puts right. The writer calls it.
func (a *Audit) closeSegment() error {
	old := a.segs[len(a.segs)-1]
	next := segment{number: old.number + 1, first: a.pos.seq + 1, prev: a.pos.hash, earlier: a.end}
	if err := a.marker.Sync(); err != nil {
		return err
	}
	path := a.path(auditName)
	f, err := newLogFile(path+newSuffix, a.keys.encodeSegment(a.net, a.node, next))
	if err != nil {
		return err
	}
	err = os.Link(path, a.path(segmentName(old.number)))
	if err == nil {
		err = syncDir(a.dir)
	}
	if err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err == nil {
		err = syncDir(a.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	err = a.file.Close()
	a.file = f
	a.mu.Lock()
	defer a.mu.Unlock()
	a.older[old.number] = a.index
	a.segs = append(a.segs, next)
	a.end, a.index = segHead, nil
	return errors.Join(err, a.writeMark(true))
}
