package storage

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"keymesh/crypto/key"
)

const (
	// segmentBytes is the size after which audit.log is closed and a new one
	// begun.
	segmentBytes = 64 << 20
	// auditQueueLen bounds the Appends that wait.
	auditQueueLen = 1024
	// indexStep is how far apart the points of the index are, in bytes.
	indexStep = 64 << 10
)

// CreateAudit makes an empty audit log in dir, which must exist, for this node
// of this network, under the storage key k. It never overwrites ([ErrExists]).
func CreateAudit(dir string, k *[32]byte, net key.NetworkID, node key.NodeID) error {
	if err := checkDir(dir); err != nil {
		return err
	}
	for _, name := range []string{auditName, auditMarks, auditPeers} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s in %s", ErrExists, name, dir)
		}
	}
	var id storeID
	rand.Read(id[:]) // never fails (crypto/rand)
	keys, err := newAuditKeys(k, id)
	if err != nil {
		return err
	}
	defer keys.erase()
	pos := position{0, chainStart(net, node, id)}
	slot, mark := keys.encodeMark(auditMark{counter: 1, pos: pos, seg: 1, end: segHead})
	marks := make([]byte, markSize)
	copy(marks[slot*markSlot:], mark)
	head := keys.encodeSegment(net, node, segment{number: 1, first: 1, prev: pos.hash})
	// audit.log comes last: without it the others are no log.
	return createAll(dir, []step{
		{auditPeers, func(path string) error { return writeNew(path, keys.encodePeers(nil)) }},
		{auditMarks, func(path string) error { return writeNew(path, marks) }},
		{auditName, func(path string) error { return writeNew(path, head) }},
	})
}

// AuditOptions say how an audit log is opened. The zero value is usable.
type AuditOptions struct {
	// Log gets a line when an unfinished write was cut off and at the end of
	// the log; nil discards.
	Log *slog.Logger
	// rotate replaces segmentBytes in tests.
	rotate int64
}

// OpenAudit opens the audit log in dir with the storage key. It checks all of
// the newest segment and the headers and sizes of the older ones ([Audit.Verify]
// reads those too). What a crash left of a write that was never acknowledged is
// cut off; anything else that is not as it was written is refused: without a
// log nothing that has to be recorded may happen. Errors: one that wraps
// fs.ErrNotExist when there is no log, [ErrDamaged], [ErrForeign],
// [ErrVersion], [ErrUnsafe], [ErrLocked].
func OpenAudit(dir string, k *[32]byte, o AuditOptions) (*Audit, error) {
	a := &Audit{
		dir: dir, log: o.Log, rotate: o.rotate,
		ran: make(chan struct{}), older: map[uint32][]indexPoint{}, admit: semaphore.NewWeighted(auditQueueLen),
	}
	if a.log == nil {
		a.log = discard()
	}
	if a.rotate == 0 {
		a.rotate = segmentBytes
	}
	a.queue.init()
	err := checkDir(dir)
	if err == nil {
		err = a.load(k)
	}
	if err != nil {
		a.release()
		return nil, fmt.Errorf("opening the audit log in %s: %w", dir, err)
	}
	return a, nil
}

func (a *Audit) load(k *[32]byte) error {
	if err := a.openLog(k); err != nil {
		return err
	}
	if err := a.loadOlder(); err != nil {
		return err
	}
	if err := a.loadMark(); err != nil {
		return err
	}
	if err := a.loadNewest(); err != nil {
		return err
	}
	// From here on the mark is where the log ends, whatever a crash left of it.
	if err := a.writeMark(true); err != nil {
		return err
	}
	return a.loadPeers()
}

// openLog opens and locks audit.log and learns from its header whose it is.
func (a *Audit) openLog(k *[32]byte) error {
	f, err := openPrivate(a.path(auditName), os.O_RDWR)
	if err != nil {
		return err
	}
	a.file = f
	if err := lockFile(f); err != nil {
		return err
	}
	b := make([]byte, segHead)
	if n, err := f.ReadAt(b, 0); n != len(b) {
		return damaged("%s has %d bytes: %v", auditName, n, err)
	}
	id, _, err := readSegmentID(auditName, b)
	if err != nil {
		return err
	}
	if a.keys, err = newAuditKeys(k, id); err != nil {
		return err
	}
	a.id = id
	var s segment
	if a.net, a.node, s, err = a.keys.decodeSegment(auditName, b); err != nil {
		return err
	}
	if s.number == 0 || s.first == 0 {
		return damaged("%s says that it is segment %d", auditName, s.number)
	}
	a.segs = make([]segment, s.number)
	a.segs[s.number-1] = s
	return a.checkLogFile()
}

// loadOlder reads the headers of the closed segments and compares them with one
// another.
func (a *Audit) loadOlder() error {
	v := view{segs: a.segs}
	for i := len(a.segs) - 2; i >= 0; i-- {
		if err := a.loadClosed(&v, i); err != nil {
			return err
		}
	}
	if first := a.segs[0]; first.number != 1 || first.first != 1 || first.prev != chainStart(a.net, a.node, a.id) {
		return damaged("the audit log does not begin with entry 1")
	}
	return a.dropSecondName()
}

func (a *Audit) loadClosed(v *view, i int) error {
	name := segmentName(uint32(i) + 1)
	f, err := openPrivate(a.path(name), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("%s, with the entries before %d, is missing", name, v.segs[i+1].first)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := a.readHeader(name, f)
	if err != nil {
		return err
	}
	if s.number != uint32(i)+1 || s.first == 0 || s.first > v.segs[i+1].first {
		return damaged("%s is segment %d", name, s.number)
	}
	v.segs[i] = s
	return a.checkSegment(v, i, s, f)
}

// dropSecondName removes what a crash in the middle of closing a segment left:
// the newest segment under its later name too, and a successor in the making.
func (a *Audit) dropSecondName() error {
	if err := os.Remove(a.path(auditName + newSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name := a.path(segmentName(a.segs[len(a.segs)-1].number))
	there, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	have, err := a.file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(have, there) {
		return damaged("%s stands beside %s", filepath.Base(name), auditName)
	}
	return os.Remove(name)
}

// loadMark reads audit.head and checks it against the headers: an older copy of
// audit.log is recognised by it, and so is an older copy of audit.head.
func (a *Audit) loadMark() error {
	f, err := openPrivate(a.path(auditMarks), os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("there is no %s", auditMarks)
	}
	if err != nil {
		return err
	}
	a.marker = f
	if a.mark, err = a.keys.readMark(f); err != nil {
		return err
	}
	m, last := a.mark, a.segs[len(a.segs)-1]
	switch {
	case m.seg == last.number && m.end >= segHead && m.pos.seq >= last.first-1:
		return nil
	case m.seg+1 == last.number && m.end == last.earlier && m.pos == position{last.first - 1, last.prev}:
		return nil // it was closed, and the mark not yet written
	case m.seg > last.number:
		return damaged("%s ends before entry %d, which was on disk: it was cut off or is an older copy", auditName, m.pos.seq)
	}
	return damaged("%s is older than %s", auditMarks, auditName)
}

// loadNewest reads all of audit.log.
func (a *Audit) loadNewest() error {
	fi, err := a.file.Stat()
	if err != nil {
		return err
	}
	s := a.segs[len(a.segs)-1]
	sure := int64(segHead) // what was acknowledged for sure ends here
	if a.mark.seg == s.number {
		sure = a.mark.end
	}
	w := a.keys.walk(a.file, s.number, segHead, fi.Size(), position{s.first - 1, s.prev})
	marked := a.mark.seg != s.number
	for {
		if w.off == a.mark.end && w.pos == a.mark.pos {
			marked = true
		}
		f, _, err := w.next()
		if err == io.EOF {
			break
		}
		if broken := (*brokenGroup)(nil); errors.As(err, &broken) {
			if err = a.cutTorn(broken, sure, fi.Size()); err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
		a.index = addPoint(a.index, f)
	}
	if w.off < sure {
		return damaged("%s ends with entry %d, and entry %d was on disk: it was cut off", auditName, w.pos.seq, a.mark.pos.seq)
	}
	if !marked {
		return damaged("entry %d is not the one of which %s knows", a.mark.pos.seq, auditMarks)
	}
	a.pos, a.end = w.pos, w.off
	return nil
}

// cutTorn cuts off what a crash left of the last write. It does so only when
// that was never acknowledged: it stands after everything that was, is no longer
// than one group, and no group stands after it, since a group is begun only
// after the one before was on disk.
func (a *Audit) cutTorn(broken *brokenGroup, sure, size int64) error {
	rest := size - broken.off
	if !broken.torn || broken.off < sure || rest > frameHead+maxFrameBox {
		return broken
	}
	b := make([]byte, rest)
	if _, err := a.file.ReadAt(b, broken.off); err != nil {
		return fmt.Errorf("reading %s: %w", auditName, err)
	}
	seg := a.segs[len(a.segs)-1].number
	for i := 1; i < len(b); i++ {
		next := bytes.Index(b[i:], []byte(frameMagic))
		if next < 0 {
			break
		}
		i += next
		if _, ok := a.keys.parseFrame(seg, broken.off+int64(i), b[i:]); ok {
			return broken
		}
	}
	if err := a.file.Truncate(broken.off); err != nil {
		return fmt.Errorf("cutting off an unfinished write: %w", err)
	}
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("cutting off an unfinished write: %w", err)
	}
	a.log.Warn("an unfinished write was cut off the audit log", "dir", a.dir, "bytes", rest, "after", broken.seq-1)
	return nil
}

// checkLogFile reports an error when audit.log is no longer the open file.
func (a *Audit) checkLogFile() error {
	have, err := a.file.Stat()
	if err != nil {
		return fmt.Errorf("looking at %s: %w", auditName, err)
	}
	there, err := os.Lstat(a.path(auditName))
	if err != nil {
		return fmt.Errorf("looking at %s: %w", auditName, err)
	}
	if !os.SameFile(have, there) {
		return fmt.Errorf("%w: %s was replaced while it was open", ErrForeign, auditName)
	}
	if a.end != 0 && have.Size() != a.end {
		return damaged("%s has %d bytes instead of %d: something else wrote to it", auditName, have.Size(), a.end)
	}
	return nil
}

// newLogFile makes the file of the next segment and locks it.
func newLogFile(path string, head []byte) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := createFile(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = f.Write(head)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
