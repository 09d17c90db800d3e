// Package cmd_test checks the whole tree against the import table of the
// architecture. It parses the sources, since a test that runs the go command
// would be answered from the test cache after a violation.
package cmd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "keymesh"

// rule is one row of the import table.
type rule struct {
	ours []string // packages of this module that production code may import
	any  bool     // any package of this module but the ones only tests may import
	pure bool     // touches no network, file, clock, log, context, goroutine
}

// table is complete: a package that is not here fails, and so does a row whose
// package does not exist.
var table = map[string]rule{
	"crypto/key":       {pure: true},
	"crypto/shamir":    {pure: true},
	"mesh/memnet":      {},
	"api/apitype":      {},
	"crypto/seal":      {pure: true, ours: []string{"crypto/key"}},
	"crypto/share":     {pure: true, ours: []string{"crypto/key"}},
	"mesh/frame":       {pure: true, ours: []string{"crypto/key"}},
	"mesh/roster":      {pure: true, ours: []string{"crypto/key"}},
	"keystore/policy":  {pure: true, ours: []string{"crypto/key"}},
	"keystore/custody": {pure: true, ours: []string{"crypto/key", "crypto/share", "keystore/policy"}},
	"storage":          {ours: []string{"crypto/key", "crypto/seal", "crypto/share"}},
	"mesh":             {ours: []string{"mesh/frame", "mesh/roster", "crypto/key"}},
	"keystore":         {ours: []string{"keystore/custody", "keystore/policy", "crypto/key", "crypto/seal", "crypto/shamir", "crypto/share"}},
	"api":              {ours: []string{"api/apitype", "keystore", "keystore/policy", "crypto/key", "crypto/share"}},
	"api/client":       {ours: []string{"api/apitype"}},
	"cmd/keyctl":       {ours: []string{"api/client", "api/apitype"}},
	"cmd/keynode":      {any: true},
}

// outside says where production code may import a package of another module.
// A place is a package, a directory with everything below it ("crypto/"), or
// "*" for everything that is not pure. Tests may import all of them anywhere.
var outside = map[string][]string{
	"github.com/gorilla/websocket":    {"mesh"},
	"go.etcd.io/bbolt":                {"storage"},
	"github.com/hashicorp/vault":      {"crypto/shamir"},
	"golang.org/x/crypto":             {"crypto/"},
	"github.com/fxamacker/cbor/v2":    {"crypto/key"},
	"filippo.io/edwards25519":         {"crypto/key"},
	"github.com/tyler-smith/go-bip39": {"crypto/key"},
	"github.com/spf13/cobra":          {"cmd/"},
	"github.com/spf13/pflag":          {"cmd/"},
	"github.com/BurntSushi/toml":      {"cmd/"},
	"golang.org/x/term":               {"cmd/"},
	"rsc.io/qr":                       {"cmd/keynode"},
	"golang.org/x/text":               {"*", "crypto/", "keystore/"},
	"golang.org/x/sync":               {"*"},
	"golang.org/x/sys":                {"*"},
	"golang.org/x/time":               {"*"},
	"github.com/getkin/kin-openapi":   {},
	"github.com/rogpeppe/go-internal": {},
	"pgregory.net/rapid":              {},
}

// notLinked must not be reached from a package, over any number of imports.
var notLinked = map[string][]string{
	"cmd/keyctl": {"go.etcd.io/bbolt", "github.com/gorilla/websocket", "github.com/hashicorp/vault"},
}

// impure are the packages of the standard library that a pure package never
// imports; a trailing slash means everything below. The exceptions parse text
// and touch nothing.
var (
	impure       = []string{"net", "net/", "os", "os/", "context", "log", "log/", "syscall", "crypto/tls", "testing", "testing/", "math/rand", "math/rand/"}
	impureExcept = []string{"net/netip", "net/url", "log/slog"}
)

// impureNames are what a pure package does not use of packages it may import.
// Private keys implement slog.LogValuer, which writes nothing by itself.
var impureNames = map[string]func(name string) bool{
	"time": func(n string) bool {
		return slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}, n)
	},
	"fmt": func(n string) bool {
		return slices.Contains([]string{"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"}, n)
	},
	"log/slog": func(n string) bool { return n != "Value" && n != "StringValue" && n != "LogValuer" },
}

// badNames say nothing of a package or hide one of the standard library.
var badNames = []string{"util", "utils", "common", "types", "errors", "log", "http", "helpers", "misc", "base", "crypto"}

// source is one parsed file.
type source struct {
	pkg  string // directory below the root, slash-separated; "." for the root
	file string
	test bool
	ast  *ast.File
}

func (s source) imports() []string {
	var out []string
	for _, im := range s.ast.Imports {
		p, _ := strconv.Unquote(im.Path.Value)
		out = append(out, p)
	}
	return out
}

func TestArchitecture(t *testing.T) {
	sources, err := parseTree("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range check(sources) {
		t.Error(v)
	}
}

// TestReadmeNamesEveryPackage holds the third copy of the tree to the first two.
func TestReadmeNamesEveryPackage(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range table {
		if !strings.Contains(string(readme), "\n"+pkg+" ") {
			t.Errorf("the tree in README.md has no line for %s", pkg)
		}
	}
}

// TestFuzzTargetsHaveSeeds refuses a target that starts from nothing.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	sources, err := parseTree("..")
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for _, s := range sources {
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !s.test || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			targets++
			corpus, _ := os.ReadDir(filepath.Join("..", s.pkg, "testdata", "fuzz", f.Name.Name))
			if len(corpus) == 0 && !seeded(f) {
				t.Errorf("%s: %s has neither f.Add nor a corpus", s.file, f.Name.Name)
			}
		}
	}
	if targets == 0 {
		t.Error("there is no fuzz target")
	}
}

// seeded reports whether f calls Add or gives its *testing.F to another function.
func seeded(f *ast.FuncDecl) (found bool) {
	param := ""
	if p := f.Type.Params.List; len(p) == 1 && len(p[0].Names) == 1 {
		param = p[0].Names[0].Name
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == param && sel.Sel.Name == "Add" {
				found = true
			}
		}
		for _, a := range call.Args {
			if x, ok := a.(*ast.Ident); ok && x.Name == param {
				found = true
			}
		}
		return true
	})
	return found
}

// parseTree parses every Go file below root, whatever its build tags, but for
// directories that the go command ignores too.
func parseTree(root string) ([]source, error) {
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name[0] == '.' || name[0] == '_') {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		out = append(out, source{pkg: path.Dir(rel), file: rel, test: strings.HasSuffix(name, "_test.go"), ast: f})
		return nil
	})
	return out, err
}

// check returns every violation of the table in sources, sorted.
func check(sources []source) []string {
	var bad []string
	seen := map[string]bool{}
	for _, s := range sources {
		if !s.test {
			seen[s.pkg] = true
		}
		bad = append(bad, checkName(s)...)
		bad = append(bad, checkImports(s)...)
		if !s.test && table[s.pkg].pure {
			bad = append(bad, checkPure(s)...)
		}
	}
	for pkg := range table {
		if !seen[pkg] {
			bad = append(bad, fmt.Sprintf("%s: in the table but not in the tree", pkg))
		}
	}
	bad = append(bad, checkLinked(sources)...)
	slices.Sort(bad)
	return slices.Compact(bad)
}

func checkName(s source) []string {
	var bad []string
	if _, ok := table[s.pkg]; !ok && (s.pkg != "cmd" || !s.test) {
		bad = append(bad, fmt.Sprintf("%s: package %s is not in the table", s.file, s.pkg))
	}
	name := strings.TrimSuffix(s.ast.Name.Name, "_test")
	if slices.Contains(badNames, name) || slices.Contains(badNames, path.Base(s.pkg)) {
		bad = append(bad, fmt.Sprintf("%s: a package is not called %s", s.file, name))
	}
	if name != path.Base(s.pkg) && name != "main" {
		bad = append(bad, fmt.Sprintf("%s: package %s is in the directory %s", s.file, name, s.pkg))
	}
	return bad
}

func checkImports(s source) []string {
	var bad []string
	for _, im := range s.imports() {
		var why string
		switch {
		case im == module || strings.HasPrefix(im, module+"/"):
			why = checkOurs(s, strings.TrimPrefix(im, module+"/"))
		case strings.Contains(strings.SplitN(im, "/", 2)[0], ".") || im == "C":
			why = checkOutside(s, im)
		case !s.test && (im == "testing" || strings.HasPrefix(im, "testing/")):
			why = "production code does not import testing"
		case !s.test && im == "math/rand":
			why = "randomness that anyone can predict"
		}
		if why != "" {
			bad = append(bad, fmt.Sprintf("%s: imports %s: %s", s.file, im, why))
		}
	}
	return bad
}

func checkOurs(s source, im string) string {
	r := table[s.pkg]
	switch _, known := table[im]; {
	case !known:
		return "not in the table"
	case s.test:
		return "" // tests bring packages together; the compiler refuses cycles
	case im == "mesh/memnet":
		return "only tests use the network in memory"
	case !r.any && !slices.Contains(r.ours, im):
		return "not an edge of the table"
	}
	return ""
}

// moduleOf returns the row of outside that covers an import path.
func moduleOf(im string) (string, bool) {
	for m := range outside {
		if im == m || strings.HasPrefix(im, m+"/") {
			return m, true
		}
	}
	return "", false
}

func checkOutside(s source, im string) string {
	m, ok := moduleOf(im)
	if !ok {
		return "not in the list of dependencies"
	}
	if s.test {
		return ""
	}
	for _, place := range outside[m] {
		if place == s.pkg || place == "*" && !table[s.pkg].pure || strings.HasSuffix(place, "/") && strings.HasPrefix(s.pkg, place) {
			return ""
		}
	}
	return "not in this package"
}

func checkPure(s source) []string {
	var bad []string
	add := func(f string, a ...any) { bad = append(bad, s.file+": a pure package "+fmt.Sprintf(f, a...)) }
	names := map[string]string{} // local name -> import path
	for _, im := range s.ast.Imports {
		p, _ := strconv.Unquote(im.Path.Value)
		local := path.Base(p)
		if im.Name != nil {
			local = im.Name.Name
		}
		names[local] = p
		if local == "." {
			add("hides where its names come from: %s", p)
		}
		if slices.ContainsFunc(impure, func(x string) bool { return p == x || strings.HasSuffix(x, "/") && strings.HasPrefix(p, x) }) && !slices.Contains(impureExcept, p) {
			add("does not import %s", p)
		}
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			add("starts no goroutine")
		case *ast.SelectorExpr:
			if n.Sel.Name == "Go" {
				add("starts no goroutine (a call of Go)")
			}
			if x, ok := n.X.(*ast.Ident); ok {
				if forbidden := impureNames[names[x.Name]]; forbidden != nil && forbidden(n.Sel.Name) {
					add("does not use %s.%s", names[x.Name], n.Sel.Name)
				}
			}
		}
		return true
	})
	return bad
}

// checkLinked follows the imports of production code.
func checkLinked(sources []source) []string {
	imports := map[string][]string{}
	for _, s := range sources {
		if !s.test {
			imports[s.pkg] = append(imports[s.pkg], s.imports()...)
		}
	}
	var bad []string
	for _, from := range slices.Sorted(maps.Keys(notLinked)) {
		done, queue := map[string]bool{}, []string{from}
		for len(queue) > 0 {
			pkg := queue[0]
			queue = queue[1:]
			if done[pkg] {
				continue
			}
			done[pkg] = true
			for _, im := range imports[pkg] {
				if p, ok := strings.CutPrefix(im, module+"/"); ok {
					queue = append(queue, p)
				} else if m, ok := moduleOf(im); ok && slices.Contains(notLinked[from], m) {
					bad = append(bad, fmt.Sprintf("%s: links %s through %s", from, m, pkg))
				}
			}
		}
	}
	return bad
}
