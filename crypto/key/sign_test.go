package key

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectors struct {
	Note string
	T    []struct {
		Label string
		Parts []hexBytes
		Hash  Hash
	}
	Key struct {
		Seed, Public, ID                          hexBytes
		Node, Nodekey, Person, Authority, Network string
	}
	Network, Body hexBytes
	Objects       []struct {
		Type   Type
		Name   string
		Hash   Hash
		Object hexBytes
	}
}

func load(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if len(v.T) == 0 || len(v.Objects) != len(typeNames) {
		t.Fatal("vectors are missing")
	}
	return v
}

func TestVectorsOfT(t *testing.T) {
	for _, c := range load(t).T {
		parts := make([][]byte, len(c.Parts))
		for i, p := range c.Parts {
			parts[i] = p
		}
		if got := T(c.Label, parts...); got != c.Hash {
			t.Errorf("T(%q, %d parts) = %v", c.Label, len(parts), got)
		}
	}
}

func TestVectorsOfKeys(t *testing.T) {
	v := load(t).Key
	n, err := NodeFromSeed(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	pub, id := n.Public(), n.ID()
	if !bytes.Equal(pub[:], v.Public) || !bytes.Equal(id[:], v.ID) {
		t.Error("key or id differ")
	}
	for got, want := range map[string]string{
		pub.String(): v.Nodekey, id.String(): v.Node, PersonPublic(pub).String(): v.Person,
		AuthorityPublic(pub).String(): v.Authority, AuthorityPublic(pub).Network().String(): v.Network,
	} {
		if got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
}

func TestVectorsOfObjects(t *testing.T) {
	v := load(t)
	net := NetworkID(v.Network)
	k, err := PersonFromSeed(v.Key.Seed)
	if err != nil {
		t.Fatal(err)
	}
	if got := Marshal(newSample()); !bytes.Equal(got, v.Body) {
		t.Errorf("the body is %x", got)
	}
	for _, c := range v.Objects {
		if c.Type.String() != c.Name {
			t.Errorf("type %d is called %v", uint64(c.Type), c.Type)
		}
		o := Sign(k, net, c.Type, v.Body)
		if got := o.Encode(); !bytes.Equal(got, c.Object) {
			t.Errorf("%s: %x", c.Name, got)
		}
		if o.Hash(net) != c.Hash || HashBody(net, c.Type, v.Body) != c.Hash {
			t.Errorf("%s: hash %v", c.Name, o.Hash(net))
		}
		o, err := DecodeObject(c.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Verify(net, c.Type); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func signedSample(t testing.TB) (Object, NetworkID) {
	t.Helper()
	k, err := PersonFromSeed(marker())
	if err != nil {
		t.Fatal(err)
	}
	net := NetworkID{1}
	o := Sign(k, net, TypePrepared, Marshal(newSample()))
	if err := o.Verify(net, TypePrepared); err != nil {
		t.Fatal(err)
	}
	return o, net
}

func TestEveryFlippedBitOfAnObjectIsRefused(t *testing.T) {
	o, net := signedSample(t)
	b := o.Encode()
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if got, err := DecodeObject(c); err == nil && got.Verify(net, got.Type) == nil {
				t.Fatalf("byte %d bit %d", i, bit)
			}
		}
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	o, _ := signedSample(t)
	b := o.Encode()
	for i := range b {
		if _, err := DecodeObject(b[:i]); !errors.Is(err, ErrEncoding) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
	if _, err := DecodeObject(append(b, 0)); !errors.Is(err, ErrEncoding) {
		t.Fatal(err)
	}
}

func TestSwappedContextsAreRefused(t *testing.T) {
	o, net := signedSample(t)
	if err := o.Verify(NetworkID{2}, TypePrepared); !errors.Is(err, ErrSignature) {
		t.Error("another network:", err)
	}
	for other := range typeNames {
		if other == o.Type {
			continue
		}
		if err := o.Verify(net, other); !errors.Is(err, ErrType) {
			t.Errorf("wanted as %v: %v", other, err)
		}
		moved := o
		moved.Type = other
		if err := moved.Verify(net, other); !errors.Is(err, ErrSignature) {
			t.Errorf("relabelled as %v: %v", other, err)
		}
		if moved.Hash(net) == o.Hash(net) {
			t.Errorf("%v has the hash of a Prepared", other)
		}
	}
	for name, change := range map[string]func(o *Object){
		"another key":       func(o *Object) { o.Key = GeneratePerson().Public() },
		"no key":            func(o *Object) { o.Key = [32]byte{} },
		"another body":      func(o *Object) { o.Body = Marshal(&sample{}) },
		"no body":           func(o *Object) { o.Body = nil },
		"a longer body":     func(o *Object) { o.Body = append(bytes.Clone(o.Body), 0) },
		"suite 0":           func(o *Object) { o.Sig = append([]byte{0}, o.Sig[1:]...) },
		"suite 2":           func(o *Object) { o.Sig = append([]byte{2}, o.Sig[1:]...) },
		"no suite":          func(o *Object) { o.Sig = o.Sig[1:] },
		"no signature":      func(o *Object) { o.Sig = nil },
		"a longer one":      func(o *Object) { o.Sig = append(bytes.Clone(o.Sig), 0) },
		"the other half, S": func(o *Object) { o.Sig = addOrder(o.Sig) },
	} {
		c := o
		change(&c)
		if err := c.Verify(net, TypePrepared); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o.Hash(net) == o.Hash(NetworkID{2}) {
		t.Error("the hash does not depend on the network")
	}
	unsigned := Object{Type: o.Type, Body: o.Body}
	if unsigned.Hash(net) != o.Hash(net) {
		t.Error("the hash depends on the signature")
	}
}

// addOrder adds the group order to S: the same signature to verifiers that do
// not check its range (RFC 8032 section 5.1.7).
func addOrder(sig []byte) []byte {
	order := []byte{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
	}
	out, carry := bytes.Clone(sig), 0
	for i, b := range order {
		carry += int(out[1+32+i]) + int(b)
		out[1+32+i], carry = byte(carry), carry>>8
	}
	return out
}

func TestTheTypeOfAnUnknownNumber(t *testing.T) {
	o, net := signedSample(t)
	o.Type = 23
	if err := o.Verify(net, 23); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	o.Type = 0
	if err := o.Verify(net, 0); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	for _, f := range []func(){
		func() { Sign(GenerateNode(), net, 23, nil) },
		func() { Sign(GenerateNode(), net, 0, nil) },
		func() { Sign(NodePrivate{}, net, TypePrepared, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("signed")
				}
			}()
			f()
		}()
	}
}

// With the identity as key one signature verifies for every message, which the
// standard library lets pass.
func TestKeysOfLowOrderAreRefused(t *testing.T) {
	_, net := signedSample(t)
	identity := make([]byte, 32)
	identity[0] = 1
	forged := append(append([]byte{SuiteEd25519}, identity...), make([]byte, 32)...)
	if !ed25519.Verify(identity, []byte("any message"), forged[1:]) {
		t.Fatal("the attack that is refused here no longer exists")
	}
	for name, h := range lowOrder() {
		o := Object{Type: TypePrepared, Body: Marshal(newSample()), Key: [32]byte(unhex(t, h)), Sig: forged}
		if err := o.Verify(net, TypePrepared); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeObjectRefuses(t *testing.T) {
	o, _ := signedSample(t)
	for name, v := range map[string]any{
		"three elements":    []any{o.Type, o.Body, o.Key},
		"five elements":     []any{o.Type, o.Body, o.Key, o.Sig, o.Sig},
		"a map":             map[int]any{0: o.Type, 1: o.Body, 2: o.Key, 3: o.Sig},
		"a short key":       []any{o.Type, o.Body, o.Key[:31], o.Sig},
		"a long key":        []any{o.Type, o.Body, append(o.Key[:], 0), o.Sig},
		"a short signature": []any{o.Type, o.Body, o.Key, o.Sig[:64]},
		"a long signature":  []any{o.Type, o.Body, o.Key, append(bytes.Clone(o.Sig), 0)},
		"no signature":      []any{o.Type, o.Body, o.Key, []byte{}},
		"suite 2":           []any{o.Type, o.Body, o.Key, append([]byte{2}, o.Sig[1:]...)},
		"a type as text":    []any{"7", o.Body, o.Key, o.Sig},
		"a negative type":   []any{-1, o.Body, o.Key, o.Sig},
		"a body as text":    []any{o.Type, "body", o.Key, o.Sig},
		"a null body":       []any{o.Type, nil, o.Key, o.Sig},
		"a null key":        []any{o.Type, o.Body, nil, o.Sig},
		"a null signature":  []any{o.Type, o.Body, o.Key, nil},
	} {
		if got, err := DecodeObject(Encode(v)); !errors.Is(err, ErrEncoding) || !got.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestObjectsAliasNothing(t *testing.T) {
	k, net := GenerateNode(), NetworkID{3}
	body := Marshal(newSample())
	o := Sign(k, net, TypePrepared, body)
	clear(body)
	b := o.Encode()
	got, err := DecodeObject(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if o.Verify(net, TypePrepared) != nil || got.Verify(net, TypePrepared) != nil {
		t.Error("an object changed with a caller's slice")
	}
	if o.IsZero() || !(Object{}).IsZero() {
		t.Error("IsZero")
	}
}

func FuzzDecodeObject(f *testing.F) {
	for _, c := range load(f).Objects {
		f.Add([]byte(c.Object))
	}
	o, net := signedSample(f)
	f.Add(o.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeObject(b)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Encode(), b) {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
		if got.Verify(net, got.Type) == nil && (got.Key != o.Key || !bytes.Equal(b, o.Encode())) {
			t.Fatal("a forgery, or a vector of this network")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	o, net := signedSample(b)
	for b.Loop() {
		if o.Verify(net, TypePrepared) != nil {
			b.Fatal()
		}
	}
}

func BenchmarkSign(b *testing.B) {
	k, body := GenerateNode(), make([]byte, 1000)
	for b.Loop() {
		Sign(k, NetworkID{}, TypePrepared, body)
	}
}
