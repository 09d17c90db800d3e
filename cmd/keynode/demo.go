package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// demo tells the main job on real processes, sockets and files, and fails when
// any step does not hold.
type demo struct {
	out    io.Writer
	c      *cluster
	begin  time.Time
	secret []byte
}

const demoName = "demo/unseal-key"

// freeAddrs returns n loopback addresses that were free a moment ago.
func freeAddrs(n int) ([]string, error) {
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // keep all open until the last is chosen
		out = append(out, l.Addr().String())
	}
	return out, nil
}

func runDemo(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "keymesh-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	addrs, err := freeAddrs(5)
	if err != nil {
		return err
	}
	c, err := newCluster(dir, addrs, func(string, ...any) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stopAll()) }()
	d := &demo{out: out, c: c, begin: time.Now(), secret: make([]byte, 32)}
	rand.Read(d.secret)
	for _, step := range []func(context.Context) error{d.mesh, d.store, d.twoDead, d.threeDead, d.back} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.say("every step held")
	return nil
}

func (d *demo) say(format string, a ...any) {
	fmt.Fprintf(d.out, "%5.1f s  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, a...))
}

func (d *demo) mesh(ctx context.Context) error {
	if err := d.c.up(ctx); err != nil {
		return err
	}
	d.say("five nodes, five processes, joined by ticket from one known peer: every node is linked to the four others")
	return nil
}

func (d *demo) store(ctx context.Context) error {
	res, err := d.c.client(1).Put(ctx, demoName, apitype.PutRequest{Value: d.secret, N: 5, K: 3}, client.PutConditions{})
	if err != nil {
		return fmt.Errorf("storing the secret: %w", err)
	}
	d.say("stored %q, %d-of-%d, through the HTTP API of node 1: on %d disks when it was acknowledged (w = %d)", res.Name, res.K, res.N, res.Acked, res.W)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = poll(ctx, "the fifth seat", func() bool {
		info, err := d.c.client(1).Info(ctx, demoName)
		return err == nil && info.Acked == 5
	})
	if err != nil {
		return err
	}
	d.say("all five seats hold their row")
	return nil
}

func (d *demo) recover(ctx context.Context) error {
	got, err := d.c.client(1).Recover(ctx, demoName, apitype.RecoverRequest{Reason: "demo"})
	if err != nil {
		return err
	}
	if !bytes.Equal(got.Value, d.secret) {
		return errors.New("the recovered bytes differ from those stored")
	}
	d.say("recovered the same %d bytes from %d rows", len(got.Value), len(got.Used))
	return nil
}

func (d *demo) kill(nodes ...int) error {
	for _, i := range nodes {
		if err := d.c.signal(i, syscall.SIGKILL); err != nil {
			return err
		}
		d.say("killed node %d", i)
	}
	return nil
}

func (d *demo) twoDead(ctx context.Context) error {
	if err := d.kill(4, 5); err != nil {
		return err
	}
	return d.recover(ctx)
}

func (d *demo) threeDead(ctx context.Context) error {
	if err := d.kill(3); err != nil {
		return err
	}
	_, err := d.c.client(1).Recover(ctx, demoName, apitype.RecoverRequest{Reason: "demo"})
	var p *apitype.Problem
	if !errors.As(err, &p) || apitype.ExitCode(err) != apitype.ExitQuorum {
		return fmt.Errorf("with three nodes dead the recovery should be refused for want of a quorum, but: %v", err)
	}
	var missing []string
	for _, peer := range p.Peers {
		if peer.State == "unreachable" {
			missing = append(missing, peer.Name)
		}
	}
	d.say("refused, as it must be: %s (missing: %s)", p.Error(), strings.Join(missing, ", "))
	return nil
}

func (d *demo) back(ctx context.Context) error {
	for _, i := range []int{5, 3, 4} {
		if err := d.c.start(i); err != nil {
			return err
		}
	}
	if err := d.c.waitMesh(ctx); err != nil {
		return err
	}
	d.say("started nodes 5, 3 and 4 again: the mesh is whole")
	return d.recover(ctx)
}
