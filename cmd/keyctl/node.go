package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// node returns a client of the node that the flags, the environment or the
// configuration name. It connects to nothing yet.
func (a *app) node() (*client.Client, error) {
	p, err := a.place()
	if err != nil {
		return nil, err
	}
	return a.nodeAt(p)
}

func (a *app) nodeAt(p place) (*client.Client, error) {
	c := &client.Client{Socket: p.socket, Addr: p.addr, Agent: "keyctl/" + release()}
	if p.addr == "" {
		return c, nil
	}
	token, err := readToken(p.tokenFile)
	if err != nil {
		return nil, err
	}
	c.Token = token
	return c, nil
}

// readToken reads the token of a node. A file that others may read is refused:
// the token in it is no secret any more.
func readToken(path string) ([]byte, error) {
	const hint = "the node writes it beside its socket as `token`; name it with --token-file FILE"
	info, err := os.Stat(path)
	if err != nil {
		return nil, local("cannot read the token in "+printable(path), err, hint)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, local("the token in "+printable(path)+" is not used", errors.New("others may read the file"), "chmod 600 "+printable(path))
	}
	data, err := readLimited(path, maxToken)
	if err != nil {
		return nil, local("cannot read the token in "+printable(path), err, hint)
	}
	token := bytes.TrimSpace(data)
	if len(token) == 0 || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, local("cannot read the token in "+printable(path), errors.New("it is empty or not one word"), hint)
	}
	return token, nil
}

// within bounds a command by --timeout.
func (a *app) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.opts.timeout)
}

// writeError is apiError for put and rm. When time ran out or the connection
// broke after the request had left, the write may have happened: that is "in
// doubt", and nothing else would be true.
func writeError(what, verb string, err error) error {
	var p *apitype.Problem
	if err != nil && !errors.As(err, &p) && errors.Is(err, context.DeadlineExceeded) {
		return &failure{exit: apitype.ExitInDoubt, what: what, why: "no answer in time, so the write may still complete",
			hint: "a retry continues it: " + verb + " --timeout 2m"}
	}
	out := apiError(what, verb, err)
	if errors.Is(out, errInterrupted) {
		return &failure{exit: apitype.ExitInterrupted, what: what, why: "interrupted; a write that the node had begun completes or dies by itself",
			hint: "keyctl info shows what is there; a retry continues it: " + verb}
	}
	return out
}

// parseSpan reads a length of time: Go's form, or days and weeks as in "30d".
// The result is at least a second, in whole seconds.
func parseSpan(s string) (time.Duration, error) {
	for unit, day := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		digits, ok := strings.CutSuffix(s, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 || n > 36500 {
			return 0, fmt.Errorf("%q is no length of time", s)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d%time.Second != 0 {
		return 0, fmt.Errorf("%q is no length of time of whole seconds, such as 90s, 12h or 30d", s)
	}
	return d, nil
}

// quoted quotes a name for a sentence.
func quoted(name string) string { return `"` + bounded(name) + `"` }

// shellWord quotes a word for a hint that is to be pasted into a shell.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%="
	s = printable(s)
	if s != "" && strings.Trim(s, plain) == "" && !strings.HasPrefix(s, "-") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
