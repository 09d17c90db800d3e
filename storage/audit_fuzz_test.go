package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzAuditEntry: what is accepted as an entry re-encodes to itself.
func FuzzAuditEntry(f *testing.F) {
	e := auditEntry(1)
	e.Seq = 1
	f.Add(e.encode())
	f.Add((&AuditEntry{Kind: "a"}).encode())
	f.Add((&AuditEntry{Kind: "a", Detail: "a\nb"}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			if e != (AuditEntry{}) {
				t.Fatal("an entry beside an error")
			}
			return
		}
		again := e
		if !bytes.Equal(again.encode(), b) || again != e || again.prepare() != nil || again != e {
			t.Fatalf("%+v", e)
		}
		if x := e.line(); !isKind(x.Kind) || len(x.Detail) > MaxAuditDetail {
			t.Fatalf("%+v", x)
		}
	})
}

// FuzzAuditGroup: what is accepted as a group re-encodes to itself and is a
// chain.
func FuzzAuditGroup(f *testing.F) {
	var bodies [][]byte
	prev := AuditEntry{}
	for seq := uint64(5); seq < 8; seq++ {
		e := auditEntry(seq)
		e.Seq, e.Prev = seq, prev.Hash
		bodies = append(bodies, e.encode())
		prev = e
	}
	f.Add(encodeGroup(bodies), uint64(5), 3)
	f.Add(encodeGroup(bodies[:1]), uint64(5), 1)
	f.Add(encodeGroup(bodies), uint64(5), 2)
	f.Fuzz(func(t *testing.T, b []byte, first uint64, count int) {
		if count < 1 || count > maxGroup {
			return
		}
		entries, err := decodeGroup(b, first, count)
		if err != nil {
			return
		}
		var again [][]byte
		for i := range entries {
			if entries[i].Seq != first+uint64(i) || i > 0 && entries[i].Prev != entries[i-1].Hash {
				t.Fatal("no chain")
			}
			again = append(again, entries[i].encode())
		}
		if len(entries) != count || !bytes.Equal(encodeGroup(again), b) {
			t.Fatal("another group")
		}
	})
}

// FuzzAuditFile overwrites and cuts a log at any place: it is refused, or is
// what was written.
func FuzzAuditFile(f *testing.F) {
	dir, at := sampleAudit(f, 5, 0)
	whole := read(f, dir, auditName)
	f.Add(uint32(at[1]+3), []byte{7}, uint32(0))
	f.Add(uint32(at[4]), whole[at[0]:at[1]], uint32(0))
	f.Add(uint32(0), []byte{}, uint32(30))
	f.Add(uint32(len(whole)), []byte(frameMagic+frameMagic), uint32(0))
	f.Fuzz(func(t *testing.T, off uint32, with []byte, cut uint32) {
		b := bytes.Clone(whole)
		at := int(off) % (len(b) + 1)
		b = append(b[:at:at], append(bytes.Clone(with), b[min(len(b), at+len(with)):]...)...)
		b = b[:max(0, len(b)-int(cut%1024))]
		d := t.TempDir()
		if err := os.Chmod(d, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{auditMarks, auditPeers} {
			overwrite(t, d, name, read(t, dir, name))
		}
		overwrite(t, d, auditName, b)
		n, err := checkAudit(t, d)
		switch {
		case err == nil && n == 5 && bytes.HasPrefix(b, whole):
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrForeign), errors.Is(err, ErrVersion):
		default:
			t.Fatalf("%d entries, %v", n, err)
		}
		if _, err := os.Stat(filepath.Join(d, auditName)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzVerifyExport: an export that is accepted and has a signed end is the one
// that was made, but for who holds a head.
func FuzzVerifyExport(f *testing.F) {
	lines, last := sampleExport(f, auditSigner)
	f.Add([]byte(lines[0] + lines[12]))
	var whole []byte
	for _, l := range lines {
		whole = append(whole, l...)
	}
	f.Add(whole)
	f.Add(bytes.Replace(whole, []byte(`"kind"`), []byte(`"Kind"`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		rep, err := VerifyExport(bytes.NewReader(b), last)
		if err != nil {
			if rep != (ExportReport{}) {
				t.Fatal("a report beside an error")
			}
			return
		}
		if rep.Node != auditNode(0).ID() || rep.Seq != 9 {
			t.Fatalf("%+v", rep)
		}
	})
}

// FuzzAuditClean: a cleaned text is short, printable and stays as it is.
func FuzzAuditClean(f *testing.F) {
	f.Add("a\nb", 10)
	f.Add("\xff\u202e日", 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 3 || limit > 1000 {
			return
		}
		c := clean(s, limit)
		if len(c) > limit || clean(c, limit) != c || bytes.ContainsAny([]byte(c), "\n\r\x00\x1b") {
			t.Fatalf("%q", c)
		}
	})
}
