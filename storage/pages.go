package storage

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"
)

// This file reads a bbolt file without bbolt, which maps the file and crashes
// the process on some damage (a page beyond the end of the file faults; a bad
// page is a panic, also in goroutines nobody can recover). All it would trip
// over is refused here first. Format: go.etcd.io/bbolt/internal/common, page.go
// and meta.go, version 2; integers in the byte order of the machine.

const (
	pageSize   = 4096 // what Create asks for, whatever the machine's pages are
	pageHeader = 16
	elemSize   = 16
	metaSize   = 64
	boltMagic  = 0xED0CDAED
	boltFormat = 2
	noFreelist = ^uint64(0)

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf element

	bucketHeader = 16
	maxDepth     = 24
	// maxSpan is the longest node bbolt makes here: it splits those of more
	// than four records.
	maxSpan = 4*(MaxValue+Overhead+elemSize+8) + pageSize + pageHeader
)

var order = binary.NativeEndian

// meta is one of the two meta pages.
type meta struct {
	root, freelist, pages, txid uint64
}

// parseMeta checks and parses the meta page id.
func parseMeta(id uint64, b []byte) (meta, error) {
	bad := func(what string) (meta, error) { return meta{}, damaged("meta page %d of %s: %s", id, dbName, what) }
	if order.Uint64(b) != id || order.Uint16(b[8:]) != flagMeta {
		return bad("it is no meta page")
	}
	m := b[pageHeader : pageHeader+metaSize]
	h := fnv.New64a()
	h.Write(m[:56])
	switch {
	case order.Uint32(m) != boltMagic:
		return bad("not a bbolt file")
	case order.Uint32(m[4:]) != boltFormat:
		return bad("another format of bbolt")
	case order.Uint64(m[56:]) != h.Sum64():
		return bad("its checksum is wrong")
	case order.Uint32(m[8:]) != pageSize:
		return bad("another page size")
	}
	return meta{
		root:     order.Uint64(m[16:]),
		freelist: order.Uint64(m[32:]),
		pages:    order.Uint64(m[40:]),
		txid:     order.Uint64(m[48:]),
	}, nil
}

// readMetas returns the meta pages, the newer one first. Both must be good: a
// meta page is 80 bytes at the start of a page and so written within a sector,
// whole or not at all; falling back to the older one, as bbolt does, would
// undo an acknowledged transaction when the newer one rots.
func readMetas(r io.ReaderAt) (newer, older meta, err error) {
	var b [2 * pageSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return meta{}, meta{}, damaged("%s is too short: %v", dbName, err)
	}
	m0, err := parseMeta(0, b[:pageSize])
	if err != nil {
		return meta{}, meta{}, err
	}
	m1, err := parseMeta(1, b[pageSize:])
	if err != nil {
		return meta{}, meta{}, err
	}
	if m1.txid > m0.txid {
		m0, m1 = m1, m0
	}
	if m0.txid != m1.txid+1 {
		return meta{}, meta{}, damaged("the meta pages of %s are %d transactions apart", dbName, m0.txid-m1.txid)
	}
	return m0, m1, nil
}

// check refuses a meta whose pages are not all in a file of size bytes.
func (m *meta) check(size int64) error {
	switch {
	case size%pageSize != 0:
		return damaged("%s was cut in the middle of a page: %d bytes", dbName, size)
	case m.pages < 3 || m.pages > uint64(size)/pageSize:
		return damaged("%s was cut: %d bytes hold less than %d pages", dbName, size, m.pages)
	case m.root < 2 || m.root >= m.pages:
		return damaged("the root page %d of %s is out of range", m.root, dbName)
	case m.freelist != noFreelist && (m.freelist < 2 || m.freelist >= m.pages):
		return damaged("the free list page %d of %s is out of range", m.freelist, dbName)
	}
	return nil
}

// walker visits the pages that a meta reaches. Not safe for concurrent use.
type walker struct {
	r    io.ReaderAt
	m    meta
	seen []uint64 // a bit a page; nil: pages are not counted
	used uint64   // pages seen
	from []byte   // subtrees with only smaller keys are passed over
	bufs [][]byte // one a level
}

// element is one entry of a node. It aliases a buffer of the walker.
type element struct {
	flags    uint32
	key, val []byte
	child    uint64
}

// node is a page and its overflow, or a bucket inside a page.
type node struct {
	leaf bool
	n    int
	b    []byte
}

// load reads the page id and what it overflows into, at most max bytes, into
// the buffer of this level.
func (w *walker) load(id uint64, level int, max uint64) ([]byte, error) {
	if id < 2 || id >= w.m.pages {
		return nil, damaged("page %d of %s is out of range", id, dbName)
	}
	var h [pageHeader]byte
	if _, err := w.r.ReadAt(h[:], int64(id)*pageSize); err != nil {
		return nil, damaged("reading page %d of %s: %v", id, dbName, err)
	}
	span := uint64(order.Uint32(h[12:])) + 1
	if order.Uint64(h[:]) != id || span > w.m.pages-id || span*pageSize > max {
		return nil, damaged("the header of page %d of %s is wrong", id, dbName)
	}
	if err := w.mark(id, span); err != nil {
		return nil, err
	}
	for len(w.bufs) <= level {
		w.bufs = append(w.bufs, nil)
	}
	need := int(span * pageSize)
	if cap(w.bufs[level]) < need {
		w.bufs[level] = make([]byte, need)
	}
	b := w.bufs[level][:need]
	if _, err := w.r.ReadAt(b, int64(id)*pageSize); err != nil {
		return nil, damaged("reading page %d of %s: %v", id, dbName, err)
	}
	return b, nil
}

func (w *walker) mark(id, span uint64) error {
	if w.seen == nil {
		return nil
	}
	for p := id; p < id+span; p++ {
		if w.seen[p/64]>>(p%64)&1 == 1 {
			return damaged("page %d of %s is used twice", p, dbName)
		}
		w.seen[p/64] |= 1 << (p % 64)
	}
	w.used += span
	return nil
}

// parseNode checks the header of a node.
func parseNode(b []byte) (node, error) {
	if len(b) < pageHeader {
		return node{}, damaged("a node of %s is cut short", dbName)
	}
	flags, n := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != flagLeaf && flags != flagBranch || pageHeader+n*elemSize > len(b) {
		return node{}, damaged("page %d of %s is neither leaf nor branch", order.Uint64(b), dbName)
	}
	return node{leaf: flags == flagLeaf, n: n, b: b}, nil
}

// at returns entry i, inside the node's bytes or an error.
func (nd *node) at(i int) (element, error) {
	off := pageHeader + i*elemSize
	e := nd.b[off:]
	var el element
	var pos, ksize, vsize uint64
	if nd.leaf {
		el.flags = order.Uint32(e)
		pos, ksize, vsize = uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
	} else {
		pos, ksize, el.child = uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), order.Uint64(e[8:])
	}
	start := uint64(off) + pos
	if start < uint64(pageHeader+nd.n*elemSize) || ksize == 0 || start+ksize+vsize > uint64(len(nd.b)) {
		return element{}, damaged("entry %d of page %d of %s is out of range", i, order.Uint64(nd.b), dbName)
	}
	el.key = nd.b[start : start+ksize : start+ksize]
	el.val = nd.b[start+ksize : start+ksize+vsize : start+ksize+vsize]
	return el, nil
}

// tree visits the leaves below the page id in order; their keys are at least lo
// and less than hi, when hi is not nil.
func (w *walker) tree(id uint64, level int, lo, hi []byte, visit func(element) error) error {
	if level > maxDepth {
		return damaged("the tree of %s is too deep", dbName)
	}
	b, err := w.load(id, level, maxSpan)
	if err != nil {
		return err
	}
	nd, err := parseNode(b)
	if err != nil {
		return err
	}
	if nd.n == 0 && !(nd.leaf && lo == nil) {
		return damaged("page %d of %s is empty", id, dbName)
	}
	return w.entries(&nd, level, lo, hi, visit)
}

func (w *walker) entries(nd *node, level int, lo, hi []byte, visit func(element) error) error {
	var prev []byte
	for i := range nd.n {
		e, err := nd.at(i)
		if err != nil {
			return err
		}
		if bytes.Compare(e.key, lo) < 0 || prev != nil && bytes.Compare(e.key, prev) <= 0 || hi != nil && bytes.Compare(e.key, hi) >= 0 {
			return damaged("entry %d of page %d of %s is out of order", i, order.Uint64(nd.b), dbName)
		}
		prev = e.key
		if nd.leaf {
			if w.from != nil && bytes.Compare(e.key, w.from) < 0 {
				continue
			}
			if err := visit(e); err != nil {
				return err
			}
			continue
		}
		if err := w.below(nd, i, e, level, hi, visit); err != nil {
			return err
		}
	}
	return nil
}

// below visits the child that entry i of a branch points to.
func (w *walker) below(nd *node, i int, e element, level int, hi []byte, visit func(element) error) error {
	next := hi
	if i+1 < nd.n {
		n, err := nd.at(i + 1)
		if err != nil {
			return err
		}
		next = n.key
	}
	if w.from != nil && next != nil && bytes.Compare(next, w.from) <= 0 {
		return nil
	}
	return w.tree(e.child, level+1, e.key, next, visit)
}

// buckets returns the contents of the root: bucket names and their values.
func (w *walker) buckets() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := w.tree(w.m.root, 0, nil, nil, func(e element) error {
		if e.flags != flagBucket || len(e.val) < bucketHeader {
			return damaged("the root of %s holds something else than buckets", dbName)
		}
		out[string(e.key)] = bytes.Clone(e.val)
		return nil
	})
	return out, err
}

// bucket visits the records of a bucket, given its value in the root.
func (w *walker) bucket(val []byte, visit func(element) error) error {
	plain := func(e element) error {
		if e.flags != 0 {
			return damaged("a bucket of %s holds a bucket", dbName)
		}
		return visit(e)
	}
	root := order.Uint64(val)
	if root != 0 {
		return w.tree(root, 0, nil, nil, plain)
	}
	nd, err := parseNode(val[bucketHeader:])
	if err != nil {
		return err
	}
	if !nd.leaf || order.Uint32(nd.b[12:]) != 0 {
		return damaged("a small bucket of %s is no leaf", dbName)
	}
	return w.entries(&nd, 0, nil, nil, plain)
}

// free checks the free list, when there is one on disk: each page is in use or
// on it, and none is both.
func (w *walker) free() error {
	if w.m.freelist == noFreelist {
		return nil
	}
	b, err := w.load(w.m.freelist, 0, (w.m.pages/(pageSize/8)+2)*pageSize)
	if err != nil {
		return err
	}
	n, ids := uint64(order.Uint16(b[10:])), b[pageHeader:]
	if n == 0xFFFF {
		n, ids = order.Uint64(ids), ids[8:]
	}
	if order.Uint16(b[8:]) != flagFreelist || n > uint64(len(ids)/8) {
		return damaged("the free list of %s is wrong", dbName)
	}
	for ; n > 0; n, ids = n-1, ids[8:] {
		id := order.Uint64(ids)
		if id < 2 || id >= w.m.pages {
			return damaged("the free page %d of %s is out of range", id, dbName)
		}
		if err := w.mark(id, 1); err != nil {
			return err
		}
	}
	if w.used != w.m.pages-2 {
		return damaged("%d pages of %s are neither used nor free", w.m.pages-2-w.used, dbName)
	}
	return nil
}
