package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"keymesh/api"
	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/keystore"
	"keymesh/mesh"
	"keymesh/storage"
)

// A daemon is one running node: its store, its mesh, its keystore and its API,
// wired together. The cluster tests run the same one.
type daemon struct {
	// persons guards what changes in id while the node runs: its persons, their
	// recovery keys, the authority and the estate.
	persons sync.RWMutex
	id      *Identity

	dir   string
	cfg   Config
	log   *slog.Logger
	db    *storage.DB
	audit *storage.Audit
	// tallies are of those who failed to authenticate.
	tallies tallies
	node    *mesh.Node
	iss     *mesh.Issuer
	keys    *keystore.Store
	api     *api.Server

	restoring atomic.Pointer[string] // how far a restore is; nil: there is none
	rotating  atomic.Pointer[string] // the same of a rotation of recovery keys
	rotations chan struct{}          // there is a new one; one buffered

	contacts *contacts

	listener net.Listener // of the mesh; nil when the node only dials
	accept   lateBool
	started  time.Time
}

// newDaemon opens the store and wires the parts; nothing runs yet. The caller
// holds the lock of the data directory. On error everything opened is closed.
func newDaemon(dir string, id *Identity, cfg Config, log *slog.Logger) (*daemon, error) {
	if id.Network.IsZero() {
		return nil, hint(errors.New("this node has not joined a network"), "keynode join --data %s TICKET, or keynode init --new-network for the first node", dir)
	}
	d := &daemon{id: id, dir: dir, cfg: cfg, log: log, started: time.Now(), rotations: make(chan struct{}, 1)}
	if err := d.open(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// open opens the disk and the port and wires the parts. On error what it opened
// is the caller's to close.
func (d *daemon) open() (err error) {
	if d.db, err = storage.Open(d.dir, (*[32]byte)(d.id.StorageKey), storage.Options{MaxBytes: int64(d.cfg.StorageMax), Log: d.log}); err != nil {
		err = fmt.Errorf("opening the store: %w", err)
		if errors.Is(err, storage.ErrEmpty) || errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrOlder) || errors.Is(err, fs.ErrNotExist) {
			err = hint(err, "bring the store back from where it went; if it is lost for good, move what is left of store.db, STORE and epochkey away, and have the other holders fill a new one: keynode store create --data %s", d.dir)
		}
		return err
	}
	d.contacts = newContacts(d.db)
	if err := d.openAudit(); err != nil {
		return err
	}
	if d.cfg.Listen != "" {
		if d.listener, err = net.Listen("tcp", d.cfg.Listen); err != nil {
			return hint(fmt.Errorf("listening for peers: %w", err), "another program, or another node, has this port; choose one with --listen")
		}
	}
	if err := d.wireMesh(); err != nil {
		return err
	}
	sealing, err := seal.ParsePrivateKey(d.id.SealingKey)
	if err != nil {
		return fmt.Errorf("the sealing key: %w", err)
	}
	d.keys, err = keystore.New(keystore.Config{Network: network{d.node}, Shelf: d.db, ID: d.id.Network, Node: d.id.Node, Audit: auditor{d.audit, d.id.Node, d.id.Network}, Log: d.log,
		Clock: d.node.Clock, RolledBack: d.node.RolledBack, Persons: d.personKeys, SealingKeys: func() []*seal.PrivateKey { return []*seal.PrivateKey{sealing} },
		Limits: keystore.Limits{Secrets: int(d.cfg.QuotaSecrets), Bytes: int64(d.cfg.QuotaBytes)}})
	if err != nil {
		return err
	}
	d.accept.set(d.keys.Accepting)
	return d.wireAPI()
}

// personKeys are the persons of this node.
func (d *daemon) personKeys() []key.PersonPublic {
	d.persons.RLock()
	defer d.persons.RUnlock()
	out := make([]key.PersonPublic, len(d.id.Persons))
	for i, p := range d.id.Persons {
		out[i] = p.Key.Public()
	}
	return out
}

func (d *daemon) wireMesh() error {
	sealing, err := seal.ParsePrivateKey(d.id.SealingKey)
	if err != nil {
		return fmt.Errorf("the sealing key: %w", err)
	}
	binds, err := bindings(d.id, time.Now())
	if err != nil {
		return fmt.Errorf("binding the persons to the node: %w", err)
	}
	if len(d.id.Issuers) > 0 {
		d.iss, err = mesh.NewIssuer(mesh.IssuerConfig{
			Key: d.id.Issuers[0], Cert: d.id.IssuerCert, Network: d.id.Network, Node: d.id.Node.ID(), Book: auditedBook{book{d.db}, d.audit},
		})
		if err != nil {
			return err
		}
	}
	d.node, err = mesh.New(mesh.Config{
		Key: d.id.Node, Network: d.id.Network, Member: d.id.Member, Issuer: d.id.IssuerCert, Bindings: binds,
		SealingKey: sealing.Public(), Listener: d.listener, Advertise: d.advertised(), Bootstrap: d.cfg.Bootstrap,
		Book: auditedBook{book{d.db}, d.audit}, Refused: d.linkRefused, Issuing: d.iss, Verbs: verbTraits, Accepting: d.accept.get, Log: d.log,
	})
	return err
}

// advertised is what others dial: as configured, or the address listened on
// when that is a definite one.
func (d *daemon) advertised() []string {
	if len(d.cfg.Advertise) > 0 || d.listener == nil {
		return d.cfg.Advertise
	}
	if a, ok := d.listener.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		return []string{"ws://" + a.String()}
	}
	return nil
}

func (d *daemon) close() {
	if d.listener != nil {
		d.listener.Close()
	}
	if d.audit != nil {
		d.audit.Close()
	}
	if d.db != nil {
		d.db.Close()
	}
}

// Run serves until ctx ends, then drains: API first, disk last. ready is
// called once everything listens.
func (d *daemon) Run(ctx context.Context, ready func()) error {
	listeners, err := d.listenAPI()
	if err != nil {
		d.close()
		return err
	}
	stages := []stage{
		{"store", d.db.Run},
		{"audit log", d.audit.Run}, {"refusals", d.recordTallies},
		{"mesh", func(ctx context.Context) error { return d.node.Run(ctx, d.keys.Answer) }},
		{"keystore", d.keys.Run},
		{"restore", d.restore}, {"rotate", d.rotate},
	}
	for _, l := range listeners {
		stages = append(stages, stage{"api", func(ctx context.Context) error { return d.api.Serve(ctx, l.Listener, l.kind) }})
	}
	stages = append(stages, stage{"watchdog", func(ctx context.Context) error {
		ready()
		runWatchdog(ctx, func() error { return errors.Join(d.db.Err(), d.audit.Err()) })
		<-ctx.Done()
		return nil
	}})
	err = runStages(ctx, stages...)
	return errors.Join(err, d.audit.Close(), d.db.Close())
}

type apiListener struct {
	net.Listener
	kind api.Kind
}

// listenAPI opens the unix socket (0600 by the process's umask) and, when asked
// for, the TCP port on loopback.
func (d *daemon) listenAPI() (out []apiListener, err error) {
	defer func() {
		if err != nil {
			for _, l := range out {
				l.Close()
			}
		}
	}()
	l, err := listenUnix(d.cfg.APISocket)
	if err != nil {
		return out, err
	}
	out = append(out, apiListener{l, api.Unix})
	if d.cfg.APITCP != "" {
		if l, err = net.Listen("tcp", d.cfg.APITCP); err != nil {
			return out, fmt.Errorf("listening for the API: %w", err)
		}
		out = append(out, apiListener{l, api.TCP})
	}
	return out, nil
}

// listenUnix replaces a socket that nobody serves any more; the lock of the
// data directory says that it is not ours. Anything else in its place stays.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > 107 {
		return nil, hint(fmt.Errorf("the path of the API socket has %d bytes; 107 is the system's limit", len(path)), "give a shorter one with --api-socket")
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is in the place of the API socket and is not a socket", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, hint(fmt.Errorf("another program serves %s", path), "stop it, or give another path with --api-socket")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Its own directory only: a mistyped path is an error and no new tree.
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, hint(fmt.Errorf("making the API socket's directory: %w", err), "give another place with --api-socket PATH, or set XDG_RUNTIME_DIR")
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for the API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// apiToken is the bearer token of the TCP API, in a file that only this user can
// read: 32 random bytes as hex. It is made at the first start that needs it and
// kept, so that scripts survive restarts; deleting the file makes a new one.
func apiToken(dir string) ([]byte, error) {
	path := filepath.Join(dir, "token")
	b, err := readPrivate(path)
	if err == nil {
		if b = bytes.TrimSpace(b); len(b) != 64 {
			return nil, hint(fmt.Errorf("%s is not a token of 64 hexadecimal digits", path), "delete it; the next start makes a new one")
		}
		return b, nil
	}
	if !errors.Is(err, errNoIdentity) {
		return nil, fmt.Errorf("reading the API token: %w", err)
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	token := []byte(hex.EncodeToString(raw))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("writing the API token: %w", err)
	}
	_, err = f.Write(append(token, '\n'))
	return token[:64:64], errors.Join(err, f.Close())
}

// apiHosts are the values of Host that the TCP API answers to.
func apiHosts(addr string) []string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	return []string{"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port}
}

// runNode is `keynode run`.
func runNode(ctx context.Context, dir string, cfg Config, log *slog.Logger) error {
	id, err := loadIdentity(dir, cfg.Unlock)
	if err != nil {
		return err
	}
	defer id.Erase()
	if id.Unlock().Clear() {
		log.Warn("this node's keys lie IN CLEAR in its identity file (unlock none): for development only")
	}
	release, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer release()
	d, err := newDaemon(dir, id, cfg, log)
	if err != nil {
		return err
	}
	pid := filepath.Join(dir, "pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		d.close()
		return err
	}
	defer os.Remove(pid)
	return d.Run(ctx, func() {
		log.Info("running", "node", id.Node.ID().String(), "name", id.Name)
		if err := sdNotify(notifyReady); err != nil {
			log.Warn("service manager", "err", err.Error())
		}
	})
}
