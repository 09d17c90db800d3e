package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// fullIdentity has every field set.
func fullIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := newIdentity("alpha", "anna", "hall-1", testTime)
	if err != nil {
		t.Fatal(err)
	}
	id.Authority = key.GenerateAuthority()
	id.Network = id.Authority.Public().Network()
	issuer := key.GenerateAuthority()
	id.Issuers = []key.AuthorityPrivate{issuer}
	id.Persons = append(id.Persons, Person{Name: "bert", Key: key.GeneratePerson()})
	id.IssuerCert = key.Sign(id.Authority, id.Network, key.TypeIssuerCert, []byte("issuer"))
	id.Member = key.Sign(issuer, id.Network, key.TypeMemberCert, []byte("member"))
	return id
}

// cheap is a passphrase file with the least cost that is allowed.
func cheap(t testing.TB, pass string) Unlock {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(path, []byte(pass+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Unlock{mode: "file", arg: path, kdf: seal.LeastKDF()}
}

func inClear() Unlock { return Unlock{mode: "none"} }

func dataDir(t testing.TB) string { return filepath.Join(t.TempDir(), "data") }

func mustCreate(t testing.TB, u Unlock) (dir string, id *Identity) {
	t.Helper()
	dir, id = dataDir(t), fullIdentity(t)
	if err := createIdentity(dir, id, u); err != nil {
		t.Fatal(err)
	}
	return dir, id
}

func identityBytes(t testing.TB, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, identityName))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// secrets returns every secret of an identity.
func secrets(id *Identity) [][]byte {
	out := [][]byte{id.Node.Seed(), id.Recovery.Seed(), id.Authority.Seed(), id.StorageKey, id.SealingKey}
	for _, p := range id.Persons {
		out = append(out, p.Key.Seed())
	}
	for _, k := range id.Issuers {
		out = append(out, k.Seed())
	}
	return out
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	var h interface{ Hint() string }
	if !errors.As(err, &h) || !strings.Contains(h.Hint(), want) {
		t.Errorf("error %v has no hint with %q", err, want)
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	for _, u := range []Unlock{inClear(), cheap(t, "correct horse")} {
		t.Run(u.mode, func(t *testing.T) {
			dir, id := mustCreate(t, u)
			got, err := loadIdentity(dir, Unlock{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(secrets(id), secrets(got), bytes.Equal) {
				t.Error("a secret changed")
			}
			if got.Network != id.Network || got.Name != "alpha" || got.Zone != "hall-1" || !got.Created.Equal(testTime) ||
				got.RecoveryPublic != id.RecoveryPublic || got.Persons[1].Name != "bert" {
				t.Error("a public field changed")
			}
			if !bytes.Equal(got.Member.Encode(), id.Member.Encode()) || !bytes.Equal(got.IssuerCert.Encode(), id.IssuerCert.Encode()) {
				t.Error("a certificate changed")
			}
			if got.Unlock().String() != u.String() || got.Unlock().Clear() != (u.mode == "none") {
				t.Errorf("unlock mode %v became %v", u, got.Unlock())
			}
		})
	}
}

func TestIdentitySealedHoldsNoSecret(t *testing.T) {
	for _, u := range []Unlock{inClear(), cheap(t, "correct horse")} {
		dir, id := mustCreate(t, u)
		file := identityBytes(t, dir)
		for i, s := range append(secrets(id), []byte("anna"), []byte("alpha")) {
			if found := bytes.Contains(file, s); found != u.Clear() {
				t.Errorf("%s: secret %d in the file: %v", u.mode, i, found)
			}
		}
		if clearly := bytes.Contains(file[:80], []byte("IN CLEAR")); clearly != u.Clear() {
			t.Errorf("%s: the file says in clear: %v", u.mode, clearly)
		}
	}
}

func TestIdentityPrintsNothing(t *testing.T) {
	_, id := mustCreate(t, cheap(t, "correct horse"))
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "id", id)
	out := logged.String() + fmt.Sprintf("%v %+v %#v %s %x %v", id, id, id, id, id, *id)
	if strings.Contains(out, fmt.Sprint(id.StorageKey)) || strings.Contains(out, fmt.Sprintf("%x", id.StorageKey)) || strings.Contains(out, "alpha") {
		t.Errorf("an identity prints as %.300s", out)
	}
}

func TestIdentityNeverOverwritten(t *testing.T) {
	dir, _ := mustCreate(t, inClear())
	before := identityBytes(t, dir)
	asked := false
	u := Unlock{mode: "prompt", prompt: func(string) ([]byte, error) { asked = true; return []byte("correct horse"), nil }}
	err := createIdentity(dir, fullIdentity(t), u)
	if !errors.Is(err, errIdentityExists) || asked {
		t.Errorf("error %v, asked for a passphrase: %v", err, asked)
	}
	if !bytes.Equal(before, identityBytes(t, dir)) {
		t.Error("the file changed")
	}
	// The same when the other one comes between the check and the write.
	dir = dataDir(t)
	u.prompt = func(string) ([]byte, error) {
		if err := createIdentity(dir, fullIdentity(t), inClear()); err != nil && !errors.Is(err, errIdentityExists) {
			t.Error(err)
		}
		return []byte("correct horse"), nil
	}
	if err := createIdentity(dir, fullIdentity(t), u); !errors.Is(err, errIdentityExists) {
		t.Errorf("a race overwrote: %v", err)
	}
	if !bytes.HasPrefix(identityBytes(t, dir), []byte(clearLine)) {
		t.Error("the first identity is gone")
	}
	noTemps(t, dir)
}

func noTemps(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != identityName {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestIdentityIsPrivateWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir, id := mustCreate(t, inClear())
	for range 2 {
		for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, identityName): 0o600} {
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
				t.Errorf("%s: mode %v, %v", path, st.Mode(), err)
			}
		}
		if err := id.save(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIdentityFlippedByte: no single changed byte of a file goes unnoticed.
func TestIdentityFlippedByte(t *testing.T) {
	for _, u := range []Unlock{inClear(), cheap(t, "correct horse")} {
		dir, _ := mustCreate(t, u)
		file := identityBytes(t, dir)
		u.prompt = func(string) ([]byte, error) { return []byte("correct horse"), nil }
		step := 1
		if !u.Clear() {
			step = 7 // every try inside the box costs a key derivation
		}
		for i := 0; i < len(file); i += step {
			bad := bytes.Clone(file)
			bad[i] ^= 1
			id, err := decodeIdentity(bad, u)
			if err == nil || id != nil {
				t.Fatalf("%s: byte %d of %d flipped and accepted", u.mode, i, len(file))
			}
		}
	}
}

func TestIdentityCutOrExtended(t *testing.T) {
	dir, _ := mustCreate(t, inClear())
	file := identityBytes(t, dir)
	path := filepath.Join(dir, identityName)
	for n := range len(file) {
		if _, err := decodeIdentity(file[:n], Unlock{}); !errors.Is(err, errIdentityDamaged) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := decodeIdentity(append(bytes.Clone(file), 0), Unlock{}); !errors.Is(err, errIdentityDamaged) {
		t.Errorf("a trailing byte: %v", err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	_, err := loadIdentity(dir, Unlock{})
	if !errors.Is(err, errIdentityDamaged) || errors.Is(err, errNoIdentity) {
		t.Errorf("an empty file: %v", err)
	}
	wantHint(t, err, "backup")
	if err := createIdentity(dir, fullIdentity(t), inClear()); !errors.Is(err, errIdentityExists) {
		t.Errorf("an empty file was taken for none: %v", err)
	}
	if err := os.Truncate(path, maxIdentity+1); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(dir, Unlock{}); !errors.Is(err, errIdentityDamaged) {
		t.Errorf("a huge file: %v", err)
	}
}

func TestIdentityWrongPassphrase(t *testing.T) {
	dir, _ := mustCreate(t, cheap(t, "correct horse"))
	for _, pass := range []string{"correct hors", "correct horse ", "Correct horse", "x"} {
		u := Unlock{mode: "prompt", prompt: func(string) ([]byte, error) { return []byte(pass), nil }}
		id, err := loadIdentity(dir, u)
		if !errors.Is(err, errPassphrase) || id != nil {
			t.Errorf("%q: %v", pass, err)
		} else if strings.Contains(err.Error(), pass+`"`) {
			t.Errorf("the error repeats the passphrase: %v", err)
		}
	}
	u := Unlock{mode: "prompt", prompt: func(string) ([]byte, error) { return []byte("correct horse"), nil }}
	id, err := loadIdentity(dir, u)
	if err != nil {
		t.Fatal(err)
	}
	if id.Unlock().mode != "file" {
		t.Errorf("opened by prompt, the file's own mode became %v", id.Unlock())
	}
}

// TestIdentityEnvelopeLies: what stands outside of the box must agree with it.
func TestIdentityEnvelopeLies(t *testing.T) {
	u := cheap(t, "correct horse")
	dir, _ := mustCreate(t, u)
	file := identityBytes(t, dir)
	change := func(f func(*envelopeBody)) []byte {
		var env envelopeBody
		if err := key.Unmarshal(file[len(sealedLine):], &env); err != nil {
			t.Fatal(err)
		}
		f(&env)
		return append([]byte(sealedLine), key.Marshal(&env)...)
	}
	if _, err := decodeIdentity(change(func(*envelopeBody) {}), u); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	for name, bad := range map[string][]byte{
		"mode prompt": change(func(e *envelopeBody) { e.Unlock = "prompt" }),
		"mode none":   change(func(e *envelopeBody) { e.Unlock = "none" }),
		"mode of no kind": change(func(e *envelopeBody) {
			e.Unlock = "exec:/bin/sh"
		}),
		"a checksum":     change(func(e *envelopeBody) { s := key.T("keymesh/v1/identity", e.Content); e.Sum = s[:] }),
		"the clear line": append([]byte(clearLine), file[len(sealedLine):]...),
	} {
		if _, err := decodeIdentity(bad, u); !errors.Is(err, errIdentityDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := loadIdentity(dir, inClear()); err == nil {
		t.Error("a sealed file opened with mode none")
	}
}

// TestIdentityContentIsChecked: a well-formed file with senseless content.
func TestIdentityContentIsChecked(t *testing.T) {
	for name, f := range map[string]func(*identityBody){
		"no person":              func(b *identityBody) { b.Persons = nil },
		"a person twice":         func(b *identityBody) { b.Persons[1].Name = b.Persons[0].Name },
		"a short seed":           func(b *identityBody) { b.Node = b.Node[:31] },
		"a short person seed":    func(b *identityBody) { b.Persons[0].Seed = nil },
		"a short storage key":    func(b *identityBody) { b.StorageKey = b.StorageKey[:16] },
		"a short sealing key":    func(b *identityBody) { b.SealingKey = nil },
		"another recovery key":   func(b *identityBody) { b.RecoveryPublic[0] ^= 1 },
		"another network":        func(b *identityBody) { b.Network[0] ^= 1 },
		"a name with a slash":    func(b *identityBody) { b.Name = "../x" },
		"a zone with a newline":  func(b *identityBody) { b.Zone = "a\nb" },
		"no certificate":         func(b *identityBody) { b.Member = []byte{1} },
		"an unknown extension":   func(b *identityBody) { b.Ext = map[uint64][]byte{2: nil} },
		"another mode than said": func(b *identityBody) { b.Unlock = "prompt" },
	} {
		id := fullIdentity(t)
		id.unlock = inClear()
		b := id.body()
		f(b)
		content := key.Marshal(b)
		sum := key.T("keymesh/v1/identity", content)
		file := append([]byte(clearLine), key.Marshal(&envelopeBody{Unlock: "none", Content: content, Sum: sum[:]})...)
		if _, err := decodeIdentity(file, Unlock{}); !errors.Is(err, errIdentityDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIdentityPermissionsAndKinds(t *testing.T) {
	load := func(dir string) error { _, err := loadIdentity(dir, Unlock{}); return err }
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666, 0o601} {
		dir, _ := mustCreate(t, inClear())
		path := filepath.Join(dir, identityName)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		err := load(dir)
		if err == nil {
			t.Errorf("a file with mode %v was accepted", mode)
		}
		wantHint(t, err, "chmod 600 "+path)
	}
	for _, mode := range []os.FileMode{0o750, 0o705, 0o777, 0o710} {
		dir, _ := mustCreate(t, inClear())
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		wantHint(t, load(dir), "chmod 700 "+dir)
		wantHint(t, createIdentity(dir, fullIdentity(t), inClear()), "chmod 700 "+dir)
	}
	dir, _ := mustCreate(t, inClear())
	path := filepath.Join(dir, identityName)
	other := filepath.Join(dir, "elsewhere")
	if err := os.Rename(path, other); err != nil {
		t.Fatal(err)
	}
	if err := load(dir); !errors.Is(err, errNoIdentity) {
		t.Errorf("no file: %v", err)
	}
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	if err := load(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a symbolic link: %v", err)
	}
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a named pipe: %v", err)
	}
	if err := load(filepath.Join(dir, "missing")); !errors.Is(err, errNoIdentity) {
		t.Errorf("no directory: %v", err)
	}
	if err := load(other); err == nil {
		t.Error("a file was taken for the data directory")
	}
}

func TestIdentitySave(t *testing.T) {
	dir, _ := mustCreate(t, cheap(t, "correct horse"))
	id, err := loadIdentity(dir, Unlock{kdf: seal.LeastKDF()})
	if err != nil {
		t.Fatal(err)
	}
	// What a crash of an earlier save left may hold the seed erased below.
	left := filepath.Join(dir, "."+identityName+"-123")
	if err := os.WriteFile(left, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	id.Recovery.Erase()
	id.Zone = "hall-2"
	if err := id.save(); err != nil {
		t.Fatal(err)
	}
	noTemps(t, dir)
	got, err := loadIdentity(dir, Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Zone != "hall-2" || !got.Recovery.IsZero() || got.RecoveryPublic != id.RecoveryPublic {
		t.Error("what was saved is not what was loaded")
	}
	before := identityBytes(t, dir)
	got.Name = "Not A Name"
	if err := got.save(); err == nil || !bytes.Equal(before, identityBytes(t, dir)) {
		t.Errorf("a senseless identity was saved: %v", err)
	}
	if err := fullIdentity(t).save(); err == nil {
		t.Error("an identity without a directory was saved somewhere")
	}
}

func TestIdentityErase(t *testing.T) {
	id := fullIdentity(t)
	storage := id.StorageKey
	id.Erase()
	if !bytes.Equal(storage, make([]byte, 32)) || !id.Node.IsZero() || !id.Persons[1].Key.IsZero() || !id.Issuers[0].IsZero() {
		t.Error("a secret is still there")
	}
	id.Erase() // twice, and on one that never had keys
	(&Identity{}).Erase()
}

func TestLockDir(t *testing.T) {
	dir := t.TempDir()
	release, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir)
	if !errors.Is(err, errLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second lock: %v", err)
	}
	wantHint(t, err, "stop the other one")
	release()
	release, err = lockDir(dir)
	if err != nil {
		t.Fatalf("after the first was released: %v", err)
	}
	defer release()
	if st, err := os.Stat(filepath.Join(dir, lockName)); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("LOCK: %v, %v", st.Mode(), err)
	}
	linked := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "x"), filepath.Join(linked, lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(linked); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := os.Lstat(filepath.Join(dir, "x")); err == nil {
		t.Error("a file was made through a symbolic link")
	}
}

// FuzzIdentity: what is accepted is exactly what would be written.
func FuzzIdentity(f *testing.F) {
	for _, u := range []Unlock{inClear(), cheap(f, "correct horse")} {
		dir, _ := mustCreate(f, u)
		f.Add(identityBytes(f, dir))
	}
	f.Add([]byte(clearLine))
	f.Fuzz(func(t *testing.T, file []byte) {
		id, err := decodeIdentity(file, inClear())
		if err != nil {
			return
		}
		again, err := id.encode()
		if err != nil || !bytes.Equal(again, file) {
			t.Fatalf("accepted bytes are written otherwise: %v", err)
		}
	})
}
