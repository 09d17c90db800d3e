package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keymesh/api/apitype"
)

// founder makes a node of a new network and returns its directory and a
// configuration that starts it.
func founder(t *testing.T) (string, Config) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "n")
	o := makeOptions{dir: dir, unlock: "none", newNetwork: true}
	o.defaults("host")
	if err := runInit(o, t.Output(), time.Now()); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig("", nil, map[string]string{"listen": "127.0.0.1:0", "api-socket": filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	return dir, cfg
}

// TestStartRefusals: what keeps a node from starting is one error with the
// documented exit code, whatever had been opened before.
func TestStartRefusals(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	remove := func(name string) func(string, *Config) error {
		return func(dir string, _ *Config) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for name, c := range map[string]struct {
		harm func(dir string, cfg *Config) error
		exit int
	}{
		"port in use":     {func(_ string, cfg *Config) error { cfg.Listen = busy.Addr().String(); return nil }, apitype.ExitLocal},
		"empty store":     {func(dir string, _ *Config) error { return os.Truncate(filepath.Join(dir, "store.db"), 0) }, apitype.ExitStorage},
		"cut store":       {func(dir string, _ *Config) error { return os.Truncate(filepath.Join(dir, "store.db"), 5000) }, apitype.ExitStorage},
		"no store":        {remove("store.db"), apitype.ExitStorage},
		"no marker":       {remove("STORE"), apitype.ExitStorage},
		"no epoch key":    {remove("epochkey"), apitype.ExitStorage},
		"file for socket": {func(_ string, cfg *Config) error { return os.WriteFile(cfg.APISocket, nil, 0o600) }, apitype.ExitLocal},
	} {
		t.Run(name, func(t *testing.T) {
			dir, cfg := founder(t)
			if err := c.harm(dir, &cfg); err != nil {
				t.Fatal(err)
			}
			err := runNode(t.Context(), dir, cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("it started")
			}
			if got := exitCode(t.Context(), err); got != c.exit {
				t.Errorf("exit code %d instead of %d: %v", got, c.exit, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "pid")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a process id was left behind")
			}
		})
	}
}
