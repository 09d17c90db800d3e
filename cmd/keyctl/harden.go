package main

import (
	"debug/elf"

	"golang.org/x/sys/unix"
)

// harden keeps the values that pass through this process out of core dumps and
// out of the reach of other processes of the same user. It is no reason to fail
// where the kernel forbids it.
func harden() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// usesKeyutils reports whether a program is linked with libkeyutils, as the
// other keyctl is. The program is not run for it.
func usesKeyutils(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return false
	}
	for _, l := range libs {
		if len(l) >= 14 && l[:14] == "libkeyutils.so" {
			return true
		}
	}
	return false
}
