package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps what this process holds in memory from other processes of the
// same user and out of core dumps, and makes every file it creates private. It
// is the first thing main does, before anything secret is read; a program that
// is started from here calls it again, since exec undoes half of it. An error
// means that the protection does not hold and that the caller must not go on.
func harden() error {
	// Without this a process of the same user reads the secret in /proc/PID/mem
	// (measured). It also keeps the kernel from handing a dump to a program
	// named in core_pattern, which RLIMIT_CORE does not.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding other processes to read this one (PR_SET_DUMPABLE): %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps (RLIMIT_CORE): %w", err)
	}
	unix.Umask(0o077)
	return nil
}
