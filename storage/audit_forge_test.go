package storage

import (
	"context"
	"errors"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// chained returns the bodies of entries first to last, after prev.
func chained(first, last uint64, prev key.Hash) (bodies [][]byte, end key.Hash) {
	for seq := first; seq <= last; seq++ {
		e := auditEntry(seq)
		e.Seq, e.Prev = seq, prev
		bodies = append(bodies, e.encode())
		prev = e.Hash
	}
	return bodies, prev
}

// Logs that were sealed with the right key but are no chain: by a fault of a
// program, or by somebody who has the key and little care.
func TestAuditSealedButNoChain(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	start := chainStart(a.net, a.node, a.id)
	net, node := a.net, a.node
	stop()
	keys, err := newAuditKeys(auditKey(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	one, h1 := chained(1, 2, start)
	two, _ := chained(3, 4, h1)
	loose, _ := chained(3, 4, start)
	gap, _ := chained(4, 4, h1)
	again, _ := chained(2, 3, h1)
	header := segment{number: 1, first: 1, prev: start}
	type group struct {
		first  uint64
		bodies [][]byte
	}
	ext := auditBody{Seq: 3, Prev: h1, Kind: "a"}
	ext.Ext = map[uint64][]byte{1: {1}}
	for what, c := range map[string]struct {
		header segment
		groups []group
		says   string
	}{
		"in order":               {header, []group{{1, one}, {3, two}}, ""},
		"another chain":          {header, []group{{1, one}, {3, loose}}, "entry 3"},
		"a gap":                  {header, []group{{1, one}, {4, gap}}, "entry 3"},
		"an entry twice":         {header, []group{{1, one}, {2, again}}, "entry 3"},
		"another number":         {header, []group{{1, one}, {3, gap}}, "says that it is 4"},
		"a broken group":         {header, []group{{1, one}, {3, [][]byte{two[0], loose[1]}}}, "entry 4"},
		"a swapped group":        {header, []group{{1, one}, {3, [][]byte{two[1], two[0]}}}, "entry 3"},
		"no entry":               {header, []group{{1, one}, {3, [][]byte{{1, 2, 3}}}}, "entry 3"},
		"an extension":           {header, []group{{1, one}, {3, [][]byte{key.Marshal(&ext)}}}, "extensions"},
		"it begins with entry 3": {segment{number: 1, first: 3, prev: h1}, []group{{3, two}}, "begin with entry 1"},
		"another start":          {segment{number: 1, first: 1, prev: h1}, nil, "begin with entry 1"},
		"segment 0":              {segment{number: 0, first: 1, prev: start}, nil, "segment 0"},
	} {
		d := copyAudit(t, dir)
		b := keys.encodeSegment(net, node, c.header)
		for _, g := range c.groups {
			b = append(b, keys.sealGroup(1, int64(len(b)), g.first, g.bodies)...)
		}
		overwrite(t, d, auditName, b)
		_, err := checkAudit(t, d)
		if what == "in order" {
			if err != nil {
				t.Error(what, err)
			}
			continue
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A closed segment that was replaced by one of the same size with the right key
// does not end where the next one begins.
func TestAuditForgedSegment(t *testing.T) {
	dir, _ := sampleAudit(t, 5, 1000)
	a, _ := openAudit(t, dir, 0)
	seg := a.segs[0]
	bodies, _ := chained(1, 1, seg.prev)
	last := a.segs[1].first - 1
	b := a.keys.encodeSegment(a.net, a.node, seg)
	prev := bodyHash(bodies[0])
	b = append(b, a.keys.sealGroup(1, int64(len(b)), 1, bodies)...)
	for seq := uint64(2); seq <= last; seq++ {
		e := auditEntry(seq)
		e.Time++
		e.Seq, e.Prev = seq, prev
		body := e.encode()
		prev = e.Hash
		b = append(b, a.keys.sealGroup(1, int64(len(b)), seq, [][]byte{body})...)
	}
	whole := read(t, dir, segmentName(1))
	if last < 2 || len(whole) != len(b) {
		t.Fatal(last, len(whole), len(b))
	}
	overwrite(t, dir, segmentName(1), b)
	if err := a.Verify(context.Background()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "segment 1") {
		t.Error(err)
	}
}

// The mark is of the log's own history: rewriting audit.log alone is not
// enough, even with the key.
func TestAuditForgedWithoutTheMark(t *testing.T) {
	dir, _ := sampleAudit(t, 5, 0)
	marks := read(t, dir, auditMarks)
	forge(t, dir, func(e []AuditEntry) []AuditEntry { e[4].Time++; return e })
	if _, err := checkAudit(t, copyAudit(t, dir)); err != nil {
		t.Fatal("the forgery is no good one:", err)
	}
	overwrite(t, dir, auditMarks, marks)
	if _, err := checkAudit(t, dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "entry 5 is not the one") {
		t.Error(err)
	}
}

func TestAuditSizeOfAClosedSegment(t *testing.T) {
	dir, _ := sampleAudit(t, 5, 1000)
	whole := read(t, dir, segmentName(1))
	for what, b := range map[string][]byte{"longer": append(whole[:len(whole):len(whole)], 0), "shorter": whole[:len(whole)-1]} {
		d := copyAudit(t, dir)
		overwrite(t, d, segmentName(1), b)
		if a, err := OpenAudit(d, auditKey(), AuditOptions{}); !errors.Is(err, ErrDamaged) || a != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	a, _ := openAudit(t, dir, 0)
	old := read(t, dir, auditMarks)
	fillAudit(t, a, 6)
	overwrite(t, dir, auditMarks, old)
	if err := a.Verify(context.Background()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), auditMarks) {
		t.Error("an older mark under a running log:", err)
	}
}

func TestAuditGroupsOfBadForm(t *testing.T) {
	bodies, _ := chained(1, 2, key.Hash{1})
	plain := encodeGroup(bodies)
	if got, err := decodeGroup(plain, 1, 2); err != nil || len(got) != 2 {
		t.Fatal(err)
	}
	if _, err := decodeGroup(append(plain[:len(plain):len(plain)], 0), 1, 2); err == nil {
		t.Error("a byte more")
	}
	for n := range plain {
		if _, err := decodeGroup(plain[:n], 1, 2); err == nil {
			t.Fatalf("%d of %d bytes", n, len(plain))
		}
	}
	if _, err := decodeGroup(plain, 1, 1); err == nil {
		t.Error("an entry more")
	}
	if _, err := decodeGroup([]byte{0xff, 0xff, 0xff, 0xff, 1}, 1, 1); err == nil {
		t.Error("an entry of 4 GiB")
	}
}

// The node has signed another beginning: another log stood in this one's place.
func TestAuditAnotherStart(t *testing.T) {
	a, _ := openAudit(t, newAudit(t), 0)
	fillAudit(t, a, 2)
	if err := a.SaveWitness(auditNode(1).ID(), signHead(0, share.AuditHead{Hash: chainStart(a.net, a.node, a.id)})); err != nil {
		t.Error(err)
	}
	verifyAudit(t, a)
	if err := a.SaveWitness(auditNode(1).ID(), signHead(0, share.AuditHead{Hash: key.Hash{1}})); !errors.Is(err, ErrRewritten) {
		t.Error(err)
	}
	if err := a.Verify(context.Background()); !errors.Is(err, ErrRewritten) {
		t.Error(err)
	}
}
