package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"keymesh/api/apitype"
)

// isTerminal reports whether s is a terminal.
func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// mayAsk reports whether there is a person to ask.
func (a *app) mayAsk() bool { return !a.opts.noInput && isTerminal(a.stdin) }

// chatty reports whether progress is shown: only to a person who watches.
func (a *app) chatty() bool { return !a.opts.quiet && isTerminal(a.stderr) }

// note prints a line that is not the answer.
func (a *app) note(format string, args ...any) {
	if !a.opts.quiet {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

// canonicalLimit is how many bytes a Linux terminal hands over as one line,
// its end included (N_TTY_BUF_SIZE); it drops the rest without a word.
const canonicalLimit = 4095

// askSecret asks for a value twice without showing it. The caller zeroes it.
func (a *app) askSecret(ctx context.Context, what string) ([]byte, error) {
	tty, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return nil, usage("there is no terminal to ask on", "pipe the value in, or pass --from FILE")
	}
	show, err := hideInput(int(tty.Fd()))
	if err != nil {
		return nil, local("cannot read from the terminal", err, "pipe the value in, or pass --from FILE")
	}
	defer show()
	first, err := a.readHidden(ctx, tty, what+": ")
	if err != nil {
		return nil, err
	}
	second, err := a.readHidden(ctx, tty, what+" again: ")
	defer clear(second)
	switch {
	case err != nil:
	case !bytes.Equal(first, second):
		err = usage("the two values differ; nothing was stored", "type it again, or pass --from FILE")
	case len(first) >= canonicalLimit:
		err = usage(fmt.Sprintf("a terminal cuts lines at %d bytes; nothing was stored", canonicalLimit), "pipe the value in, or pass --from FILE")
	default:
		return first, nil
	}
	clear(first)
	return nil, err
}

// hideInput turns off the echo of a terminal until show is called. It is done
// before the first prompt appears: what is typed at once must not show either.
func hideInput(fd int) (show func(), err error) {
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	mode.Lflag &^= unix.ECHO | unix.ECHONL
	mode.Lflag |= unix.ICANON | unix.ISIG
	mode.Iflag |= unix.ICRNL
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, before) }, nil
}

// readHidden reads one line of a terminal whose echo is off. It leaves the modes
// of the terminal alone, unlike term.ReadPassword: after an interruption the
// read goes on for a moment, and would switch the echo off once more.
func (a *app) readHidden(ctx context.Context, tty *os.File, prompt string) ([]byte, error) {
	fmt.Fprint(a.stderr, prompt)
	var line []byte
	err := interruptible(ctx, func() (err error) {
		line, err = readTerminalLine(tty)
		return err
	})
	fmt.Fprintln(a.stderr)
	if errors.Is(err, errInterrupted) {
		return nil, err
	}
	if errors.Is(err, io.EOF) {
		clear(line)
		return nil, usage("nothing was typed", "an empty secret is put with `keyctl put NAME </dev/null`")
	}
	if err != nil {
		clear(line)
		return nil, local("cannot read from the terminal", err, "pipe the value in, or pass --from FILE")
	}
	return line, nil
}

// readTerminalLine reads up to the line's end, which it removes. A terminal
// hands over a line at a time, so that nothing of the next one is taken. What is
// read stays in one buffer, which the caller gets.
func readTerminalLine(tty io.Reader) ([]byte, error) {
	buf := make([]byte, canonicalLimit+1)
	n := 0
	for n < len(buf) {
		got, err := tty.Read(buf[n:])
		n += got
		if n > 0 && buf[n-1] == '\n' {
			return buf[:n-1], nil
		}
		if err != nil || got == 0 {
			clear(buf)
			return nil, io.EOF
		}
	}
	return buf, nil
}

// confirm asks the person to type word before something is lost for good. It
// fails when there is nobody to ask; --yes answers for scripts.
func (a *app) confirm(ctx context.Context, question, word string) error {
	if a.opts.yes {
		return nil
	}
	if !a.mayAsk() {
		return usage("this needs a confirmation, and there is nobody to ask", "add --yes if you mean it")
	}
	fmt.Fprintf(a.stderr, "%s\ntype %s to confirm: ", question, printable(word))
	var line []byte
	err := interruptible(ctx, func() (err error) {
		line, err = readLine(a.stdin, 4<<10)
		return err
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(line) != word {
		return &failure{exit: apitype.ExitLocal, what: "not confirmed; nothing was changed", hint: "type the name exactly, or add --yes"}
	}
	return nil
}

// readLine reads up to a line's end, which it removes, and at most limit bytes.
func readLine(r io.Reader, limit int64) ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(r, limit)).ReadBytes('\n')
	return bytes.TrimRight(line, "\r\n"), err
}

// colour is an ANSI colour of the answer on a terminal.
type colour string

const (
	green  colour = "32"
	yellow colour = "33"
	red    colour = "31"
)

// paint colours s when the answer goes to a terminal that wants colours
// (no-color.org).
func (a *app) paint(c colour, s string) string {
	if a.opts.noColor || a.env.get("NO_COLOR") != "" || a.env.get("TERM") == "dumb" || !isTerminal(a.stdout) {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}
