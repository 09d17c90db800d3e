package cmd_test

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// planted is a file put into a sound tree and the violation it must cause; an
// empty want is a file that must pass.
type planted struct{ name, file, text, want string }

var plants = []planted{
	{"an edge upwards", "mesh/a.go", `package mesh; import _ "keymesh/keystore"`, "not an edge"},
	{"an edge of a leaf", "crypto/key/a.go", `package key; import _ "keymesh/crypto/seal"`, "not an edge"},
	{"an edge behind a build tag", "storage/a.go", "//go:build never\n\npackage storage\n\nimport _ \"keymesh/mesh\"", "not an edge"},
	{"an edge past the interfaces", "api/a.go", `package api; import _ "keymesh/storage"`, "not an edge"},
	{"keyctl links bbolt", "api/client/a.go", `package client; import _ "go.etcd.io/bbolt"`, "cmd/keyctl: links go.etcd.io/bbolt through api/client"},
	{"keyctl links websocket far away", "api/apitype/a.go", `package apitype; import _ "github.com/gorilla/websocket"`, "cmd/keyctl: links github.com/gorilla/websocket through api/apitype"},
	{"keyctl links shamir", "cmd/keyctl/a.go", `package main; import _ "github.com/hashicorp/vault/shamir"`, "links github.com/hashicorp/vault"},
	{"websocket elsewhere", "keystore/a.go", `package keystore; import _ "github.com/gorilla/websocket"`, "not in this package"},
	{"bbolt elsewhere", "cmd/keynode/a.go", `package main; import _ "go.etcd.io/bbolt"`, "not in this package"},
	{"shamir elsewhere", "crypto/share/a.go", `package share; import _ "github.com/hashicorp/vault/shamir"`, "not in this package"},
	{"x/crypto elsewhere", "keystore/a.go", `package keystore; import _ "golang.org/x/crypto/argon2"`, "not in this package"},
	{"cbor elsewhere", "mesh/frame/a.go", `package frame; import _ "github.com/fxamacker/cbor/v2"`, "not in this package"},
	{"cobra elsewhere", "api/client/a.go", `package client; import _ "github.com/spf13/cobra"`, "not in this package"},
	{"a new dependency", "mesh/a.go", `package mesh; import _ "example.com/x"`, "not in the list of dependencies"},
	{"a new dependency in a test", "mesh/a_test.go", `package mesh; import _ "example.com/x"`, "not in the list of dependencies"},
	{"cgo", "mesh/a.go", `package mesh; import "C"`, "not in the list of dependencies"},
	{"errgroup in a pure package", "crypto/seal/a.go", `package seal; import _ "golang.org/x/sync/errgroup"`, "not in this package"},
	{"net", "mesh/roster/a.go", `package roster; import _ "net"`, "does not import net"},
	{"net/http", "mesh/roster/a.go", `package roster; import _ "net/http"`, "does not import net/http"},
	{"os", "crypto/key/a.go", `package key; import _ "os"`, "does not import os"},
	{"context", "crypto/share/a.go", `package share; import _ "context"`, "does not import context"},
	{"log", "keystore/policy/a.go", `package policy; import _ "log"`, "does not import log"},
	{"a logger", "keystore/policy/a.go", `package policy; import "log/slog"; func f() { slog.Info("x") }`, "does not use log/slog.Info"},
	{"the clock", "keystore/custody/a.go", `package custody; import "time"; var now = time.Now`, "does not use time.Now"},
	{"the clock by another name", "keystore/custody/a.go", `package custody; import t "time"; func f() { t.Sleep(1) }`, "does not use time.Sleep"},
	{"a dot import", "keystore/custody/a.go", `package custody; import . "time"; func f() { Sleep(1) }`, "hides where its names come from"},
	{"a goroutine", "mesh/frame/a.go", `package frame; func f() { go f() }`, "starts no goroutine"},
	{"a goroutine in disguise", "mesh/frame/a.go", `package frame; import "sync"; func f() { var w sync.WaitGroup; w.Go(f) }`, "starts no goroutine"},
	{"standard output", "crypto/shamir/a.go", `package shamir; import "fmt"; func f() { fmt.Println() }`, "does not use fmt.Println"},
	{"testing in production", "mesh/a.go", `package mesh; import _ "testing"`, "does not import testing"},
	{"synctest in production", "mesh/a.go", `package mesh; import _ "testing/synctest"`, "does not import testing"},
	{"memnet in production", "cmd/keynode/a.go", `package main; import _ "keymesh/mesh/memnet"`, "only tests use"},
	{"predictable randomness", "mesh/a.go", `package mesh; import _ "math/rand"`, "anyone can predict"},
	{"a package called util", "mesh/util/a.go", `package util`, "not called util"},
	{"a package called errors", "crypto/key/a.go", `package errors`, "not called errors"},
	{"an unknown package", "mesh/gossip/a.go", `package gossip`, "not in the table"},
	{"an unknown package with tests only", "tests/a_test.go", `package tests`, "not in the table"},
	{"an import of an unknown package", "mesh/a.go", `package mesh; import _ "keymesh/mesh/gossip"`, "not in the table"},
	{"code in crypto", "crypto/a.go", `package crypto`, "not in the table"},
	{"code in cmd", "cmd/a.go", `package cmd`, "not in the table"},
	{"code in the root", "a.go", `package keymesh`, "not in the table"},

	{"an edge of the table", "keystore/custody/a.go", `package custody; import _ "keymesh/crypto/share"`, ""},
	{"what the daemon wires", "cmd/keynode/a.go", `package main; import (_ "keymesh/mesh"; _ "keymesh/api/client")`, ""},
	{"a test of a pure package", "crypto/key/a_test.go", `package key_test; import (_ "os"; _ "testing"; "time"); var now = time.Now`, ""},
	{"a test over memnet", "keystore/a_test.go", `package keystore_test; import _ "keymesh/mesh/memnet"`, ""},
	{"durations in a pure package", "keystore/policy/a.go", `package policy; import "time"; const day = 24 * time.Hour`, ""},
	{"a redacted key", "crypto/key/a.go", `package key; import "log/slog"; func f() slog.Value { return slog.StringValue("") }`, ""},
	{"ignored as the go command does", "mesh/testdata/a.go", `package util; import _ "example.com/x"`, ""},
}

// TestViolationsAreCaught plants each violation alone in a sound tree.
func TestViolationsAreCaught(t *testing.T) {
	for _, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			root := t.TempDir()
			for pkg := range table {
				name := path.Base(pkg)
				if strings.HasPrefix(pkg, "cmd/") {
					name = "main"
				}
				plant(t, root, pkg+"/doc.go", "package "+name)
			}
			plant(t, root, "cmd/keyctl/main.go", `package main; import _ "keymesh/api/client"`)
			plant(t, root, "api/client/client.go", `package client; import _ "keymesh/api/apitype"`)
			if bad := violations(t, root); len(bad) != 0 {
				t.Fatalf("the sound tree has violations: %q", bad)
			}
			plant(t, root, p.file, p.text)
			bad := violations(t, root)
			hit := slices.ContainsFunc(bad, func(v string) bool { return strings.Contains(v, p.want) })
			if p.want == "" && len(bad) != 0 || p.want != "" && !hit {
				t.Errorf("violations %q, want one with %q", bad, p.want)
			}
		})
	}
}

// TestMissingPackageIsCaught: a row of the table that nothing meets is stale.
func TestMissingPackageIsCaught(t *testing.T) {
	bad := violations(t, t.TempDir())
	if len(bad) != len(table) {
		t.Errorf("an empty tree has %d violations, want one for each of %d packages", len(bad), len(table))
	}
}

func plant(t *testing.T, root, file, text string) {
	t.Helper()
	p := filepath.Join(root, filepath.FromSlash(file))
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func violations(t *testing.T, root string) []string {
	t.Helper()
	sources, err := parseTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return check(sources)
}
