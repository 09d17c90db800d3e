package share

import "keymesh/crypto/key"

// Bucket groups the records of a node's store. Numbers are on disk and are
// never reused.
type Bucket uint8

// The buckets.
const (
	BucketState   Bucket = 1 // one record a secret: what its holder keeps and promised
	BucketRow     Bucket = 2 // rows
	BucketPayload Bucket = 3 // ciphertexts
	BucketJournal Bucket = 4 // the writer's journal
	BucketReader  Bucket = 5 // the reader's memory: the highest generation seen certified
	BucketMesh    Bucket = 6 // known peers, certificates, tickets
	BucketNode    Bucket = 7 // single records of the node itself
	BucketRequest Bucket = 8 // requests under way
	BucketPass    Bucket = 9 // certificates and tombstones still to be passed on
)

// Place names one sealed record of a node's store. It is bound into the
// record's seal (protocol.md section 3, "At rest"). Fields that a bucket does
// not need are zero. Comparable.
type Place struct {
	Bucket Bucket
	ID     key.Hash
	Gen    uint64
	Epoch  uint32
	X      uint8
	// Sub tells records of one generation apart, such as two pendings: a
	// manifest's hash, or zero.
	Sub key.Hash
}

// Record is a place and what stands there. A nil Value deletes.
type Record struct {
	Place Place
	Value []byte
}
