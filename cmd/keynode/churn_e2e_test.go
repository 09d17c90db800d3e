package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
	"keymesh/crypto/share"
	"keymesh/storage"
)

// churnSize is how many secrets are moved: KEYMESH_CHURN, or 40.
func churnSize(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("KEYMESH_CHURN"))
	if err != nil {
		return 40
	}
	t.Logf("%d secrets", n)
	return n
}

func churnValue(i int) []byte {
	return fmt.Appendf(nil, "value of secret %d: %s", i, strings.Repeat("x", 32))
}
func churnName(i int) string { return fmt.Sprintf("churn/%05d", i) }

// eachSecret does something with every secret, eight at a time.
func eachSecret(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var g sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		g.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && t.Context().Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					t.Errorf("secret %d: %v", i, err)
					return
				}
			}
		})
	}
	g.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// putChurn puts n secrets through node 1 and waits until all seats have them.
func putChurn(t *testing.T, c *cluster, n int) *client.Client {
	t.Helper()
	cl := c.client(1) // one for all: each has connections of its own
	eachSecret(t, n, func(i int) error {
		_, err := cl.Put(t.Context(), churnName(i), apitype.PutRequest{Value: churnValue(i)}, client.PutConditions{})
		return err
	})
	waitMargins(t, cl, n)
	return cl
}

// waitMargins waits until every secret has five good seats.
func waitMargins(t *testing.T, cl *client.Client, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	good := 0
	if err := poll(ctx, "five good seats of every secret", func() bool {
		good = 0
		for cursor := ""; ; {
			page, err := cl.List(ctx, client.ListOptions{Prefix: "churn/", Cursor: cursor, Limit: 1000})
			if err != nil {
				return false
			}
			for _, it := range page.Items {
				if it.Acked == 5 && it.Margin == 2 {
					good++
				}
			}
			if cursor = page.Next; cursor == "" {
				return good == n
			}
		}
	}); err != nil {
		t.Fatalf("%v: %d of %d", err, good, n)
	}
}

// waitMove waits for the end of a job and returns what it did.
func waitMove(t *testing.T, cl *client.Client, id string) (out apitype.MoveResult, seen int) {
	t.Helper()
	for {
		j, err := cl.Job(t.Context(), id, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if j.Progress != nil {
			seen = max(seen, j.Progress.Done)
		}
		if j.State == apitype.JobRunning {
			continue
		}
		if j.Problem != nil {
			t.Fatal(j.Problem)
		}
		if err := json.Unmarshal(j.Result, &out); err != nil {
			t.Fatal(err)
		}
		return out, seen
	}
}

// rowsOn is how many rows a node that is stopped has on its disk.
func rowsOn(t *testing.T, c *cluster, i int) int {
	t.Helper()
	id, err := loadIdentity(c.nodeDir(i), Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	defer id.Erase()
	db, err := storage.Open(c.nodeDir(i), (*[32]byte)(id.StorageKey), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return len(db.IDs(share.BucketRow)) + len(db.IDs(share.BucketPayload))
}

func peerID(t *testing.T, cl *client.Client, name string) string {
	t.Helper()
	peers, err := cl.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range peers {
		if p.Name == name {
			return p.Node
		}
	}
	t.Fatalf("no peer %s", name)
	return ""
}

// waitRevoked waits until a node has heard that another one was removed.
func waitRevoked(t *testing.T, c *cluster, i int, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := poll(ctx, fmt.Sprintf("node %d to hear of the removal", i), func() bool {
		peers, err := c.client(i).Peers(ctx)
		return err == nil && slices.ContainsFunc(peers, func(p apitype.Peer) bool { return p.Node == id && p.Revoked })
	}); err != nil {
		t.Fatal(err)
	}
}

// addNode makes one more node and waits for it.
func addNode(t *testing.T, c *cluster) int {
	t.Helper()
	addrs, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	c.addrs = append(c.addrs, addrs...)
	i := c.size()
	if err := c.join(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	if err := c.start(i); err != nil {
		t.Fatal(err)
	}
	if err := c.waitMesh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return i
}

// TestReplaceDead: a node is gone for good with its disk, and one command gives
// everything it held to a new one.
func TestReplaceDead(t *testing.T) {
	long(t)
	n := churnSize(t)
	c := testCluster(t, 5)
	cl := putChurn(t, c, n)
	old := peerID(t, cl, "node-5")
	if err := c.signal(5, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.nodeDir(5)); err != nil {
		t.Fatal(err)
	}
	addNode(t, c)
	j, err := cl.StartReplace(t.Context(), old, peerID(t, cl, "node-6"))
	if err != nil {
		t.Fatal(err)
	}
	out, seen := waitMove(t, cl, j.ID)
	if out.Moved != n || out.NotMoved != 0 || out.Exit != 0 || out.Bytes < int64(n*96) || seen == 0 {
		t.Fatalf("%+v, %d seen", out, seen)
	}
	t.Logf("%d seats moved, %d bytes, %.2f s", out.Moved, out.Bytes, out.Seconds)
	waitMargins(t, cl, n)
	eachSecret(t, n, func(i int) error {
		got, err := cl.Recover(t.Context(), churnName(i), apitype.RecoverRequest{})
		if err == nil && !bytes.Equal(got.Value, churnValue(i)) {
			err = fmt.Errorf("%d other bytes", len(got.Value))
		}
		return err
	})
	in, err := cl.Info(t.Context(), churnName(0))
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range in.Seats {
		if st.Node == old || st.State != "good" {
			t.Errorf("%+v", st)
		}
	}
	t.Logf("%s; %s", in.LosesIf.Words, in.StuckIf.Words)
	// Another one goes before anything was put again, and then everything is put.
	if _, err := cl.RemovePeer(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{1, 3, 4, 6} {
		waitRevoked(t, c, i, old)
	}
	if err := c.signal(2, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// A holder knows for a few seconds less than its node who was removed: a put is
	// in doubt until then.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last error
	if err := poll(ctx, "a put", func() bool {
		_, last = cl.Put(ctx, churnName(0), apitype.PutRequest{Value: churnValue(0)}, client.PutConditions{})
		return last == nil
	}); err != nil {
		t.Fatalf("%v: %v", err, last)
	}
	mustGet(t, cl, churnName(0), churnValue(0))
}

// TestDrainLive: a node of six is emptied while puts and gets run, and none of
// them fails.
func TestDrainLive(t *testing.T) {
	long(t)
	n := min(churnSize(t), 200)
	c := testCluster(t, 6)
	cl := putChurn(t, c, n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g sync.WaitGroup
	var puts, gets atomic.Int64
	load := func(count *atomic.Int64, do func(i int) error) {
		g.Go(func() {
			for i := 0; ctx.Err() == nil; i = (i + 7) % n {
				if err := do(i); err != nil {
					t.Errorf("after %d: secret %d: %v", count.Load(), i, err)
					return
				}
				count.Add(1)
			}
		})
	}
	load(&puts, func(i int) error {
		_, err := cl.Put(t.Context(), churnName(i), apitype.PutRequest{Value: churnValue(i)}, client.PutConditions{})
		return err
	})
	for range 2 {
		load(&gets, func(i int) error {
			got, err := cl.Recover(t.Context(), churnName(i), apitype.RecoverRequest{})
			if err == nil && !bytes.Equal(got.Value, churnValue(i)) {
				err = fmt.Errorf("%d other bytes", len(got.Value))
			}
			return err
		})
	}
	drained := peerID(t, cl, "node-3")
	j, err := cl.StartDrain(t.Context(), drained)
	if err != nil {
		t.Fatal(err)
	}
	out, _ := waitMove(t, cl, j.ID)
	cancel()
	g.Wait()
	t.Logf("%d seats moved, %d bytes, %.2f s; %d puts and %d gets meanwhile", out.Moved, out.Bytes, out.Seconds, puts.Load(), gets.Load())
	if out.NotMoved != 0 || puts.Load() == 0 || gets.Load() == 0 {
		t.Fatalf("%+v", out)
	}
	waitMargins(t, cl, n)
	if err := c.signal(3, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rows := rowsOn(t, c, 3); rows != 0 {
		t.Fatalf("%d rows and ciphertexts on the node that was drained", rows)
	}
}

// TestOldReturns: a node that was replaced comes back with its disk. It learns of
// it, deletes its rows and says so; once it is removed from the network nobody
// talks to it, and its owner sees in its status that it reaches nobody.
func TestOldReturns(t *testing.T) {
	if os.Getenv("KEYMESH_CHURN") == "" {
		t.Skip("takes a quarter of a minute; KEYMESH_CHURN=40 runs it, and the same in virtual time is TestMoveDead of package keystore")
	}
	const n = 8
	c := testCluster(t, 5)
	cl := putChurn(t, c, n)
	old := peerID(t, cl, "node-5")
	if err := c.signal(5, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	addNode(t, c)
	j, err := cl.StartReplace(t.Context(), old, peerID(t, cl, "node-6"))
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := waitMove(t, cl, j.ID); out.Moved != n {
		t.Fatalf("%+v", out)
	}
	if err := c.start(5); err != nil {
		t.Fatal(err)
	}
	back := c.client(5)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	start, left := time.Now(), 0
	if err := poll(ctx, "the old node to leave its seats", func() bool {
		page, err := back.Audit(ctx, nil, 100)
		left = 0
		for _, e := range page.Items {
			if e.Kind == "leave" {
				left++
			}
		}
		return err == nil && left == n
	}); err != nil {
		t.Fatalf("%v: %d", err, left)
	}
	t.Logf("it left its seats within %.1f s", time.Since(start).Seconds())
	if _, err := cl.RemovePeer(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := c.signal(5, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rows := rowsOn(t, c, 5); rows != 0 {
		t.Fatalf("%d rows and ciphertexts are left", rows)
	}
	if err := c.start(5); err != nil {
		t.Fatal(err)
	}
	// It was off when it was removed, and nobody tells it anything any more: it
	// sees that it is alone.
	var st apitype.Status
	if err := poll(ctx, "the old node to see that it is alone", func() bool {
		st, err = back.Status(ctx)
		return err == nil && st.Health != apitype.Healthy && st.Online == 1 && strings.Contains(fmt.Sprint(st.Reasons), "5 of 6 holders are not reachable")
	}); err != nil {
		t.Fatalf("%v; %+v", err, st)
	}
	t.Logf("%q", st.Reasons)
	peers, err := cl.Peers(ctx)
	if err != nil || slices.ContainsFunc(peers, func(p apitype.Peer) bool { return p.Node == old && p.Online }) {
		t.Errorf("%+v %v", peers, err)
	}
}
