package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// A cluster is a mesh of child processes on loopback: node i has its data in
// DIR/node-i, its API socket in DIR/node-i/api.sock, its process id in
// DIR/node-i/pid and its log in DIR/node-i/log. Operator and zone of node i are
// dev-i. It serves `keynode dev` and `keynode demo`.
type cluster struct {
	exe   string // this program
	dir   string
	addrs []string // listen address of node i+1, host:port
	say   func(format string, a ...any)

	mu       sync.Mutex
	children map[int]*child
}

type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been reaped
}

func newCluster(dir string, addrs []string, say func(string, ...any)) (*cluster, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return &cluster{exe: exe, dir: dir, addrs: addrs, say: say, children: map[int]*child{}}, nil
}

func (c *cluster) nodeDir(i int) string { return filepath.Join(c.dir, fmt.Sprintf("node-%d", i)) }
func (c *cluster) socket(i int) string  { return filepath.Join(c.nodeDir(i), "api.sock") }
func (c *cluster) size() int            { return len(c.addrs) }
func (c *cluster) client(i int) *client.Client {
	return &client.Client{Socket: c.socket(i)}
}

// exists reports whether node i has been made by an earlier run.
func (c *cluster) exists(i int) bool {
	_, err := os.Stat(filepath.Join(c.nodeDir(i), "identity"))
	return err == nil
}

// up makes the nodes that do not exist yet, through the same init, invite and
// join that people use, starts all of them and waits for the full mesh.
func (c *cluster) up(ctx context.Context) error {
	if err := c.first(ctx); err != nil {
		return err
	}
	for i := 2; i <= c.size(); i++ {
		if !c.exists(i) {
			if err := c.join(ctx, i); err != nil {
				return err
			}
		}
		if err := c.start(i); err != nil {
			return err
		}
	}
	return c.waitMesh(ctx)
}

// first makes node 1 with a new network when it does not exist, and starts it.
func (c *cluster) first(ctx context.Context) error {
	if !c.exists(1) {
		if err := c.command(ctx, "init", "--data", c.nodeDir(1), "--new-network", "--name", "node-1", "--operator", "dev-1", "--zone", "dev-1", "--unlock", "none"); err != nil {
			return fmt.Errorf("making node 1: %w", err)
		}
		if err := c.writeConfig(1); err != nil {
			return err
		}
	}
	if err := c.start(1); err != nil {
		return err
	}
	return c.waitAPI(ctx, 1)
}

func (c *cluster) join(ctx context.Context, i int) error {
	inv, err := c.client(1).Invite(ctx, apitype.InviteRequest{Operator: fmt.Sprintf("dev-%d", i)})
	if err != nil {
		return fmt.Errorf("inviting node %d: %w", i, err)
	}
	name := fmt.Sprintf("node-%d", i)
	if err := c.command(ctx, "join", "--data", c.nodeDir(i), "--name", name, "--zone", fmt.Sprintf("dev-%d", i), "--unlock", "none", inv.Ticket); err != nil {
		return fmt.Errorf("joining node %d: %w", i, err)
	}
	return c.writeConfig(i)
}

// writeConfig leaves a configuration with which `keynode run --data DIR/node-i`
// starts the node again by hand.
func (c *cluster) writeConfig(i int) error {
	text := fmt.Sprintf("# written by keynode dev\nlisten = %q\nadvertise = [%q]\napi_socket = %q\n", c.addrs[i-1], "ws://"+c.addrs[i-1], c.socket(i))
	return os.WriteFile(filepath.Join(c.nodeDir(i), configName), []byte(text), 0o600)
}

// command runs this program to its end and returns what it said on failure.
func (c *cluster) command(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.exe, args...)
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// start runs node i as a child that dies with this process.
func (c *cluster) start(i int) error {
	logf, err := os.OpenFile(filepath.Join(c.nodeDir(i), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logf.Close()
	cmd := exec.Command(c.exe, "run", "--data", c.nodeDir(i), "--listen", c.addrs[i-1], "--advertise", "ws://"+c.addrs[i-1])
	cmd.Stdout, cmd.Stderr = logf, logf
	// A process group of its own keeps Ctrl-C for the parent, which then stops
	// the children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	ch := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go c.reap(i, ch, started)
	if err := <-started; err != nil {
		return fmt.Errorf("starting node %d: %w", i, err)
	}
	c.mu.Lock()
	c.children[i] = ch
	c.mu.Unlock()
	return nil
}

// reap starts the process and waits for it on one locked thread: the kernel
// ties Pdeathsig to the thread that forked, not to the process.
func (c *cluster) reap(i int, ch *child, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(ch.done)
	err := ch.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	if err := ch.cmd.Wait(); err != nil {
		c.say("node-%d ended: %v", i, err)
	}
}

// signal sends sig to node i and waits until it is gone.
func (c *cluster) signal(i int, sig syscall.Signal) error {
	c.mu.Lock()
	ch := c.children[i]
	delete(c.children, i)
	c.mu.Unlock()
	if ch == nil {
		return nil
	}
	if err := ch.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-ch.done:
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("node %d did not end within 20 s", i)
	}
}

// stopAll drains every node: all are told at once, then waited for.
func (c *cluster) stopAll() error {
	var wg sync.WaitGroup
	errs := make([]error, c.size())
	for i := 1; i <= c.size(); i++ {
		wg.Go(func() { errs[i-1] = c.signal(i, syscall.SIGTERM) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// anyRunning returns a channel that closes when no child is left.
func (c *cluster) allGone() <-chan struct{} {
	gone := make(chan struct{})
	c.mu.Lock()
	var all []*child
	for _, ch := range c.children {
		all = append(all, ch)
	}
	c.mu.Unlock()
	go func() {
		for _, ch := range all {
			<-ch.done
		}
		close(gone)
	}()
	return gone
}

// poll calls ok every 20 ms until it holds or ctx ends.
func poll(ctx context.Context, what string, ok func() bool) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-t.C:
		}
	}
	return nil
}

func (c *cluster) waitAPI(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return poll(ctx, fmt.Sprintf("the API of node %d (its log: %s)", i, filepath.Join(c.nodeDir(i), "log")), func() bool {
		_, err := c.client(i).Status(ctx)
		return err == nil
	})
}

// waitMesh waits until every running node has a link to every other one.
func (c *cluster) waitMesh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	c.mu.Lock()
	running := make([]int, 0, len(c.children))
	for i := range c.children {
		running = append(running, i)
	}
	c.mu.Unlock()
	for _, i := range running {
		err := poll(ctx, fmt.Sprintf("node %d to reach the mesh (its log: %s)", i, filepath.Join(c.nodeDir(i), "log")), func() bool {
			st, err := c.client(i).Status(ctx)
			return err == nil && st.Online >= len(running)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
