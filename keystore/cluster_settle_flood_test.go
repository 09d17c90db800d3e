package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// inventedBy is a manifest of a person that was made up, on the seats of base,
// with the manifests before it.
func inventedBy(t *testing.T, f *fakeNet, base share.Manifest, before, padding int) (m key.Object, shown [][]byte) {
	t.Helper()
	q := newPerson()
	base.Owner, base.Gen = q.Key.Public(), uint64(before+1)
	base.Salt = key.T("keymesh/v1/x", base.Owner[:])
	base.ID = share.ID(base.Owner, base.Salt)
	if padding > 0 {
		base.Ext = map[uint64][]byte{1: make([]byte, padding)}
	}
	sign := func(m share.Manifest) key.Object {
		o, err := share.SignManifest(q.Key, f.id, m)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, o.Bytes())
		return o.Object
	}
	top := base
	for i := range before {
		b := base
		b.Gen = uint64(i + 1)
		o := sign(b)
		if i == 0 {
			top.Prev = o.Hash(f.id)
		} else {
			top.Force = append(top.Force, o.Hash(f.id))
		}
	}
	return sign(top), shown[:before]
}

func (n *fakeNode) settleFrom(t *testing.T, from key.NodeID, q *custody.Settle) *custody.SettleReply {
	t.Helper()
	out, err := n.store.Answer(context.Background(), from, custody.VerbSettle, key.Marshal(q))
	r := new(custody.SettleReply)
	if err != nil || key.Unmarshal(out, r) != nil {
		t.Fatal(err)
	}
	return r
}

func (n *fakeNode) usage(operator string) usage {
	x := n.store.cust.index
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.used[payer{operator: operator}]
}

// TestSettleFlood: manifests of persons that were made up make nobody ask
// anybody and are remembered nowhere; where a member signs that it has promised
// them, that member's operator has a pool for them, and no honest one pays.
func TestSettleFlood(t *testing.T) {
	for _, signs := range []bool{false, true} {
		t.Run(fmt.Sprint("promised=", signs), func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
				settle(t, f, p, "a", put.Gen)
				base := f.nodes[0].state(t, put.ID).committed.Manifest
				evil := f.nodes[4] // of op5
				was := map[string]usage{}
				for i := range 5 {
					was[fmt.Sprint("op", i+1)] = f.nodes[1].usage(fmt.Sprint("op", i+1))
				}
				before := f.count(custody.VerbSettle)
				const flood = 20
				for range flood {
					m, _ := inventedBy(t, f, base, 0, 0)
					q := &custody.Settle{Manifest: m.Encode()}
					want := uint8(custody.Refused)
					if signs {
						q.Promised, want = [][]byte{evil.sign(key.TypePrepared, q.Manifest)}, custody.Wait
					}
					if r := f.nodes[0].settleFrom(t, evil.id, q); r.Outcome != want {
						t.Fatalf("%+v", r)
					}
				}
				time.Sleep(3 * time.Hour)
				calls := f.count(custody.VerbSettle) - before
				if !signs && calls != 0 || signs && (calls == 0 || calls > flood*400) {
					t.Errorf("%d calls to settle", calls)
				}
				for _, n := range f.nodes[:4] {
					for op, u := range was {
						if now := n.usage(op); now.records > u.records {
							t.Errorf("%s has %d records more on the account of %s", n.member.Name, now.records-u.records, op)
						}
					}
					if u := n.usage(poolSettling + "op5"); !signs && u.records != 0 || signs && u.records > flood {
						t.Errorf("%s has %d records", n.member.Name, u.records)
					}
					if x := n.store.cust.settles; x.strange != 0 || len(x.of) != 0 || x.bytes != 0 {
						t.Errorf("%d are in mind, %v, %d bytes", x.strange, x.of, x.bytes)
					}
				}
			})
		})
	}
}

// TestSettlePromisedByWhom: only a Prepared of this very manifest by a member
// that is asked makes a node answer that has nothing of the secret.
func TestSettlePromisedByWhom(t *testing.T) {
	bubble(t, 6, func(t *testing.T, f *fakeNet, p Person) {
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: ids(f.nodes[:5])})
		settle(t, f, p, "a", put.Gen)
		base := f.nodes[0].state(t, put.ID).committed.Manifest
		stranger := key.GenerateNode()
		base.Seats = slices.Clone(base.Seats) // the nodes have this very slice
		base.Seats[3].Node = stranger.ID()
		m, _ := inventedBy(t, f, base, 0, 0)
		other, _ := inventedBy(t, f, base, 0, 0)
		holder := f.node(base.Seats[0].Node)
		evil := f.node(base.Seats[1].Node)
		wrong := evil.sign(key.TypePrepared, m.Encode())
		wrong[len(wrong)-1] ^= 1
		for name, c := range map[string]struct {
			word []byte
			want uint8
		}{
			"nothing":          {nil, custody.Refused},
			"another manifest": {evil.sign(key.TypePrepared, other.Encode()), custody.Refused},
			"a Refused":        {evil.sign(key.TypeRefused, m.Encode()), custody.Refused},
			"forged":           {wrong, custody.Refused},
			"garbage":          {[]byte("x"), custody.Refused},
			"a stranger": {share.SignReceipt(stranger, f.id, key.TypePrepared, share.Receipt{
				Manifest: m.Hash(f.id), X: base.Seats[3].X, Time: unix(),
			}).Encode(), custody.Refused},
			"a member without a seat": {f.nodes[5].sign(key.TypePrepared, m.Encode()), custody.Refused},
			"a member":                {evil.sign(key.TypePrepared, m.Encode()), custody.Wait},
		} {
			q := &custody.Settle{Manifest: m.Encode(), Promised: [][]byte{c.word}}
			if r := holder.settleFrom(t, evil.id, q); r.Outcome != c.want {
				t.Errorf("%s: %d %s", name, r.Outcome, r.Why)
			}
		}
		if r := holder.settleFrom(t, evil.id, &custody.Settle{Manifest: m.Encode(), Promised: make([][]byte, custody.MaxPromised+1)}); r.Outcome != custody.Refused {
			t.Errorf("too many: %+v", r)
		}
	})
}

// TestSettleMemory: what one operator's nodes have others settle is bounded in
// number and bytes, and leaves room and turns for the others'.
func TestSettleMemory(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", put.Gen)
		base := f.nodes[0].state(t, put.ID).committed.Manifest
		x := f.nodes[0].store.cust.settles
		evil, good := f.nodes[4], f.nodes[3]
		send := func(from *fakeNode, before, padding int) {
			m, shown := inventedBy(t, f, base, before, padding)
			f.nodes[0].settleFrom(t, from.id, &custody.Settle{
				Manifest: m.Encode(), Before: shown, Promised: [][]byte{from.sign(key.TypePrepared, m.Encode())},
			})
		}
		for range 150 {
			send(evil, 9, 4000) // about 45 KiB each
		}
		used := func(op string) inMind {
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.of[op]
		}
		if u := used("op5"); u.bytes > maxShownOne || u.bytes < maxShownOne/2 || x.bytes != u.bytes {
			t.Errorf("%+v of %d bytes", u, x.bytes)
		}
		for range maxOfOne + 20 {
			send(f.nodes[2], 0, 0)
		}
		if u := used("op3"); u.items != maxOfOne {
			t.Errorf("%+v", u)
		}
		send(good, 1, 100)
		if u := used("op4"); u.items != 1 || u.bytes == 0 {
			t.Errorf("no room for another's: %+v", u)
		}
		time.Sleep(settleGrace - time.Second)
		x.mu.Lock()
		for k := range x.items {
			x.items[k].next = time.Now() // all at once
		}
		x.mu.Unlock()
		due, turn := x.due(), map[string]int{}
		x.mu.Lock()
		for k := range due {
			turn[x.items[k].by]++
		}
		x.mu.Unlock()
		if turn["op5"] > settleOfOne || turn["op3"] > settleOfOne || turn["op4"] != 1 {
			t.Errorf("a turn: %v", turn)
		}
	})
}

// TestSettleHelpIsLogged: a value that a seat gives while settling is in its
// audit log before it leaves, once, and does not leave when the log is broken.
func TestSettleHelpIsLogged(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w := f.client("writer")
		helper := f.nodes[0]
		helper.stop()
		helper.audit = &fakeAudit{}
		helper.start()
		f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:3]})
		vanish(t, w, p, "s", []byte("new"), PutOptions{})
		h, _ := helper.store.secret(p, "s")
		e := helper.state(t, h.id).pending[0]
		q := &custody.Settle{Manifest: e.Bytes(), Help: true}
		helper.audit.breaks(errors.New("broken"))
		if r := helper.settleFrom(t, f.nodes[4].id, q); len(r.Help) != 0 {
			t.Error("a value without an entry")
		}
		helper.audit.breaks(nil)
		for range 20 {
			if r := helper.settleFrom(t, f.nodes[4].id, q); len(r.Help) != share.DataKeySize {
				t.Errorf("%+v", r)
			}
		}
		if n := helper.audit.count("help"); n != 1 {
			t.Errorf("%d entries of 20 values to one seat", n)
		}
		if r := helper.settleFrom(t, f.nodes[3].id, q); len(r.Help) == 0 || helper.audit.count("help") != 2 {
			t.Error("another seat's value is not in the log")
		}
	})
}

// TestHelpIsLoggedOncePerHour: a seat that asks for its values again and again
// fills nobody's audit log.
func TestHelpIsLoggedOncePerHour(t *testing.T) {
	gone5(t, func(t *testing.T, f *fakeNet, p Person, put PutResult) {
		v := f.nodes[0]
		v.stop()
		v.audit = &fakeAudit{}
		v.start()
		e := v.state(t, put.ID).committed
		ask := func(n *fakeNode) *custody.RepairReply {
			out, err := v.store.Answer(context.Background(), n.id, custody.VerbRepair, key.Marshal(&custody.Repair{ID: put.ID, Manifest: put.Manifest, X: e.SeatOf(n.id).X}))
			r := new(custody.RepairReply)
			if err != nil || key.Unmarshal(out, r) != nil || r.Outcome != custody.OK {
				t.Fatal(err, r)
			}
			return r
		}
		first := ask(f.nodes[1])
		for range 500 {
			if r := ask(f.nodes[1]); !bytes.Equal(r.Value, first.Value) {
				t.Fatal("not the same value")
			}
		}
		ask(f.nodes[2])
		if n := v.audit.count("help"); n != 2 {
			t.Errorf("%d entries of two seats", n)
		}
		time.Sleep(helpAgain)
		ask(f.nodes[1])
		if n := v.audit.count("help"); n != 3 {
			t.Errorf("%d entries an hour later", n)
		}
	})
}

// TestPassedOnQuota: a seat that was away at the put has it from
// others, and it is none of theirs.
func TestPassedOnQuota(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		f.nodes[4].stop()
		put := mustPut(t, f.nodes[0].store, p, "a", make([]byte, 1<<18), PutOptions{Holders: ids(f.nodes[:5])})
		time.Sleep(time.Minute)
		f.nodes[0].stop()
		f.nodes[4].start()
		time.Sleep(3 * time.Hour)
		if e := f.nodes[4].state(t, put.ID).committed; e == nil || !e.row || e.operator != poolPassed {
			t.Fatalf("%+v", e)
		}
		for i := range 5 {
			if u := f.nodes[4].usage(fmt.Sprint("op", i+1)); u != (usage{}) {
				t.Errorf("op%d pays %+v", i+1, u)
			}
		}
		if u := f.nodes[4].usage(poolPassed); u.secrets != 1 || u.records != 1 || u.bytes < 1<<18 {
			t.Errorf("%+v", u)
		}
		if u := f.nodes[3].usage("op1"); u.secrets != 1 || f.nodes[3].usage(poolPassed) != (usage{}) {
			t.Errorf("who got the PREPARE: %+v", u)
		}
		mustPut(t, f.nodes[1].store, p, "a", []byte("next"), PutOptions{})
		time.Sleep(time.Minute)
		if u := f.nodes[4].usage(poolPassed); u.secrets != 0 || f.nodes[4].usage("op2").secrets != 1 {
			t.Errorf("after the next put: %+v", u)
		}
	})
}

// TestUnsignedWordsFade: what a node said of manifests of which it has nothing
// goes a day later with its record, and what it signed stays.
func TestUnsignedWordsFade(t *testing.T) {
	m := newHMesh(t, 5, Limits{})
	n, now := m.nodes[1], unix()
	records := func() int { return n.index.used[payer{operator: poolSettling + "op0"}].records }
	say := func(w *hWorld, state uint8, at uint64) {
		d := w.deal(t, hSpec{gen: 1, k: 3, seats: []int{0, 1, 2, 3, 4}})
		f := n.facts(m.nodes[0].self)
		f.now = at
		_, _, _, err := n.step(context.Background(), d.ID, f, func(s *secretState, f holderFacts) stepResult {
			q := w.asked(d)
			q.shown = promiser{true, "op0"}
			r := s.settleWord(f, q)
			if state == markRefused {
				r = r.next.settleRefuse(f, w.sPoll(d, nil, nil, []int{1, 2, 3}, nil))
			}
			return r
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	old, young, signed := m.secret("old"), m.secret("young"), m.secret("signed")
	say(old, markNone, now-markLife)
	say(young, markNone, now)
	say(signed, markRefused, now-30*markLife)
	if records() != 3 {
		t.Fatalf("%d records", records())
	}
	faded := n.index.faded(now - markLife)
	if len(faded) != 1 || faded[0] != old.id {
		t.Fatalf("%d to be forgotten", len(faded))
	}
	for _, w := range []*hWorld{old, young, signed} { // the step looks for itself
		if _, _, _, err := n.step(context.Background(), w.id, n.facts(n.self), (*secretState).fade); err != nil {
			t.Fatal(err)
		}
	}
	left := n.shelf.IDs(share.BucketState)
	if records() != 2 || len(left) != 2 || slices.Contains(left, old.id) || len(n.index.faded(now)) != 1 {
		t.Errorf("%d records, %d on disk", records(), len(left))
	}
	if s, err := n.peek(context.Background(), old.id); err != nil || !s.blank() || !s.owner.IsZero() {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := n.peek(context.Background(), signed.id); err != nil || len(s.marks) != 1 || s.marks[0].State != markRefused {
		t.Errorf("%+v %v", s, err)
	}
	say(old, markNone, now) // and it may come again
	if records() != 3 {
		t.Errorf("%d records", records())
	}
}

// TestSeatlessBytes: certificates that a node without a seat passes on are
// bounded in bytes too, and what is over gives its bytes back.
func TestSeatlessBytes(t *testing.T) {
	w := newHWorld(t, 3)
	p := newPassing()
	one := w.deal(t, hSpec{gen: 1})
	cert := w.cert(one, nil, 0, 1).certificate
	cert.bytes = make([]byte, maxBodies/8)
	var keys []passKey
	for i := range 12 {
		s := &secretState{id: key.Hash{byte(i)}, floor: custody.Floor{Gen: 1, Manifest: one.Hash}}
		p.addSeatless(s, &cert, key.NodeID{})
		keys = append(keys, passKey{id: s.id})
	}
	if p.bodies > maxBodies || p.seatless != 7 || len(p.items) != 7 {
		t.Errorf("%d bytes of %d certificates, %d items", p.bodies, p.seatless, len(p.items))
	}
	for _, k := range keys {
		for _, n := range w.nodes {
			p.answered(k, one.Hash, n.ID())
		}
	}
	if p.bodies != 0 || p.seatless != 0 || len(p.items) != 0 {
		t.Errorf("%d bytes of %d certificates are left", p.bodies, p.seatless)
	}
}

// TestNeverByMoreThanMayLie: one seat's word that others have signed Refused
// keeps a restored seat from nothing.
func TestNeverByMoreThanMayLie(t *testing.T) {
	w := newHWorld(t, 6)
	d := w.deal(t, hSpec{gen: 1, k: 3, seats: []int{0, 1, 2, 3, 4}}) // w = 4, f = 1
	item := func(b byte) []byte { return append(bytes.Repeat([]byte{b}, len(key.Hash{})), key.U64(7)...) }
	var liar [][]byte
	for i := range 2 * custody.MaxNever {
		liar = append(liar, item(byte(i)), item(byte(i)))
	}
	v := nevers{}
	v.add(w.nodes[0].ID(), liar)
	v.add(w.nodes[0].ID(), liar)
	v.add(w.nodes[5].ID(), liar) // no seat
	if said := v.said(d.version); len(said) != 0 || len(v) > custody.MaxNever {
		t.Errorf("%d are believed, %d in mind", len(said), len(v))
	}
	v.add(w.nodes[1].ID(), [][]byte{item(3), item(200), []byte("short")})
	said := v.said(d.version)
	if len(said) != 1 || said[0] != (refusedOnce{key.Hash(bytes.Repeat([]byte{3}, 32)), 7}) {
		t.Errorf("%v", said)
	}
}

func ids(nodes []*fakeNode) []key.NodeID {
	var out []key.NodeID
	for _, n := range nodes {
		out = append(out, n.id)
	}
	return out
}
