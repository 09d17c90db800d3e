// Package policy is the tree of clauses that says who may have a secret
// (protocol.md section 7). It parses, builds, prints and evaluates policies and
// knows nothing of networks, clocks or disks: whoever calls [Policy.Evaluate]
// has verified the signatures before.
//
// # Encoding
//
// A policy is a body (protocol.md section 2) that lists its nodes in preorder,
// so that its depth in CBOR does not grow with the tree's:
//
//	{0: 1, 1: [node, ...]}          node = [kind, k, n, keys]
//
//	kind        k          n                 keys
//	1 any       0          clauses           []
//	2 all       0          clauses           []
//	3 k-of      threshold  clauses           []
//	4 key       0          0                 [person]
//	5 delay     0          seconds           veto keys, ascending, at most 8
//	6 code      0          0                 [recovery key]
//	7 operator  0          0                 []
//	8 pass      reserved
//
// 32 zero bytes in place of a person stand for the owner of the manifest.
//
// # Text
//
// People write policies as [ParseTOML] reads them:
//
//	ways = ["owner", "2 of (ann, bob, carl) after 1h veto owner"]
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"keymesh/crypto/key"
)

// Limits of protocol.md section 7.
const (
	MaxDepth = 4
	MaxNodes = 64
	MaxVeto  = 8
	MaxDelay = 365 * 24 * 60 * 60 // seconds
)

// DefaultDelay is the delay of [Default], in seconds.
const DefaultDelay = 24 * 60 * 60

var (
	// ErrEncoding: the bytes are not the encoding of a policy.
	ErrEncoding = errors.New("not a policy")
	// ErrPolicy: the policy is well formed but makes no sense; the text says why.
	ErrPolicy = errors.New("refused policy")
)

type kind uint8

// The numbers are on the wire and are never reused.
const (
	kindAny      kind = 1
	kindAll      kind = 2
	kindKOf      kind = 3
	kindKey      kind = 4
	kindDelay    kind = 5
	kindCode     kind = 6
	kindOperator kind = 7
)

// Policy is a policy or a clause of one. Immutable and safe for concurrent use.
type Policy struct {
	kind    kind
	k       int // threshold of kindKOf
	seconds uint64
	keys    []key.PersonPublic // of kindKey, kindCode, kindDelay; zero: the owner
	subs    []*Policy
}

// OwnerKey stands for the owner of the manifest among the veto keys of [Delay].
func OwnerKey() key.PersonPublic { return key.PersonPublic{} }

// Any is satisfied by one of its clauses.
func Any(clauses ...*Policy) *Policy { return &Policy{kind: kindAny, subs: slices.Clone(clauses)} }

// All is satisfied by all of its clauses.
func All(clauses ...*Policy) *Policy { return &Policy{kind: kindAll, subs: slices.Clone(clauses)} }

// KOf is satisfied by k of its clauses.
func KOf(k int, clauses ...*Policy) *Policy {
	return &Policy{kind: kindKOf, k: k, subs: slices.Clone(clauses)}
}

// Key is satisfied by a signature of this person.
func Key(person key.PersonPublic) *Policy {
	return &Policy{kind: kindKey, keys: []key.PersonPublic{person}}
}

// Owner is satisfied by a signature of the manifest's owner.
func Owner() *Policy { return Key(OwnerKey()) }

// Delay is satisfied that many seconds of a holder's running time after the
// other clauses of its all were, unless one of the veto keys objected.
func Delay(seconds uint64, veto ...key.PersonPublic) *Policy {
	keys := slices.Clone(veto)
	slices.SortFunc(keys, compare)
	return &Policy{kind: kindDelay, seconds: seconds, keys: slices.Compact(keys)}
}

// Code is satisfied by a signature of a recovery key, which its holder rebuilds
// from a recovery code.
func Code(recovery key.PersonPublic) *Policy {
	return &Policy{kind: kindCode, keys: []key.PersonPublic{recovery}}
}

// Operator is satisfied by the word of the holder's own operator.
func Operator() *Policy { return &Policy{kind: kindOperator} }

// Default is any[owner, all[code(recovery), delay(24 h, veto owner)]].
func Default(recovery key.PersonPublic) *Policy {
	return Any(Owner(), All(Code(recovery), Delay(DefaultDelay, OwnerKey())))
}

func compare(a, b key.PersonPublic) int { return bytes.Compare(a[:], b[:]) }

// node is one node on the wire.
type node struct {
	_    struct{} `cbor:",toarray"`
	Kind uint8
	K    uint8
	N    uint64
	Keys []key.PersonPublic
}

type body struct {
	key.Head
	Nodes []node `cbor:"1,keyasint"`
}

// Encode returns the bytes of the policy. They alias nothing.
func (p *Policy) Encode() []byte {
	var b body
	b.Nodes = p.appendTo(nil)
	return key.Marshal(&b)
}

func (p *Policy) appendTo(out []node) []node {
	n := node{Kind: uint8(p.kind), K: uint8(p.k), N: uint64(len(p.subs)), Keys: p.keys}
	if p.kind == kindDelay {
		n.N = p.seconds
	}
	out = append(out, n)
	for _, s := range p.subs {
		out = s.appendTo(out)
	}
	return out
}

// Parse reads what [Policy.Encode] wrote and refuses everything else with
// [ErrEncoding]. It does not judge whether the policy makes sense: see
// [Policy.Check].
func Parse(b []byte) (*Policy, error) {
	var in body
	if err := key.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	if len(in.Ext) != 0 {
		return nil, fmt.Errorf("%w: extensions", ErrEncoding) // they would be lost by Encode
	}
	if len(in.Nodes) > MaxNodes {
		return nil, fmt.Errorf("%w: %d nodes", ErrEncoding, len(in.Nodes))
	}
	p, rest, err := parseNode(in.Nodes, 1)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%w: nodes after the root", ErrEncoding)
	}
	return p, nil
}

func parseNode(in []node, depth int) (*Policy, []node, error) {
	if len(in) == 0 {
		return nil, nil, fmt.Errorf("%w: a clause is missing", ErrEncoding)
	}
	if depth > MaxDepth {
		return nil, nil, fmt.Errorf("%w: deeper than %d", ErrEncoding, MaxDepth)
	}
	n, rest := in[0], in[1:]
	p := &Policy{kind: kind(n.Kind), k: int(n.K), keys: n.Keys}
	if !n.shape() {
		return nil, nil, fmt.Errorf("%w: a node of kind %d", ErrEncoding, n.Kind)
	}
	switch p.kind {
	case kindDelay:
		p.seconds = n.N
	case kindAny, kindAll, kindKOf:
		for range n.N {
			sub, after, err := parseNode(rest, depth+1)
			if err != nil {
				return nil, nil, err
			}
			p.subs, rest = append(p.subs, sub), after
		}
	}
	return p, rest, nil
}

// shape reports whether the fields are those that its kind has.
func (n node) shape() bool {
	switch kind(n.Kind) {
	case kindAny, kindAll:
		return n.K == 0 && n.N <= MaxNodes && len(n.Keys) == 0
	case kindKOf:
		return n.N <= MaxNodes && len(n.Keys) == 0
	case kindKey, kindCode:
		return n.K == 0 && n.N == 0 && len(n.Keys) == 1
	case kindDelay:
		strict := slices.IsSortedFunc(n.Keys, compare) && len(slices.Compact(slices.Clone(n.Keys))) == len(n.Keys)
		return n.K == 0 && len(n.Keys) <= MaxVeto && strict
	case kindOperator:
		return n.K == 0 && n.N == 0 && len(n.Keys) == 0
	}
	return false
}
