package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something that comes at once unless it
// is broken.
const patience = 20 * time.Second

// terminal is a pseudo-terminal and the keyctl that runs on it.
type terminal struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	cmd    *exec.Cmd
	seen   bytes.Buffer
}

// onTerminal starts keyctl with all three streams on a terminal of its own.
func onTerminal(t *testing.T, f *fakeNode, args ...string) *terminal {
	t.Helper()
	master, slave := openTerminal(t)
	cmd := command(f, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &terminal{t: t, master: master, slave: slave, cmd: cmd}
}

// command is keyctl, the copy of this test binary that testscript made, in an
// environment that knows only the fake.
func command(f *fakeNode, args ...string) *exec.Cmd {
	cmd := exec.Command("keyctl", args...)
	cmd.Env = []string{"KEYMESH_SOCKET=" + f.socket, "PATH=" + os.Getenv("PATH"), "TERM=xterm"}
	return cmd
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	// Not through Fd, which would take away the deadlines.
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	cerr := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// expect reads until text has appeared.
func (x *terminal) expect(text string) {
	x.t.Helper()
	if err := x.master.SetReadDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for !strings.Contains(x.seen.String(), text) {
		n, err := x.master.Read(buf)
		x.seen.Write(buf[:n])
		if err != nil {
			x.t.Fatalf("%q did not appear (%v) in:\n%s", text, err, x.seen.String())
		}
	}
}

func (x *terminal) send(text string) {
	x.t.Helper()
	if _, err := io.WriteString(x.master, text); err != nil {
		x.t.Fatal(err)
	}
}

// end waits for the program, reads what is left, and returns the exit code.
func (x *terminal) end() int {
	x.t.Helper()
	code := exitCode(x.t, x.cmd)
	// The test still has the slave open, so the end is known by silence.
	if err := x.master.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		x.t.Fatal(err)
	}
	rest, _ := io.ReadAll(x.master) // ends with the deadline
	x.seen.Write(rest)
	return code
}

func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	dead := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer dead.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func (x *terminal) echoes() bool {
	x.t.Helper()
	mode, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

func TestTerminalPromptHidesTheValue(t *testing.T) {
	f := startFake(t)
	x := onTerminal(t, f, "put", "typed")
	x.expect("value of typed: ")
	x.send("hunter2\n")
	x.expect("value of typed again: ")
	x.send("hunter2\n")
	if code := x.end(); code != 0 {
		t.Fatalf("exit %d:\n%s", code, x.seen.String())
	}
	if strings.Contains(x.seen.String(), "hunter2") {
		t.Errorf("the terminal shows the value:\n%s", x.seen.String())
	}
	if !x.echoes() {
		t.Error("the terminal has no echo afterwards")
	}
	for _, n := range fakeNames {
		if !strings.Contains(x.seen.String(), n+": committed\r\n") {
			t.Errorf("no line of progress for %s:\n%s", n, x.seen.String())
		}
	}
	if got := f.requests("put")[0].body["value"]; got != "aHVudGVyMg==" {
		t.Errorf("stored %v, not what was typed", got)
	}
}

func TestTerminalCutsLongLines(t *testing.T) {
	f := startFake(t)
	x := onTerminal(t, f, "put", "long")
	long := strings.Repeat("x", 5000) + "\n"
	x.expect("value of long: ")
	x.send(long)
	x.expect("again: ")
	x.send(long)
	if code := x.end(); code != 1 || !strings.Contains(x.seen.String(), "a terminal cuts lines") {
		t.Errorf("exit %d:\n%s", code, x.seen.String())
	}
	if n := len(f.requests("put")); n != 0 {
		t.Errorf("%d puts of a cut value", n)
	}
}

func TestTerminalInterruptAtPrompt(t *testing.T) {
	f := startFake(t)
	x := onTerminal(t, f, "put", "typed")
	x.expect("value of typed: ")
	x.send("\x03")
	if code := x.end(); code != 130 {
		t.Errorf("exit %d, want 130:\n%s", code, x.seen.String())
	}
	if !x.echoes() {
		t.Error("the terminal has no echo afterwards")
	}
	if n := len(f.requests("put")); n != 0 {
		t.Errorf("%d puts after an interruption", n)
	}
}

func TestTerminalNeedsReveal(t *testing.T) {
	f := startFake(t)
	f.bend(func() { f.secrets["a"] = []fakeSecret{{gen: 1, value: []byte("hunter2")}} })
	x := onTerminal(t, f, "get", "a")
	if code := x.end(); code != 1 || strings.Contains(x.seen.String(), "hunter2") || !strings.Contains(x.seen.String(), "hint: keyctl get a --reveal") {
		t.Errorf("exit %d:\n%s", code, x.seen.String())
	}
	if n := len(f.requests("get")); n != 0 {
		t.Errorf("%d recoveries for nothing", n)
	}
	x = onTerminal(t, f, "get", "a", "-o", "json")
	if code := x.end(); code != 1 || len(f.requests("get")) != 0 {
		t.Errorf("-o json: exit %d:\n%s", code, x.seen.String())
	}
	x = onTerminal(t, f, "get", "a", "--reveal")
	if code := x.end(); code != 0 || x.seen.String() != "hunter2\r\n" {
		t.Errorf("exit %d: %q", code, x.seen.String())
	}
}

func TestTerminalColours(t *testing.T) {
	f := startFake(t)
	x := onTerminal(t, f, "status")
	if code := x.end(); code != 0 || !strings.Contains(x.seen.String(), "\x1b[32mhealthy\x1b[0m") {
		t.Errorf("exit %d: %q", code, x.seen.String())
	}
	x = onTerminal(t, f, "status", "--no-color")
	if code := x.end(); code != 0 || strings.Contains(x.seen.String(), "\x1b") {
		t.Errorf("--no-color: exit %d: %q", code, x.seen.String())
	}
}

// TestInterrupt stops commands that wait for the node, or for their input.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		hang string
		args []string
		says string
	}{
		{"get", []string{"get", "a"}, "interrupted"},
		{"put", []string{"put", "a", "--from", os.DevNull}, "completes or dies by itself"},
		{"delete", []string{"rm", "a", "--yes"}, "completes or dies by itself"},
		{"status", []string{"doctor"}, "interrupted"},
		{"status", []string{"status", "--watch"}, ""},
		{"list", []string{"ls"}, "interrupted"},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			f := startFake(t)
			f.bend(func() { f.hang[c.hang] = true })
			cmd := command(f, c.args...)
			var out, said bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, f, c.hang)
			cmd.Process.Signal(os.Interrupt)
			if code := exitCode(t, cmd); code != 130 || !strings.Contains(said.String(), c.says) || out.Len() > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q", code, out.String(), said.String())
			}
		})
	}
}

func await(t *testing.T, f *fakeNode, op string) {
	t.Helper()
	select {
	case got := <-f.idle:
		if got != op {
			t.Fatalf("asked for %s, want %s", got, op)
		}
	case <-time.After(patience):
		t.Fatalf("%s was never asked", op)
	}
}

// TestInterruptedInput sends the signal while put waits for bytes that never
// come: its first byte was read, so it surely waits.
func TestInterruptedInput(t *testing.T) {
	f := startFake(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := command(f, "put", "a")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	// More than a pipe holds: the write returns once keyctl has read some.
	if _, err := w.Write(make([]byte, 256<<10)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(os.Interrupt)
	if code := exitCode(t, cmd); code != 130 {
		t.Errorf("exit %d, want 130", code)
	}
	if n := len(f.requests("put")); n != 0 {
		t.Errorf("%d puts of half a value", n)
	}
}

// TestInterruptedBenchCleansUp expects no secret left behind.
func TestInterruptedBenchCleansUp(t *testing.T) {
	f := startFake(t)
	f.bend(func() { f.hang["get"] = true })
	cmd := command(f, "bench", "--count", "8", "--concurrency", "2")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, f, "get")
	cmd.Process.Signal(os.Interrupt)
	if code := exitCode(t, cmd); code != 130 || !strings.Contains(said.String(), "is deleted again") {
		t.Errorf("exit %d: %s%s", code, out.String(), said.String())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.secrets) != 8 {
		t.Errorf("%d secrets were stored, want 8", len(f.secrets))
	}
	for name := range f.secrets {
		if _, p := f.find(name, 0); p == nil {
			t.Errorf("%s is left behind", name)
		}
	}
}

// TestStatusWatchShowsChanges reads a change of the mesh from a running watch.
func TestStatusWatchShowsChanges(t *testing.T) {
	f := startFake(t)
	cmd := command(f, "status", "--watch")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer dead.Stop()
	readUntil(t, out, "healthy")
	f.bend(func() { f.offline["echo"] = true })
	readUntil(t, out, "degraded")
	cmd.Process.Signal(os.Interrupt)
	if code := exitCode(t, cmd); code != 130 {
		t.Errorf("exit %d, want 130", code)
	}
}

func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(text)) {
		n, err := r.Read(buf)
		seen = append(seen, buf[:n]...)
		if err != nil {
			t.Fatalf("%q did not appear (%v) in:\n%s", text, err, seen)
		}
	}
}
