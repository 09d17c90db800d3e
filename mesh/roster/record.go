package roster

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"keymesh/crypto/key"
)

// Limits of a NodeRecord.
const (
	MaxRecordSize = 1536           // bytes of the whole signed object
	MaxRecordLife = 26 * time.Hour // how far ahead of the reader's clock it may end
	MaxAddrs      = 8
	MaxBindings   = 4
	MaxAddrSize   = 255 // bytes of one address
)

// FeatureIssuer is the bit of NodeRecord.Features that says: this node has an
// issuer's key, and answers JOIN and RENEW.
const FeatureIssuer uint64 = 1

// NodeRecord is what a node tells about itself.
type NodeRecord struct {
	key.Head
	Node     key.NodeID   `cbor:"1,keyasint"`
	Seq      uint64       `cbor:"2,keyasint"` // higher replaces lower; from 1
	Addrs    []string     `cbor:"3,keyasint"` // see [CheckAddr]
	Sealing  key.Hash     `cbor:"4,keyasint"` // [SealingHash] of the sealing key
	Bindings []key.Object `cbor:"5,keyasint"` // PersonBindings of this node
	Member   key.Object   `cbor:"6,keyasint"`
	Issuer   key.Object   `cbor:"7,keyasint"`
	Features uint64       `cbor:"8,keyasint"` // unknown bits are kept and ignored
	Expires  uint64       `cbor:"9,keyasint"` // unix seconds, exclusive
}

// SealingHash is H(sealing key) of a NodeRecord.
func SealingHash(sealingKey []byte) key.Hash { return key.T("keymesh/v1/sealing-key", sealingKey) }

func (r *NodeRecord) check() error {
	switch {
	case r.Seq == 0:
		return fmt.Errorf("%w: NodeRecord with seq 0", ErrInvalid)
	case len(r.Addrs) > MaxAddrs:
		return fmt.Errorf("%w: more than %d addresses", ErrInvalid, MaxAddrs)
	case len(r.Bindings) > MaxBindings:
		return fmt.Errorf("%w: more than %d bindings", ErrInvalid, MaxBindings)
	case r.Expires > maxTime:
		return fmt.Errorf("%w: NodeRecord that never ends", ErrInvalid)
	}
	for _, a := range r.Addrs {
		if err := CheckAddr(a); err != nil {
			return err
		}
	}
	return nil
}

// CheckAddr accepts "host:port", "ws://host:port" and "wss://host:port", where
// host is a name of [A-Za-z0-9._-] or an IP address (IPv6 in brackets, without
// a zone) and port is 1 to 65535.
func CheckAddr(s string) error {
	bad := fmt.Errorf("%w: address %.80q", ErrInvalid, s)
	if len(s) > MaxAddrSize {
		return bad
	}
	hostport := strings.TrimPrefix(strings.TrimPrefix(s, "ws://"), "wss://")
	if strings.Contains(hostport, "/") {
		return bad
	}
	i := strings.LastIndexByte(hostport, ':')
	if i < 1 {
		return bad
	}
	host, port := hostport[:i], hostport[i+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return bad
	}
	if in, ok := strings.CutPrefix(host, "["); ok {
		in, closed := strings.CutSuffix(in, "]")
		a, err := netip.ParseAddr(in)
		if !closed || err != nil || !a.Is6() || a.Zone() != "" {
			return bad
		}
		return nil
	}
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return bad
		}
	}
	return nil
}

// NewNodeRecord signs a record of the node. It sets Node and refuses what
// [VerifyRecord] would refuse, so a node never sends a record that its peers
// drop.
func NewNodeRecord(k key.NodePrivate, network key.NetworkID, r NodeRecord) (*Record, error) {
	r.Node = k.ID()
	return VerifyRecord(network, key.Sign(k, network, key.TypeNodeRecord, key.Marshal(&r)))
}

// Record is a verified NodeRecord.
type Record struct {
	Object   key.Object // as received
	Public   key.NodePublic
	Body     NodeRecord
	Chain    Chain
	Bindings []PersonBinding // all of Body.Bindings, expired ones too
}

// ParseRecord reads a record without verifying anything but its shape: enough
// to see whose it claims to be and which seq it has, before any signature is
// worth checking.
func ParseRecord(o key.Object) (NodeRecord, error) {
	if o.Type != key.TypeNodeRecord {
		return NodeRecord{}, fmt.Errorf("%w: %v instead of NodeRecord", key.ErrType, o.Type)
	}
	if len(o.Body) > MaxRecordSize {
		return NodeRecord{}, fmt.Errorf("%w: NodeRecord over %d bytes", ErrInvalid, MaxRecordSize)
	}
	var r NodeRecord
	if err := key.Unmarshal(o.Body, &r); err != nil {
		return NodeRecord{}, fmt.Errorf("NodeRecord: %w", err)
	}
	if key.NodePublic(o.Key).ID() != r.Node {
		return NodeRecord{}, fmt.Errorf("%w: NodeRecord by another key than the node's", ErrChain)
	}
	return r, r.check()
}

// VerifyRecord checks size, fields, signature, certificates and bindings; not
// the time and no revocation. Errors as those of [VerifyChain].
func VerifyRecord(network key.NetworkID, o key.Object) (*Record, error) {
	return verifyRecord(network, o, nil)
}

// VerifyAfter is [VerifyRecord] for a node of which an earlier record was
// verified (nil: none was): what is the same in both is not verified again.
func VerifyAfter(network key.NetworkID, o key.Object, prev *Record) (*Record, error) {
	if prev != nil && same(prev.Object, o) {
		return prev, nil
	}
	if prev != nil && prev.Public != key.NodePublic(o.Key) {
		prev = nil
	}
	return verifyRecord(network, o, prev)
}

// verifyRecord skips the certificates when they are the same bytes as those of
// an earlier verified record of the same node.
func verifyRecord(network key.NetworkID, o key.Object, prev *Record) (*Record, error) {
	body, err := ParseRecord(o)
	if err != nil {
		return nil, err
	}
	if n := len(o.Encode()); n > MaxRecordSize {
		return nil, fmt.Errorf("%w: NodeRecord of %d bytes, at most %d", ErrInvalid, n, MaxRecordSize)
	}
	rec := &Record{Object: o, Public: o.Key, Body: body}
	if prev != nil && same(prev.Body.Member, body.Member) && same(prev.Body.Issuer, body.Issuer) {
		rec.Chain = prev.Chain
	} else if rec.Chain, err = VerifyChain(network, body.Member, body.Issuer); err != nil {
		return nil, err
	}
	if rec.Chain.Member.Node != body.Node {
		return nil, fmt.Errorf("%w: MemberCert of another node", ErrChain)
	}
	for _, b := range body.Bindings {
		pb, err := VerifyBinding(network, b)
		if err != nil {
			return nil, err
		}
		if pb.Node != body.Node {
			return nil, fmt.Errorf("%w: PersonBinding of another node", ErrChain)
		}
		rec.Bindings = append(rec.Bindings, pb)
	}
	if err := o.Verify(network, key.TypeNodeRecord); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChain, err)
	}
	return rec, nil
}

func same(a, b key.Object) bool {
	return a.Type == b.Type && a.Key == b.Key && string(a.Body) == string(b.Body) && string(a.Sig) == string(b.Sig)
}

// ID returns the node's id.
func (r *Record) ID() key.NodeID { return r.Body.Node }

// Expired reports whether the record itself (not its certificates) has ended.
func (r *Record) Expired(now time.Time) bool { return now.Unix() >= int64(r.Body.Expires) }

// Persons returns the persons bound to the node at this time.
func (r *Record) Persons(now time.Time) []key.PersonPublic {
	var out []key.PersonPublic
	for _, b := range r.Bindings {
		if now.Unix() < int64(b.Expires) {
			out = append(out, b.Person)
		}
	}
	return out
}

// IsIssuer reports whether the node says that it answers JOIN and RENEW.
func (r *Record) IsIssuer() bool { return r.Body.Features&FeatureIssuer != 0 }
