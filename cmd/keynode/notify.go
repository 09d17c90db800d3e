package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// The states that systemd understands, see sd_notify(3).
const (
	notifyReady    = "READY=1"
	notifyStopping = "STOPPING=1"
	notifyWatchdog = "WATCHDOG=1"
)

// notifyTimeout bounds one datagram: its queue is full when systemd hangs.
const notifyTimeout = 2 * time.Second

// sdNotify tells the service manager a state. Without NOTIFY_SOCKET in the
// environment it does nothing and returns nil. An error is worth a line in the
// log and never a reason to stop.
func sdNotify(state string) error {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return nil
	}
	// A leading @ is an abstract socket, which package net writes the same way.
	if addr[0] != '/' && addr[0] != '@' {
		return fmt.Errorf("NOTIFY_SOCKET %.100q is neither a path nor an abstract socket", addr)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling the service manager %s: %w", state, err)
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return fmt.Errorf("telling the service manager %s: %w", state, err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("telling the service manager %s: %w", state, err)
	}
	return nil
}

// watchdogInterval is how often the service manager wants to hear
// WATCHDOG=1: half of WATCHDOG_USEC, or 0 when it does not watch this process.
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(strings.TrimSpace(os.Getenv("WATCHDOG_USEC")), 10, 64)
	if err != nil || us <= 0 || us > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(us) * time.Microsecond / 2
}

// runWatchdog sends WATCHDOG=1 at the interval asked for, as long as alive
// returns nil, until ctx ends. When alive fails it goes silent for that turn,
// and the service manager restarts the process after its own patience. It
// returns at once where there is no watchdog.
func runWatchdog(ctx context.Context, alive func() error) {
	every := watchdogInterval()
	if every == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if alive() == nil {
			// A datagram that is lost is made up for by the next one.
			_ = sdNotify(notifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
