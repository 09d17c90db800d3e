package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keymesh/api/apitype"
)

// TestReceiptVerifyRefuses: what proves nothing ends with 7 and one sentence, a
// file that is not there with 1.
func TestReceiptVerifyRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		data []byte
		exit int
	}{
		"empty": {nil, apitype.ExitIntegrity}, "noise": {[]byte("noise\x1b[2J"), apitype.ExitIntegrity},
		"long": {make([]byte, apitype.MaxReceipt+1), apitype.ExitIntegrity}, "absent": {nil, apitype.ExitLocal},
	} {
		path := filepath.Join(dir, name)
		if name != "absent" {
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out, said bytes.Buffer
		if code := Main([]string{"receipt", "verify", path}, strings.NewReader(""), &out, &said); code != c.exit || out.Len() != 0 || strings.Contains(said.String(), "\x1b") {
			t.Errorf("%s: exit %d, %q, %q", name, code, out.String(), said.String())
		}
	}
	var out, said bytes.Buffer
	if code := Main([]string{"receipt", "verify", "-"}, strings.NewReader("x"), &out, &said); code != apitype.ExitIntegrity {
		t.Errorf("standard input: exit %d, %q", code, said.String())
	}
}
