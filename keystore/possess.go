package keystore

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// What a node thinks of other holders' rows: seats of one secret show one
// another every hour that they have them (protocol.md section 8).

const (
	// maxFailures in a row make a seat suspect.
	maxFailures = 3
	// silenceLimit is how long a node may be silent before its seats are
	// suspect, in seconds of this node's running time.
	silenceLimit = 24 * 60 * 60
	// maxWatched bounds the failing seats of one node that are counted apart.
	maxWatched = 4096
)

// auditTag is what seat prover shows to seat verifier: both make it from F of
// the two. The nonce is salt of the key too, so that whoever has kept anything
// less than F(prover, verifier) itself cannot make it; n-1 such values are the
// row.
func auditTag(common []byte, manifest key.Hash, epoch uint32, nonce [32]byte, prover, verifier uint8) key.Hash {
	info := key.T("keymesh/v1/audit", manifest[:], key.U64(uint64(epoch)))
	k, err := hkdf.Key(sha256.New, common, nonce[:], string(info[:]), 32)
	if err != nil {
		panic("keystore: " + err.Error()) // only for lengths above 255 hashes
	}
	defer clear(k)
	m := hmac.New(sha256.New, k)
	m.Write(nonce[:])
	m.Write([]byte{prover, verifier})
	return key.Hash(m.Sum(nil))
}

// seatKey names a seat that another node holds.
type seatKey struct {
	id key.Hash
	x  uint8
}

// seatWatch is a seat that did not show its row.
type seatWatch struct {
	manifest key.Hash
	failures uint64 // in a row
}

// peerWatch is what is thought of one node.
type peerWatch struct {
	heard  uint64 // running time of its last answer, or when it was first asked
	silent bool   // that it is silent is in the audit log
	seats  map[seatKey]seatWatch
	dirty  bool
}

// possession is what this node thinks of others' seats. Safe for concurrent use.
type possession struct {
	mu    sync.Mutex
	peers map[key.NodeID]*peerWatch
	busy  map[key.NodeID]bool // audits being answered
}

func newPossession() *possession {
	return &possession{peers: map[key.NodeID]*peerWatch{}, busy: map[key.NodeID]bool{}}
}

// watch begins or goes on to watch the nodes that hold seats, and forgets all
// others. It returns those that were forgotten.
func (p *possession) watch(now uint64, nodes map[key.NodeID][]pair) (gone []key.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node := range nodes {
		if p.peers[node] == nil {
			p.peers[node] = &peerWatch{heard: now, seats: map[seatKey]seatWatch{}, dirty: true}
		}
	}
	for node := range p.peers {
		if len(nodes[node]) == 0 {
			delete(p.peers, node)
			gone = append(gone, node)
		}
	}
	return gone
}

// heard notes an answer of a node; true: it was thought silent.
func (p *possession) heard(node key.NodeID, now uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.peers[node]
	if w == nil {
		return false
	}
	was := w.silent
	w.heard, w.silent, w.dirty = now, false, true
	return was
}

// newlySilent returns the nodes that are silent for too long since now.
func (p *possession) newlySilent(now uint64) []key.NodeID {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []key.NodeID
	for node, w := range p.peers {
		if !w.silent && w.tooLong(now) {
			w.silent, w.dirty = true, true
			out = append(out, node)
		}
	}
	return out
}

func (w *peerWatch) tooLong(now uint64) bool { return now > w.heard && now-w.heard >= silenceLimit }

// showed notes whether a seat showed its row, and reports whether it has just
// become suspect or good again.
func (p *possession) showed(node key.NodeID, k seatKey, manifest key.Hash, ok bool) (suspect, good bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.peers[node]
	if w == nil {
		return false, false
	}
	s, known := w.seats[k]
	if s.manifest != manifest {
		s = seatWatch{manifest: manifest}
	}
	if ok {
		if known {
			delete(w.seats, k)
			w.dirty = true
		}
		return false, known && s.failures >= maxFailures
	}
	if !known && len(w.seats) >= maxWatched {
		return false, false
	}
	s.failures++
	w.seats[k], w.dirty = s, true
	return s.failures == maxFailures, false
}

// accuse makes a seat suspect at once, for what it sent, and reports whether it
// was not before.
func (p *possession) accuse(node key.NodeID, k seatKey, manifest key.Hash, now uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.peers[node]
	if w == nil {
		w = &peerWatch{heard: now, seats: map[seatKey]seatWatch{}}
		p.peers[node] = w
	}
	s := w.seats[k]
	fresh := s.manifest != manifest || s.failures < maxFailures
	if fresh {
		w.seats[k], w.dirty = seatWatch{manifest: manifest, failures: maxFailures}, true
	}
	return fresh
}

// suspect says why the seat of a version at a node is suspect; empty: it is not.
func (p *possession) suspect(node key.NodeID, id, manifest key.Hash, x uint8, now uint64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.peers[node]
	switch {
	case w == nil:
		return ""
	case w.tooLong(now):
		return fmt.Sprintf("silent for %d h", (now-w.heard)/3600)
	}
	if s := w.seats[seatKey{id, x}]; s.manifest == manifest && s.failures >= maxFailures {
		return fmt.Sprintf("did not show its row %d times", s.failures)
	}
	return ""
}

// suspects are the seats of a version in force that are suspect here.
func (p *possession) suspects(s *secretState, now uint64) []byte {
	e := s.current()
	if e == nil {
		return nil
	}
	var out []byte
	for _, seat := range s.placement(e.version).Seats() {
		if p.suspect(seat.Node, e.ID, e.Hash, seat.X, now) != "" {
			out = append(out, seat.X)
		}
	}
	return out
}

// enter lets one audit of a node in at a time.
func (p *possession) enter(node key.NodeID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[node] || len(p.busy) >= maxAudits {
		return false
	}
	p.busy[node] = true
	return true
}

func (p *possession) leave(node key.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, node)
}

// The record of what is thought of one node, under (node,
// T("keymesh/v1/holder/possess"), the node).
type watchRecord struct {
	key.Head
	Node   key.NodeID    `cbor:"1,keyasint"`
	Heard  uint64        `cbor:"2,keyasint"` // running time, seconds
	Silent bool          `cbor:"3,keyasint"`
	Seats  []watchedSeat `cbor:"4,keyasint"` // that failed; by id and x
}

type watchedSeat struct {
	_        struct{} `cbor:",toarray"`
	ID       key.Hash
	X        uint8
	Manifest key.Hash
	Failures uint64
}

func watchID() key.Hash { return key.T("keymesh/v1/holder/possess") }

func watchPlace(node key.NodeID) share.Place {
	return share.Place{Bucket: share.BucketNode, ID: watchID(), Sub: key.Hash(node)}
}

// unsaved returns the records of nodes about which something has changed since
// the last time.
func (p *possession) unsaved() []share.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []share.Record
	for node, w := range p.peers {
		if !w.dirty {
			continue
		}
		w.dirty = false
		r := &watchRecord{Node: node, Heard: w.heard, Silent: w.silent}
		for k, s := range w.seats {
			r.Seats = append(r.Seats, watchedSeat{ID: k.id, X: k.x, Manifest: s.manifest, Failures: s.failures})
		}
		slices.SortFunc(r.Seats, func(a, b watchedSeat) int {
			if c := slices.Compare(a.ID[:], b.ID[:]); c != 0 {
				return c
			}
			return int(a.X) - int(b.X)
		})
		out = append(out, share.Record{Place: watchPlace(node), Value: key.Marshal(r)})
	}
	return out
}

// load reads what was thought before the start. What cannot be read is thought
// anew.
func (p *possession) load(shelf Shelf) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pl := range shelf.Places(share.BucketNode, watchID()) {
		b, err := shelf.Load(pl)
		if err != nil {
			continue
		}
		var r watchRecord
		if key.Unmarshal(b, &r) != nil || key.Hash(r.Node) != pl.Sub {
			continue
		}
		w := &peerWatch{heard: r.Heard, silent: r.Silent, seats: map[seatKey]seatWatch{}}
		for _, s := range r.Seats[:min(len(r.Seats), maxWatched)] {
			w.seats[seatKey{s.ID, s.X}] = seatWatch{manifest: s.Manifest, failures: s.Failures}
		}
		p.peers[r.Node] = w
	}
}
