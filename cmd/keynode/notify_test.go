package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// manager is the service manager's end of NOTIFY_SOCKET.
func manager(t *testing.T, addr string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", addr)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotify(t *testing.T) {
	for _, addr := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@keymesh-test-%d", os.Getpid())} {
		conn := manager(t, addr)
		for _, state := range []string{notifyReady, notifyStopping} {
			if err := sdNotify(state); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, conn); got != state {
				t.Errorf("%s: got %q", state, got)
			}
		}
	}
}

func TestNotifyWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := sdNotify(notifyReady); err != nil {
		t.Errorf("no service manager: %v", err)
	}
	for _, addr := range []string{filepath.Join(t.TempDir(), "gone"), "relative", "vsock:2:1234"} {
		t.Setenv("NOTIFY_SOCKET", addr)
		if err := sdNotify(notifyReady); err == nil {
			t.Errorf("%s: no error", addr)
		}
	}
}

func TestWatchdogInterval(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0}, {"30000000", "", 15 * time.Second}, {"30000000", own, 15 * time.Second}, {"30000000", "1", 0},
		{"0", own, 0}, {"-5", own, 0}, {"soon", own, 0}, {"99999999999999999999", own, 0}, {"9999999999999999", own, 0},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got := watchdogInterval(); got != c.want {
			t.Errorf("USEC %q PID %q: %v, want %v", c.usec, c.pid, got, c.want)
		}
	}
}

// TestWatchdog: it speaks while alive says so, is silent while not, and ends
// with its context.
func TestWatchdog(t *testing.T) {
	conn := manager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "2000")
	t.Setenv("WATCHDOG_PID", "")
	var sick atomic.Bool
	asked := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runWatchdog(ctx, func() error {
			if sick.Load() {
				select {
				case asked <- struct{}{}:
				case <-ctx.Done():
				}
				return errors.New("sick")
			}
			return nil
		})
	}()
	for range 3 {
		if got := receive(t, conn); got != notifyWatchdog {
			t.Errorf("got %q", got)
		}
	}
	sick.Store(true)
	<-asked // from here on nothing is sent any more
	if err := sdNotify("MARK=1"); err != nil {
		t.Fatal(err)
	}
	for receive(t, conn) != "MARK=1" {
	}
	for range 3 {
		<-asked
	}
	if err := sdNotify("MARK=2"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, conn); got != "MARK=2" {
		t.Errorf("a sick process said %q", got)
	}
	cancel()
	<-ended
	t.Setenv("WATCHDOG_USEC", "")
	runWatchdog(context.Background(), nil) // returns at once, or the test hangs
}
