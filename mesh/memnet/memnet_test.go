package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// linked returns both ends of a connection from host a to b:1.
func linked(t *testing.T, n *Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("b").Listen(":1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = n.Host("a").Dial(t.Context(), "b:1")
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestBytesArriveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := linked(t, New())
		want := bytes.Repeat([]byte("0123456789"), 50_000) // more than the buffer
		go func() { a.Write(want); a.Close() }()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("write to a closed end: %v", err)
		}
		b.Close()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := linked(t, New())
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Fatalf("read: %v after %v", err, time.Since(start))
		}
		a.SetReadDeadline(time.Time{})
		go func() { time.Sleep(time.Minute); a.SetReadDeadline(time.Now()) }()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute+time.Second {
			t.Fatalf("a deadline set during the read: %v after %v", err, time.Since(start))
		}
		b.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := b.Write(make([]byte, Buffer+1)); n != Buffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("write to a full buffer: %d, %v", n, err)
		}
	})
}

func TestCutAndHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := linked(t, n)
		n.Cut("b", "a")
		a.Write([]byte("held"))
		b.SetReadDeadline(time.Now().Add(time.Hour))
		buf := make([]byte, 9)
		if _, err := b.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a cut let something through: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host("a").Dial(ctx, "b:1"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("dial across a cut: %v", err)
		}
		b.SetReadDeadline(time.Time{})
		go func() { time.Sleep(time.Second); n.Heal("a", "b") }()
		if k, err := b.Read(buf); err != nil || string(buf[:k]) != "held" {
			t.Fatalf("after healing: %q, %v", buf[:k], err)
		}
	})
}

func TestRefusedAndCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		if _, err := n.Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial without a listener: %v", err)
		}
		a, _ := linked(t, n)
		l, err := n.Listen("b:2")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("b:2"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("second listener: %v", err)
		}
		n.Host("b").Crash()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read after the far side crashed: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("accept after a crash: %v", err)
		}
		if _, err := n.Host("c").Listen("b:3"); err == nil {
			t.Fatal("a host listens at another's address")
		}
		if k := n.Host("b").Conns(); k != 0 {
			t.Fatalf("%d connections after a crash", k)
		}
	})
}

func TestReadersAndWritersUnblockOnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := linked(t, New())
		errs := make(chan error, 2)
		go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := a.Write(make([]byte, 2*Buffer)); errs <- err }()
		synctest.Wait()
		a.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("blocked when its end was closed: %v", err)
			}
		}
		b.Close()
	})
}
