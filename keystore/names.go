package keystore

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/share"
)

// MaxName is the longest name, in bytes.
const MaxName = 512

// CheckName refuses what is no name of a secret with an error that wraps
// [ErrInput]: a name is 1 to [MaxName] bytes of UTF-8 in Unicode normalization
// form C, without control characters, its parts separated by "/" and none of
// them empty, "." or "..". The error never repeats the name.
func CheckName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w: a name %s", ErrInput, why) }
	switch {
	case name == "" || len(name) > MaxName:
		return bad("has 1 to 512 bytes")
	case !utf8.ValidString(name):
		return bad("is UTF-8")
	case !norm.NFC.IsNormalString(name):
		return bad("is in Unicode normalization form C")
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("has no control characters")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return bad(`has no empty part and none that is "." or ".."`)
		}
	}
	return nil
}

// secret is what a person's key and a name say about where a secret is. The
// index key is a secret of the person: done erases it.
type secret struct {
	owner key.PersonPublic
	name  string
	index [32]byte
	salt  key.Hash
	id    key.Hash
}

// secret checks person and name.
func (s *Store) secret(p Person, name string) (*secret, error) {
	if p.Key.IsZero() {
		return nil, fmt.Errorf("%w: no person", ErrInput)
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	h := &secret{owner: p.Key.Public(), name: name, index: share.IndexKey(p.Key, s.cfg.ID)}
	h.salt = share.Salt(share.Tag(&h.index, name), name)
	h.id = share.ID(h.owner, h.salt)
	return h, nil
}

func (h *secret) done() { clear(h.index[:]) }

// digest names a value without giving it away to someone who lacks the index
// key. The zero byte in front keeps it apart from tags: no name holds one.
func (h *secret) digest(value, wishes []byte) key.Hash {
	m := hmac.New(sha256.New, h.index[:])
	m.Write([]byte("\x00keymesh/v1/journal"))
	m.Write(h.id[:])
	m.Write(key.U64(uint64(len(wishes))))
	m.Write(wishes)
	m.Write(value)
	return key.Hash(m.Sum(nil))
}

func equalDigest(a, b key.Hash) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }

// sealLabel seals what only the owner may read of generation gen.
func (h *secret) sealLabel(gen uint64, size int, labels map[string]string, description string) ([]byte, error) {
	l := share.Label{Name: h.name, Labels: sortedLabels(labels), Description: description, Size: uint64(size)}
	plain := key.Marshal(&l)
	defer clear(plain)
	if len(plain) > seal.MaxLabel {
		return nil, fmt.Errorf("%w: name, labels and description together have %d bytes, %d too many", ErrInput, len(plain), len(plain)-seal.MaxLabel)
	}
	return seal.SealLabel(&h.index, share.LabelAAD(h.id, gen), plain)
}

func sortedLabels(labels map[string]string) [][2]string {
	out := make([][2]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, [2]string{k, labels[k]})
	}
	return out
}

func checkLabels(labels map[string]string) error {
	for k, v := range labels {
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(v) || strings.ContainsFunc(k+v, unicode.IsControl) {
			return fmt.Errorf("%w: a label is UTF-8 without control characters and has a key", ErrInput)
		}
	}
	return nil
}

// openLabel opens the label of a manifest and checks that its name is the one
// the id was made of. Only the owner of the index key can have sealed it.
func openLabel(index *[32]byte, m *share.Manifest) (*share.Label, error) {
	plain, err := seal.OpenLabel(index, share.LabelAAD(m.ID, m.Gen), m.Label)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	l := new(share.Label)
	if err := key.Unmarshal(plain, l); err != nil {
		return nil, err
	}
	if share.ID(m.Owner, share.Salt(share.Tag(index, l.Name), l.Name)) != m.ID {
		return nil, fmt.Errorf("%w: the name in the label is not the id's", share.ErrManifest)
	}
	return l, nil
}

func labelMap(l *share.Label) map[string]string {
	if len(l.Labels) == 0 {
		return nil
	}
	out := make(map[string]string, len(l.Labels))
	for _, kv := range l.Labels {
		out[kv[0]] = kv[1]
	}
	return out
}
