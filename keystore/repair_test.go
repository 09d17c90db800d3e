package keystore

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// good waits until n seats are proven good.
func good(t *testing.T, f *fakeNet, p Person, name string, n int, within time.Duration) *Verified {
	t.Helper()
	var v *Verified
	for start := time.Now(); time.Since(start) <= within; time.Sleep(time.Minute) {
		var err error
		if v, err = f.up().Verify(context.Background(), p, name, 0); err == nil && v.Good == n {
			return v
		}
	}
	t.Fatalf("not %d good seats within %v: %+v", n, within, v)
	return nil
}

// A damaged row, a damaged ciphertext, a lost row, a lost ciphertext and a lost
// disk of a node that kept its key each heal alone.
func TestSelfRepair(t *testing.T) {
	long(t)
	for name, harm := range map[string]func(*fakeNode){
		"row damaged":        func(n *fakeNode) { n.flip(share.BucketRow) },
		"ciphertext damaged": func(n *fakeNode) { n.flip(share.BucketPayload) },
		"row lost":           func(n *fakeNode) { n.wipe(share.BucketRow) },
		"ciphertext lost":    func(n *fakeNode) { n.wipe(share.BucketPayload) },
		"both lost":          func(n *fakeNode) { n.wipe(share.BucketRow, share.BucketPayload) },
		"disk lost":          func(n *fakeNode) { n.wipe(share.BucketRow, share.BucketPayload, share.BucketState, share.BucketNode) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				n := f.nodes[4]
				n.stop()
				n.audit = &fakeAudit{}
				n.start()
				id := seatsOf5(t, f, p)
				before := n.shelf.dump(share.BucketRow, share.BucketPayload)
				for pl, v := range before {
					before[pl] = bytes.Clone(v)
				}
				harm(n)
				time.Sleep(30 * time.Hour) // nobody asks for anything
				after := n.shelf.dump(share.BucketRow, share.BucketPayload)
				if len(before) != 2 || len(after) != 2 {
					t.Fatalf("%d records and %d before", len(after), len(before))
				}
				for pl, v := range before {
					if !bytes.Equal(after[pl], v) {
						t.Fatalf("%+v is not what it was", pl)
					}
				}
				s := n.state(t, id)
				if s.committed == nil || s.kept != nil || len(s.pending) != 0 || n.audit.count("repair") == 0 {
					t.Fatalf("%+v %v", s, n.audit.kinds())
				}
				if v := mustVerify(t, f.nodes[0].store, p, "a"); v.Good != 5 {
					t.Fatalf("%+v", v)
				}
				mustGet(t, n.store, p, "a", []byte("v"))
			})
		})
	}
}

// Two that lost their disks at once are healed too, one after the other or
// together.
func TestSelfRepairTwo(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		seatsOf5(t, f, p)
		for _, n := range f.nodes[3:] {
			n.wipe(share.BucketRow, share.BucketPayload, share.BucketState)
		}
		good(t, f, p, "a", 5, 3*time.Hour)
	})
}

// Up to w-k helpers that lie change nothing, and are named and suspect.
func TestRepairLiars(t *testing.T) {
	bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{N: 7, K: 3, W: 5})
		settle(t, f, p, "a", put.Gen)
		for i, n := range f.nodes[1:3] {
			n.lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
				out, err := call()
				var r custody.RepairReply
				if verb != custody.VerbRepair || err != nil || key.Unmarshal(out, &r) != nil || len(r.Value) == 0 {
					return out, err
				}
				if r.Value[5] ^= 9; i == 0 {
					r.Value = r.Value[:31]
				}
				return key.Marshal(&r), nil
			})
		}
		n := f.nodes[6]
		n.stop()
		n.audit = &fakeAudit{}
		n.start()
		n.wipe(share.BucketRow)
		if v := good(t, f, p, "a", 7, 3*time.Hour); v == nil {
			return
		}
		for i, other := range f.nodes[:6] {
			if lies := i == 1 || i == 2; lies != (n.suspects(t, put.ID, other) != "") {
				t.Errorf("%s: %q", other.member.Name, n.suspects(t, put.ID, other))
			}
		}
		if n.audit.count("suspect") != 2 || n.audit.count("repair") != 1 {
			t.Errorf("%v", n.audit.kinds())
		}
	})
}

// What is nobody's to have is refused and in the audit log; it is not repeated
// there for ever.
func TestRepairRefused(t *testing.T) {
	bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
		helper := f.nodes[0]
		helper.stop()
		helper.audit = &fakeAudit{}
		helper.start()
		seats := []key.NodeID{}
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		put := mustPut(t, helper.store, p, "a", []byte("v"), PutOptions{Holders: seats})
		settle(t, f, p, "a", put.Gen)
		e := helper.state(t, put.ID).committed
		x := func(i int) uint8 { return e.SeatOf(f.nodes[i].id).X }
		unused := uint8(1)
		for e.SeatAt(unused) != nil {
			unused++
		}
		good := custody.Repair{ID: put.ID, Manifest: e.Hash, X: x(1)}
		ask := func(from *fakeNode, q custody.Repair) *custody.RepairReply {
			out, err := helper.store.Answer(context.Background(), from.id, custody.VerbRepair, key.Marshal(&q))
			r := new(custody.RepairReply)
			if err != nil || key.Unmarshal(out, r) != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := ask(f.nodes[1], good); r.Outcome != custody.OK || len(r.Value) != 32 || helper.audit.count("help") != 1 {
			t.Fatalf("%+v", r)
		}
		edit := func(f func(*custody.Repair)) custody.Repair { q := good; f(&q); return q }
		for name, a := range map[string]struct {
			from   *fakeNode
			q      custody.Repair
			logged bool
		}{
			"x = 0":                   {f.nodes[1], edit(func(q *custody.Repair) { q.X = 0 }), true},
			"an x that is no seat":    {f.nodes[1], edit(func(q *custody.Repair) { q.X = unused }), true},
			"another's seat":          {f.nodes[1], edit(func(q *custody.Repair) { q.X = x(2) }), true},
			"the helper's own":        {f.nodes[1], edit(func(q *custody.Repair) { q.X = x(0) }), true},
			"its own to itself":       {helper, edit(func(q *custody.Repair) { q.X = x(0) }), true},
			"a stranger":              {f.nodes[5], good, true},
			"a stranger's ciphertext": {f.nodes[5], edit(func(q *custody.Repair) { q.Payload, q.X = true, x(2) }), true},
			"another epoch":           {f.nodes[1], edit(func(q *custody.Repair) { q.Epoch = 1 }), false},
			"another manifest":        {f.nodes[1], edit(func(q *custody.Repair) { q.Manifest[1] ^= 1 }), false},
			"another secret":          {f.nodes[1], edit(func(q *custody.Repair) { q.ID[1] ^= 1 }), false},
		} {
			was := helper.audit.count("refuse")
			r := ask(a.from, a.q)
			if r.Outcome != custody.Refused || len(r.Value)+len(r.Payload) != 0 {
				t.Errorf("%s: %+v", name, r)
			}
			if now := helper.audit.count("refuse"); (now > was) != a.logged {
				t.Errorf("%s: %d entries more", name, now-was)
			}
			for range 50 {
				ask(a.from, a.q)
			}
			if now := helper.audit.count("refuse"); now > was+1 {
				t.Errorf("%s: %d entries of one thing", name, now-was)
			}
		}
		if n := helper.audit.count("help"); n != 1 {
			t.Errorf("%d values went out", n)
		}
	})
}

// tapped records what goes over the wire.
type tapped struct {
	mu   sync.Mutex
	msgs [][]byte
}

func (f *fakeNet) record() *tapped {
	tp := &tapped{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tap = func(_, _ key.NodeID, _ uint64, body []byte) {
		tp.mu.Lock()
		defer tp.mu.Unlock()
		tp.msgs = append(tp.msgs, bytes.Clone(body))
	}
	return tp
}

// never are the byte strings that must not be seen anywhere while a seat is
// repaired: the data key, each share P(x), every share weighted for 0 in any k
// of the seats, each vector of each row, and the value.
func never(t *testing.T, f *fakeNet, id key.Hash, value []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"the value": value}
	var xs []byte
	var shares []shamir.Share
	var k int
	for _, n := range f.nodes {
		e := n.state(t, id).committed
		if e == nil || !e.row {
			continue
		}
		b, err := n.up().cust.loadRow(e)
		if err != nil {
			t.Fatal(err)
		}
		k = int(e.K)
		for v := range k {
			out["vector "+string(rune('0'+v))+" of "+n.member.Name] = b[32*v : 32*v+32]
		}
		xs, shares = append(xs, e.x), append(shares, shamir.Share{X: e.x, Y: b[:32]})
	}
	dk, err := shamir.Combine(shares[:k])
	if err != nil {
		t.Fatal(err)
	}
	out["the data key"] = dk
	var pick func(from int, at []int)
	pick = func(from int, at []int) {
		if len(at) == k {
			var px []byte
			for _, i := range at {
				px = append(px, xs[i])
			}
			w, err := shamir.Weights(px, 0)
			if err != nil {
				t.Fatal(err)
			}
			for j, i := range at {
				unit := make([][]byte, k)
				for u := range unit {
					unit[u] = make([]byte, 32)
				}
				unit[j] = shares[i].Y
				v, err := shamir.Apply(w, unit)
				if err != nil {
					t.Fatal(err)
				}
				out["a weighted share "+string(px)+string(rune(j))] = v
			}
			return
		}
		for i := from; i < len(xs); i++ {
			pick(i+1, append(append([]int{}, at...), i))
		}
	}
	pick(0, nil)
	return out
}

// A tap on every wire and disk sees neither the secret nor a share nor a row
// while a seat is repaired, and no more than one value of each helper.
func TestRepairTapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 5)
		p := newPerson()
		value := []byte("a value that nobody may see")
		put := mustPut(t, f.nodes[0].store, p, "a", value, PutOptions{})
		settle(t, f, p, "a", put.Gen)
		secret := never(t, f, put.ID, value)
		if len(secret) != 1+15+1+30 {
			t.Fatalf("%d things to look for", len(secret))
		}
		f.nodes[4].wipe(share.BucketRow, share.BucketPayload, share.BucketState)
		tp := f.record()
		time.Sleep(3 * time.Hour)
		if s := f.nodes[4].state(t, put.ID); s.committed == nil || !s.committed.row {
			t.Fatal("not repaired")
		}
		values := 0
		for _, m := range tp.msgs {
			for what, b := range secret {
				if bytes.Contains(m, b) {
					t.Fatalf("%s is on the wire", strings.Trim(what, "\x00"))
				}
			}
			var r custody.RepairReply
			if key.Unmarshal(m, &r) == nil && len(r.Value) > 0 {
				values++
			}
		}
		if values < 3 || values > 4 {
			t.Fatalf("%d values went over the wire", values)
		}
		for _, n := range f.nodes {
			for pl, b := range n.shelf.dump() {
				for what, s := range secret {
					own := pl.Bucket == share.BucketRow && strings.HasPrefix(what, "vector") && strings.HasSuffix(what, n.member.Name)
					if bytes.Contains(b, s) && !own && !(pl.Bucket == share.BucketRow && what[0] == 'a') {
						t.Fatalf("%s is on the disk of %s in bucket %d", what, n.member.Name, pl.Bucket)
					}
				}
			}
		}
	})
}

// The budget of an hour holds, and what is left over is repaired later.
func TestRepairBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget{seats: 3, bytes: 100}
		time.Sleep(time.Second)
		for i, c := range []struct {
			size int64
			ok   bool
		}{{500, true}, {1, false}} {
			if b.spend(c.size) != c.ok {
				t.Fatal(i)
			}
		}
		time.Sleep(time.Hour)
		for i, c := range []struct {
			size int64
			ok   bool
		}{{40, true}, {40, true}, {40, false}, {20, true}, {0, false}} {
			if b.spend(c.size) != c.ok {
				t.Fatal(i)
			}
		}
	})
}

// A paused node repairs nothing and still helps.
func TestRepairPaused(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		seatsOf5(t, f, p)
		f.nodes[4].wipe(share.BucketRow)
		f.nodes[4].store.PauseRepair(context.Background(), true)
		f.nodes[0].store.PauseRepair(context.Background(), true)
		time.Sleep(3 * time.Hour)
		if n := f.nodes[4].shelf.count(share.BucketRow); n != 0 {
			t.Fatal("repaired while paused")
		}
		f.nodes[4].store.PauseRepair(context.Background(), false)
		good(t, f, p, "a", 5, 3*time.Hour)
	})
}
