package main

import (
	"context"
	"errors"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
)

// app is one run of the command: its streams, its environment and the global
// flags. Nothing in this package reads os.Std* or os.Getenv beside it, so that
// tests run the same code as the binary.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            environ
	opts           options
}

// options are the global flags.
type options struct {
	sockets, addrs []string // one of either, but for bench
	tokenFile      string
	output         string // text or json
	timeout        time.Duration
	quiet          bool
	noInput        bool
	yes            bool
	noColor        bool
}

// environ is an environment as os.Environ gives it.
type environ []string

// get returns the value of name; a later entry hides an earlier one.
func (e environ) get(name string) string {
	for i := len(e) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(e[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// errInterrupted ends a run that a signal stopped.
var errInterrupted = errors.New("interrupted")

// Main runs keyctl with args (without the program's name) and returns its exit
// code. It takes over SIGINT and SIGTERM while it runs: the first one ends the
// command in an orderly way, a second one ends the process. The binary and the
// tests share it. Not safe for concurrent use, because of the signals.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, env: env}
	return a.run(ctx, args)
}

// run executes one command line. Every error ends here, and is printed once.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	completing := isCompletion(args)
	if completing {
		root.SetErr(io.Discard)
	}
	err := checkVerb(root, args)
	if err == nil {
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return apitype.ExitOK
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, errInterrupted)) {
		err = interruption(err)
	}
	if wantsJSON(args) {
		a.opts.output = "json"
	}
	return a.report(err, completing)
}

// wantsJSON finds -o json where the flags were not parsed, so that their own
// errors come in the form that was asked for.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		}
	}
	return false
}

// isCompletion reports whether a shell asks for completions; nobody reads an
// error then, and one would be printed into the prompt.
func isCompletion(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// interruptible runs f and returns its error, or errInterrupted as soon as ctx
// ends. A read from a terminal or pipe cannot be cancelled, so f is then left
// behind; the process ends right after.
func interruptible(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errInterrupted
	}
}
