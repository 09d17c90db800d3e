package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

func auditSigner(h share.AuditHead) key.Object {
	return share.SignAuditHead(auditNode(0), auditNet(), h)
}

// sampleExport is an export of nine entries with two heads that peers hold. It
// also returns the head of entry 9.
func sampleExport(t testing.TB, sign func(share.AuditHead) key.Object) (lines []string, last []byte) {
	t.Helper()
	a, stop := openAudit(t, newAudit(t), 1500)
	defer stop()
	for i, n := range []uint64{2, 5} {
		fillAudit(t, a, n)
		if err := a.SaveWitness(auditNode(byte(i+1)).ID(), signHead(0, headOf(t, a))); err != nil {
			t.Fatal(err)
		}
	}
	fillAudit(t, a, 9)
	var b bytes.Buffer
	if err := a.Export(context.Background(), &b, sign); err != nil {
		t.Fatal(err)
	}
	lines = strings.SplitAfter(b.String(), "\n")
	if len(lines) != 1+2+9+1+1 || lines[13] != "" {
		t.Fatalf("%d lines", len(lines))
	}
	return lines[:13], signHead(0, headOf(t, a))
}

func verifyExport(lines []string, heads ...[]byte) (ExportReport, error) {
	return VerifyExport(strings.NewReader(strings.Join(lines, "")), heads...)
}

func TestAuditExport(t *testing.T) {
	lines, last := sampleExport(t, auditSigner)
	rep, err := verifyExport(lines, last)
	if err != nil {
		t.Fatal(err)
	}
	h, err := share.OpenAuditHead(auditNet(), last)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Network != auditNet() || rep.Node != auditNode(0).ID() || rep.Seq != 9 || rep.Hash != h.Hash || rep.Signed == 0 || rep.Heads != 4 {
		t.Errorf("%+v", rep)
	}
	if rep, err := verifyExport(lines); err != nil || rep.Heads != 3 {
		t.Errorf("%+v, %v", rep, err)
	}
	lines, _ = sampleExport(t, nil)
	if rep, err := verifyExport(lines); err != nil || rep.Signed != 0 || rep.Heads != 2 {
		t.Errorf("%+v, %v", rep, err)
	}
	empty, _ := openAudit(t, newAudit(t), 0)
	var b bytes.Buffer
	if err := empty.Export(context.Background(), &b, auditSigner); err != nil {
		t.Fatal(err)
	}
	if rep, err := VerifyExport(&b); err != nil || rep.Seq != 0 || rep.Heads != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestAuditExportFlippedBytes(t *testing.T) {
	lines, _ := sampleExport(t, auditSigner)
	whole := []byte(strings.Join(lines, ""))
	for i := range whole {
		for _, mask := range []byte{1 << (i % 8)} {
			b := bytes.Clone(whole)
			b[i] ^= mask
			if bytes.HasPrefix(b[bytes.LastIndexByte(b[:i], '\n')+1:], []byte(`{"peer":"node-`)) && !bytes.Contains(b[bytes.LastIndexByte(b[:i], '\n')+1:i], []byte(`"head"`)) {
				continue // who holds a head is the exporter's word
			}
			if rep, err := VerifyExport(bytes.NewReader(b)); err == nil {
				t.Fatalf("byte %d ^ %#x: %+v; %q", i, mask, rep, b[max(0, i-40):i+20])
			} else if rep != (ExportReport{}) {
				t.Fatal("a report beside an error")
			}
		}
	}
	for i := 0; i < len(whole); i += 7 {
		if i == len(whole)-1 {
			continue // only the last newline is missing
		}
		if _, err := VerifyExport(bytes.NewReader(whole[:i])); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRewritten) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

// The first of lines 4 to 12 is entry 1.
func TestAuditExportTamperedWith(t *testing.T) {
	lines, _ := sampleExport(t, auditSigner)
	with := func(edit func([]string) []string) []string { return edit(slices.Clone(lines)) }
	other, _ := sampleExport(t, auditSigner)
	for what, c := range map[string]struct {
		lines []string
		says  string
	}{
		"edited":        {with(func(l []string) []string { l[6] = strings.Replace(l[6], "entry 4", "entry X", 1); return l }), "entry 4 was changed"},
		"swapped":       {with(func(l []string) []string { l[6], l[7] = l[7], l[6]; return l }), "line 7"},
		"missing":       {with(func(l []string) []string { return slices.Delete(l, 6, 7) }), "line 7"},
		"twice":         {with(func(l []string) []string { return slices.Insert(l, 6, l[6]) }), "line 8"},
		"the last":      {with(func(l []string) []string { return slices.Delete(l, 11, 12) }), "ends with entry 8"},
		"no end":        {lines[:12], "cut off"},
		"nothing":       {nil, "line 1"},
		"more":          {with(func(l []string) []string { return append(l, l[12]) }), "more after"},
		"a blank line":  {with(func(l []string) []string { return slices.Insert(l, 5, "\n") }), "line 6"},
		"spaces":        {with(func(l []string) []string { l[6] = strings.Replace(l[6], ":", ": ", 1); return l }), "line 7"},
		"a key more":    {with(func(l []string) []string { l[6] = strings.Replace(l[6], "{", `{"x":1,`, 1); return l }), "line 7"},
		"a key twice":   {with(func(l []string) []string { l[6] = strings.Replace(l[6], `"kind":`, `"kind":"y","kind":`, 1); return l }), "line 7"},
		"heads last":    {with(func(l []string) []string { return slices.Insert(slices.Delete(l, 1, 2), 10, l[1]) }), "line "},
		"another log's": {with(func(l []string) []string { return append([]string{other[0]}, l[1:]...) }), "does not follow"},
		"another end":   {with(func(l []string) []string { l[12] = other[12]; return l }), "line 13"},
		"a long line":   {with(func(l []string) []string { return append(l, strings.Repeat("x", 1<<20)) }), "line 14"},
	} {
		if rep, err := verifyExport(c.lines); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", what, rep, err)
		}
	}
}

// Who exports may leave out lines and sign anew, or sign with the node's key
// what never was in the log: the heads that peers hold tell.
func TestAuditExportForged(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	fillAudit(t, a, 9)
	held := signHead(0, headOf(t, a))
	stop()
	for what, change := range map[string]func([]AuditEntry) []AuditEntry{
		"cut":    func(e []AuditEntry) []AuditEntry { return e[:7] },
		"edited": func(e []AuditEntry) []AuditEntry { e[2].Detail = ""; return e },
	} {
		d := copyAudit(t, dir)
		forge(t, d, change)
		a, stop := openAudit(t, d, 0)
		var b bytes.Buffer
		if err := a.Export(context.Background(), &b, auditSigner); err != nil {
			t.Fatal(err)
		}
		stop()
		if _, err := VerifyExport(bytes.NewReader(b.Bytes())); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := VerifyExport(bytes.NewReader(b.Bytes()), held); !errors.Is(err, ErrRewritten) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A signature by another key, and one under another entry.
	for _, sign := range []func(share.AuditHead) key.Object{
		func(h share.AuditHead) key.Object { return share.SignAuditHead(auditNode(1), auditNet(), h) },
		func(h share.AuditHead) key.Object { h.Seq--; return auditSigner(h) },
		func(h share.AuditHead) key.Object { return share.SignAuditHead(auditNode(0), key.NetworkID{3}, h) },
	} {
		lines, _ := sampleExport(t, sign)
		if _, err := verifyExport(lines); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrRewritten) {
			t.Error(err)
		}
	}
}

// The heads that its peers hold go into the export of a log that was cut, and
// say so.
func TestAuditExportOfACutLog(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	fillAudit(t, a, 9)
	if err := a.SaveWitness(auditNode(1).ID(), signHead(0, headOf(t, a))); err != nil {
		t.Fatal(err)
	}
	stop()
	forge(t, dir, func(e []AuditEntry) []AuditEntry { return e[:7] })
	a, _ = openAudit(t, dir, 0)
	var b bytes.Buffer
	if err := a.Export(context.Background(), &b, auditSigner); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyExport(&b); !errors.Is(err, ErrRewritten) {
		t.Error(err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestAuditExportFails(t *testing.T) {
	a, stop := openAudit(t, newAudit(t), 0)
	fillAudit(t, a, 2)
	if err := a.Export(context.Background(), failingWriter{}, nil); err == nil {
		t.Error("written to nowhere")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Export(ctx, &bytes.Buffer{}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop()
	if err := a.Export(context.Background(), &bytes.Buffer{}, nil); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if err := a.Verify(context.Background()); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if _, err := a.Tail(context.Background(), 0, 1); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
}

// Exports that somebody made by hand, with a chain of their own.
func TestAuditExportByHand(t *testing.T) {
	lines, _ := sampleExport(t, nil)
	id, err := hex.DecodeString(lines[0][strings.Index(lines[0], `"log":"`)+7:][:32])
	if err != nil {
		t.Fatal(err)
	}
	start := chainStart(auditNet(), auditNode(0).ID(), storeID(id))
	head := func(h share.AuditHead) []byte { return signHead(0, h) }
	for what, c := range map[string]struct {
		edit func(*AuditEntry)
		held []byte
		want error
	}{
		"in order":                 {func(*AuditEntry) {}, head(share.AuditHead{Hash: start}), nil},
		"a newline":                {func(e *AuditEntry) { e.Detail = "a\nb" }, nil, ErrDamaged},
		"no kind":                  {func(e *AuditEntry) { e.Kind = "" }, nil, ErrDamaged},
		"a name":                   {func(e *AuditEntry) { e.Person = "alice" }, nil, ErrDamaged},
		"entry 2 first":            {func(e *AuditEntry) { e.Seq = 2 }, nil, ErrDamaged},
		"another start was signed": {func(*AuditEntry) {}, head(share.AuditHead{Hash: key.Hash{1}}), ErrRewritten},
	} {
		var b bytes.Buffer
		out := lineWriter{w: bufio.NewWriter(&b)}
		b.WriteString(lines[0])
		if c.held != nil {
			out.line(exportWitness{auditNode(1).ID(), c.held})
		}
		e := auditEntry(1)
		e.Seq, e.Prev = 1, start
		c.edit(&e)
		e.encode()
		out.line(e.line())
		out.line(exportEnd{End: e.Seq, Hash: e.Hash})
		out.w.Flush()
		if rep, err := VerifyExport(&b); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %+v, %v", what, rep, err)
		}
	}
}
