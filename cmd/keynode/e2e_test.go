package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// asDaemon makes the test binary be keynode, so that the clusters of these
// tests are real processes of the code under test.
const asDaemon = "KEYNODE_TEST_BINARY_IS_THE_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" && !slices.Contains(os.Args, "-test.fuzzworker") {
		if err := harden(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Setenv(asDaemon, "1")
	os.Exit(m.Run())
}

// testCluster runs n nodes in a directory short enough for unix sockets.
func testCluster(t *testing.T, n int) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "km")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := freeAddrs(n)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCluster(dir, addrs, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stopAll(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			c.dumpLogs(t)
		}
		os.RemoveAll(dir)
	})
	if err := c.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) dumpLogs(t *testing.T) {
	for i := 1; i <= c.size(); i++ {
		b, _ := os.ReadFile(filepath.Join(c.nodeDir(i), "log"))
		t.Logf("log of node %d, its end:\n%s", i, b[max(0, len(b)-4000):])
	}
}

func put(t *testing.T, c *client.Client, name string, value []byte) apitype.PutResult {
	t.Helper()
	res, err := c.Put(t.Context(), name, apitype.PutRequest{Value: value}, client.PutConditions{})
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return res
}

func waitAcked(t *testing.T, c *client.Client, name string, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last apitype.Info
	if err := poll(ctx, "all seats of "+name, func() bool {
		var err error
		last, err = c.Info(ctx, name)
		return err == nil && last.Acked == want
	}); err != nil {
		t.Fatalf("%v; last: %+v", err, last)
	}
}

func mustGet(t *testing.T, c *client.Client, name string, want []byte) {
	t.Helper()
	got, err := c.Recover(t.Context(), name, apitype.RecoverRequest{})
	if err != nil {
		t.Fatalf("recover %s: %v", name, err)
	}
	if !bytes.Equal(got.Value, want) {
		t.Fatalf("recover %s: %d other bytes than the %d stored", name, len(got.Value), len(want))
	}
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := runDemo(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"five nodes", "stored", "killed node 4", "recovered the same 32 bytes", "refused, as it must be", "every step held"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out.String())
		}
	}
}

// TestFiveNodes is the life of a mesh of five processes, in order; the steps
// build on one another.
func TestFiveNodes(t *testing.T) {
	c := testCluster(t, 5)
	t.Run("sizes", func(t *testing.T) { testSizes(t, c) })
	t.Run("no trace", func(t *testing.T) { testNoTrace(t, c) })
	t.Run("two dead, three dead, back", func(t *testing.T) { testDeaths(t, c) })
	t.Run("all killed during puts", func(t *testing.T) { testKillAllDuringPuts(t, c) })
}

func testSizes(t *testing.T, c *cluster) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	values := map[string][]byte{"empty": {}, "one": {0}, "all-bytes": all, "64k": make([]byte, 64<<10), "max": make([]byte, apitype.MaxValue)}
	for name, v := range values {
		if name == "64k" || name == "max" {
			rand.Read(v)
		}
		put(t, c.client(1), "sizes/"+name, v)
		mustGet(t, c.client(1), "sizes/"+name, v)
	}
	var p *apitype.Problem
	_, err := c.client(1).Put(t.Context(), "sizes/too-large", apitype.PutRequest{Value: make([]byte, apitype.MaxValue+1)}, client.PutConditions{})
	if !errors.As(err, &p) || p.Status != 413 {
		t.Fatalf("one byte more: %v", err)
	}
	if _, err := c.client(1).Info(t.Context(), "sizes/too-large"); apitype.ExitCode(err) != apitype.ExitNotFound {
		t.Fatalf("what was refused is there: %v", err)
	}
}

// testNoTrace looks for a secret and its name in every file of every node, and
// in the environment and command line of every process.
func testNoTrace(t *testing.T, c *cluster) {
	raw := make([]byte, 30)
	rand.Read(raw)
	secret := []byte("MARKER-" + hex.EncodeToString(raw))
	name := "marker/" + hex.EncodeToString(raw[:8])
	put(t, c.client(1), name, secret)
	waitAcked(t, c.client(1), name, 5)
	mustGet(t, c.client(1), name, secret)
	needles := append(forms(secret), forms([]byte(name))...)
	files := 0
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		lookFor(t, path, b, needles)
		return nil
	})
	if err != nil || files < 5*3 {
		t.Fatalf("looked through %d files: %v", files, err)
	}
	for i := 1; i <= c.size(); i++ {
		pid := c.children[i].cmd.Process.Pid
		for _, what := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, what))
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				t.Fatal(err)
			}
			lookFor(t, what, b, needles)
		}
	}
	// The check of the check: the needles are found where they are.
	found := false
	for _, n := range needles {
		found = found || bytes.Contains([]byte("x"+base64.StdEncoding.EncodeToString(append([]byte("ab"), secret...))), n)
	}
	if !found {
		t.Fatal("the search would not find the secret in base64")
	}
}

// forms are the ways in which b could stand in a file: as it is, as hex, and as
// base64 at each of the three alignments.
func forms(b []byte) [][]byte {
	out := [][]byte{b, []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b)))}
	for shift := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			s := enc.EncodeToString(append(make([]byte, shift), b...))
			out = append(out, []byte(s[4:len(s)-4]))
		}
	}
	return out
}

func lookFor(t *testing.T, where string, b []byte, needles [][]byte) {
	t.Helper()
	for _, n := range needles {
		if bytes.Contains(b, n) {
			t.Errorf("%s holds %q", where, n)
		}
	}
}

func testDeaths(t *testing.T, c *cluster) {
	secret := []byte("deaths")
	put(t, c.client(2), "deaths", secret)
	waitAcked(t, c.client(2), "deaths", 5)
	kill := func(i int) {
		if err := c.signal(i, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	kill(1) // the bootstrap node
	kill(4)
	mustGet(t, c.client(2), "deaths", secret)
	kill(5)
	_, err := c.client(2).Recover(t.Context(), "deaths", apitype.RecoverRequest{})
	var p *apitype.Problem
	if apitype.ExitCode(err) != apitype.ExitQuorum || !errors.As(err, &p) {
		t.Fatalf("three dead: %v", err)
	}
	named := map[string]bool{}
	for _, peer := range p.Peers {
		if peer.State == "unreachable" {
			named[peer.Name] = true
		}
	}
	if !named["node-1"] || !named["node-4"] || !named["node-5"] || len(named) != 3 {
		t.Errorf("named as missing: %v", named)
	}
	// Without the bootstrap node: the others are in the book.
	if err := c.start(5); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, 2, "deaths", secret)
	for _, i := range []int{4, 1} {
		if err := c.start(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.waitMesh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// eventually recovers within 30 s.
func eventually(t *testing.T, c *cluster, i int, name string, want []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last error
	if err := poll(ctx, "recovery of "+name, func() bool {
		got, err := c.client(i).Recover(ctx, name, apitype.RecoverRequest{})
		last = err
		return err == nil && bytes.Equal(got.Value, want)
	}); err != nil {
		t.Fatalf("%v; last: %v", err, last)
	}
}

// testKillAllDuringPuts kills all five in the middle of a hundred puts; what
// had been acknowledged must be there after the restart.
func testKillAllDuringPuts(t *testing.T, c *cluster) {
	var mu sync.Mutex
	acked := map[string][]byte{}
	var wg sync.WaitGroup
	reached := make(chan struct{}) // closed at the fortieth acknowledgement
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				name, v := fmt.Sprintf("burst/%d-%d", w, i), []byte(rand.Text())
				if _, err := c.client(3).Put(t.Context(), name, apitype.PutRequest{Value: v}, client.PutConditions{}); err != nil {
					continue
				}
				mu.Lock()
				acked[name] = v
				if len(acked) == 40 {
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	<-reached
	var kills sync.WaitGroup
	for i := 1; i <= c.size(); i++ {
		kills.Go(func() { _ = c.signal(i, syscall.SIGKILL) })
	}
	kills.Wait()
	wg.Wait()
	for _, i := range []int{2, 5, 3, 1, 4} {
		if err := c.start(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.waitMesh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, v := range acked {
		mustGet(t, c.client(3), name, v)
	}
	t.Logf("%d puts were acknowledged before the kill; all are there", len(acked))
}

// long leaves a test out where -short asks for it, as with the race detector:
// its processes share two cores.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}
