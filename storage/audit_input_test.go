package storage

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"keymesh/crypto/key"
)

func TestAuditEntriesOfBadForm(t *testing.T) {
	a, _ := openAudit(t, newAudit(t), 0)
	ok := auditEntry(1)
	for what, edit := range map[string]func(*AuditEntry){
		"no kind":               func(e *AuditEntry) { e.Kind = "" },
		"a kind in capitals":    func(e *AuditEntry) { e.Kind = "Release" },
		"a kind of a digit":     func(e *AuditEntry) { e.Kind = "1a" },
		"a kind of two words":   func(e *AuditEntry) { e.Kind = "a b" },
		"a kind and a newline":  func(e *AuditEntry) { e.Kind = "a\n" },
		"a long kind":           func(e *AuditEntry) { e.Kind = strings.Repeat("a", MaxAuditKind+1) },
		"a name for a person":   func(e *AuditEntry) { e.Person = "alice" },
		"a node for a person":   func(e *AuditEntry) { e.Person = e.Node },
		"a person for a node":   func(e *AuditEntry) { e.Node = e.Person },
		"an address for a node": func(e *AuditEntry) { e.Node = "10.0.0.1:7946" },
	} {
		e := ok
		edit(&e)
		if seq, err := a.Append(context.Background(), e); !errors.Is(err, ErrInput) || seq != 0 {
			t.Errorf("%s: %d, %v", what, seq, err)
		}
	}
	if h := headOf(t, a); h.Seq != 0 || a.Err() != nil {
		t.Error("something was written, or the log stopped")
	}
	e := ok
	e.Kind, e.Person, e.Node, e.ID, e.Request = strings.Repeat("z", MaxAuditKind), "", "", key.Hash{}, key.Hash{}
	if _, err := a.Append(context.Background(), e); err != nil {
		t.Error(err)
	}
}

// What a peer says is recorded whatever it is: it can neither stop an entry nor
// forge a line.
func TestAuditTextsOfPeers(t *testing.T) {
	a, _ := openAudit(t, newAudit(t), 0)
	for text, want := range map[string]string{
		"":                             "",
		"plain, grüße 日本 \"x\" \\":     "plain, grüße 日本 \"x\" \\",
		"a\nb\r\x00\x7f":               `a\nb\r\x00\x7f`,
		"\xff\xfe ok":                  `\xff\xfe ok`,
		"\u202eevil\u2028\ufeff":       `\u202eevil\u2028\ufeff`,
		"\x1b[2J":                      `\x1b[2J`,
		strings.Repeat("x", 512):       strings.Repeat("x", 512),
		strings.Repeat("x", 513):       strings.Repeat("x", 509) + "…",
		strings.Repeat("\n", 5000):     strings.Repeat(`\n`, 254) + "…",
		strings.Repeat("日", 171):       strings.Repeat("日", 169) + "…",
		strings.Repeat("x", 511) + "日": strings.Repeat("x", 509) + "…",
	} {
		e := auditEntry(1)
		e.Detail, e.RequestID = text, text
		seq, err := a.Append(context.Background(), e)
		if err != nil {
			t.Errorf("%.40q: %v", text, err)
			continue
		}
		got, err := a.Tail(context.Background(), seq-1, 1)
		if err != nil || len(got) != 1 || got[0].Detail != want || len(got[0].Detail) > MaxAuditDetail {
			t.Errorf("%.40q: %+v, %v", text, got, err)
		}
		if id := got[0].RequestID; len(id) > MaxAuditRequestID || !utf8.ValidString(id) || id != clean(id, MaxAuditRequestID) {
			t.Errorf("%.40q: %q", text, id)
		}
	}
	verifyAudit(t, a)
}

func TestAuditContexts(t *testing.T) { synctest.Test(t, auditContexts) }

func auditContexts(t *testing.T) {
	dir := newAudit(t)
	a, err := OpenAudit(dir, auditKey(), AuditOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Before Run: it waits, also when ctx ends, and Close answers.
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error, 1)
	go func() {
		_, err := a.Append(ctx, auditEntry(1))
		got <- err
	}()
	synctest.Wait()
	cancel()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if err := a.Run(context.Background()); !errors.Is(err, ErrRunning) {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	// A full queue: ctx ends the wait, and nothing is written.
	a, err = OpenAudit(dir, auditKey(), AuditOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !a.admit.TryAcquire(auditQueueLen) {
		t.Fatal("the queue is not empty")
	}
	if _, err := a.Append(ctx, auditEntry(1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	a.admit.Release(auditQueueLen)
	// The end of Run's context ends the log.
	ctx, cancel = context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	if seq, err := a.Append(context.Background(), auditEntry(1)); seq != 1 || err != nil {
		t.Error(seq, err)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if _, err := a.Append(context.Background(), auditEntry(2)); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
	if h := headOf(t, a); h.Seq != 1 { // the head of a log at rest is still told
		t.Error(h)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.Head(); !errors.Is(err, ErrStopped) {
		t.Error(err)
	}
}

// Readers go on while entries are appended and segments closed under them.
func TestAuditReadersAndWriters(t *testing.T) {
	a, stop := openAudit(t, newAudit(t), 3000)
	ctx, cancel := context.WithCancel(context.Background())
	var writers, readers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 100 {
				if _, err := a.Append(context.Background(), auditEntry(1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i, read := range []func() error{
		func() error { return a.Verify(ctx) },
		func() error { return a.Export(ctx, io.Discard, auditSigner) },
		func() error {
			h, err := a.Head()
			if err != nil {
				return err
			}
			since := h.Seq - min(h.Seq, 20)
			got, err := a.Tail(ctx, since, 10)
			if err == nil && uint64(len(got)) != min(h.Seq-since, 10) && h.Seq > 20 {
				return errors.New("entries are missing")
			}
			return err
		},
		func() error {
			h, err := a.Head()
			if err != nil {
				return err
			}
			return a.SaveWitness(auditNode(1).ID(), signHead(0, h))
		},
	} {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := read(); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("reader %d: %v", i, err)
					return
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
	verifyAudit(t, a)
	if h := headOf(t, a); h.Seq != 400 || len(a.view().segs) < 5 {
		t.Error(h.Seq, len(a.view().segs))
	}
	stop()
}

// Old entries are found through the index, also in segments that were closed
// before the log was opened.
func TestAuditIndex(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 200<<10)
	e := auditEntry(1)
	e.Detail = strings.Repeat("x", MaxAuditDetail)
	for range 1000 {
		if _, err := a.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	find := func() {
		t.Helper()
		for seq := uint64(1); seq < 1000; seq += 37 {
			got, err := a.Tail(context.Background(), seq-1, 2)
			if err != nil || len(got) != 2 || got[0].Seq != seq || got[1].Prev != got[0].Hash {
				t.Fatal(seq, got, err)
			}
		}
	}
	if len(a.segs) < 4 || len(a.older[1]) < 3 {
		t.Fatal(len(a.segs), a.older[1])
	}
	find()
	stop()
	a, _ = openAudit(t, dir, 0)
	find()
	if len(a.older[1]) < 3 {
		t.Error("no index of an old segment")
	}
	if got, err := a.Tail(context.Background(), math.MaxUint64, math.MaxInt); got != nil || err != nil {
		t.Error(got, err)
	}
	if got, err := a.Tail(context.Background(), 0, -1); got != nil || err != nil {
		t.Error(got, err)
	}
}

func TestCreateAuditRefuses(t *testing.T) {
	dir := newAudit(t)
	before := read(t, dir, auditName)
	if err := CreateAudit(dir, auditKey(), auditNet(), auditNode(0).ID()); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if string(read(t, dir, auditName)) != string(before) {
		t.Error("it was overwritten")
	}
	if err := CreateAudit(dir+"/none", auditKey(), auditNet(), auditNode(0).ID()); err == nil {
		t.Error("a directory was made")
	}
	if _, err := OpenAudit(t.TempDir(), auditKey(), AuditOptions{}); err == nil {
		t.Error("a log was made by opening")
	}
}

// After a failure nothing more is written, not even what was queued before it.
func TestAuditWritesNothingAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := newAudit(t)
		a, err := OpenAudit(dir, auditKey(), AuditOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() {
			_, err := a.Append(context.Background(), auditEntry(1))
			got <- err
		}()
		synctest.Wait()
		before, cause := read(t, dir, auditName), errors.New("the sync failed")
		a.fail(cause)
		if err := a.Run(context.Background()); !errors.Is(err, ErrStopped) || !errors.Is(err, cause) {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, cause) {
			t.Error(err)
		}
		if string(read(t, dir, auditName)) != string(before) {
			t.Error("it was written")
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
}
