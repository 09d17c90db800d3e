package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseUnlock(t *testing.T) {
	for _, s := range []string{"prompt", "none", "file:/etc/pass", "file:/with:colon", "credential:keymesh"} {
		u, err := parseUnlock(s)
		if err != nil || u.String() != s || u.IsZero() {
			t.Errorf("%q: %v, %v", s, u, err)
		}
	}
	u, err := parseUnlock("file:pass")
	if err != nil || !filepath.IsAbs(u.arg) {
		t.Errorf("a relative path: %q, %v", u.arg, err)
	}
	for _, s := range []string{"", "Prompt", "prompt:", "none:x", "file", "file:", "credential", "credential:", "credential:../x", "credential:a/b", "credential:..", "exec:ls", "\x00"} {
		if u, err := parseUnlock(s); err == nil {
			t.Errorf("%q was accepted as %v", s, u)
		} else {
			wantHint(t, err, "prompt, file:PATH")
		}
	}
}

func TestPassphraseFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pass")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		os.Remove(path)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	u := Unlock{mode: "file", arg: path}
	for text, want := range map[string]string{
		"correct horse": "correct horse", "correct horse\n": "correct horse", "correct horse\r\n": "correct horse",
		"correct horse\n\n": "correct horse\n", " correct horse ": " correct horse ",
		strings.Repeat("x", maxPassphrase): strings.Repeat("x", maxPassphrase),
	} {
		write(text, 0o600)
		if got, err := u.passphrase(true); err != nil || string(got) != want {
			t.Errorf("%.20q: %.20q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "\n", "seven77", strings.Repeat("x", maxPassphrase+1)} {
		write(text, 0o600)
		if _, err := u.passphrase(true); err == nil {
			t.Errorf("%.20q was accepted for a new identity", text)
		} else if text == "seven77" && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats the passphrase: %v", err)
		}
	}
	write("seven77", 0o600)
	if _, err := u.passphrase(false); err != nil {
		t.Errorf("an old short passphrase is refused: %v", err)
	}
	write("\n", 0o600)
	if _, err := u.passphrase(false); err == nil {
		t.Error("an empty passphrase was accepted")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o602, 0o620} {
		write("correct horse", mode)
		_, err := u.passphrase(false)
		if err == nil {
			t.Errorf("mode %v was accepted", mode)
		}
		wantHint(t, err, "chmod 600")
	}
	if _, err := (Unlock{mode: "file", arg: dir}).passphrase(false); err == nil {
		t.Error("a directory was accepted")
	}
	if _, err := (Unlock{mode: "file", arg: path + "x"}).passphrase(false); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestPassphraseCredential(t *testing.T) {
	u := Unlock{mode: "credential", arg: "keymesh"}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err := u.passphrase(false)
	wantHint(t, err, "LoadCredential=keymesh")
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "keymesh")
	if err := os.WriteFile(path, []byte("correct horse"), 0o440); err != nil {
		t.Fatal(err)
	}
	if got, err := u.passphrase(true); err != nil || string(got) != "correct horse" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := u.passphrase(false); err == nil {
		t.Error("a credential that everyone reads was accepted")
	}
}

func TestPassphrasePrompt(t *testing.T) {
	answers := func(list ...string) Unlock {
		return Unlock{mode: "prompt", prompt: func(string) ([]byte, error) {
			if len(list) == 0 {
				return nil, errors.New("asked once too often")
			}
			a := list[0]
			list = list[1:]
			return []byte(a), nil
		}}
	}
	if got, err := answers("correct horse", "correct horse").passphrase(true); err != nil || string(got) != "correct horse" {
		t.Errorf("twice the same: %q, %v", got, err)
	}
	if _, err := answers("correct horse", "correct house").passphrase(true); err == nil {
		t.Error("two different answers were accepted")
	}
	if _, err := answers("correct horse").passphrase(true); err == nil {
		t.Error("a new passphrase was asked for only once")
	}
	if _, err := answers("correct horse").passphrase(false); err != nil {
		t.Errorf("an old passphrase was asked for twice: %v", err)
	}
	if _, err := (Unlock{}).passphrase(false); err == nil {
		t.Error("no mode gave a passphrase")
	}
	if got, err := (Unlock{mode: "none"}).passphrase(true); err != nil || got != nil {
		t.Errorf("mode none: %q, %v", got, err)
	}
}
