package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

type devOptions struct {
	nodes    int
	dir      string
	basePort int
}

// defaultDevDir keeps the playground between runs: $XDG_STATE_HOME/keymesh/dev
// or ~/.local/state/keymesh/dev.
func defaultDevDir() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "keymesh", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the nodes' data: %w; give --dir", err)
	}
	return filepath.Join(home, ".local", "state", "keymesh", "dev"), nil
}

func (o devOptions) addrs() []string {
	out := make([]string, o.nodes)
	for i := range out {
		out[i] = fmt.Sprintf("127.0.0.1:%d", o.basePort+i)
	}
	return out
}

// runDev runs the mesh until ctx ends or no node is left.
func runDev(ctx context.Context, o devOptions, stdout, stderr io.Writer) error {
	dir := o.dir
	if dir == "" {
		d, err := defaultDevDir()
		if err != nil {
			return err
		}
		dir = d
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	release, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer release()
	say := func(format string, a ...any) { fmt.Fprintf(stderr, format+"\n", a...) }
	c, err := newCluster(dir, o.addrs(), say)
	if err != nil {
		return err
	}
	defer func() { _ = c.stopAll() }()
	if err := c.up(ctx); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "ready\nexport KEYMESH_SOCKET=%s\n", c.socket(1))
	select {
	case <-ctx.Done():
	case <-c.allGone():
		say("every node has ended")
	}
	return nil
}
