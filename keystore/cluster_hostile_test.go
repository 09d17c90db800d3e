package keystore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// liar rewrites what a node answers to RECOVER; the rest it answers honestly.
type liar struct {
	n *fakeNode
	// rewrite changes an honest reply; row is the node's own row in clear.
	rewrite func(q *share.SignedRequest, r *custody.RecoverReply, row []byte)
}

func (l liar) install() {
	n := l.n
	n.lies(func(ctx context.Context, from key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
		out, err := call()
		if err != nil || verb != custody.VerbRecover {
			return out, err
		}
		msg, reply := new(custody.Recover), new(custody.RecoverReply)
		if key.Unmarshal(body, msg) != nil || key.Unmarshal(out, reply) != nil || reply.Outcome != custody.OK {
			return out, nil
		}
		req, err := share.OpenRequest(n.net.id, msg.Request, unix())
		if err != nil {
			return out, nil
		}
		l.rewrite(req, reply, n.row())
		return key.Marshal(reply), nil
	})
}

func (n *fakeNode) honest() { n.lies(nil) }

// row is the first row record on the node's shelf.
func (n *fakeNode) row() []byte {
	n.shelf.mu.Lock()
	defer n.shelf.mu.Unlock()
	for p, v := range n.shelf.recs {
		if p.Bucket == share.BucketRow {
			return v
		}
	}
	return nil
}

// give answers with any row under any x, properly signed and sealed.
func (n *fakeNode) give(q *share.SignedRequest, r *custody.RecoverReply, x uint8, row []byte) {
	rel, err := share.OpenRelease(n.net.id, r.Release)
	if err != nil {
		n.net.t.Error(err)
		return
	}
	n.giveOf(q, r, rel.Manifest, rel.Epoch, x, row)
}

func (n *fakeNode) giveOf(q *share.SignedRequest, r *custody.RecoverReply, manifest key.Hash, epoch uint32, x uint8, row []byte) {
	r.Release = share.SignRelease(n.key, n.net.id, share.Release{Request: q.Hash, Manifest: manifest, Epoch: epoch, X: x}).Encode()
	box, err := seal.To(q.Ephemeral, seal.Info(seal.PurposeRelease, manifest, x, epoch, n.id, q.Hash), row)
	if err != nil {
		n.net.t.Error(err)
	}
	r.Box = box
}

func x(n *fakeNode, p Person, name string) uint8 {
	info, err := n.net.up().Info(context.Background(), p, name)
	if err != nil {
		n.net.t.Fatal(err)
	}
	for _, s := range info.Seats {
		if s.Node == n.id {
			return s.X
		}
	}
	return 0
}

// lies are the hostile holders of one answer.
func lies(f *fakeNet, p Person) map[string]func(n *fakeNode) func(*share.SignedRequest, *custody.RecoverReply, []byte) {
	type rewrite = func(*share.SignedRequest, *custody.RecoverReply, []byte)
	own := func(n *fakeNode) uint8 { return x(n, p, "a") }
	return map[string]func(n *fakeNode) rewrite{
		"x = 0 with a chosen value": func(n *fakeNode) rewrite {
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				n.give(q, r, 0, bytes.Repeat([]byte{7}, len(row)))
			}
		},
		"another seat's x": func(n *fakeNode) rewrite {
			other := x(f.nodes[4], p, "a")
			if n == f.nodes[4] {
				other = x(f.nodes[3], p, "a")
			}
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) { n.give(q, r, other, row) }
		},
		"another seat's row under its own x": func(n *fakeNode) rewrite {
			mine, row := own(n), f.nodes[4].row()
			if n == f.nodes[4] {
				row = f.nodes[3].row()
			}
			return func(q *share.SignedRequest, r *custody.RecoverReply, _ []byte) { n.give(q, r, mine, row) }
		},
		"a flipped bit": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				row = slices.Clone(row)
				row[3] ^= 4
				n.give(q, r, mine, row)
			}
		},
		"a flipped bit in what audits use": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				row = slices.Clone(row)
				row[len(row)-1] ^= 1
				n.give(q, r, mine, row)
			}
		},
		"a random row": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				n.give(q, r, mine, bytes.Repeat([]byte{0x5a}, len(row)))
			}
		},
		"an empty row": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, _ []byte) { n.give(q, r, mine, nil) }
		},
		"a short row": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) { n.give(q, r, mine, row[:32]) }
		},
		"a long row": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				n.give(q, r, mine, append(slices.Clone(row), 0))
			}
		},
		"an epoch that never was": func(n *fakeNode) rewrite {
			mine := own(n)
			return func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
				rel, _ := share.OpenRelease(f.id, r.Release)
				n.giveOf(q, r, rel.Manifest, 1, mine, row)
			}
		},
		"another node's release": func(n *fakeNode) rewrite {
			k := key.GenerateNode()
			return func(_ *share.SignedRequest, r *custody.RecoverReply, _ []byte) {
				rel, _ := share.OpenRelease(f.id, r.Release)
				r.Release = share.SignRelease(k, f.id, *rel).Encode()
			}
		},
		"a release for another request": func(n *fakeNode) rewrite {
			return func(_ *share.SignedRequest, r *custody.RecoverReply, _ []byte) {
				rel, _ := share.OpenRelease(f.id, r.Release)
				rel.Request[0] ^= 1
				r.Release = share.SignRelease(n.key, f.id, *rel).Encode()
			}
		},
		"no release": func(*fakeNode) rewrite {
			return func(_ *share.SignedRequest, r *custody.RecoverReply, _ []byte) { r.Release = nil }
		},
		"another payload": func(n *fakeNode) rewrite {
			return func(_ *share.SignedRequest, r *custody.RecoverReply, _ []byte) {
				if len(r.Payload) > 0 {
					r.Payload[0] ^= 1
				}
				r.Box[20] ^= 1
			}
		},
		"a state that does not verify": func(*fakeNode) rewrite {
			return func(_ *share.SignedRequest, r *custody.RecoverReply, _ []byte) {
				r.State.Manifest, r.State.Floor.Gen = []byte("garbage"), 9
			}
		},
	}
}

// Whatever two of five holders answer, the right secret comes back and they are
// named; when three lie, none does and all are named. Never a wrong byte.
func TestHostileRows(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	v := []byte("the right secret")
	mustPut(t, f.nodes[0].store, p, "a", v, PutOptions{})
	waitFor(t, f, p, "a", 1)
	for name, lie := range lies(f, p) {
		t.Run(name, func(t *testing.T) {
			defer func() {
				for _, n := range f.nodes {
					n.honest()
				}
			}()
			for i, n := range []*fakeNode{f.nodes[1], f.nodes[3], f.nodes[0]} {
				rewrite := lie(n)
				defer n.honest()
				liar{n, rewrite}.install()
				for range 3 {
					r, err := f.nodes[4].store.Recover(context.Background(), p, "a", RecoverOptions{})
					if i < 2 {
						if err != nil || !bytes.Equal(r.Value, v) {
							t.Fatalf("%d liars: %q %v", i+1, r.Value, explain(err))
						}
						continue
					}
					var e *IntegrityError
					if !errors.As(err, &e) || len(e.Bad) != 3 || e.Have != 2 || len(r.Value) != 0 {
						t.Fatalf("3 liars: %q %v", r.Value, explain(err))
					}
					for _, b := range e.Bad {
						if b.Name == "n5" || b.Name == "n3" || b.Why == "" {
							t.Fatalf("named %+v", e.Bad)
						}
					}
				}
			}
		})
	}
}

// waitFor is settle outside of a bubble, where nothing is slow.
func waitFor(t *testing.T, f *fakeNet, p Person, name string, gen uint64) {
	t.Helper()
	for range 1000 {
		info, err := f.up().Info(context.Background(), p, name)
		if err == nil && info.Gen == gen && info.Acked == info.N {
			return
		}
	}
	t.Fatal("the last seats do not commit")
}

// The bad ones are named in a recovery that works, too, if they were asked.
func TestBadRowsAreNamed(t *testing.T) {
	f := newFakeNet(t, 5)
	p := newPerson()
	mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
	waitFor(t, f, p, "a", 1)
	mine := x(f.nodes[0], p, "a")
	liar{f.nodes[0], func(q *share.SignedRequest, r *custody.RecoverReply, row []byte) {
		f.nodes[0].give(q, r, mine, make([]byte, len(row)))
	}}.install()
	r := mustGet(t, f.nodes[0].store, p, "a", []byte("v")) // its own calls do not go through the lie
	if len(r.Bad) != 0 {
		t.Fatalf("%+v", r.Bad)
	}
	for _, n := range f.nodes[1:] {
		r := mustGet(t, n.store, p, "a", []byte("v"))
		for _, b := range r.Bad {
			if b.Node != f.nodes[0].id {
				t.Errorf("%+v", b)
			}
		}
	}
}

// Answers that are no answers.
func TestHostileAnswers(t *testing.T) {
	answers := map[string]func(body []byte) ([]byte, error){
		"empty":     func([]byte) ([]byte, error) { return nil, nil },
		"short":     func(b []byte) ([]byte, error) { return b[:len(b)/2], nil },
		"trailing":  func(b []byte) ([]byte, error) { return append(b, 0), nil },
		"10 MiB":    func([]byte) ([]byte, error) { return make([]byte, 10<<20), nil },
		"an error":  func([]byte) ([]byte, error) { return nil, errors.New("\x1b[31mgo away " + strings.Repeat("x", 1000)) },
		"not CBOR":  func([]byte) ([]byte, error) { return []byte("hello"), nil },
		"deep CBOR": func([]byte) ([]byte, error) { return bytes.Repeat([]byte{0x81}, 100), nil },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
				settle(t, f, p, "a", 1)
				lie := func(_ context.Context, _ key.NodeID, _ uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
					out, err := call()
					if err != nil {
						return nil, err
					}
					return answer(out)
				}
				f.nodes[1].lies(lie)
				f.nodes[2].lies(lie)
				mustGet(t, f.nodes[0].store, p, "a", []byte("v"))
				// One seat of five answers nonsense to everything: puts go on.
				f.nodes[2].lies(nil)
				mustPut(t, f.nodes[0].store, p, "a", []byte("w"), PutOptions{})
				mustGet(t, f.nodes[0].store, p, "a", []byte("w"))
				f.nodes[2].lies(lie)
				f.nodes[3].lies(lie)
				_, err := f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{})
				var e *IntegrityError
				var q *QuorumError
				if !errors.As(err, &e) && !errors.As(err, &q) || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x1b") {
					t.Fatalf("%v", explain(err))
				}
				if name != "an error" && e == nil {
					t.Fatalf("nonsense from three is not called a lie: %v", explain(err))
				}
			})
		})
	}
}

// Silence: holders that never answer cost a get at most the hedge.
func TestSilentHolders(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", 1)
		silence := func(ctx context.Context, _ key.NodeID, _ uint64, _ []byte, _ func() ([]byte, error)) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		f.nodes[1].lies(silence)
		f.nodes[2].lies(silence)
		start := time.Now()
		mustGet(t, f.nodes[0].store, p, "a", []byte("v"))
		if d := time.Since(start); d > hedge {
			t.Errorf("a get with two silent holders took %v", d)
		}
		f.nodes[3].lies(silence)
		start = time.Now()
		_, err := f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{})
		var q *QuorumError
		if !errors.As(err, &q) || names(q.Seats, "unreachable") != "n2 n3 n4" || time.Since(start) > DefaultTimeout+time.Second {
			t.Fatalf("after %v: %v", time.Since(start), explain(err))
		}
		_, err = f.nodes[0].store.Put(context.Background(), p, "a", []byte("w"), PutOptions{})
		var d *InDoubtError
		if !errors.As(err, &d) || d.Need != 4 || d.Have != 2 || time.Since(start) > 3*DefaultTimeout {
			t.Fatalf("put among silent holders: %v", explain(err))
		}
		// Timeouts are the caller's.
		start = time.Now()
		if _, err = f.nodes[0].store.Recover(context.Background(), p, "a", RecoverOptions{Timeout: time.Second}); err == nil || time.Since(start) > time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

// Two different answers of one holder, another secret's rows, and the rows of
// an older generation kept by f liars: none of them moves the value.
func TestOldRowsAndOtherSecrets(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		old := map[key.NodeID]map[share.Place][]byte{}
		for _, n := range f.nodes {
			old[n.id] = n.shelf.dump(share.BucketState, share.BucketRow, share.BucketPayload)
		}
		mustPut(t, s, p, "a", []byte("new"), PutOptions{})
		settle(t, f, p, "a", 2)
		// Two holders are rolled back to the generation before, as they were.
		rollBack := func(n *fakeNode) {
			n.stop()
			n.shelf.recs = map[share.Place][]byte{}
			for pl, v := range old[n.id] {
				n.shelf.recs[pl] = v
			}
			n.start()
		}
		rollBack(f.nodes[3])
		rollBack(f.nodes[4])
		for _, n := range f.nodes {
			mustGet(t, n.store, p, "a", []byte("new"))
		}
	})
}

// No rollback: when more holders than the bound allows have gone back, a node
// that saw the newer generation says so instead of giving the older value.
func TestMemoryOfTheReader(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		reader := f.add("reader", "op6", "z6")
		reader.member.Holder = false
		reader.start()
		s := f.nodes[0].store
		mustPut(t, s, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		backup := map[key.NodeID]map[share.Place][]byte{}
		for _, n := range f.nodes[:5] {
			backup[n.id] = n.shelf.dump()
		}
		mustPut(t, s, p, "a", []byte("new"), PutOptions{})
		settle(t, f, p, "a", 2)
		mustGet(t, reader.store, p, "a", []byte("new"))
		time.Sleep(time.Second)
		for _, n := range f.nodes[:5] {
			n.stop()
			n.shelf.recs = backup[n.id]
			n.start()
		}
		check := func() {
			t.Helper()
			r, err := reader.store.Recover(context.Background(), p, "a", RecoverOptions{})
			var e *IntegrityError
			if !errors.As(err, &e) || len(e.Bad) == 0 || len(r.Value) != 0 {
				t.Fatalf("%q %v", r.Value, explain(err))
			}
			if _, err := reader.store.Put(context.Background(), p, "a", []byte("newer"), PutOptions{}); err == nil {
				t.Fatal("a put went on from what was rolled back")
			}
		}
		// Without anything in memory: by the mark on its disk.
		reader.stop()
		reader.start()
		check()
		check()
	})
}

// A member without rights gets the same answer as for an unknown id.
func TestStrangers(t *testing.T) {
	f := newFakeNet(t, 5)
	p, q := newPerson(), newPerson()
	mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
	h, _ := f.nodes[1].store.secret(p, "a")
	other, _ := f.nodes[1].store.secret(p, "b")
	for _, n := range f.nodes[1:] {
		var answers [][]byte
		for _, id := range []key.Hash{h.id, other.id} {
			msg := &custody.Locate{ID: id, Query: f.nodes[0].store.queries.get(f.id, q, n.id)}
			out, err := n.store.Answer(context.Background(), f.nodes[0].id, custody.VerbLocate, key.Marshal(msg))
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, out)
		}
		if !bytes.Equal(answers[0], answers[1]) {
			t.Error("a stranger can tell a secret from none")
		}
	}
	if _, err := f.nodes[0].store.Recover(context.Background(), q, "a", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	page, err := f.nodes[0].store.List(context.Background(), q, ListOptions{})
	if err != nil || len(page.Items) != 0 {
		t.Fatal(page, err)
	}
}
