package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

const (
	// maxWitnesses bounds the peers of which heads are kept.
	maxWitnesses = 512
	maxHeadBytes = 512
	maxPeersFile = 1 + len(storeID{}) + seal.BoxOverhead + maxWitnesses*((4+MaxEarlier)*(maxHeadBytes+3)+64) + 16
)

// MaxEarlier bounds the earlier heads of a peer that are kept.
const MaxEarlier = 12

// Witness is what this node keeps of one peer: signed heads, as they arrived.
type Witness struct {
	_    struct{} `cbor:",toarray"`
	Peer key.NodeID
	Time uint64 // unix seconds when something of this last changed
	// Mine is the newest head of this node's own log that the peer showed.
	Mine []byte
	// Theirs is the newest head of the peer's log: to be shown to the peer.
	Theirs []byte
	// Proof is empty, or proves for good that a log was cut or rewritten: two
	// heads of the peer that contradict each other, or one head of this node's
	// own log that the log does not bear out.
	Proof [][]byte
	// Earlier are heads of the peer's log before Theirs, the oldest first, the
	// spaces between them growing with their age: a log that was rewritten and
	// then went on is not borne out by one of them.
	Earlier [][]byte
}

// oldWitness is a Witness as it was kept before there was Earlier.
type oldWitness struct {
	_      struct{} `cbor:",toarray"`
	Peer   key.NodeID
	Time   uint64
	Mine   []byte
	Theirs []byte
	Proof  [][]byte
}

// witnesses are the heads in audit.peers.
type witnesses struct {
	mu   sync.Mutex
	list []Witness
}

func (k *auditKeys) peersHead() []byte { return append([]byte{format}, k.id[:]...) }

// encodePeers returns the file audit.peers.
func (k *auditKeys) encodePeers(list []Witness) []byte {
	head := k.peersHead()
	return append(head, seal.Box(&k.box, append([]byte(peersAAD), head...), key.Encode(list))...)
}

func (k *auditKeys) decodePeers(b []byte) (list []Witness, err error) {
	head := k.peersHead()
	if len(b) < len(head) || string(b[:len(head)]) != string(head) {
		return nil, damaged("%s is not of this log", auditPeers)
	}
	plain, err := seal.Unbox(&k.box, append([]byte(peersAAD), head...), b[len(head):])
	if err != nil {
		return nil, damaged("%s does not open", auditPeers)
	}
	if key.Decode(plain, &list) == nil {
		return list, nil
	}
	var old []oldWitness
	if err := key.Decode(plain, &old); err != nil {
		return nil, damaged("%s does not parse", auditPeers)
	}
	list = make([]Witness, len(old))
	for i, o := range old {
		list[i] = Witness{Peer: o.Peer, Time: o.Time, Mine: o.Mine, Theirs: o.Theirs, Proof: o.Proof}
	}
	return list, nil
}

func (a *Audit) loadPeers() error {
	b, err := readSmall(a.path(auditPeers), maxPeersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("there is no %s", auditPeers)
	}
	if err != nil {
		return err
	}
	a.witness.list, err = a.keys.decodePeers(b)
	return err
}

// Witnesses returns what is kept of all peers, copied.
func (a *Audit) Witnesses() []Witness {
	a.witness.mu.Lock()
	defer a.witness.mu.Unlock()
	out := slices.Clone(a.witness.list)
	for i := range out {
		out[i].Mine, out[i].Theirs = slices.Clone(out[i].Mine), slices.Clone(out[i].Theirs)
		out[i].Proof, out[i].Earlier = cloneAll(out[i].Proof), cloneAll(out[i].Earlier)
	}
	return out
}

func cloneAll(in [][]byte) [][]byte {
	out := slices.Clone(in)
	for i, b := range out {
		out[i] = slices.Clone(b)
	}
	return out
}

// Witnessed returns the heads of the peer's log that this node has, to be shown
// to the peer, the newest first; nil when there is none.
func (a *Audit) Witnessed(peer key.NodeID) [][]byte {
	a.witness.mu.Lock()
	defer a.witness.mu.Unlock()
	w := a.witness.find(peer)
	if w == nil || len(w.Theirs) == 0 {
		return nil
	}
	out := cloneAll(append(slices.Clone(w.Earlier), w.Theirs))
	slices.Reverse(out)
	return out
}

func (s *witnesses) find(peer key.NodeID) *Witness {
	for i := range s.list {
		if s.list[i].Peer == peer {
			return &s.list[i]
		}
	}
	return nil
}

// SaveWitness verifies and keeps a signed head that a peer showed: of the peer's
// own log, or of this node's log, which the peer had kept. It is on disk when
// SaveWitness returns. A head that proves that one of the logs was cut or
// rewritten is kept for good and reported as [ErrRewritten], also by Verify when
// it is this node's log; an older head than the one known is ignored. Errors
// besides: [ErrInput] for anything that is no such head, [ErrDamaged] when the
// log cannot be read, [ErrStopped]. An error of writing leaves the log running:
// heads are exchanged again.
func (a *Audit) SaveWitness(peer key.NodeID, head []byte) error {
	h, err := a.openHead(peer, head)
	if err != nil {
		return err
	}
	if err := a.startRead(); err != nil {
		return err
	}
	defer a.reads.RUnlock()
	a.witness.mu.Lock()
	defer a.witness.mu.Unlock()
	w := Witness{Peer: peer}
	if old := a.witness.find(peer); old != nil {
		w = *old
	}
	changed, verdict := a.weigh(&w, h, slices.Clone(head))
	if verdict != nil && !errors.Is(verdict, ErrRewritten) || !changed {
		return verdict
	}
	w.Time = unixNow()
	list := a.witness.with(w)
	if err := replaceFile(a.path(auditPeers), a.keys.encodePeers(list)); err != nil {
		return fmt.Errorf("writing %s: %w", auditPeers, errors.Join(err, verdict))
	}
	a.witness.list = list
	return verdict
}

func (a *Audit) openHead(peer key.NodeID, head []byte) (*share.AuditHead, error) {
	if len(head) > maxHeadBytes || peer == a.node {
		return nil, fmt.Errorf("%w: no head of an audit log from a peer", ErrInput)
	}
	h, err := share.OpenAuditHead(a.net, head)
	if err != nil {
		return nil, fmt.Errorf("%w: a peer's head of an audit log: %w", ErrInput, err)
	}
	if h.Node != a.node && h.Node != peer {
		return nil, fmt.Errorf("%w: a head of a third node's audit log", ErrInput)
	}
	return h, nil
}

// weigh enters a head into w and says whether that changed it. w shares its
// lists with what is kept: they are replaced and never written to.
func (a *Audit) weigh(w *Witness, h *share.AuditHead, b []byte) (changed bool, err error) {
	if h.Node != a.node {
		return a.weighTheirs(w, h, b)
	}
	err = a.bears(h)
	if errors.Is(err, ErrRewritten) {
		if len(w.Proof) > 0 {
			return false, err
		}
		w.Proof = [][]byte{b}
		return true, err
	}
	if err != nil {
		return false, err
	}
	if old := a.known(w.Mine); old != nil && old.Seq >= h.Seq {
		return false, nil
	}
	w.Mine = b
	return true, nil
}

func (a *Audit) weighTheirs(w *Witness, h *share.AuditHead, b []byte) (changed bool, err error) {
	for _, kept := range append([][]byte{w.Theirs}, w.Earlier...) {
		old := a.known(kept)
		if old == nil || !share.Contradict(old, h) {
			continue
		}
		err := fmt.Errorf("%w: that of %v, by its own heads of entries %d and %d", ErrRewritten, h.Node.Short(), old.Seq, h.Seq)
		if len(w.Proof) > 0 {
			return false, err
		}
		w.Proof = [][]byte{kept, b}
		return true, err
	}
	old := a.known(w.Theirs)
	switch {
	case old == nil:
	case old.Seq > h.Seq, old.Seq == h.Seq && old.Time >= h.Time:
		return false, nil
	case old.Seq == h.Seq && h.Time-old.Time < headAge:
		return false, nil // the same again: not worth a write
	case old.Seq < h.Seq:
		w.Earlier = a.thin(append(slices.Clip(w.Earlier), w.Theirs), h.Time)
	}
	w.Theirs = b
	return true, nil
}

// thin drops of too many heads the one whose neighbours are nearest to one
// another for their age. The oldest stays, and whoever shows many heads at once
// drives only those out.
func (a *Audit) thin(heads [][]byte, now uint64) [][]byte {
	if len(heads) <= MaxEarlier {
		return heads
	}
	times := make([]uint64, len(heads))
	for i, b := range heads {
		if h := a.known(b); h != nil {
			times[i] = h.Time
		}
	}
	drop, least := 1, 2.0
	for i := 1; i < len(heads); i++ {
		next := now
		if i+1 < len(heads) {
			next = times[i+1]
		}
		gap, age := next-min(next, times[i-1]), now-min(now, times[i-1])
		if r := float64(gap) / float64(age+1); r < least {
			drop, least = i, r
		}
	}
	return slices.Delete(heads, drop, drop+1)
}

// headAge is for how long a head of an unchanged log is not kept anew, in
// seconds.
const headAge = 3600

// bears says whether this log bears out a head that this node once signed.
func (a *Audit) bears(h *share.AuditHead) error {
	have, err := a.hashAt(h.Seq)
	if err == nil && have != h.Hash {
		err = fmt.Errorf("%w: entry %d is not the one that was signed", ErrRewritten, h.Seq)
	}
	return err
}

// known opens a head that was verified when it was kept.
func (a *Audit) known(b []byte) *share.AuditHead {
	if len(b) == 0 {
		return nil
	}
	h, err := share.OpenAuditHead(a.net, b)
	if err != nil {
		return nil
	}
	return h
}

// with returns the list with w in it. When there are too many peers, the one of
// which nothing was heard for longest goes, but none with a proof.
func (s *witnesses) with(w Witness) []Witness {
	list := slices.Clone(s.list)
	if i := slices.IndexFunc(list, func(o Witness) bool { return o.Peer == w.Peer }); i >= 0 {
		list[i] = w
		return list
	}
	if len(list) >= maxWitnesses {
		drop := -1
		for i := range list {
			if len(list[i].Proof) == 0 && (drop < 0 || list[i].Time < list[drop].Time) {
				drop = i
			}
		}
		if drop < 0 {
			return list
		}
		list = slices.Delete(list, drop, drop+1)
	}
	return append(list, w)
}

// claims are the heads of this node's log that its peers hold.
type claims []claim

type claim struct {
	peer   key.NodeID
	object []byte
	share.AuditHead
}

func (a *Audit) ownHeads() claims {
	a.witness.mu.Lock()
	defer a.witness.mu.Unlock()
	var out claims
	for _, w := range a.witness.list {
		for _, b := range append([][]byte{w.Mine}, w.Proof...) {
			if h := a.known(b); h != nil && h.Node == a.node {
				out = append(out, claim{w.Peer, b, *h})
			}
		}
	}
	return out
}

// check compares an entry with what was signed.
func (c claims) check(seq uint64, hash key.Hash) error {
	for i := range c {
		if c[i].Seq == seq && c[i].Hash != hash {
			return fmt.Errorf("%w: entry %d is not the one that was signed, as %v can show", ErrRewritten, seq, c[i].peer.Short())
		}
	}
	return nil
}

// end compares the end of the log with what was signed.
func (c claims) end(seq uint64) error {
	for i := range c {
		if c[i].Seq > seq {
			return fmt.Errorf("%w: it ends with entry %d, and entry %d was signed, as %v can show", ErrRewritten, seq, c[i].Seq, c[i].peer.Short())
		}
	}
	return nil
}
