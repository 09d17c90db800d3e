package keystore

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// certified is a manifest with a certificate that was verified. Immutable and
// shared.
type certified struct {
	m      *share.SignedManifest
	cert   []byte                  // encoded CommitCert
	before []*share.SignedManifest // what the certificate was verified against
	moves  [][]byte                // Reassigns that this node's own seat has
}

func (c *certified) beforeBytes() [][]byte {
	out := make([][]byte, len(c.before))
	for i, b := range c.before {
		out[i] = b.Bytes()
	}
	return out
}

// tombstone is a verified tombstone.
type tombstone struct {
	share.Tombstone
	hash    key.Hash
	bytes   []byte   // owner-signed, or only the body with consent
	consent [][]byte // the Request that authorises it, and the Approvals
}

// pending is a manifest without a certificate and the receipts shown for it,
// which are not verified before they are needed.
type pending struct {
	m        *share.SignedManifest
	receipts map[key.NodeID][]byte
}

// held is what one node said it has.
type held struct {
	committed key.Hash // zero: nothing
	gen       uint64
	row       uint8
	floor     custody.Floor // a claim; it proves nothing
	pendings  []key.Hash
	history   []key.Hash
	tombstone bool
}

// view is what the answers of holders say about one secret. Everything in it
// but held was verified. Not safe for concurrent use.
type view struct {
	s        *Store
	id       key.Hash
	parsed   map[[32]byte]*share.SignedManifest
	byHash   map[key.Hash]*share.SignedManifest
	certs    map[key.Hash]*certified
	pendings map[key.Hash]*pending
	tombs    []*tombstone
	claims   []*claim // tombstones by the policy that nothing proves yet
	held     map[key.NodeID]*held
	moves    map[key.Hash][]*share.SignedReassign       // by H(manifest), ascending by seq
	suspects map[key.Hash]map[uint8]map[key.NodeID]bool // claims: H(manifest), x, by whom
}

func (s *Store) newView(id key.Hash) *view {
	return &view{
		s: s, id: id,
		parsed:   make(map[[32]byte]*share.SignedManifest),
		byHash:   make(map[key.Hash]*share.SignedManifest),
		certs:    make(map[key.Hash]*certified),
		pendings: make(map[key.Hash]*pending),
		held:     make(map[key.NodeID]*held),
		moves:    make(map[key.Hash][]*share.SignedReassign),
		suspects: make(map[key.Hash]map[uint8]map[key.NodeID]bool),
	}
}

// add takes over what was verified before.
func (v *view) add(c *certified) {
	if c == nil || v.certs[c.m.Hash] != nil {
		return
	}
	v.certs[c.m.Hash] = c
	v.learn(c.m)
	for _, b := range c.before {
		v.learn(b)
	}
	_ = v.learnMoves(c.m.Hash, c.moves) // verified when they came
	v.judge()
}

func (v *view) learn(m *share.SignedManifest) {
	v.byHash[m.Hash] = m
	v.parsed[sha256.Sum256(m.Bytes())] = m
}

// open verifies a manifest of this secret, once however many holders show it.
func (v *view) open(b []byte) (*share.SignedManifest, error) {
	sum := sha256.Sum256(b)
	if m := v.parsed[sum]; m != nil {
		return m, nil
	}
	m, err := share.OpenManifest(v.s.cfg.ID, b)
	if err != nil {
		return nil, err
	}
	if m.ID != v.id {
		return nil, fmt.Errorf("%w: of another secret", share.ErrManifest)
	}
	v.parsed[sum] = m
	v.byHash[m.Hash] = m
	return m, nil
}

// merge takes in what a node says. An error means that the node showed
// something that no honest node shows; what was good in it is kept.
func (v *view) merge(from key.NodeID, st *custody.State) error {
	h := &held{floor: st.Floor, row: st.Row}
	v.held[from] = h
	if len(st.Pending) > maxPending || len(st.History) > share.MaxKeep || len(st.Before) > 1+share.MaxForce {
		return fmt.Errorf("%w: more of something than a holder keeps", errAnswer)
	}
	defer v.judge()
	return errors.Join(v.mergeTombstone(from, h, st), v.mergeCommitted(h, st), v.mergePendings(from, h, st), v.mergeHistory(h, st))
}

func (v *view) mergeTombstone(from key.NodeID, h *held, st *custody.State) error {
	if len(st.Tombstone) == 0 {
		return nil
	}
	h.tombstone = true
	for _, t := range v.tombs {
		if string(t.bytes) == string(st.Tombstone) {
			return nil
		}
	}
	if len(st.Consent) > 0 {
		return v.mergeClaim(from, st)
	}
	t, hash, err := share.OpenTombstone(v.s.cfg.ID, st.Tombstone)
	if err == nil && t.ID != v.id {
		err = fmt.Errorf("%w: of another secret", share.ErrTombstone)
	}
	if err != nil {
		return err
	}
	v.tombs = append(v.tombs, &tombstone{Tombstone: *t, hash: hash, bytes: st.Tombstone})
	return nil
}

func (v *view) mergeCommitted(h *held, st *custody.State) error {
	if len(st.Manifest) == 0 {
		return nil
	}
	m, err := v.open(st.Manifest)
	if err != nil {
		return err
	}
	if v.certs[m.Hash] == nil {
		c, err := v.certify(m, st.Cert, st.Before)
		if err != nil {
			return err
		}
		v.certs[m.Hash] = c
	}
	h.committed, h.gen = m.Hash, m.Gen
	return nil
}

// certify verifies a certificate against the manifests that are shown with it
// or known already.
func (v *view) certify(m *share.SignedManifest, cert []byte, before [][]byte) (*certified, error) {
	for _, b := range before {
		if _, err := v.open(b); err != nil {
			return nil, err
		}
	}
	c, err := share.DecodeCert(cert)
	if err != nil {
		return nil, err
	}
	ms, err := v.beforeOf(&m.Manifest)
	if err != nil {
		return nil, err
	}
	if err := share.VerifyCert(v.s.cfg.ID, c, m, ms, v.s.revoked()); err != nil {
		return nil, err
	}
	return &certified{m: m, cert: cert, before: ms}, nil
}

// beforeOf returns the manifests whose seats count as prev's for m.
func (v *view) beforeOf(m *share.Manifest) ([]*share.SignedManifest, error) {
	var out []*share.SignedManifest
	need := m.Force
	if !m.Prev.IsZero() {
		need = append([]key.Hash{m.Prev}, need...)
	}
	for _, h := range need {
		b := v.byHash[h]
		if b == nil {
			return nil, fmt.Errorf("%w: a manifest before it is not known", share.ErrCertificate)
		}
		out = append(out, b)
	}
	return out, nil
}

func (v *view) mergePendings(from key.NodeID, h *held, st *custody.State) error {
	for _, p := range st.Pending {
		m, err := v.open(p.Manifest)
		if err != nil {
			return err
		}
		known := v.pendings[m.Hash]
		if known == nil {
			known = &pending{m: m, receipts: make(map[key.NodeID][]byte)}
			v.pendings[m.Hash] = known
		}
		known.receipts[from] = p.Receipt
		h.pendings = append(h.pendings, m.Hash)
	}
	return nil
}

func (v *view) mergeHistory(h *held, st *custody.State) error {
	for _, b := range st.History {
		m, err := v.open(b)
		if err != nil {
			return err
		}
		h.history = append(h.history, m.Hash)
	}
	return nil
}

// nothingAbove reports whether a node that answered says that it knows of
// nothing certified above gen. One that holds nothing at all says nothing.
func (v *view) nothingAbove(node key.NodeID, gen uint64) bool {
	h := v.held[node]
	return h != nil && h.floor.Gen <= gen
}

// deleted reports whether a tombstone covers this generation.
func (v *view) deleted(gen uint64) bool {
	return slices.ContainsFunc(v.tombs, func(t *tombstone) bool { return t.Covers(gen) })
}

// tomb is the highest tombstone, or nil.
func (v *view) tomb() *tombstone {
	var out *tombstone
	for _, t := range v.tombs {
		if out == nil || t.Gen > out.Gen || (t.Gen == out.Gen && t.Scope > out.Scope) {
			out = t
		}
	}
	return out
}

// buried reports whether a tombstone for everything covers this generation:
// then nothing is there. One generation deleted alone stays as what is there,
// without a value.
func (v *view) buried(gen uint64) bool {
	return slices.ContainsFunc(v.tombs, func(t *tombstone) bool { return t.Scope == share.ScopeAll && t.Covers(gen) })
}

// latest is the highest certified manifest that is not buried, or nil. A second
// certified manifest of that generation, or one of a line that has diverged
// from it, is returned as well (W4: nothing is chosen silently).
func (v *view) latest() (best, fork *certified) {
	for _, c := range v.certs {
		if !v.buried(c.m.Gen) && (best == nil || compareCertified(c, best) > 0) {
			best = c
		}
	}
	if best == nil {
		return nil, nil
	}
	for _, c := range v.certs {
		if c != best && !v.buried(c.m.Gen) && diverged(best, c) && (fork == nil || compareCertified(c, fork) > 0) {
			fork = c
		}
	}
	return best, fork
}

func compareCertified(a, b *certified) int {
	return cmp.Or(cmp.Compare(a.m.Gen, b.m.Gen), slices.Compare(a.m.Hash[:], b.m.Hash[:]))
}

// diverged reports whether two certified manifests cannot be of one line: two
// of one generation, or a higher one whose prev is older than the lower one,
// or none, although it neither follows nor forces it. Certificates need w of
// prev's seats, so such a pair exists only after first puts in a split mesh.
func diverged(high, low *certified) bool {
	m := &high.m.Manifest
	if m.Prev == low.m.Hash || slices.Contains(m.Force, low.m.Hash) {
		return false
	}
	if m.Gen == low.m.Gen || m.Prev.IsZero() {
		return true
	}
	for _, b := range high.before {
		if b.Hash == m.Prev {
			return b.Gen < low.m.Gen
		}
	}
	return false
}

// live are the pendings above gen that no tombstone covers and that have no
// certificate, lowest first.
func (v *view) live(gen uint64) []*pending {
	var out []*pending
	for h, p := range v.pendings {
		if p.m.Gen > gen && v.certs[h] == nil && !v.deleted(p.m.Gen) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *pending) int {
		return cmp.Or(cmp.Compare(a.m.Gen, b.m.Gen), slices.Compare(a.m.Hash[:], b.m.Hash[:]))
	})
	return out
}

// complete looks for a pending above the latest generation whose receipts make
// a certificate; whoever holds w receipts holds one (W4). The highest wins.
func (v *view) complete() *certified {
	gen := uint64(0)
	if best, _ := v.latest(); best != nil {
		gen = best.m.Gen
	}
	live := v.live(gen)
	for _, p := range slices.Backward(live) {
		before, err := v.beforeOf(&p.m.Manifest)
		if err != nil || len(p.receipts) < int(p.m.W) {
			continue
		}
		cert := v.s.certFrom(p, before)
		if cert == nil {
			continue
		}
		c := &certified{m: p.m, cert: cert.Encode(), before: before}
		v.certs[p.m.Hash] = c
		return c
	}
	return nil
}

// certFrom forms a certificate of the receipts that verify, or nil.
func (s *Store) certFrom(p *pending, before []*share.SignedManifest) *share.CommitCert {
	cert := &share.CommitCert{Manifest: p.m.Hash}
	for node, b := range p.receipts {
		if o, err := openReceipt(s.cfg.ID, key.TypePrepared, p.m, node, b); err == nil {
			cert.Prepared = append(cert.Prepared, o)
		}
	}
	if share.VerifyCert(s.cfg.ID, cert, p.m, before, s.revoked()) != nil {
		return nil
	}
	return cert
}

// openReceipt verifies a receipt of type t for m by node.
func openReceipt(net key.NetworkID, t key.Type, m *share.SignedManifest, node key.NodeID, b []byte) (key.Object, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return o, err
	}
	r, err := share.OpenReceipt(net, t, o)
	if err != nil {
		return o, err
	}
	return o, fits(r, m, node)
}

// readReceipt reads a receipt whose signature proves nothing more: of this
// node's own seat, which has just made it, or one that nothing depends on.
func readReceipt(t key.Type, m *share.SignedManifest, node key.NodeID, b []byte) (key.Object, error) {
	o, err := key.DecodeObject(b)
	if err != nil {
		return o, err
	}
	var r share.Receipt
	if err := key.Unmarshal(o.Body, &r); err != nil || o.Type != t {
		return o, share.ErrReceipt
	}
	return o, fits(r, m, node)
}

// fits checks that a receipt is for m with the x of the node's seat, or 0 when
// it has none.
func fits(r share.Receipt, m *share.SignedManifest, node key.NodeID) error {
	var x uint8
	if seat := m.SeatOf(node); seat != nil {
		x = seat.X
	}
	if r.Manifest != m.Hash || r.Node != node || r.X != x || r.Epoch != 0 {
		return fmt.Errorf("%w: for another manifest, seat or epoch", share.ErrReceipt)
	}
	return nil
}
