package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// A kit as text (protocol.md section 7). Lines that are empty or start with #
// are for people and carry nothing; the others are a title and numbered lines
// as kit_line.go describes them:
//
//	title       "keymesh recovery kit 1" or "keymesh approver card 1"
//	network     32 bytes
//	authority   the network authority's seed, 32 bytes; may be missing
//	owner       the person's public key, 32 bytes
//	person      what the node calls the person, 1 to 63 bytes
//	index       the person's index key, 32 bytes
//	code        the recovery key's seed, 32 bytes; not on an approver card
//	made        unix seconds, 8 bytes
//	node        a node id, 32 bytes   } three to eight nodes, each with
//	address     3 to 100 bytes        } 1 to 8 addresses
//	end         the first 10 bytes of T("keymesh/v1/kit", title, label, bytes, ...)
//
// A field longer than 20 bytes goes on in lines whose label ends in "+". Each
// line has a checksum of its own, so that a wrong character is found and its
// line named; the last line covers them all, their order and their number.
const (
	kitTitle  = "keymesh recovery kit 1"
	cardTitle = "keymesh approver card 1"

	// maxKitText is the longest text that is looked at, in bytes.
	maxKitText = 64 << 10

	minKitNodes, maxKitNodes = 3, 8
	maxKitAddr               = 100 // bytes
	kitSumLen                = 10
)

// errKit: the text is not a kit, or was copied wrongly.
var errKit = errors.New("this is not a valid kit")

// Kit is what brings an owner's secrets back when every machine of the owner is
// lost. Format and LogValue hide it.
type Kit struct {
	Network   key.NetworkID
	Authority key.AuthorityPrivate // zero: not in this kit
	Owner     key.PersonPublic
	Person    string // the node's name for the person
	Index     [32]byte
	Code      key.PersonPrivate // the recovery key; zero on an approver card
	Made      time.Time
	Nodes     []KitNode
}

// KitNode is a member to start from.
type KitNode struct {
	ID    key.NodeID
	Addrs []string
}

// Format implements fmt.Formatter.
func (Kit) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[redacted]") }

// LogValue implements slog.LogValuer.
func (Kit) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Erase zeroes the secrets of the kit.
func (k *Kit) Erase() {
	k.Authority.Erase()
	k.Code.Erase()
	clear(k.Index[:])
}

// Card is the kit without the recovery code. It shares the other keys with k.
func (k *Kit) Card() *Kit {
	c := *k
	c.Code = key.PersonPrivate{}
	return &c
}

// IsCard reports whether the recovery code is missing.
func (k *Kit) IsCard() bool { return k.Code.IsZero() }

func (k *Kit) title() string {
	if k.IsCard() {
		return cardTitle
	}
	return kitTitle
}

// check holds a kit, whether new or read, to its rules.
func (k *Kit) check() error {
	bad := func(format string, a ...any) error { return fmt.Errorf("%w: "+format, append([]any{errKit}, a...)...) }
	switch {
	case k.Network.IsZero() || k.Index == [32]byte{}:
		return bad("it names no network or has no index key")
	case !k.Authority.IsZero() && k.Authority.Public().Network() != k.Network:
		return bad("its authority's seed is another network's")
	case key.CheckPublic(k.Owner) != nil:
		return bad("its owner key is none")
	case checkLabel("person name", k.Person) != nil:
		return bad("the person's name in it is not allowed")
	case k.Made.Unix() <= 0 || k.Made.Unix() >= 1<<38:
		return bad("it has no date")
	case len(k.Nodes) < minKitNodes || len(k.Nodes) > maxKitNodes:
		return bad("it names %d nodes; %d to %d are needed", len(k.Nodes), minKitNodes, maxKitNodes)
	}
	seen := map[key.NodeID]bool{}
	for _, n := range k.Nodes {
		if seen[n.ID] || len(n.Addrs) == 0 || len(n.Addrs) > roster.MaxAddrs {
			return bad("node %s is there twice or has no address", n.ID.Short())
		}
		seen[n.ID] = true
		for _, a := range n.Addrs {
			if err := roster.CheckAddr(a); err != nil || len(a) > maxKitAddr {
				return bad("address %.120q in it is none, or too long for a kit", a)
			}
		}
	}
	return nil
}

// kitField is one field of the text.
type kitField struct {
	label string
	value []byte
}

// fields lists what the text says, in order. The caller wipes it.
func (k *Kit) fields() []kitField {
	out := []kitField{{"network", bytes.Clone(k.Network[:])}}
	if !k.Authority.IsZero() {
		out = append(out, kitField{"authority", k.Authority.Seed()})
	}
	out = append(out, kitField{"owner", bytes.Clone(k.Owner[:])}, kitField{"person", []byte(k.Person)}, kitField{"index", bytes.Clone(k.Index[:])})
	if !k.IsCard() {
		out = append(out, kitField{"code", k.Code.Seed()})
	}
	out = append(out, kitField{"made", key.U64(uint64(k.Made.Unix()))})
	for _, n := range k.Nodes {
		out = append(out, kitField{"node", bytes.Clone(n.ID[:])})
		for _, a := range n.Addrs {
			out = append(out, kitField{"address", []byte(a)})
		}
	}
	return out
}

// kitSum is the last line's content.
func kitSum(title string, fields []kitField) []byte {
	parts := [][]byte{[]byte(title)}
	for _, f := range fields {
		parts = append(parts, []byte(f.label), f.value)
	}
	sum := key.T("keymesh/v1/kit", parts...)
	return sum[:kitSumLen]
}

// Lines returns the title and the numbered lines, each without its end. The
// caller wipes them.
func (k *Kit) Lines() ([][]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	fields := k.fields()
	defer wipeFields(fields)
	out := [][]byte{[]byte(k.title())}
	for _, f := range append(fields, kitField{"end", kitSum(k.title(), fields)}) {
		for at := 0; at < len(f.value); at += kitLineBytes {
			label := f.label
			if at > 0 {
				label += "+"
			}
			line := appendKitLine(make([]byte, 0, 96), len(out), label, f.value[at:min(at+kitLineBytes, len(f.value))])
			out = append(out, line[:len(line)-1])
		}
	}
	if len(out) > 100 {
		return nil, fmt.Errorf("%w: it would have more than 99 lines", errKit)
	}
	return out, nil
}

func wipeFields(fields []kitField) {
	for _, f := range fields {
		clear(f.value)
	}
}

func wipeLines(lines [][]byte) {
	for _, l := range lines {
		clear(l)
	}
}

// Text returns the kit as text with words for whoever finds it. The caller
// wipes it.
func (k *Kit) Text() ([]byte, error) {
	lines, err := k.Lines()
	if err != nil {
		return nil, err
	}
	defer wipeLines(lines)
	out := make([]byte, 0, 8<<10)
	for _, w := range k.words() {
		out = fmt.Appendf(out, "# %s\n", w)
	}
	for i, l := range lines {
		out = append(append(out, l...), '\n')
		if i == 0 {
			out = append(out, '\n')
		}
	}
	return out, nil
}

// words says what the paper is, what it opens and what to do with it.
func (k *Kit) words() []string {
	made := k.Made.UTC().Format(time.DateOnly)
	out := []string{fmt.Sprintf("For the secrets of %q, made %s.", k.Person, made)}
	if k.IsCard() {
		out = append(out, "An approver's card: it finds the mesh and the names of the secrets. It opens none of them;",
			"that takes the approvals which each secret's policy asks for.")
	} else {
		out = append(out, "Whoever has this can ask for every secret whose policy names its recovery code, and gets it",
			"once the policy's delay has passed without a veto. Keep it on paper, away from any computer.")
	}
	if k.Authority.IsZero() {
		out = append(out, "It does not hold the network's seed: to use it, first join a new machine with a ticket of a member.")
	} else {
		out = append(out, "It holds the network's seed, which admits machines to the network: keep it from strangers.")
	}
	return append(out, "To check it: keynode kit check FILE.  Characters in use: "+strings.Join(strings.Split(kitAlphabet, ""), " "))
}
