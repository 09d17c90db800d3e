package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"keymesh/api/apitype"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyctl": main})
}

// realSocket names the variable with the API socket of a running node, a member
// of a mesh of five holders; the scripts of testdata/mesh then run against it.
const realSocket = "KEYMESH_TEST_SOCKET"

// TestMesh runs the scripts that hold for every mesh of five: against the fake,
// and against a real one when there is one.
func TestMesh(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		testscript.Run(t, testscript.Params{Dir: "testdata/mesh", Setup: fakeSetup, Cmds: scriptCommands(), RequireExplicitExec: true, RequireUniqueNames: true})
	})
	socket := os.Getenv(realSocket)
	if socket == "" {
		return
	}
	t.Run("real", func(t *testing.T) {
		setup := func(e *testscript.Env) error { return commonSetup(e, socket) }
		testscript.Run(t, testscript.Params{Dir: "testdata/mesh", Setup: setup, Cmds: scriptCommands(), RequireExplicitExec: true, RequireUniqueNames: true})
	})
}

// TestFake runs the scripts that bend the answers of the fake.
func TestFake(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/fake", Setup: fakeSetup, Cmds: scriptCommands(), RequireExplicitExec: true, RequireUniqueNames: true})
}

// TestReal runs the scripts that need several nodes of a real mesh, such as
// keynode dev makes: NODE2 and so on are the sockets beside the one given.
func TestReal(t *testing.T) {
	socket := os.Getenv(realSocket)
	if socket == "" {
		t.Skip("no running mesh in " + realSocket)
	}
	setup := func(e *testscript.Env) error {
		for i := 2; i <= 5; i++ {
			e.Setenv(fmt.Sprintf("NODE%d", i), filepath.Join(filepath.Dir(filepath.Dir(socket)), fmt.Sprintf("node-%d", i), "api.sock"))
		}
		return commonSetup(e, socket)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/real", Setup: setup, Cmds: scriptCommands(), RequireExplicitExec: true, RequireUniqueNames: true})
}

type fakeKey struct{}

// fakeSetup gives a script a fake node of its own.
func fakeSetup(e *testscript.Env) error {
	f, err := newFakeNode()
	if err != nil {
		return err
	}
	e.Defer(f.close)
	e.Values[fakeKey{}] = f
	e.Setenv("ADDR", f.url)
	return commonSetup(e, f.socket)
}

// commonSetup sets what every script may rely on: the socket, a name space of
// its own, and no configuration of the person who runs the tests.
func commonSetup(e *testscript.Env, socket string) error {
	e.Setenv("SOCKET", socket)
	e.Setenv("KEYMESH_SOCKET", socket)
	e.Setenv("KEYMESH_ADDR", "")
	e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, ".config"))
	e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, ".run"))
	e.Setenv("NS", fmt.Sprintf("t%d-%s", os.Getpid(), filepath.Base(e.WorkDir)))
	return nil
}

// scriptCommands are the commands of our scripts beside those of testscript.
func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":   cmdExits,
		"json":    cmdJSON,
		"mkbytes": cmdMkbytes,
		"empty":   cmdEmpty,
		"mode":    cmdMode,
		"fake":    cmdFake,
		"asked":   cmdAsked,
		"whereis": cmdWhereis,
		"pick":    cmdPick,
	}
}

// cmdExits runs a program and checks its exit code: exits CODE PROGRAM ARGS...
// An error has a hint; a run that went well has none.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("cannot run %s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	said := ts.ReadFile("stderr")
	if strings.Contains(said, "error: ") && !strings.Contains(said, "\nhint: ") {
		ts.Fatalf("an error without a hint:\n%s", said)
	}
}

// cmdJSON checks one value of a JSON file: [!] json FILE PATH [VALUE]. The path
// has dots; numbers index arrays. Without a value it must just be there.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: [!] json FILE PATH [VALUE]")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s is not one JSON value: %v", args[0], err)
	}
	v, ok := dig(v, strings.Split(args[1], "."))
	if len(args) == 2 {
		if ok == neg {
			ts.Fatalf("%s present: %v", args[1], ok)
		}
		return
	}
	got := fmt.Sprint(v)
	if f, isNumber := v.(float64); isNumber {
		got = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if ok = ok && got == args[2]; ok == neg {
		ts.Fatalf("%s is %q, want %q (negated: %v)", args[1], got, args[2], neg)
	}
}

// cmdPick puts one value of a JSON file into a variable: pick FILE PATH VAR.
func cmdPick(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pick FILE PATH VAR")
	}
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); err != nil {
		ts.Fatalf("%s is not one JSON value: %v", args[0], err)
	}
	v, ok := dig(v, strings.Split(args[1], "."))
	if !ok {
		ts.Fatalf("there is no %s", args[1])
	}
	ts.Setenv(args[2], fmt.Sprint(v))
}

func dig(v any, path []string) (any, bool) {
	for _, p := range path {
		switch x := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = x[p]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// cmdMkbytes makes files that an archive of text cannot hold: mkbytes FILE SIZE
// for so many bytes of all values, mkbytes FILE =TEXT for text without its line
// end.
func cmdMkbytes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mkbytes FILE SIZE|=TEXT")
	}
	text, ok := strings.CutPrefix(args[1], "=")
	data := []byte(text)
	if !ok {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		data = make([]byte, n)
		for i := range data {
			data[i] = byte(i + i>>8)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o666))
}

// cmdEmpty checks that a file, stdout or stderr is empty: [!] empty FILE.
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] empty FILE")
	}
	if n := len(ts.ReadFile(args[0])); (n == 0) == neg {
		ts.Fatalf("%s has %d bytes", args[0], n)
	}
}

// cmdMode checks the permissions of a file: mode FILE OCTAL.
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE OCTAL")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("mode %s, want %s", got, args[1])
	}
}

// cmdFake bends the fake; see fakeOrders.
func cmdFake(ts *testscript.TestScript, neg bool, args []string) {
	f, ok := ts.Value(fakeKey{}).(*fakeNode)
	if neg || len(args) == 0 || !ok {
		ts.Fatalf("usage: fake ORDER ARGS... (in scripts with a fake node)")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	order, rest := args[0], args[1:]
	switch order {
	case "offline":
		f.offline = set(rest)
	case "liars":
		f.liars = set(rest)
	case "silent":
		f.silent = nil
		for _, n := range rest {
			f.silent = append(f.silent, nodeID(n))
		}
	case "answer": // answer OP TYPE [DETAIL]
		p := apitype.NewProblem(apitype.Type("urn:keymesh:problem:"+rest[1]), "%s", strings.Join(rest[2:], " "))
		if p.Type == apitype.Fork {
			p.Manifests = []string{strings.Repeat("aa", 32), strings.Repeat("bb", 32)}
		}
		f.answers[rest[0]] = p
	case "status-code": // status-code OP STATUS: a problem of an unknown type
		code, err := strconv.Atoi(rest[1])
		ts.Check(err)
		f.answers[rest[0]] = &apitype.Problem{Type: "urn:keymesh:problem:from-the-future", Title: "New", Status: code}
	case "clear":
		delete(f.answers, rest[0])
	case "raw":
		f.raw[rest[0]] = strings.Join(rest[1:], " ")
	case "drop":
		f.drop[rest[0]] = true
	case "hang":
		f.hang[rest[0]] = true
	case "page":
		f.page, _ = strconv.Atoi(rest[0])
	case "issuers":
		f.issuers, _ = strconv.Atoi(rest[0])
	case "noproof":
		f.noProof = true
	case "asleep":
		f.asleep, _ = strconv.Atoi(rest[0])
	case "events": // events JSON: of one event, after which the stream ends
		f.event = strings.Join(rest, " ")
	case "audit-log": // audit-log ENTRIES: so many are in it
		f.audit.entries, _ = strconv.Atoi(rest[0])
	case "audit-wrong":
		f.audit.wrong = strings.Join(rest, " ")
	case "audit-stopped":
		f.audit.stopped = strings.Join(rest, " ")
	case "audit-contradiction": // audit-contradiction PEER own|theirs
		f.audit.peer, f.audit.contradiction = rest[0], rest[1]
	case "undone":
		f.undone = true
	case "name": // a name that a terminal would act upon
		f.secrets[strings.Join(rest, "")+"\x1b[31m\n\u202e"] = []fakeSecret{{gen: 1}}
	case "status":
		f.bendStatus(ts, rest)
	default:
		ts.Fatalf("there is no order %q", order)
	}
}

func (f *fakeNode) bendStatus(ts *testscript.TestScript, args []string) {
	what, text := args[0], strings.Join(args[1:], " ")
	before := f.status
	f.status = func(st *apitype.Status) {
		if before != nil {
			before(st)
		}
		switch what {
		case "check": // check NAME LEVEL TEXT...
			st.Checks = append(st.Checks, apitype.Check{Name: args[1], Level: args[2], Text: strings.Join(args[3:], " "), Fix: "mend " + args[1]})
		case "warning":
			st.Warnings = append(st.Warnings, text)
		case "health":
			st.Health = text
		case "exit":
			st.Exit, _ = strconv.Atoi(text)
		case "store-error":
			st.Storage.Error = text
		case "store-full":
			st.Storage.Bytes, st.Storage.MaxBytes = 95, 100
		case "alone":
			st.Members, st.Online = 1, 1
		case "expired":
			st.Node.Expires = st.Node.Expires.AddDate(-1, 0, 0)
		case "expires-soon":
			st.Node.Expires = st.Node.Expires.AddDate(0, 0, -75)
		case "at-risk":
			st.Secrets.Total, st.Secrets.AtRisk = 3, 2
		default:
			panic("there is no status order " + what)
		}
	}
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

// cmdAsked checks the last request of an operation as the fake saw it:
// [!] asked OP, or asked OP PATH VALUE, where the path begins with body, query
// or header.
func cmdAsked(ts *testscript.TestScript, neg bool, args []string) {
	f, ok := ts.Value(fakeKey{}).(*fakeNode)
	if !ok || (len(args) != 1 && len(args) != 3) {
		ts.Fatalf("usage: [!] asked OP [PATH VALUE]")
	}
	all := f.requests(args[0])
	if len(args) == 1 {
		if (len(all) > 0) == neg {
			ts.Fatalf("%s was asked %d times", args[0], len(all))
		}
		return
	}
	if len(all) == 0 {
		ts.Fatalf("%s was never asked", args[0])
	}
	last := all[len(all)-1]
	where, path, _ := strings.Cut(args[1], ".")
	got := ""
	switch where {
	case "path":
		got = last.path
	case "query":
		got = last.query.Get(path)
	case "header":
		got = last.header.Get(path)
	case "body":
		v, ok := dig(any(last.body), strings.Split(path, "."))
		if ok {
			got = fmt.Sprint(v)
		}
	}
	if (got == args[2]) == neg {
		ts.Fatalf("%s of %s is %q, want %q (negated: %v)", args[1], args[0], got, args[2], neg)
	}
}

// cmdWhereis puts the path of a program into a variable: whereis PROGRAM VAR.
func cmdWhereis(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: whereis PROGRAM VAR")
	}
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	ts.Setenv(args[1], path)
}
