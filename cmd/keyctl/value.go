package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keymesh/api/apitype"
)

// readValue reads the value of a put: from a file, a hidden prompt, or standard
// input, exactly as it is. The caller zeroes it.
func (a *app) readValue(ctx context.Context, name, from string) ([]byte, error) {
	if from != "" {
		return readValueFile(ctx, from)
	}
	if isTerminal(a.stdin) {
		if a.opts.noInput {
			return nil, usage("there is no value: standard input is a terminal, and --no-input forbids to ask", "pipe the value in, or pass --from FILE")
		}
		return a.askSecret(ctx, "value of "+printable(name))
	}
	return readAtMost(ctx, a.stdin, "standard input")
}

func readValueFile(ctx context.Context, path string) ([]byte, error) {
	return readFile(ctx, path, "--from")
}

// readFile reads a file that a flag named.
func readFile(ctx context.Context, path, flag string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, local("cannot read "+printable(path), err, "check the path given to "+flag)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	if err != nil {
		return nil, local("cannot read "+printable(path), err, "check the path given to "+flag)
	}
	return readAtMost(ctx, f, printable(path))
}

// readAtMost reads r to its end, and refuses one byte more than a secret may
// have. The buffer never grows, so that no copy of the value is left behind.
func readAtMost(ctx context.Context, r io.Reader, source string) ([]byte, error) {
	buf := make([]byte, apitype.MaxValue+1)
	n := 0
	err := interruptible(ctx, func() (err error) {
		n, err = io.ReadFull(r, buf)
		return err
	})
	switch {
	case errors.Is(err, errInterrupted):
		return nil, err // the reader may still write to buf
	case err == nil:
		clear(buf)
		return nil, usage(fmt.Sprintf("%s has more than the %d bytes that a secret may have; nothing was stored", source, apitype.MaxValue),
			"store a key here and encrypt the file with it")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], nil
	}
	clear(buf)
	return nil, local("cannot read "+source, err, "nothing was stored; run it again")
}

// refuseExisting fails when path exists, a dangling link included. It runs
// before a secret is asked for; writeNew checks again, without a race.
func refuseExisting(path string) error {
	_, err := os.Lstat(path)
	if err == nil {
		return existsError(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return local("cannot use "+printable(path), err, "choose another path for --out")
}

func existsError(path string) error {
	return usage(printable(path)+" exists, and --out never writes over a file", "choose another path, or remove it first")
}

// writeNew writes data to a new file at path, mode 0600: whole or not at all,
// on disk when it returns, and never in place of something else.
func writeNew(path string, data []byte) error {
	return fillNew(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// fillNew is writeNew with what fill writes. An error of fill that says all there
// is to say is returned as it is.
func fillNew(path string, fill func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".keyctl-*") // O_EXCL, 0600
	if err != nil {
		return local("cannot write to "+printable(dir), err, "choose another path for --out")
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // fails after a rename, which is well
	err = fill(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	var said *failure
	if errors.As(err, &said) {
		return err
	}
	if err != nil {
		return local("cannot write to "+printable(dir), err, "free some space, or choose another path for --out")
	}
	if err := moveNew(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return existsError(path)
	} else if err != nil {
		return local("cannot make "+printable(path), err, "choose another path for --out")
	}
	return syncDir(dir)
}

// moveNew gives the file at tmp the name path unless that is taken. A hard link
// does it everywhere but on file systems without them, which know a rename that
// does not replace.
func moveNew(tmp, path string) error {
	err := os.Link(tmp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = d.Sync()
		_ = d.Close() // opened for reading
	}
	if err != nil {
		return local("cannot make sure that "+printable(dir)+" is on disk", err, "run sync(1)")
	}
	return nil
}
