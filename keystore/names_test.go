package keystore

import (
	"errors"
	"strings"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

func TestCheckName(t *testing.T) {
	good := []string{"a", "demo/db", "ä/ö", "a b", "...", "a/..b", "日本", strings.Repeat("x", 512), "-", "\u00e9"}
	for _, n := range good {
		if err := CheckName(n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	bad := []string{"", "/", "a/", "/a", "a//b", ".", "..", "a/./b", "a/../b", "a\x00b", "a\nb", "\x7f", "\u0085", "\xff",
		"e\u0301", strings.Repeat("x", 513)}
	for _, n := range bad {
		err := CheckName(n)
		if !errors.Is(err, ErrInput) {
			t.Errorf("%q: %v", n, err)
		}
		if err != nil && len(n) > 3 && strings.Contains(err.Error(), n) {
			t.Errorf("the error repeats the name: %v", err)
		}
	}
}

// A label must not open under another generation, another id or another
// person's index key, and a name that is not the id's is refused even though
// its owner sealed it.
func TestLabelContexts(t *testing.T) {
	s := &Store{cfg: Config{ID: key.NetworkID{1}}}
	p := Person{Key: key.GeneratePerson()}
	h, err := s.secret(p, "demo/db")
	if err != nil {
		t.Fatal(err)
	}
	box, err := h.sealLabel(7, 33, map[string]string{"b": "2", "a": "1"}, "words")
	if err != nil {
		t.Fatal(err)
	}
	m := share.Manifest{ID: h.id, Owner: h.owner, Salt: h.salt, Gen: 7, Label: box}
	l, err := openLabel(&h.index, &m)
	if err != nil || l.Name != "demo/db" || l.Size != 33 || l.Labels[0] != [2]string{"a", "1"} || l.Description != "words" {
		t.Fatalf("%+v %v", l, err)
	}
	other := m
	other.Gen = 8
	if _, err := openLabel(&h.index, &other); err == nil {
		t.Error("opens under another generation")
	}
	h2, _ := s.secret(p, "demo/other")
	box2, _ := h2.sealLabel(7, 33, nil, "")
	if len(box2) != len(box) {
		t.Errorf("labels of %d and %d bytes show the length of the name", len(box), len(box2))
	}
	other = m
	other.Label = box2
	if _, err := openLabel(&h.index, &other); err == nil {
		t.Error("another secret's label opens here")
	}
	moved := *h
	moved.name = "demo/other"
	other.Label, _ = moved.sealLabel(7, 33, nil, "")
	if _, err := openLabel(&h.index, &other); !errors.Is(err, share.ErrManifest) {
		t.Errorf("a name that is not the id's: %v", err)
	}
	h3, _ := s.secret(Person{Key: key.GeneratePerson()}, "demo/db")
	if _, err := openLabel(&h3.index, &m); err == nil {
		t.Error("opens under another index key")
	}
	if h3.id == h.id {
		t.Error("two owners, one id")
	}
}
