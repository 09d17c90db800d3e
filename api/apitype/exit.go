package apitype

import (
	"context"
	"errors"
)

// Exit codes of the commands (interface.md). They are the whole list.
const (
	ExitOK          = 0
	ExitLocal       = 1   // local error, usage
	ExitNode        = 2   // node or API error
	ExitNotFound    = 3   // no such secret
	ExitDenied      = 4   // denied by policy or credentials
	ExitQuorum      = 5   // quorum not reached, or approval pending
	ExitTimeout     = 6   // timed out
	ExitIntegrity   = 7   // integrity failure; the holder is named
	ExitUnreachable = 8   // node not reachable
	ExitConflict    = 9   // conflict (compare-and-set) or a fork
	ExitStorage     = 10  // storage full or damaged
	ExitDegraded    = 11  // degraded (status only)
	ExitInDoubt     = 12  // a write that completes or dies by itself; a retry continues it
	ExitKeyutils    = 64  // a verb of the keyctl of Linux keyutils
	ExitInterrupted = 130 // interrupted
)

// ExitText says what an exit code means, for "help exit-codes". The order is
// that of the codes.
func ExitText() []struct {
	Code int
	Text string
} {
	return []struct {
		Code int
		Text string
	}{
		{ExitOK, "ok"},
		{ExitLocal, "local error, usage"},
		{ExitNode, "node or API error"},
		{ExitNotFound, "not found"},
		{ExitDenied, "denied by policy or credentials"},
		{ExitQuorum, "quorum not reached, or approval pending"},
		{ExitTimeout, "timed out"},
		{ExitIntegrity, "integrity failure (names the holder)"},
		{ExitUnreachable, "node not reachable"},
		{ExitConflict, "conflict (compare-and-set)"},
		{ExitStorage, "storage full or damaged"},
		{ExitDegraded, "degraded (status only)"},
		{ExitInDoubt, "in doubt (a write that will complete or die by itself; a retry continues it)"},
		{ExitKeyutils, "keyutils verb"},
		{ExitInterrupted, "interrupted"},
	}
}

// ExitCode returns the exit code of an error: that of the first error in its
// chain that has one (a [*Problem], a client's error), 6 for a deadline, 130
// for an interruption, otherwise 1. A nil error is 0.
func ExitCode(err error) int {
	var coded interface {
		error
		ExitCode() int
	}
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &coded):
		return coded.ExitCode()
	case errors.Is(err, context.DeadlineExceeded):
		return ExitTimeout
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	return ExitLocal
}

// ExitStatus returns the exit code of an HTTP status, for answers without a
// problem type that is known here (interface.md).
func ExitStatus(status int) int {
	switch status {
	case 200, 201, 204:
		return ExitOK
	case 202, 424, 429, 503:
		return ExitQuorum
	case 401, 403:
		return ExitDenied
	case 404:
		return ExitNotFound
	case 405:
		return ExitNode
	case 409, 412:
		return ExitConflict
	case 502:
		return ExitIntegrity
	case 504:
		return ExitTimeout
	case 507:
		return ExitStorage
	}
	if status >= 400 && status < 500 {
		return ExitLocal
	}
	return ExitNode
}
