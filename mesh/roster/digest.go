package roster

import (
	"bytes"
	"slices"

	"keymesh/crypto/key"
)

// Buckets is how many digests describe a roster: one for each first byte of an
// item's id.
const Buckets = 256

// DigestSize is the number of bytes of one bucket's digest.
const DigestSize = 8

// Digest describes a roster: 256 digests of 8 bytes, zero for an empty bucket.
// Two rosters with equal digests hold the same versions.
type Digest [Buckets * DigestSize]byte

// Bucket returns the digest of bucket i.
func (d *Digest) Bucket(i byte) []byte { return d[int(i)*DigestSize : (int(i)+1)*DigestSize] }

// Differ returns the numbers of the buckets in which a and b differ.
func (d *Digest) Differ(other *Digest) []byte {
	var out []byte
	for i := range Buckets {
		if !bytes.Equal(d.Bucket(byte(i)), other.Bucket(byte(i))) {
			out = append(out, byte(i))
		}
	}
	return out
}

// Digest returns the digests of the roster. Revoked nodes are left out, so
// that those who dropped a record and those who never had it agree.
func (r *Roster) Digest() Digest {
	if r.digest != nil {
		return *r.digest
	}
	var by [Buckets][]Have
	for _, h := range r.haves(nil) {
		by[h.ID[0]] = append(by[h.ID[0]], h)
	}
	var d Digest
	for i, hs := range by {
		if len(hs) == 0 {
			continue
		}
		b := make([]byte, 0, len(hs)*40)
		for _, h := range hs {
			b = append(append(b, h.ID[:]...), key.U64(h.Seq)...)
		}
		sum := key.T("keymesh/v1/bucket", b)
		copy(d.Bucket(byte(i)), sum[:DigestSize])
	}
	r.digest = &d
	return d
}

// haves lists the spreading items whose first byte is in the set (nil: all),
// in ascending order of ids.
func (r *Roster) haves(set []byte) []Have {
	var out []Have
	in := func(id key.Hash) bool { return set == nil || bytes.IndexByte(set, id[0]) >= 0 }
	for id, rec := range r.records {
		if in(key.Hash(id)) && !r.Revoked(id, rec.Chain) {
			out = append(out, Have{ID: key.Hash(id), Seq: rec.Body.Seq})
		}
	}
	for id, l := range r.lists {
		if in(id) {
			out = append(out, Have{ID: id, Seq: l.body.Seq})
		}
	}
	slices.SortFunc(out, func(a, b Have) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

// Haves lists what the roster has in these buckets, ascending by id.
func (r *Roster) Haves(buckets []byte) []Have {
	if len(buckets) == 0 {
		return nil
	}
	return r.haves(buckets)
}

// Wants reports whether h is newer than what the roster has, and not a record
// that it would refuse as revoked.
func (r *Roster) Wants(h Have) bool {
	if r.nodes[key.NodeID(h.ID)] {
		return false
	}
	if rec := r.records[key.NodeID(h.ID)]; rec != nil {
		return h.Seq > rec.Body.Seq
	}
	if l := r.lists[h.ID]; l != nil {
		return h.Seq > l.body.Seq
	}
	return true
}

// Item returns the current item of this id.
func (r *Roster) Item(id key.Hash) (Item, bool) {
	if rec := r.records[key.NodeID(id)]; rec != nil {
		return Item{Object: rec.Object}, true
	}
	if l := r.lists[id]; l != nil {
		return l.item, true
	}
	return Item{}, false
}
