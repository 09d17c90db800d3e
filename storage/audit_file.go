package storage

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

// The files of an audit log.
const (
	auditName   = "audit.log"
	auditMarks  = "audit.head"
	auditPeers  = "audit.peers"
	auditMagic  = "keymesh auditlog"
	frameMagic  = "kmlg"
	markSlot    = 512 // one sector: written whole or not at all
	markSize    = 2 * markSlot
	segFixed    = 16 + 1 + 16 + 4
	segPlain    = 32 + 32 + 8 + 32 + 8
	segHead     = segFixed + segPlain + seal.BoxOverhead
	frameFixed  = 4 + 4 + 8 + 4
	frameTag    = 16
	frameHead   = frameFixed + frameTag
	maxFrameBox = maxGroup*(4+maxBody) + seal.BoxOverhead
)

const (
	segmentAAD = "keymesh/v1/log/segment"
	groupAAD   = "keymesh/v1/log/group"
	markAAD    = "keymesh/v1/log/mark"
	peersAAD   = "keymesh/v1/log/peers"
)

// auditKeys seal one log: derived from the storage key and the log's id.
type auditKeys struct {
	id  storeID
	box [32]byte
	tag [32]byte
}

func newAuditKeys(k *[32]byte, id storeID) (auditKeys, error) {
	b, err := hkdf.Key(sha256.New, k[:], id[:], "keymesh/v1/log/key", 64)
	if err != nil {
		return auditKeys{}, fmt.Errorf("deriving the keys of the audit log: %w", err)
	}
	defer clear(b)
	return auditKeys{id: id, box: [32]byte(b[:32]), tag: [32]byte(b[32:])}, nil
}

func (k *auditKeys) erase() {
	clear(k.box[:])
	clear(k.tag[:])
}

// segmentName is the file of a closed segment.
func segmentName(n uint32) string { return auditName + "." + strconv.FormatUint(uint64(n), 10) }

// encodeSegment returns the header of a segment's file.
func (k *auditKeys) encodeSegment(net key.NetworkID, node key.NodeID, s segment) []byte {
	fixed := append([]byte(auditMagic), format)
	fixed = append(fixed, k.id[:]...)
	fixed = binary.BigEndian.AppendUint32(fixed, s.number)
	plain := make([]byte, 0, segPlain)
	plain = append(append(plain, net[:]...), node[:]...)
	plain = binary.BigEndian.AppendUint64(plain, s.first)
	plain = append(plain, s.prev[:]...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(s.earlier))
	return append(fixed, seal.Box(&k.box, append([]byte(segmentAAD), fixed...), plain)...)
}

// readSegmentID reads which log and segment a file claims to be, before there
// are keys.
func readSegmentID(name string, b []byte) (id storeID, number uint32, err error) {
	if len(b) != segHead || !bytes.HasPrefix(b, []byte(auditMagic)) {
		return id, 0, damaged("%s is no audit log", name)
	}
	if v := b[len(auditMagic)]; v != format {
		return id, 0, fmt.Errorf("%w: %s has %d", ErrVersion, name, v)
	}
	id = storeID(b[len(auditMagic)+1:])
	return id, binary.BigEndian.Uint32(b[segFixed-4:]), nil
}

// decodeSegment parses the header of a segment's file.
func (k *auditKeys) decodeSegment(name string, b []byte) (net key.NetworkID, node key.NodeID, s segment, err error) {
	id, number, err := readSegmentID(name, b)
	if err != nil {
		return net, node, s, err
	}
	plain, err := seal.Unbox(&k.box, append([]byte(segmentAAD), b[:segFixed]...), b[segFixed:])
	if err != nil || len(plain) != segPlain || id != k.id {
		return net, node, s, fmt.Errorf("%w: %s does not open with the storage key", ErrForeign, name)
	}
	s.number, s.first = number, beUint64(plain[64:])
	s.prev, s.earlier = key.Hash(plain[72:104]), int64(beUint64(plain[104:]))
	return key.NetworkID(plain[:32]), key.NodeID(plain[32:64]), s, nil
}

// frame is the header of a group: the entries of one write, sealed together.
type frame struct {
	seg   uint32
	off   int64
	first uint64
	count int
	size  int // of the box
}

func (f frame) end() int64   { return f.off + frameHead + int64(f.size) }
func (f frame) last() uint64 { return f.first + uint64(f.count) - 1 }

func (f frame) fixed() []byte {
	b := append(make([]byte, 0, frameHead), frameMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(f.count))
	b = binary.BigEndian.AppendUint64(b, f.first)
	return binary.BigEndian.AppendUint32(b, uint32(f.size))
}

// place is what binds a group to where it stands.
func (f frame) place() []byte {
	b := binary.BigEndian.AppendUint32(nil, f.seg)
	return binary.BigEndian.AppendUint64(b, uint64(f.off))
}

// mac authenticates the header alone, so that a damaged group can be told from
// one that was never written whole.
func (k *auditKeys) mac(f frame) []byte {
	m := hmac.New(sha256.New, k.tag[:])
	m.Write(f.place())
	m.Write(f.fixed())
	return m.Sum(nil)[:frameTag]
}

func (k *auditKeys) groupAAD(f frame) []byte {
	b := append([]byte(groupAAD), k.id[:]...)
	return append(append(b, f.place()...), f.fixed()...)
}

// sealGroup returns the bytes of a group that will stand at off.
func (k *auditKeys) sealGroup(seg uint32, off int64, first uint64, bodies [][]byte) []byte {
	plain := encodeGroup(bodies)
	f := frame{seg: seg, off: off, first: first, count: len(bodies), size: len(plain) + seal.BoxOverhead}
	out := append(f.fixed(), k.mac(f)...)
	return append(out, seal.Box(&k.box, k.groupAAD(f), plain)...)
}

// parseFrame returns the header that stands at off, or false.
func (k *auditKeys) parseFrame(seg uint32, off int64, b []byte) (frame, bool) {
	if len(b) < frameHead || string(b[:4]) != frameMagic {
		return frame{}, false
	}
	f := frame{seg: seg, off: off, first: beUint64(b[8:])}
	count, size := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[16:])
	if count < 1 || count > maxGroup || size < seal.BoxOverhead || size > maxFrameBox {
		return frame{}, false
	}
	f.count, f.size = int(count), int(size)
	return f, hmac.Equal(k.mac(f), b[frameFixed:frameHead])
}

// errTorn: a group is not there as a whole.
var errTorn = errors.New("it is damaged or cut short")

// openGroup opens the box of a group.
func (k *auditKeys) openGroup(f frame, box []byte) ([]AuditEntry, error) {
	plain, err := seal.Unbox(&k.box, k.groupAAD(f), box)
	if err != nil {
		return nil, errTorn
	}
	return decodeGroup(plain, f.first, f.count)
}

// auditMark is what audit.head holds: how far the log was when a group was
// acknowledged, and the time of the newest head.
type auditMark struct {
	counter  uint64
	pos      position
	headTime uint64
	seg      uint32
	end      int64
}

const markPlain = 8 + 8 + 32 + 8 + 4 + 8

func (k *auditKeys) markAAD(slot int) []byte {
	return append(append([]byte(markAAD), k.id[:]...), byte(slot))
}

// encodeMark returns the slot that m goes to and its bytes.
func (k *auditKeys) encodeMark(m auditMark) (slot int, b []byte) {
	slot = int(m.counter % 2)
	plain := binary.BigEndian.AppendUint64(nil, m.counter)
	plain = binary.BigEndian.AppendUint64(plain, m.pos.seq)
	plain = append(plain, m.pos.hash[:]...)
	plain = binary.BigEndian.AppendUint64(plain, m.headTime)
	plain = binary.BigEndian.AppendUint32(plain, m.seg)
	plain = binary.BigEndian.AppendUint64(plain, uint64(m.end))
	return slot, append(seal.Box(&k.box, k.markAAD(slot), plain), make([]byte, markSlot-markPlain-seal.BoxOverhead)...)
}

// decodeMark returns the newest of the two marks of audit.head.
func (k *auditKeys) decodeMark(b []byte) (m auditMark, err error) {
	if len(b) != markSize {
		return m, damaged("%s has %d bytes", auditMarks, len(b))
	}
	for slot := range 2 {
		box := b[slot*markSlot:][:markPlain+seal.BoxOverhead]
		plain, err := seal.Unbox(&k.box, k.markAAD(slot), box)
		if err != nil || len(plain) != markPlain || beUint64(plain) <= m.counter {
			continue
		}
		m = auditMark{counter: beUint64(plain), pos: position{beUint64(plain[8:]), key.Hash(plain[16:48])}}
		m.headTime, m.seg, m.end = beUint64(plain[48:]), binary.BigEndian.Uint32(plain[56:]), int64(beUint64(plain[60:]))
	}
	if m.counter == 0 {
		return m, damaged("%s does not open", auditMarks)
	}
	return m, nil
}

// writeMark writes where the log is. The caller holds mu.
func (a *Audit) writeMark(sync bool) error {
	a.mark.counter++
	a.mark.pos, a.mark.end = a.pos, a.end
	a.mark.seg = a.segs[len(a.segs)-1].number
	slot, b := a.keys.encodeMark(a.mark)
	if _, err := a.marker.WriteAt(b, int64(slot)*markSlot); err != nil {
		return fmt.Errorf("writing %s: %w", auditMarks, err)
	}
	if sync {
		if err := a.marker.Sync(); err != nil {
			return fmt.Errorf("writing %s: %w", auditMarks, err)
		}
	}
	return nil
}

// readMark reads audit.head.
func (k *auditKeys) readMark(f *os.File) (auditMark, error) {
	b := make([]byte, markSize+1)
	n, err := f.ReadAt(b, 0)
	if n != markSize {
		return auditMark{}, damaged("%s has %d bytes: %v", auditMarks, n, err)
	}
	return k.decodeMark(b[:n])
}
