package storage

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// goldenAudit is the vector of SPEC.md: a log of three entries in two segments,
// under the key of 32 bytes 5c.
const goldenAudit = "testdata/audit1"

func openBox(t *testing.T, k, aad, box []byte) []byte {
	t.Helper()
	x, err := chacha20poly1305.NewX(k)
	if err != nil || box[0] != 1 {
		t.Fatal(err, box[0])
	}
	plain, err := x.Open(nil, box[1:25], box[25:], aad)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func tuple(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

// TestAuditSpec reads the golden log by the words of SPEC.md alone.
func TestAuditSpec(t *testing.T) {
	u32, u64 := binary.BigEndian.Uint32, binary.BigEndian.Uint64
	var prev, id, keys []byte
	seq := uint64(0)
	end := 0
	for n, name := range []string{"audit.log.1", "audit.log"} {
		b := read(t, goldenAudit, name)
		if string(b[:16]) != "keymesh auditlog" || b[16] != 1 || u32(b[33:]) != uint32(n+1) {
			t.Fatalf("%s begins with %q", name, b[:37])
		}
		if id == nil {
			id = b[17:33]
			var err error
			if keys, err = hkdf.Key(sha256.New, bytes.Repeat([]byte{0x5c}, 32), id, "keymesh/v1/log/key", 64); err != nil {
				t.Fatal(err)
			}
		}
		head := openBox(t, keys[:32], append([]byte("keymesh/v1/log/segment"), b[:37]...), b[37:190])
		if n == 0 {
			prev = tuple([]byte("keymesh/v1/log/start"), head[:32], head[32:64], id)
		}
		if u64(head[64:]) != seq+1 || !bytes.Equal(head[72:104], prev) || u64(head[104:]) != uint64(end) {
			t.Fatalf("%s has the header %x", name, head)
		}
		for end = 190; end < len(b); {
			g := b[end:]
			count, size := u32(g[4:]), u32(g[16:])
			place := append([]byte{0, 0, 0, byte(n + 1), 0, 0, 0, 0, 0, 0}, byte(end>>8), byte(end))
			m := hmac.New(sha256.New, keys[32:])
			m.Write(append(place, g[:20]...))
			if string(g[:4]) != "kmlg" || u64(g[8:]) != seq+1 || !bytes.Equal(g[20:36], m.Sum(nil)[:16]) {
				t.Fatalf("a group begins with %x", g[:36])
			}
			aad := append(append([]byte("keymesh/v1/log/group"), id...), append(place, g[:20]...)...)
			plain := openBox(t, keys[:32], aad, g[36:36+size])
			for range count {
				body := plain[4 : 4+u32(plain)]
				if seq++; !bytes.Contains(body, prev) {
					t.Fatalf("entry %d does not follow", seq)
				}
				prev, plain = tuple([]byte("keymesh/v1/log/entry"), body), plain[4+len(body):]
			}
			end += 36 + int(size)
		}
	}
	m := read(t, goldenAudit, "audit.head")
	newest := uint64(0)
	for slot := range 2 {
		p := openBox(t, keys[:32], append(append([]byte("keymesh/v1/log/mark"), id...), byte(slot)), m[512*slot:][:109])
		if u64(p) <= newest {
			continue
		}
		if newest = u64(p); u64(p[8:]) > seq || u64(p[8:]) == seq && (!bytes.Equal(p[16:48], prev) || u32(p[56:]) != 2 || u64(p[60:]) != uint64(end)) {
			t.Fatalf("the mark is %x", p)
		}
	}
	peers := read(t, goldenAudit, "audit.peers")
	list := openBox(t, keys[:32], append([]byte("keymesh/v1/log/peers"), peers[:17]...), peers[17:])
	if seq != 3 || list[0] != 0x81 || list[1] != 0x85 {
		t.Fatalf("%d entries, heads %x", seq, list)
	}
}

// TestAuditGolden: the log is still read, and exported as it was.
func TestAuditGolden(t *testing.T) {
	d := copyAudit(t, goldenAudit)
	a, _ := openAudit(t, d, 0)
	verifyAudit(t, a)
	var b bytes.Buffer
	if err := a.Export(context.Background(), &b, nil); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(goldenAudit + "/export")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(want), "\n")
	if got := b.String(); !strings.HasPrefix(string(want), got[:strings.Index(got, `{"end":`)]) || len(lines) != 7 {
		t.Errorf("%s", got)
	}
	if rep, err := VerifyExport(bytes.NewReader(want)); err != nil || rep.Seq != 3 || rep.Heads != 2 || rep.Signed == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}
