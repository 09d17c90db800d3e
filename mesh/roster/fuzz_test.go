package roster

import (
	"bytes"
	"testing"

	"keymesh/crypto/key"
)

// FuzzRecord wants every accepted record to be its own encoding, within the
// limits, and no input to break the parser.
func FuzzRecord(f *testing.F) {
	w := newWorld(f, 1)
	f.Add(w.record(1).Object.Encode())
	f.Add(w.member.Encode())
	f.Add(w.cert.Encode())
	f.Add([]byte{0x84, 4, 0x40, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := key.DecodeObject(b)
		if err != nil {
			return
		}
		if r, err := ParseRecord(o); err == nil {
			if !bytes.Equal(key.Marshal(&r), o.Body) || r.Seq == 0 || len(r.Addrs) > MaxAddrs {
				t.Fatalf("%x", b)
			}
		}
		if rec, err := VerifyRecord(w.net, o); err == nil && (!bytes.Equal(rec.Object.Encode(), b) || len(b) > MaxRecordSize) {
			t.Fatalf("%x", b)
		}
		VerifyIssuerCert(w.net, o)
		VerifyBinding(w.net, o)
		VerifyRevocation(w.net, o, w.cert)
		New(w.net).Accept(o, now)
	})
}

func FuzzTicket(f *testing.F) {
	text, err := ticket(f).Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(TicketPrefix))
	f.Fuzz(func(t *testing.T, b []byte) {
		tk, err := ParseTicket(b)
		if err != nil {
			return
		}
		again, err := tk.Text()
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(b)) {
			t.Fatalf("%q became %q, %v", b, again, err)
		}
	})
}

func FuzzAddr(f *testing.F) {
	for _, s := range []string{"ws://a:1", "[::1]:2", "wss://x.y:65535"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckAddr(s) != nil {
			return
		}
		for i := range len(s) {
			if c := s[i]; c <= ' ' || c >= 0x7f || c == '@' || c == '?' || c == '#' || c == '%' {
				t.Fatalf("%q", s)
			}
		}
	})
}
