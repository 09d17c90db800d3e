package roster

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"keymesh/crypto/key"
)

var update = flag.Bool("update", false, "write testdata/*.hex anew: only for a change of the format")

// golden compares with a committed vector.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".hex")
	text := []byte(hex.EncodeToString(got) + "\n")
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, text) {
		t.Errorf("%s is\n%s, the vector says\n%s", name, text, want)
	}
}

func TestVectors(t *testing.T) {
	w := newWorld(t, 1)
	rec := w.record(1)
	golden(t, "issuercert", w.cert.Encode())
	golden(t, "membercert", w.member.Encode())
	golden(t, "personbinding", rec.Body.Bindings[0].Encode())
	golden(t, "noderecord", rec.Object.Encode())
	rev := must(t)(NewRevocation(w.na, w.net, Revocation{Seq: 1, Nodes: []key.NodeID{w.node.ID()}, Issuers: []key.AuthorityPublic{w.issuer.Public()}}))
	golden(t, "revocation", rev.Encode())
	text, err := ticket(t).Text()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "ticket", text)
	golden(t, "mac", ticket(t).MAC(make([]byte, 32), w.node.ID()))
	r := New(w.net)
	if _, err := r.Accept(rec.Object, now); err != nil {
		t.Fatal(err)
	}
	d := r.Digest()
	id := w.node.ID()
	golden(t, "bucket", d.Bucket(id[0]))
	revoker := Revoker(w.na.Public())
	golden(t, "revoker", revoker[:])
	sealing := SealingHash([]byte("sealing key"))
	golden(t, "sealinghash", sealing[:])
}
