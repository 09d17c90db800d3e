package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"

	"keymesh/crypto/key"
)

// MaxAuditTail is the most that one Tail returns.
const MaxAuditTail = 1000

// brokenGroup: a group does not open or does not follow the one before.
type brokenGroup struct {
	off  int64
	seq  uint64 // of the entry that should stand here
	torn bool   // it may never have been written whole
	err  error
}

func (e *brokenGroup) Error() string {
	return fmt.Sprintf("%v: entry %d of the audit log: %v", ErrDamaged, e.seq, e.err)
}

func (e *brokenGroup) Unwrap() error { return ErrDamaged }

// walker of a segment. pos is the end of the chain before the next group; its
// hash is zero when it is not known, after groups were skipped.
type auditWalk struct {
	keys *auditKeys
	r    *bufio.Reader
	seg  uint32
	off  int64 // of the next group
	end  int64 // where the segment ends
	pos  position
	from uint64      // groups that end before this entry are skipped unopened
	skip func(frame) // gets those; may be nil
}

func (k *auditKeys) walk(r io.ReaderAt, seg uint32, off, end int64, pos position) *auditWalk {
	return &auditWalk{
		keys: k, r: bufio.NewReaderSize(io.NewSectionReader(r, off, end-off), 256<<10),
		seg: seg, off: off, end: end, pos: pos,
	}
}

func (w *auditWalk) broken(torn bool, format string, a ...any) error {
	return &brokenGroup{off: w.off, seq: w.pos.seq + 1, torn: torn, err: fmt.Errorf(format, a...)}
}

// next returns the next group that was not skipped, and io.EOF at the end.
// Errors of what stands there are *brokenGroup.
func (w *auditWalk) next() (frame, []AuditEntry, error) {
	for {
		if w.off == w.end {
			return frame{}, nil, io.EOF
		}
		head := make([]byte, frameHead)
		if w.end-w.off < frameHead {
			return frame{}, nil, w.broken(true, "%w", errTorn)
		}
		if _, err := io.ReadFull(w.r, head); err != nil {
			return frame{}, nil, fmt.Errorf("reading the audit log: %w", err)
		}
		f, ok := w.keys.parseFrame(w.seg, w.off, head)
		if !ok || f.end() > w.end {
			return frame{}, nil, w.broken(true, "%w", errTorn)
		}
		if f.first != w.pos.seq+1 {
			return frame{}, nil, w.broken(false, "entry %d stands there", f.first)
		}
		if f.last() < w.from {
			if _, err := w.r.Discard(f.size); err != nil {
				return frame{}, nil, fmt.Errorf("reading the audit log: %w", err)
			}
			if w.skip != nil {
				w.skip(f)
			}
			w.pos, w.off = position{seq: f.last()}, f.end()
			continue
		}
		entries, err := w.open(f)
		return f, entries, err
	}
}

func (w *auditWalk) open(f frame) ([]AuditEntry, error) {
	box := make([]byte, f.size)
	if _, err := io.ReadFull(w.r, box); err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	entries, err := w.keys.openGroup(f, box)
	if err != nil {
		return nil, w.broken(errors.Is(err, errTorn) && f.end() == w.end, "%w", err)
	}
	if !w.pos.hash.IsZero() && entries[0].Prev != w.pos.hash {
		return nil, w.broken(false, "it does not follow entry %d", w.pos.seq)
	}
	w.pos, w.off = position{f.last(), entries[len(entries)-1].Hash}, f.end()
	return entries, nil
}

// startRead keeps Close waiting until the caller unlocks reads.
func (a *Audit) startRead() error {
	a.reads.RLock()
	if a.released {
		a.reads.RUnlock()
		return a.stopErr()
	}
	return nil
}

// view is what a reader sees of the log: all that was on disk when it was taken.
type view struct {
	pos   position
	end   int64
	segs  []segment
	index []indexPoint // of the last segment
}

func (a *Audit) view() view {
	a.mu.Lock()
	defer a.mu.Unlock()
	return view{pos: a.pos, end: a.end, segs: a.segs[:len(a.segs):len(a.segs)], index: a.index[:len(a.index):len(a.index)]}
}

// size is how many bytes of segment i count.
func (v *view) size(i int) int64 {
	if i == len(v.segs)-1 {
		return v.end
	}
	return v.segs[i+1].earlier
}

// final is where the chain of segment i ends.
func (v *view) final(i int) position {
	if i == len(v.segs)-1 {
		return v.pos
	}
	return position{v.segs[i+1].first - 1, v.segs[i+1].prev}
}

// openSegment opens the file of a segment for reading and checks its header and
// size. audit.log may be closed under its feet, and then has another name.
func (a *Audit) openSegment(v *view, i int) (*os.File, error) {
	want := v.segs[i]
	closed := segmentName(want.number)
	for _, name := range []string{closed, auditName, closed} {
		f, err := openPrivate(a.path(name), os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		have, err := a.readHeader(name, f)
		if err == nil && have.number == want.number {
			err = a.checkSegment(v, i, have, f)
			if err == nil {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, damaged("%s with entries %d to %d is missing", closed, want.first, v.final(i).seq)
}

func (a *Audit) readHeader(name string, f *os.File) (segment, error) {
	b := make([]byte, segHead)
	if n, err := f.ReadAt(b, 0); n != len(b) {
		return segment{}, damaged("%s has %d bytes: %v", name, n, err)
	}
	net, node, s, err := a.keys.decodeSegment(name, b)
	if err == nil && (net != a.net || node != a.node) {
		err = fmt.Errorf("%w: %s is another node's", ErrForeign, name)
	}
	return s, err
}

// checkSegment compares a file with what the log knows of the segment.
func (a *Audit) checkSegment(v *view, i int, have segment, f *os.File) error {
	if have != v.segs[i] {
		return damaged("segment %d of the audit log has another header", have.number)
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	want, last := v.size(i), i == len(v.segs)-1
	if fi.Size() < want || fi.Size() > want && !last {
		return damaged("segment %d of the audit log, with entries %d to %d, has %d bytes instead of %d",
			have.number, have.first, v.final(i).seq, fi.Size(), want)
	}
	return nil
}

// each calls fn with every entry from seq from on, in order, until fn returns
// an error. All that is passed is checked: headers, order, seals, the chain.
func (a *Audit) each(ctx context.Context, v *view, from uint64, fn func(*AuditEntry) error) error {
	for i := range v.segs {
		if v.final(i).seq < from {
			continue
		}
		if err := a.eachIn(ctx, v, i, from, fn); err != nil {
			return err
		}
	}
	return nil
}

func (a *Audit) eachIn(ctx context.Context, v *view, i int, from uint64, fn func(*AuditEntry) error) error {
	f, err := a.openSegment(v, i)
	if err != nil {
		return err
	}
	defer f.Close()
	s := v.segs[i]
	off, pos := int64(segHead), position{s.first - 1, s.prev}
	if from > s.first {
		points, err := a.points(v, i, f)
		if err != nil {
			return err
		}
		for _, p := range points {
			if p.first > s.first && p.first <= from {
				off, pos = p.off, position{seq: p.first - 1}
			}
		}
	}
	w := a.keys.walk(f, s.number, off, v.size(i), pos)
	w.from = from
	for {
		_, entries, err := w.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for j := range entries {
			if entries[j].Seq < from {
				continue
			}
			if err := fn(&entries[j]); err != nil {
				return err
			}
		}
	}
	if w.pos != v.final(i) {
		return damaged("segment %d of the audit log ends with entry %d and not with the entry %d that was written",
			s.number, w.pos.seq, v.final(i).seq)
	}
	return nil
}

// points returns the index of a segment. That of one that was closed before the
// log was opened is made when it is first needed: a peer may ask for old entries
// again and again.
func (a *Audit) points(v *view, i int, f *os.File) ([]indexPoint, error) {
	if i == len(v.segs)-1 {
		return v.index, nil
	}
	s := v.segs[i]
	a.mu.Lock()
	points, ok := a.older[s.number]
	a.mu.Unlock()
	if ok {
		return points, nil
	}
	w := a.keys.walk(f, s.number, segHead, v.size(i), position{s.first - 1, s.prev})
	w.from = math.MaxUint64
	w.skip = func(f frame) { points = addPoint(points, f) }
	if _, _, err := w.next(); err != io.EOF {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.older[s.number] = points
	return points, nil
}

// addPoint notes where a group stands, once every indexStep.
func addPoint(points []indexPoint, f frame) []indexPoint {
	if n := len(points); n == 0 || f.off-points[n-1].off >= indexStep {
		points = append(points, indexPoint{f.first, f.off})
	}
	return points
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// Tail returns the entries after seq since, the oldest first, at most limit and
// at most [MaxAuditTail] of them. The newest are Tail(Head().Seq - n, n).
func (a *Audit) Tail(ctx context.Context, since uint64, limit int) ([]AuditEntry, error) {
	if err := a.startRead(); err != nil {
		return nil, err
	}
	defer a.reads.RUnlock()
	v := a.view()
	limit = min(limit, MaxAuditTail)
	if limit <= 0 || since >= v.pos.seq {
		return nil, nil
	}
	out := make([]AuditEntry, 0, min(uint64(limit), v.pos.seq-since))
	err := a.each(ctx, &v, since+1, func(e *AuditEntry) error {
		out = append(out, *e)
		if len(out) == limit {
			return errEnough
		}
		return nil
	})
	if err != nil && err != errEnough {
		return nil, err
	}
	return out, nil
}

// Verify reads the whole log from the disk again. It finds entries that were
// edited, moved, added or removed, a log that was cut off, a mark that was
// replaced ([ErrDamaged], naming the first bad entry), and by the heads that
// this node once signed and its peers returned ([Audit.SaveWitness]) also a log
// that was cut or rewritten by somebody who holds the storage key
// ([ErrRewritten]). It runs beside Append; what is appended meanwhile is not
// looked at.
func (a *Audit) Verify(ctx context.Context) error {
	if err := a.startRead(); err != nil {
		return err
	}
	defer a.reads.RUnlock()
	claims := a.ownHeads()
	v := a.view()
	if err := a.each(ctx, &v, 1, func(e *AuditEntry) error {
		return claims.check(e.Seq, e.Hash)
	}); err != nil {
		return err
	}
	if err := claims.check(0, chainStart(a.net, a.node, a.id)); err != nil {
		return err
	}
	if err := claims.end(v.pos.seq); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m, err := a.keys.readMark(a.marker)
	if err == nil && a.Err() == nil && m != a.mark {
		err = damaged("%s was changed", auditMarks)
	}
	return err
}

// hashAt returns the hash of an entry, or of the start for 0. The caller reads.
func (a *Audit) hashAt(seq uint64) (h key.Hash, err error) {
	if seq == 0 {
		return chainStart(a.net, a.node, a.id), nil
	}
	v := a.view()
	if seq > v.pos.seq {
		return h, fmt.Errorf("%w: entry %d was signed, and the log ends with entry %d", ErrRewritten, seq, v.pos.seq)
	}
	err = a.each(context.Background(), &v, seq, func(e *AuditEntry) error {
		h = e.Hash
		return errEnough
	})
	if err == errEnough {
		err = nil
	}
	return h, err
}
