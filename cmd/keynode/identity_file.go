package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	identityName = "identity"
	lockName     = "LOCK"
)

// errLocked: another process works on the same data directory.
var errLocked = errors.New("another keynode works on this data directory")

// createIdentity makes dir (0700) when it is missing and writes id there as a
// new file, sealed as u says. It never overwrites (errIdentityExists, and then
// nothing was asked and nothing changed). Durable once it returns nil; the
// file is private from its first byte. id can be saved afterwards.
func createIdentity(dir string, id *Identity, u Unlock) error {
	if u.IsZero() {
		return hint(errors.New("no unlock mode was given"), "use --unlock prompt, file:PATH, credential:NAME or none")
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, identityName)
	if _, err := os.Lstat(path); err == nil {
		return existsError(dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for an identity: %w", err)
	}
	pass, err := u.passphrase(true)
	if err != nil {
		return err
	}
	id.unlock, id.pass = u, pass
	file, err := id.encode()
	if err != nil {
		return err
	}
	defer clear(file)
	// A link fails where a rename would overwrite.
	err = writeFile(dir, file, func(temp string) error {
		err := os.Link(temp, path)
		if errors.Is(err, fs.ErrExist) {
			return existsError(dir)
		}
		if err == nil {
			err = os.Remove(temp)
		}
		return err
	})
	if err == nil {
		id.dir = dir
	}
	return err
}

// makeDir makes a data directory that is missing, durably, and checks one that
// is there.
func makeDir(dir string) error {
	_, err := os.Stat(dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	if missing {
		return syncDir(filepath.Dir(filepath.Clean(dir)))
	}
	return nil
}

func existsError(dir string) error {
	return hint(fmt.Errorf("%w: %s", errIdentityExists, dir), "use it with keynode run --data %s, or name another directory", dir)
}

// save replaces the file that id came from, as a whole: a crash leaves the old
// one or the new one. Durable once it returns nil.
func (id *Identity) save() error {
	if id.dir == "" {
		return errors.New("this identity was neither created nor loaded")
	}
	file, err := id.encode()
	if err != nil {
		return err
	}
	defer clear(file)
	// What a crash left of an earlier save may hold seeds erased since. Only the
	// holder of the directory's lock saves, so it is nobody's work in progress.
	if err := removeTemps(id.dir); err != nil {
		return err
	}
	return writeFile(id.dir, file, func(temp string) error {
		return os.Rename(temp, filepath.Join(id.dir, identityName))
	})
}

func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking for unfinished writes: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+identityName+"-") {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing an unfinished write: %w", err)
		}
	}
	return nil
}

// writeFile writes b to a private temporary file in dir, syncs it, lets publish
// give it its name, and syncs the directory.
func writeFile(dir string, b []byte, publish func(temp string) error) (err error) {
	// CreateTemp opens with O_EXCL and mode 0600.
	f, err := os.CreateTemp(dir, "."+identityName+"-*")
	if err != nil {
		return fmt.Errorf("writing the identity: %w", err)
	}
	temp := f.Name()
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing the identity: %w", err)
	}
	if err := publish(temp); err != nil {
		return fmt.Errorf("writing the identity: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing the data directory: %w", err)
	}
	return nil
}

// loadIdentity reads the identity of dir and never creates anything. It refuses
// a directory or file that others can use, a file that is a symbolic link or
// damaged, and a wrong passphrase: errNoIdentity, errIdentityDamaged,
// errPassphrase or an error with a hint. The zero Unlock asks as the file says.
// The caller warns loudly when id.Unlock().Clear().
func loadIdentity(dir string, u Unlock) (*Identity, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, identityName)
	file, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	defer clear(file)
	if len(file) == 0 {
		return nil, hint(fmt.Errorf("%w: %s is empty", errIdentityDamaged, path), "restore it from a backup; an empty file is never taken for a new node")
	}
	id, err := decodeIdentity(file, u)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	id.dir = dir
	return id, nil
}

// checkDir refuses a data directory that is missing, another user's, or open to
// others. A symbolic link to a private directory is fine: systemd makes one.
func checkDir(dir string) error {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return hint(fmt.Errorf("%w: no directory %s", errNoIdentity, dir), "make a node with keynode init --data %s", dir)
	}
	if err != nil {
		return fmt.Errorf("looking at the data directory: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("data directory %s is not a directory", dir)
	}
	return checkPrivate(dir, st, 0o700)
}

// checkPrivate refuses what group or others can use or what another user owns.
func checkPrivate(path string, st fs.FileInfo, want fs.FileMode) error {
	if st.Mode().Perm()&0o077 != 0 {
		return hint(fmt.Errorf("%s has mode %04o: others can use it", path, st.Mode().Perm()), "chmod %o %s", want, path)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to another user", path)
	}
	return nil
}

// readPrivate reads a regular, private file that is no symbolic link.
func readPrivate(path string) ([]byte, error) {
	// O_NONBLOCK: a named pipe in its place must not hang the start.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hint(fmt.Errorf("%w: %s", errNoIdentity, path), "make a node with keynode init --data %s", filepath.Dir(path))
	case errors.Is(err, unix.ELOOP):
		return nil, hint(fmt.Errorf("%s is a symbolic link", path), "put the file itself there")
	case err != nil:
		return nil, fmt.Errorf("opening the identity: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the identity: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := checkPrivate(path, st, 0o600); err != nil {
		return nil, err
	}
	if st.Size() > maxIdentity {
		return nil, fmt.Errorf("%w: %s has %d bytes", errIdentityDamaged, path, st.Size())
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	return b, nil
}

// lockDir takes the data directory for this process, without waiting. A second
// one is refused with errLocked, which names the first's process id. The lock
// ends with release or with the process, however that ends; the file stays.
func lockDir(dir string) (release func(), err error) {
	path := filepath.Join(dir, lockName)
	for range 10 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, fmt.Errorf("locking the data directory: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			defer f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, hint(fmt.Errorf("%w: %s%s", errLocked, dir, owner(f)), "stop the other one first; two on one directory would both break")
			}
			return nil, fmt.Errorf("locking the data directory: %w", err)
		}
		// The lock counts only on the file that the next one will open.
		if same(f, path) {
			if err := writeOwner(f); err != nil {
				f.Close()
				return nil, fmt.Errorf("locking the data directory: %w", err)
			}
			return func() { f.Close() }, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("locking the data directory: %s is replaced again and again", path)
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

func writeOwner(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// owner returns " (process N)" when the lock file says so.
func owner(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}
