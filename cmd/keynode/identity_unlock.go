package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"keymesh/crypto/seal"
)

// hinted is an error with the next command or step for the person who reads
// it. Whoever prints errors finds it with errors.As and interface{ Hint() string }.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Hint is one sentence without a final newline.
func (h *hinted) Hint() string { return h.hint }

func hint(err error, format string, a ...any) error {
	return &hinted{err, fmt.Sprintf(format, a...)}
}

const (
	// minPassphrase is the shortest new passphrase, in bytes. Older ones open
	// whatever their length.
	minPassphrase = 8
	maxPassphrase = 4096
)

// Unlock says where the passphrase of the identity file comes from. The zero
// value stands for "as the file says".
type Unlock struct {
	mode   string // prompt, file, credential, none; "" for the zero value
	arg    string // of file: a path; of credential: a name
	prompt func(label string) ([]byte, error)
	kdf    seal.KDFParams
}

// parseUnlock reads prompt, file:PATH, credential:NAME or none. A relative
// PATH is taken from the current directory and made absolute.
func parseUnlock(s string) (Unlock, error) {
	mode, arg, _ := strings.Cut(s, ":")
	u := Unlock{mode: mode, arg: arg}
	switch {
	case s == "prompt" || s == "none":
		return u, nil
	case mode == "file" && arg != "":
		abs, err := filepath.Abs(arg)
		if err != nil {
			return Unlock{}, fmt.Errorf("the path of the passphrase file: %w", err)
		}
		u.arg = abs
		return u, nil
	case mode == "credential" && arg != "" && arg == filepath.Base(arg) && arg != "." && arg != "..":
		return u, nil
	}
	return Unlock{}, hint(fmt.Errorf("unlock mode %.200q is not known", s), "use prompt, file:PATH, credential:NAME or none")
}

// String is what parseUnlock reads.
func (u Unlock) String() string {
	if u.arg == "" {
		return u.mode
	}
	return u.mode + ":" + u.arg
}

// IsZero reports whether the mode is left to the file.
func (u Unlock) IsZero() bool { return u.mode == "" }

// Clear reports whether the identity lies in clear: for development, and
// warned about at every start.
func (u Unlock) Clear() bool { return u.mode == "none" }

// passphrase returns the passphrase, which the caller zeroes; nil for none. A
// new one is asked for twice and has at least minPassphrase bytes.
func (u Unlock) passphrase(fresh bool) ([]byte, error) {
	var pass []byte
	var err error
	switch u.mode {
	case "none":
		return nil, nil
	case "prompt":
		pass, err = u.ask(fresh)
	case "file":
		pass, err = readPassphrase(u.arg, 0o077)
	case "credential":
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, hint(fmt.Errorf("credential %q: there is no credentials directory", u.arg), "run under systemd with LoadCredential=%s:PATH, or give --unlock", u.arg)
		}
		// systemd shares a credential with a service by an access list, which
		// shows as a group permission.
		pass, err = readPassphrase(filepath.Join(dir, u.arg), 0o007)
	default:
		err = errors.New("no unlock mode was given")
	}
	if err != nil {
		return nil, err
	}
	if len(pass) == 0 || fresh && len(pass) < minPassphrase {
		clear(pass)
		return nil, fmt.Errorf("the passphrase is shorter than %d bytes", minPassphrase)
	}
	return pass, nil
}

func (u Unlock) ask(fresh bool) ([]byte, error) {
	prompt := u.prompt
	if prompt == nil {
		prompt = askTerminal
	}
	pass, err := prompt("passphrase of this node: ")
	if err != nil || !fresh {
		return pass, err
	}
	again, err := prompt("the same once more: ")
	defer clear(again)
	if err != nil {
		clear(pass)
		return nil, err
	}
	if !bytes.Equal(pass, again) {
		clear(pass)
		return nil, errors.New("the two passphrases differ")
	}
	return pass, nil
}

// askTerminal reads a line without echo from the terminal, whatever standard
// input is.
func askTerminal(label string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, hint(errors.New("there is no terminal to ask for the passphrase"), "use --unlock file:PATH or --unlock credential:NAME")
	}
	defer tty.Close()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	fmt.Fprint(tty, label)
	defer fmt.Fprintln(tty)
	// The commands catch interrupts, which would leave the prompt waiting.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, unix.SIGTERM)
	defer signal.Stop(stop)
	type read struct {
		pass []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		pass, err := term.ReadPassword(int(tty.Fd()))
		done <- read{pass, err}
	}()
	select {
	case <-stop:
		// The reader ends with the process; the echo has to come back before.
		return nil, errors.Join(errors.New("interrupted"), term.Restore(int(tty.Fd()), state))
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", r.err)
		}
		return r.pass, nil
	}
}

// readPassphrase reads a file without its last newline. forbidden are the
// permission bits that it must not have.
func readPassphrase(path string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the passphrase file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the passphrase file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("passphrase file %s is not a regular file", path)
	}
	if st.Mode().Perm()&forbidden != 0 {
		return nil, hint(fmt.Errorf("passphrase file %s has mode %04o: others can read or change it", path, st.Mode().Perm()), "chmod 600 %s", path)
	}
	b := make([]byte, maxPassphrase+1) // one buffer: growing would leave copies
	n, err := io.ReadFull(f, b)
	if err == nil {
		clear(b)
		return nil, fmt.Errorf("passphrase file %s is longer than %d bytes", path, maxPassphrase)
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		clear(b)
		return nil, fmt.Errorf("reading the passphrase file: %w", err)
	}
	b = b[:n]
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")), nil
}
