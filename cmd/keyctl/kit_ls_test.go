package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

// TestKitLs: names that a card leads to are shown with what get takes, and
// silent holders are told of.
func TestKitLs(t *testing.T) {
	f := startFake(t)
	env := []string{"KEYMESH_SOCKET=" + f.socket}
	card := filepath.Join(t.TempDir(), "card.txt")
	if err := os.WriteFile(card, []byte("a card"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("1d", 32)
	f.bend(func() {
		f.raw["unknown"] = `{"kind":"card","secrets":[{"name":"web/db\u001b[2J","id":"` + id + `","tag":"` + id + `","gen":3,"policy":"the owner"}],"silent":1}`
	})
	code, out, said := call("", env, "kit", "ls", card)
	if code != 0 || !strings.Contains(out, "web/db") || !strings.Contains(out, id) || strings.Contains(out, "\x1b") || !strings.Contains(said, "1 holder did not answer") {
		t.Errorf("exit %d, %q, %q", code, out, said)
	}
	asked := f.requests("unknown")
	if len(asked) != 1 || asked[0].path != apitype.PathKit || asked[0].body["act"] != apitype.KitList || asked[0].body["text"] != "YSBjYXJk" {
		t.Errorf("%+v", asked)
	}
}
