package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func overwrite(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyAudit(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(from, auditName[:5]+"*"))
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		overwrite(t, to, filepath.Base(name), read(t, from, filepath.Base(name)))
	}
	return to
}

// sampleAudit is a closed log of n entries, one group each; with rotate also of
// closed segments. It returns where the groups of audit.log begin, and its end.
func sampleAudit(t testing.TB, n uint64, rotate int64) (dir string, groups []int64) {
	t.Helper()
	dir = newAudit(t)
	a, stop := openAudit(t, dir, rotate)
	fillAudit(t, a, n)
	last := a.segs[len(a.segs)-1]
	w := a.keys.walk(a.file, last.number, segHead, a.end, position{last.first - 1, last.prev})
	for w.off < w.end {
		groups = append(groups, w.off)
		if _, _, err := w.next(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	return dir, append(groups, w.end)
}

// checkAudit opens a log and verifies it, and says how many entries it has.
func checkAudit(t testing.TB, dir string) (uint64, error) {
	t.Helper()
	a, err := OpenAudit(dir, auditKey(), AuditOptions{})
	if err != nil {
		if a != nil {
			t.Error("a refused log was returned")
		}
		return 0, err
	}
	defer a.Close()
	return headOf(t, a).Seq, a.Verify(context.Background())
}

func TestAuditFlippedBytes(t *testing.T) {
	dir, groups := sampleAudit(t, 9, 1500)
	for _, name := range []string{auditName, segmentName(1), segmentName(2), auditPeers, auditMarks} {
		whole := read(t, dir, name)
		for i := range whole {
			if name == auditMarks && i%markSlot >= markPlain+41 {
				continue // nothing stands there
			}
			b := bytes.Clone(whole)
			b[i] ^= 1 << (i % 8)
			overwrite(t, dir, name, b)
			n, err := checkAudit(t, dir)
			switch {
			case name == auditMarks && err == nil && n == 9:
				// Of the two marks one is left, and nothing is lost.
			case !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrVersion):
				t.Fatalf("%s, byte %d of %d: %d entries, %v", name, i, len(whole), n, err)
			}
			overwrite(t, dir, name, whole)
		}
	}
	if len(groups) < 2 {
		t.Fatal("too small a sample")
	}
	if n, err := checkAudit(t, dir); n != 9 || err != nil {
		t.Fatal(n, err)
	}
}

// Edited, moved, missing, repeated and cut-off groups, without the key.
func TestAuditTamperedWith(t *testing.T) {
	dir, at := sampleAudit(t, 9, 0)
	whole := read(t, dir, auditName)
	group := func(n int) []byte { return whole[at[n-1]:at[n]] } // the n-th entry
	head := whole[:segHead]
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	edited := bytes.Clone(whole)
	edited[at[4]+frameHead+30] ^= 1
	for _, c := range []struct {
		what string
		b    []byte
		says string
	}{
		{"edited", edited, "entry 5"},
		{"two in the other order", join(head, group(1), group(3), group(2), whole[at[3]:]), "entry 2"},
		{"one missing", join(whole[:at[3]], whole[at[4]:]), "entry 4"},
		{"the first missing", join(head, whole[at[1]:]), "entry 1"},
		{"one twice", join(whole[:at[3]], group(3), whole[at[3]:]), "entry 4"},
		{"another in its place", join(whole[:at[3]], group(5), whole[at[4]:]), "entry 4"},
		{"the last cut off", whole[:at[8]], "entry 9 was on disk"},
		{"the last cut off and another of its size", join(whole[:at[8]], group(8)), "entry 9"},
		{"the last cut in two", whole[:at[8]+20], "entry 9"},
		{"all cut off", head, "entry 9 was on disk"},
		{"zeros for the last", join(whole[:at[8]], make([]byte, at[9]-at[8])), "entry 9"},
		{"the last group put at the end again", join(whole, group(9)), ""},
	} {
		d := copyAudit(t, dir)
		overwrite(t, d, auditName, c.b)
		n, err := checkAudit(t, d)
		if c.says == "" {
			// It stands after all that was acknowledged and is no group: what
			// a crash may leave.
			if n != 9 || err != nil {
				t.Errorf("%s: %d, %v", c.what, n, err)
			}
			continue
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %d entries, %v", c.what, n, err)
		}
	}
}

// The same under a running log: Verify finds it, and so does the next Append.
func TestAuditTamperedWithWhileOpen(t *testing.T) {
	dir := newAudit(t)
	a, _ := openAudit(t, dir, 1200)
	fillAudit(t, a, 12)
	for name, says := range map[string]string{auditName: "entry 1", segmentName(2): "entry "} {
		whole := read(t, dir, name)
		b := bytes.Clone(whole)
		b[segHead+frameHead+50] ^= 4
		overwrite(t, dir, name, b)
		if err := a.Verify(context.Background()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
		overwrite(t, dir, name, whole)
		verifyAudit(t, a)
	}
	marks := read(t, dir, auditMarks)
	overwrite(t, dir, auditMarks, make([]byte, markSize))
	if err := a.Verify(context.Background()); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	overwrite(t, dir, auditMarks, marks)
	if err := os.Remove(filepath.Join(dir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	if err := a.Verify(context.Background()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
}

func TestAuditFileTakenAway(t *testing.T) {
	for what, take := range map[string]func(string) error{
		"deleted": os.Remove,
		"cut":     func(p string) error { return os.Truncate(p, segHead) },
		"longer": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.Write([]byte{0})
				err = errors.Join(err, f.Close())
			}
			return err
		},
		"replaced": func(p string) error {
			b, err := os.ReadFile(p)
			if err == nil {
				err = os.Remove(p)
			}
			if err == nil {
				err = os.WriteFile(p, b, 0o600)
			}
			return err
		},
	} {
		dir := newAudit(t)
		a, stop := openAudit(t, dir, 0)
		fillAudit(t, a, 3)
		if err := take(filepath.Join(dir, auditName)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if seq, err := a.Append(context.Background(), auditEntry(4)); !errors.Is(err, ErrStopped) || seq != 0 {
				t.Errorf("%s: %d, %v", what, seq, err)
			}
		}
		if err := a.Err(); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := a.Head(); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", what, err)
		}
		stop()
	}
}

func TestAuditFilesOfOthers(t *testing.T) {
	dir, _ := sampleAudit(t, 9, 1500)
	other, _ := sampleAudit(t, 9, 1500)
	older, _ := sampleAudit(t, 1, 0)
	early := newAudit(t)
	a, stop := openAudit(t, early, 0)
	fillAudit(t, a, 3)
	stop()
	old := copyAudit(t, early)
	a, stop = openAudit(t, early, 0)
	fillAudit(t, a, 4)
	stop()
	for _, c := range []struct {
		what, from, name, dir, as string
		want                      error
	}{
		{"another log's audit.log", other, auditName, dir, auditName, ErrForeign},
		{"another log's segment", other, segmentName(1), dir, segmentName(1), ErrForeign},
		{"another log's mark", other, auditMarks, dir, auditMarks, ErrDamaged},
		{"another log's heads", other, auditPeers, dir, auditPeers, ErrDamaged},
		{"a segment as another", dir, segmentName(1), dir, segmentName(2), ErrDamaged},
		{"a segment as the newest", dir, segmentName(1), dir, auditName, ErrDamaged},
		{"the newest as a segment", dir, auditName, dir, segmentName(1), ErrDamaged},
		{"a new log", older, auditName, early, auditName, ErrDamaged},
		{"an older copy of the log", old, auditName, early, auditName, ErrDamaged},
		{"a copy of the newest beside it", dir, auditName, dir, segmentName(99), nil},
	} {
		d := copyAudit(t, c.dir)
		overwrite(t, d, c.as, read(t, c.from, c.name))
		if _, err := checkAudit(t, d); c.want != nil && !errors.Is(err, c.want) && !errors.Is(err, ErrForeign) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if k := [32]byte{1}; true {
		if _, err := OpenAudit(dir, &k, AuditOptions{}); !errors.Is(err, ErrForeign) {
			t.Error("another key:", err)
		}
	}
	// An older copy of the mark alone is no loss: the log is ahead of it.
	overwrite(t, early, auditMarks, read(t, old, auditMarks))
	if n, err := checkAudit(t, early); n != 4 || err != nil {
		t.Error(n, err)
	}
}

func TestAuditMissingFiles(t *testing.T) {
	dir, _ := sampleAudit(t, 9, 1500)
	for name, want := range map[string]error{
		auditName: fs.ErrNotExist, auditMarks: ErrDamaged, auditPeers: ErrDamaged, segmentName(1): ErrDamaged, segmentName(2): ErrDamaged,
	} {
		d := copyAudit(t, dir)
		if err := os.Remove(filepath.Join(d, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := checkAudit(t, d); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(filepath.Join(d, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made by opening", name)
		}
		if err := CreateAudit(d, auditKey(), auditNet(), auditNode(0).ID()); !errors.Is(err, ErrExists) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuditUnsafeFiles(t *testing.T) {
	dir, _ := sampleAudit(t, 9, 1500)
	for _, name := range []string{auditName, auditMarks, auditPeers, segmentName(1), "."} {
		d := copyAudit(t, dir)
		mode := os.FileMode(0o640)
		if name == "." {
			mode = 0o750
		}
		if err := os.Chmod(filepath.Join(d, name), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := checkAudit(t, d); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s open to others: %v", name, err)
		}
		if name == "." {
			continue
		}
		d = copyAudit(t, dir)
		if err := os.Remove(filepath.Join(d, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(d, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := checkAudit(t, d); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s as a link: %v", name, err)
		}
	}
	a, _ := openAudit(t, dir, 0)
	for _, s := range a.segs {
		name := segmentName(s.number)
		if s.number == a.segs[len(a.segs)-1].number {
			name = auditName
		}
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
	if _, err := OpenAudit(dir, auditKey(), AuditOptions{}); !errors.Is(err, ErrLocked) {
		t.Error("opened twice:", err)
	}
}

func TestAuditNothingInClear(t *testing.T) {
	dir, _ := sampleAudit(t, 9, 1500)
	e := auditEntry(3)
	for _, what := range []string{"release", "grüße", "req-1", e.Person, e.Node, e.Person[7:], string(e.ID[:8]), string(e.Request[:8])} {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(names) < 5 {
			t.Fatal(names, err)
		}
		for _, name := range names {
			if bytes.Contains(read(t, dir, filepath.Base(name)), []byte(what)) {
				t.Errorf("%q stands in %s", what, name)
			}
		}
	}
}

// A crash leaves any part of the last write. What was never acknowledged goes,
// and everything else stays.
func TestAuditTornWrites(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	fillAudit(t, a, 4)
	from := a.end
	stop()
	before := copyAudit(t, dir)
	a, stop = openAudit(t, dir, 0)
	fillAudit(t, a, 5)
	stop()
	group := read(t, dir, auditName)[from:]
	torn := map[string][]byte{}
	for n := 0; n < len(group); n += 3 {
		torn[fmt.Sprintf("%d bytes", n)] = group[:n]
		hole := bytes.Clone(group)
		clear(hole[n:min(n+97, len(hole))])
		torn[fmt.Sprintf("a hole at %d", n)] = hole
	}
	torn["zeros"] = make([]byte, 5000)
	torn["garbage"] = bytes.Repeat([]byte(frameMagic), 1000)
	for what, b := range torn {
		d := copyAudit(t, before)
		overwrite(t, d, auditName, append(read(t, before, auditName), b...))
		n, err := checkAudit(t, d)
		if n != 4 || err != nil {
			t.Fatalf("%s: %d, %v", what, n, err)
		}
		if have := read(t, d, auditName); int64(len(have)) != from {
			t.Fatalf("%s: %d bytes are left", what, len(have))
		}
		a, stop := openAudit(t, d, 0)
		fillAudit(t, a, 6)
		verifyAudit(t, a)
		stop()
	}
	// Written whole and not acknowledged: it stays.
	d := copyAudit(t, before)
	overwrite(t, d, auditName, append(read(t, before, auditName), group...))
	if n, err := checkAudit(t, d); n != 5 || err != nil {
		t.Error(n, err)
	}
}

// What is damaged and was acknowledged is never taken for a torn write, also
// when the mark was left behind by a power cut.
func TestAuditDamageIsNotTorn(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	fillAudit(t, a, 4)
	from := a.end
	stop()
	marks := read(t, dir, auditMarks)
	a, stop = openAudit(t, dir, 0)
	fillAudit(t, a, 7)
	stop()
	whole := read(t, dir, auditName)
	overwrite(t, dir, auditMarks, marks)
	for i := from; i < from+400; i += 3 {
		d := copyAudit(t, dir)
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		overwrite(t, d, auditName, b)
		if n, err := checkAudit(t, d); !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d after the mark: %d entries, %v", i-from, n, err)
		}
		if !bytes.Equal(read(t, d, auditName), b) {
			t.Fatal("damage was cut off")
		}
	}
	// A damaged last group with something behind it: a write leaves no more
	// than itself.
	d := copyAudit(t, dir)
	b := append(bytes.Clone(whole), make([]byte, 10)...)
	b[len(whole)-1] ^= 1
	overwrite(t, d, auditName, b)
	if n, err := checkAudit(t, d); !errors.Is(err, ErrDamaged) {
		t.Error(n, err)
	}
	// More than one write can leave is no torn write either.
	d = copyAudit(t, dir)
	overwrite(t, d, auditName, append(bytes.Clone(whole), make([]byte, frameHead+maxFrameBox+1)...))
	if _, err := checkAudit(t, d); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

// The mark of each moment with the files of each later one: a crash while a
// segment is closed leaves the mark one behind, and an older one is refused.
func TestAuditMarksOfSegments(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 1) // each entry closes a segment
	var marks [][]byte
	for n := uint64(1); n <= 4; n++ {
		fillAudit(t, a, n)
		marks = append(marks, read(t, dir, auditMarks))
	}
	stop()
	for i, b := range marks {
		d := copyAudit(t, dir)
		overwrite(t, d, auditMarks, b)
		n, err := checkAudit(t, d)
		if i >= 2 && (n != 4 || err != nil) || i < 2 && !errors.Is(err, ErrDamaged) {
			t.Errorf("the mark of entry %d: %d, %v", i+1, n, err)
		}
	}
	// A group that is whole and was not acknowledged, and then a segment that
	// is closed at once.
	d := copyAudit(t, dir)
	overwrite(t, d, auditMarks, marks[2])
	a, stop = openAudit(t, d, 1)
	opened := read(t, d, auditMarks)
	fillAudit(t, a, 5)
	stop()
	overwrite(t, d, auditMarks, opened)
	if n, err := checkAudit(t, d); n != 5 || err != nil {
		t.Error(n, err)
	}
}

// A file that stands where a closed segment will be is not removed.
func TestAuditSecondName(t *testing.T) {
	dir, _ := sampleAudit(t, 3, 0)
	if err := os.Link(filepath.Join(dir, auditName), filepath.Join(dir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	overwrite(t, dir, auditName+newSuffix, []byte("the next segment"))
	if n, err := checkAudit(t, dir); n != 3 || err != nil {
		t.Error(n, err)
	}
	for _, name := range []string{segmentName(1), auditName + newSuffix} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	overwrite(t, dir, segmentName(1), read(t, dir, auditName))
	if _, err := checkAudit(t, dir); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	read(t, dir, segmentName(1))
}
