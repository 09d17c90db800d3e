package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

func auditKey() *[32]byte { return (*[32]byte)(bytes.Repeat([]byte{0x5c}, 32)) }

func auditNet() key.NetworkID { return key.NetworkID(bytes.Repeat([]byte{0x77}, 32)) }

// auditNode is the key of node i; the logs of these tests are node 0's.
func auditNode(i byte) key.NodePrivate {
	n, err := key.NodeFromSeed(bytes.Repeat([]byte{0x10 + i}, 32))
	if err != nil {
		panic(err)
	}
	return n
}

// newAudit makes an empty log and returns its directory.
func newAudit(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := CreateAudit(dir, auditKey(), auditNet(), auditNode(0).ID()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openAudit opens and runs a log until the test ends or stop is called.
func openAudit(t testing.TB, dir string, rotate int64) (a *Audit, stop func()) {
	t.Helper()
	a, err := OpenAudit(dir, auditKey(), AuditOptions{rotate: rotate})
	if err != nil {
		t.Fatal(err)
	}
	return a, runAudit(t, a)
}

func runAudit(t testing.TB, a *Audit) (stop func()) {
	ran := make(chan error, 1)
	go func() { ran <- a.Run(context.Background()) }()
	stop = sync.OnceFunc(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		// Close may come before Run.
		if err := <-ran; err != nil && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrRunning) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// auditEntry is the n-th entry of these tests, with every field.
func auditEntry(n uint64) AuditEntry {
	p, err := key.PersonFromSeed(bytes.Repeat([]byte{0x01}, 32))
	if err != nil {
		panic(err)
	}
	return AuditEntry{
		Time: 1760000000 + n, Kind: "release", ID: key.Hash{1, byte(n)}, Person: p.Public().String(),
		Node: auditNode(1).ID().String(), Request: key.Hash{2, byte(n)},
		Detail: fmt.Sprintf("entry %d, grüße", n), RequestID: "req-1",
	}
}

// fill appends entries until the log has n, one group each.
func fillAudit(t testing.TB, a *Audit, n uint64) {
	t.Helper()
	h := headOf(t, a)
	for seq := h.Seq + 1; seq <= n; seq++ {
		got, err := a.Append(context.Background(), auditEntry(seq))
		if err != nil || got != seq {
			t.Fatalf("entry %d: %d, %v", seq, got, err)
		}
	}
}

func headOf(t testing.TB, a *Audit) share.AuditHead {
	t.Helper()
	h, err := a.Head()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// verifyAudit demands that the log is in order.
func verifyAudit(t testing.TB, a *Audit) {
	t.Helper()
	if err := a.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestAuditKeepsWhatWasAppended(t *testing.T) {
	for _, rotate := range []int64{0, 1, 2000} {
		dir := newAudit(t)
		for n := uint64(7); n <= 21; n += 7 {
			a, stop := openAudit(t, dir, rotate)
			fillAudit(t, a, n)
			verifyAudit(t, a)
			wantEntries(t, a, n)
			stop()
		}
	}
}

// wantEntries reads all entries, from each place and with each limit.
func wantEntries(t *testing.T, a *Audit, n uint64) {
	t.Helper()
	h := headOf(t, a)
	if h.Seq != n || h.Node != auditNode(0).ID() {
		t.Fatalf("the head is %+v", h)
	}
	prev := chainStart(a.net, a.node, a.id)
	for since := range n + 2 {
		for _, limit := range []int{1, 3, 2000} {
			got, err := a.Tail(context.Background(), since, limit)
			if err != nil {
				t.Fatal(err)
			}
			if want := min(uint64(limit), n-min(since, n)); uint64(len(got)) != want {
				t.Fatalf("%d entries after %d instead of %d", len(got), since, want)
			}
			for i, e := range got {
				want := auditEntry(since + 1 + uint64(i))
				want.Seq, want.Prev, want.Hash = since+1+uint64(i), e.Prev, e.Hash
				if e != want || i == 0 && limit == 1 && e.Prev != prev {
					t.Fatalf("entry %d is %+v", want.Seq, e)
				}
			}
			if limit == 1 && len(got) == 1 {
				prev = got[0].Hash
			}
		}
	}
	if prev != h.Hash {
		t.Fatal("the head has another hash than the last entry")
	}
}

func TestAuditOfManyWriters(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 20000)
	var wg sync.WaitGroup
	var mu sync.Mutex
	said := map[uint64]string{}
	for i := range 32 {
		wg.Go(func() {
			for j := range 20 {
				e := auditEntry(1)
				e.Detail = fmt.Sprintf("writer %d, %d", i, j)
				seq, err := a.Append(context.Background(), e)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				said[seq] = e.Detail
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	stop()
	a, _ = openAudit(t, dir, 0)
	verifyAudit(t, a)
	got, err := a.Tail(context.Background(), 0, 1000)
	if err != nil || len(got) != 640 || len(said) != 640 {
		t.Fatal(len(got), len(said), err)
	}
	for _, e := range got {
		if said[e.Seq] != e.Detail {
			t.Fatalf("entry %d is %q and not %q", e.Seq, e.Detail, said[e.Seq])
		}
	}
	if len(a.segs) < 3 {
		t.Fatal("no segment was closed")
	}
}
