package storage

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// treeImage returns a store.db with branches, leaves and free pages.
func treeImage(t *testing.T) (dir string, image []byte) {
	dir = filepath.Join(t.TempDir(), "node")
	if err := Create(dir, goldenKey()); err != nil {
		t.Fatal(err)
	}
	db := running(t, dir, goldenKey())
	for range 3 {
		var recs []share.Record
		for n := range 60 {
			recs = append(recs, share.Record{Place: share.Place{Bucket: 1, ID: key.Hash{byte(n)}}, Value: make([]byte, 500)})
		}
		if err := db.Commit(context.Background(), recs...); err != nil {
			t.Fatal(err)
		}
	}
	size := db.size.Load()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join(dir, dbName))
	if err != nil {
		t.Fatal(err)
	}
	return dir, image[:size]
}

// image is a file under attack, with the places that matter.
type image struct {
	b                    []byte
	newer, older         []byte // the meta structs
	root, free           []byte // pages
	branch, leaf, second []byte // of the records: the root, its first two leaves
}

func (im *image) page(id uint64) []byte { return im.b[id*pageSize : (id+1)*pageSize] }

// branchKey returns the key of entry i of the branch.
func (im *image) branchKey(i int) []byte {
	nd, err := parseNode(im.branch)
	if err != nil {
		panic(err)
	}
	e, err := nd.at(i)
	if err != nil {
		panic(err)
	}
	return e.key
}

func parseImage(t *testing.T, b []byte) *image {
	im := &image{b: b}
	m, _, err := readMetas(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	im.newer, im.older = b[m.txid%2*pageSize+pageHeader:], b[(m.txid+1)%2*pageSize+pageHeader:]
	im.root, im.free = im.page(m.root), im.page(m.freelist)
	w := &walker{r: bytes.NewReader(b), m: m}
	buckets, err := w.buckets()
	if err != nil {
		t.Fatal(err)
	}
	im.branch = im.page(order.Uint64(buckets["r"]))
	if order.Uint16(im.branch[8:]) != flagBranch {
		t.Fatal("the records have no branch")
	}
	im.leaf = im.page(order.Uint64(im.branch[pageHeader+8:]))
	im.second = im.page(order.Uint64(im.branch[pageHeader+elemSize+8:]))
	return im
}

// sum makes the checksums of the meta pages good.
func (im *image) sum() {
	for _, m := range [][]byte{im.newer, im.older} {
		h := fnv.New64a()
		h.Write(m[:56])
		order.PutUint64(m[56:], h.Sum64())
	}
}

// treeDamage is one way to damage a file, and what the check for it says.
type treeDamage struct {
	damage func(im *image)
	want   string
}

func treeDamages() map[string]treeDamage {
	return map[string]treeDamage{
		"nothing":            {func(*image) {}, ""},
		"meta, a bit":        {func(im *image) { im.newer[30] ^= 1 }, "checksum"},
		"older meta, a bit":  {func(im *image) { im.older[30] ^= 1 }, "checksum"},
		"meta, magic":        {func(im *image) { im.newer[0] ^= 1; im.sum() }, "not a bbolt file"},
		"meta, version":      {func(im *image) { im.newer[4] ^= 1; im.sum() }, "another format"},
		"meta, page size":    {func(im *image) { order.PutUint32(im.newer[8:], 8192); im.sum() }, "another page size"},
		"meta, far apart":    {func(im *image) { order.PutUint64(im.newer[48:], 1<<40); im.sum() }, "transactions apart"},
		"meta, same number":  {func(im *image) { copy(im.newer[48:56], im.older[48:56]); im.sum() }, "transactions apart"},
		"meta, too many":     {func(im *image) { order.PutUint64(im.newer[40:], 1<<50); im.sum() }, "was cut"},
		"meta, root":         {func(im *image) { order.PutUint64(im.newer[16:], 1<<50); im.sum() }, "root page"},
		"meta, root is free": {func(im *image) { copy(im.newer[16:24], im.newer[32:40]); im.sum() }, "neither leaf nor branch"},
		"meta, free list":    {func(im *image) { order.PutUint64(im.newer[32:], 1); im.sum() }, "free list page"},
		"meta page, type":    {func(im *image) { im.b[8] = 1 }, "no meta page"},
		"page, number":       {func(im *image) { im.leaf[0] ^= 1 }, "header of page"},
		"page, overflow":     {func(im *image) { im.leaf[14] = 1 }, "header of page"},
		"page, past the end": {func(im *image) {
			order.PutUint32(im.leaf[12:], uint32(order.Uint64(im.newer[40:])-order.Uint64(im.leaf)))
		}, "header of page"},
		"branch, low key":     {func(im *image) { im.branchKey(1)[7] -= 1 }, "out of order"},
		"branch, high key":    {func(im *image) { im.branchKey(1)[7] += 1 }, "out of order"},
		"page, type":          {func(im *image) { im.leaf[8] = flagMeta }, "neither leaf nor branch"},
		"leaf, none left":     {func(im *image) { order.PutUint16(im.leaf[10:], 0) }, "is empty"},
		"leaf, one less":      {func(im *image) { im.leaf[10]-- }, "records, and not"},
		"leaf, too many":      {func(im *image) { order.PutUint16(im.leaf[10:], 60000) }, "neither leaf nor branch"},
		"entry, in the head":  {func(im *image) { order.PutUint32(im.leaf[pageHeader+4:], 0) }, "out of range"},
		"entry, far away":     {func(im *image) { order.PutUint32(im.leaf[pageHeader+4:], 1<<31) }, "out of range"},
		"entry, no key":       {func(im *image) { order.PutUint32(im.leaf[pageHeader+8:], 0) }, "out of range"},
		"entry, long value":   {func(im *image) { order.PutUint32(im.leaf[pageHeader+12:], 1<<31) }, "out of range"},
		"entry, is a bucket":  {func(im *image) { im.leaf[pageHeader] = flagBucket }, "holds a bucket"},
		"entries, swapped":    {func(im *image) { swapEntries(im.leaf, 0, 1) }, "out of order"},
		"entries, equal":      {func(im *image) { equalKeys(im.leaf) }, "out of order"},
		"branch, twice":       {func(im *image) { copy(im.branch[40:48], im.branch[24:32]) }, "used twice"},
		"free list, a leaf":   {func(im *image) { freeIsLeaf(im) }, "used twice"},
		"branch, to itself":   {func(im *image) { copy(im.branch[24:32], im.branch[:8]) }, "used twice"},
		"branch, far away":    {func(im *image) { order.PutUint64(im.branch[24:], 1<<50) }, "out of range"},
		"branch, to meta":     {func(im *image) { order.PutUint64(im.branch[24:], 1) }, "out of range"},
		"branch, one less":    {func(im *image) { im.branch[10]-- }, "records, and not"},
		"branch, none":        {func(im *image) { order.PutUint16(im.branch[10:], 0) }, "is empty"},
		"leaves, exchanged":   {func(im *image) { swapChildren(im.branch) }, "out of order"},
		"root, plain entry":   {func(im *image) { im.root[pageHeader] = 0 }, "something else than buckets"},
		"free list, type":     {func(im *image) { im.free[8] = flagLeaf }, "free list of"},
		"free list, one less": {func(im *image) { order.PutUint16(im.free[10:], order.Uint16(im.free[10:])-1) }, "neither used nor free"},
		"free list, too many": {func(im *image) { order.PutUint16(im.free[10:], 60000) }, "free list of"},
		"free list, in use":   {func(im *image) { copy(im.free[pageHeader:], im.leaf[:8]) }, "used twice"},
		"free list, doubled":  {func(im *image) { copy(im.free[pageHeader:pageHeader+8], im.free[pageHeader+8:]) }, "used twice"},
		"free list, far away": {func(im *image) { order.PutUint64(im.free[pageHeader:], 1<<50) }, "out of range"},
	}
}

// TestTreeDamage damages one thing at a time, so that nothing but the check for
// it can notice, and wants that check to speak.
func TestTreeDamage(t *testing.T) {
	dir, good := treeImage(t)
	for name, c := range treeDamages() {
		t.Run(name, func(t *testing.T) {
			im := parseImage(t, bytes.Clone(good))
			c.damage(im)
			if err := os.WriteFile(filepath.Join(dir, dbName), im.b, 0o600); err != nil {
				t.Fatal(err)
			}
			db := &DB{dir: dir, k: *goldenKey(), log: discard()}
			err := db.openFile()
			if err == nil {
				err = db.verify()
			}
			db.release()
			if c.want == "" && err == nil {
				return
			}
			if !errors.Is(err, ErrDamaged) || c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v; want %q", err, c.want)
			}
		})
	}
}

// swapEntries exchanges two entries of a leaf, which keep their bytes.
func swapEntries(p []byte, i, j int) {
	a, b := p[pageHeader+i*elemSize:][:elemSize], p[pageHeader+j*elemSize:][:elemSize]
	for k := range a {
		a[k], b[k] = b[k], a[k]
	}
	d := uint32((j - i) * elemSize) // positions count from the entry
	order.PutUint32(a[4:], order.Uint32(a[4:])+d)
	order.PutUint32(b[4:], order.Uint32(b[4:])-d)
}

// equalKeys lets the second entry of a leaf point to the bytes of the first.
func equalKeys(p []byte) {
	a, b := p[pageHeader:][:elemSize], p[pageHeader+elemSize:][:elemSize]
	copy(b, a)
	order.PutUint32(b[4:], order.Uint32(a[4:])-elemSize)
}

func swapChildren(branch []byte) {
	var tmp [8]byte
	copy(tmp[:], branch[24:32])
	copy(branch[24:32], branch[40:48])
	copy(branch[40:48], tmp[:])
}

// freeIsLeaf makes a leaf the free list as well.
func freeIsLeaf(im *image) {
	copy(im.newer[32:40], im.second[:8])
	im.sum()
}

// TestCyclesWhileScrubbing: without counting pages, a cycle ends all the same.
func TestCyclesWhileScrubbing(t *testing.T) {
	_, b := treeImage(t)
	im := parseImage(t, b)
	copy(im.branch[24:32], im.branch[:8])
	order.PutUint16(im.branch[10:], 1)
	m, _, err := readMetas(bytes.NewReader(im.b))
	if err != nil {
		t.Fatal(err)
	}
	w := &walker{r: bytes.NewReader(im.b), m: m}
	err = w.tree(order.Uint64(im.branch), 0, nil, nil, func(element) error { return nil })
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "too deep") {
		t.Fatal(err)
	}
}

// TestSequencesAreNotReused: what a crash may have left in free pages is never
// written under the same sequence again.
func TestSequencesAreNotReused(t *testing.T) {
	dir := copyGolden(t)
	last := uint64(0)
	for range 3 {
		db := running(t, dir, goldenKey())
		if next := db.next.Load(); next < last+seqStep || next%seqStep != 0 {
			t.Fatalf("%d after %d", next, last)
		}
		last = db.next.Load()
		db.Close()
	}
}

// TestTwoRecordsOfOnePlace makes the store forget a record and write its place
// again.
func TestTwoRecordsOfOnePlace(t *testing.T) {
	dir := copyGolden(t)
	db := running(t, dir, goldenKey())
	p := goldenRecords()[0].Place
	db.index.mu.Lock()
	db.index.set(p, 0)
	db.index.mu.Unlock()
	if err := db.Commit(context.Background(), share.Record{Place: p, Value: []byte("second")}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(dir, goldenKey(), Options{}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "one place") {
		t.Fatal(err)
	}
}
