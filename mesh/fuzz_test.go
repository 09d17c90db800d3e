package mesh

import (
	"bytes"
	"testing"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

// FuzzBodies: what the mesh's own verbs accept re-encodes to itself, and
// nothing breaks the parsers.
func FuzzBodies(f *testing.F) {
	bodies := func() []key.Body {
		return []key.Body{&hello{}, &welcome{}, &ping{}, &join{}, &admitted{}, &announce{}, &have{}, &digest{}, &digestReply{}, &fetch{}, &renewed{}, &empty{}}
	}
	for _, b := range bodies() {
		f.Add(key.Marshal(b))
	}
	f.Add(key.Marshal(&hello{Versions: []uint64{1}, Sealing: []byte("key"), Instance: 1 << 60, offer: offer{Accepting: true, Millis: 1}}))
	f.Add(key.Marshal(&have{Haves: []roster.Have{{Seq: 7}}}))
	f.Add(key.Marshal(&announce{Items: []roster.Item{{Object: key.Object{Type: key.TypeNodeRecord, Body: []byte{0xa0}}}}}))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, b := range bodies() {
			if key.Unmarshal(in, b) == nil && !bytes.Equal(key.Marshal(b), in) {
				t.Fatalf("%T: %x is encoded as %x", b, in, key.Marshal(b))
			}
		}
		failure(in)
	})
}

// FuzzNotes: a damaged book makes no trouble.
func FuzzNotes(f *testing.F) {
	a := newAuthority(f)
	k := key.GenerateNode()
	cfg := Config{Key: k, Network: a.id, Member: a.member(f, k.ID(), "n", 1e12), Issuer: a.cert}
	n, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(NoteRecord, key.Marshal(&recordNote{Object: n.self.Object, Proven: []string{"a:1"}}))
	f.Add(NoteSelf, key.Marshal(&selfNote{Seq: 5, Member: cfg.Member, Issuer: cfg.Issuer, NotBefore: 1}))
	f.Add(NoteRevocation, key.Marshal(&revocationNote{}))
	f.Add(NoteTicket, key.Marshal(&ticketNote{}))
	f.Fuzz(func(t *testing.T, kind uint8, value []byte) {
		cfg.Book = &book{notes: map[noteKey]Note{{kind, key.Hash{}}: {Kind: kind, Value: value}}}
		n, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.load(n.issued); err != nil {
			t.Fatal(err)
		}
		if n.roster.Len() > 0 && len(n.Members()) > 1 {
			t.Fatal("members out of one note")
		}
	})
}
