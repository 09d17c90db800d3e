package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

const doctorLong = `Doctor looks for what is wrong, from this program to the mesh, and says for each
finding how to mend it. It changes nothing. It exits 0 when nothing is broken,
warnings or not; 1 for something on this machine, 8 when the node does not
answer, 2 when the node or its mesh is broken.`

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "doctor",
		GroupID:           groupMesh,
		Short:             "Look for what is wrong, and say how to mend it",
		Long:              doctorLong,
		Example:           "  keyctl doctor\n  keyctl doctor -o json | jq -r '.checks[] | select(.state != \"ok\").fix'",
		Args:              exactArgs(0, "keyctl doctor"),
		ValidArgsFunction: noCompletion,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
	}
}

// check is one finding of doctor.
type check struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, warn or bad
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"`
	exit  int    // when bad
}

const (
	stateOK   = "ok"
	stateWarn = "warn"
	stateBad  = "bad"
)

func good(name, format string, args ...any) check {
	return check{Name: name, State: stateOK, Text: fmt.Sprintf(format, args...)}
}

func warn(name, fix, format string, args ...any) check {
	return check{Name: name, State: stateWarn, Fix: fix, Text: fmt.Sprintf(format, args...)}
}

func bad(exit int, name, fix, format string, args ...any) check {
	return check{Name: name, State: stateBad, Fix: fix, Text: fmt.Sprintf(format, args...), exit: exit}
}

// doctorJSON is the answer of doctor.
type doctorJSON struct {
	Checks []check `json:"checks"`
	Exit   int     `json:"exit_code"`
}

func (a *app) doctor(ctx context.Context) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	out := doctorJSON{Checks: a.examine(ctx)}
	if err := context.Cause(ctx); errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	for _, c := range out.Checks {
		if c.State == stateBad && out.Exit == apitype.ExitOK {
			out.Exit = c.exit
		}
	}
	var err error
	if a.json() {
		err = a.printJSON(out)
	} else {
		err = a.print([]byte(a.doctorText(out.Checks)))
	}
	if err == nil && out.Exit != apitype.ExitOK {
		err = &failure{exit: out.Exit, what: "doctor found something broken", quiet: true}
	}
	return err
}

func (a *app) doctorText(checks []check) string {
	var b strings.Builder
	colours := map[string]colour{stateOK: green, stateWarn: yellow, stateBad: red}
	for _, c := range checks {
		fmt.Fprintf(&b, "%s %-12s %s\n", a.paint(colours[c.State], fmt.Sprintf("%-5s", c.State)), printable(c.Name), printable(c.Text))
		if c.Fix != "" {
			fmt.Fprintf(&b, "%18s fix: %s\n", "", printable(c.Fix))
		}
	}
	return b.String()
}

// examine runs the checks from the inside out, and stops where the next ones
// could only repeat the same finding.
func (a *app) examine(ctx context.Context) []check {
	out := []check{a.checkPath()}
	p, err := a.place()
	if err != nil {
		return append(out, bad(apitype.ExitLocal, "address", hintOf(err), "%s", err))
	}
	out = append(out, good("address", "%s, named by %s", p, p.from))
	if p.addr == "" {
		c := checkSocket(p)
		out = append(out, c)
		if c.State == stateBad {
			return out
		}
	}
	node, err := a.nodeAt(p)
	if err != nil {
		return append(out, bad(apitype.ExitLocal, "token", hintOf(err), "%s", err))
	}
	st, err := node.Status(ctx)
	if err != nil {
		f := apiError("the node does not answer well", "keyctl doctor", err)
		return append(out, bad(apitype.ExitCode(err), "node", doctorHint(err), "%s", f))
	}
	out = append(out, good("node", "%s answers, version %s", dash(st.Node.Name), st.Version))
	out = append(out, checkReady(ctx, node), checkMesh(st), checkSecrets(st))
	if len(st.Checks) == 0 {
		out = append(out, checkStore(st), checkCertificate(st), checkIssuers(ctx, node))
		return append(out, nodeWarnings(st)...)
	}
	for _, c := range st.Checks {
		out = append(out, nodeCheck(c))
	}
	return out
}

// nodeCheck is one of the node's own findings: its clock, its certificate, how
// its keys are unlocked, what a core dump would hold.
func nodeCheck(c apitype.Check) check {
	switch c.Level {
	case apitype.LevelOK:
		return good(c.Name, "%s", c.Text)
	case apitype.LevelBad:
		return bad(apitype.ExitNode, c.Name, c.Fix, "%s", c.Text)
	}
	return warn(c.Name, c.Fix, "%s", c.Text)
}

// hintOf is the hint of an error of this package.
func hintOf(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.hint
	}
	return ""
}

// doctorHint is the next step after a node that did not answer well; sending
// the person to doctor again would be a joke.
func doctorHint(err error) string {
	switch apitype.ExitCode(err) {
	case apitype.ExitDenied:
		return "run keyctl as the user who runs the node, or pass the token of this node with --token-file"
	case apitype.ExitUnreachable:
		return "start it: keynode run --data DIR; or name another with --socket PATH"
	}
	return "look into the node's log"
}

// checkPath looks which keyctl a shell would run: Linux keyutils has one too.
func (a *app) checkPath() check {
	const name = "PATH"
	self, err := os.Executable()
	if err != nil {
		return warn(name, "", "cannot tell where this program is: %s", cause(err))
	}
	for _, dir := range filepath.SplitList(a.env.get("PATH")) {
		found := filepath.Join(dir, "keyctl")
		info, err := os.Stat(found)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			continue
		}
		if mine, err := os.Stat(self); err == nil && os.SameFile(mine, info) {
			return good(name, "keyctl is this program, %s", found)
		}
		whose := "another program"
		if usesKeyutils(found) {
			whose = "that of Linux keyutils"
		}
		return warn(name, fmt.Sprintf("put %s before %s in PATH, or use the name keymesh", filepath.Dir(self), dir),
			"keyctl is %s, %s; this program is %s", found, whose, self)
	}
	return warn(name, "put "+filepath.Dir(self)+" into PATH", "there is no keyctl in PATH; this program is %s", self)
}

// checkSocket looks at who may use the socket. Whoever can connect acts as its
// person, as far as the node does not check the peer.
func checkSocket(p place) check {
	const name = "socket"
	info, err := os.Stat(p.socket)
	if err != nil {
		return bad(apitype.ExitUnreachable, name, "start the node: keynode run --data DIR; or name its socket with --socket PATH", "%s: %s", p.socket, cause(err))
	}
	if info.Mode().Type() != os.ModeSocket {
		return bad(apitype.ExitLocal, name, "name the node's socket with --socket PATH", "%s is not a socket", p.socket)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return warn(name, "chmod 600 "+shellWord(p.socket)+", and restart the node", "%s is open to others (mode %04o)", p.socket, perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return warn(name, "run keyctl as the user who runs the node", "%s belongs to another user (uid %d)", p.socket, st.Uid)
	}
	if dir, err := os.Stat(filepath.Dir(p.socket)); err == nil && dir.Mode().Perm()&0o022 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return warn(name, "chmod go-w "+shellWord(filepath.Dir(p.socket)), "others may replace %s: they can write to its directory", p.socket)
	}
	return good(name, "%s, mode %04o", p.socket, info.Mode().Perm())
}

func checkReady(ctx context.Context, node *client.Client) check {
	if err := node.Ready(ctx); err != nil {
		return bad(apitype.ExitNode, "ready", "keyctl peer ls shows who is missing; start them, or invite more: keyctl peer invite --operator NAME",
			"too few holders are reachable for the default policy: %s", bounded(err.Error()))
	}
	return good("ready", "enough holders are reachable for the default policy")
}

func checkStore(st apitype.Status) check {
	s := st.Storage
	switch {
	case s.Error != "":
		return bad(apitype.ExitNode, "store", "look into the node's log; restore its data directory from a backup, or let its seats be repaired", "the store has stopped: %s", s.Error)
	case s.MaxBytes > 0 && s.Bytes > s.MaxBytes/10*9:
		return warn("store", "raise the limit in the node's configuration, or delete what is not needed", "%s, which is over 90 %%: no new seats are accepted", storeText(s))
	}
	return good("store", "%s", storeText(s))
}

func checkMesh(st apitype.Status) check {
	switch {
	case st.Members <= 1:
		return warn("peers", "invite others: keyctl peer invite --operator NAME", "this node is alone")
	case st.Online < st.Members:
		return warn("peers", "keyctl peer ls shows who is offline", "%d of %d nodes online, %d of %d holders", st.Online, st.Members, st.Reachable, st.Holders)
	}
	return good("peers", "all %d nodes online, %s", st.Members, plural(st.Holders, "holder"))
}

// Certificates are renewed from 30 days before their end; one that has less
// left than this was not.
const certificateWarning = 14 * 24 * time.Hour

func checkCertificate(st apitype.Status) check {
	const fix = "an issuer must be reachable to renew it: keyctl peer ls"
	end := st.Node.Expires
	switch left := time.Until(end); {
	case end.IsZero():
		return warn("certificate", "", "the node does not say when its certificate ends")
	case left <= 0:
		return bad(apitype.ExitNode, "certificate", fix, "this node's certificate ended at %s", when(end, "-"))
	case left < certificateWarning:
		return warn("certificate", fix, "this node's certificate ends at %s and was not renewed", when(end, "-"))
	}
	return good("certificate", "good until %s", when(end, "-"))
}

func checkIssuers(ctx context.Context, node *client.Client) check {
	peers, err := node.Peers(ctx)
	if err != nil {
		return warn("issuers", "", "cannot list the nodes: %s", bounded(err.Error()))
	}
	issuers := 0
	for _, p := range peers {
		if p.Issuer && !p.Revoked {
			issuers++
		}
	}
	if issuers < 2 {
		return warn("issuers", "make a second issuer, so that the loss of one machine leaves somebody who renews certificates",
			"%s admits and renews nodes", plural(issuers, "node"))
	}
	return good("issuers", "%d nodes admit and renew nodes", issuers)
}

func checkSecrets(st apitype.Status) check {
	switch s := st.Secrets; {
	case st.Health == apitype.Unknown:
		return warn("secrets", "keyctl status once more holders are online", "they could not be counted")
	case s.Below > 0:
		return bad(apitype.ExitNode, "secrets", "start the holders that are offline: keyctl peer ls", "%d of %d cannot be recovered now", s.Below, s.Total)
	case s.AtRisk > 0:
		return warn("secrets", "keyctl ls --long shows which; start the holders that are offline", "%d of %d would be stuck with one more holder gone", s.AtRisk, s.Total)
	}
	return good("secrets", "all %d recoverable with one more holder gone", st.Secrets.Total)
}

// nodeWarnings are the findings of a node that gives them only as sentences.
func nodeWarnings(st apitype.Status) []check {
	if len(st.Warnings) == 0 {
		return []check{good("self-check", "the node has no warnings about its clock, keys or process")}
	}
	var out []check
	for _, w := range st.Warnings {
		out = append(out, warn("self-check", warningFix(w), "%s", w))
	}
	return out
}

// warningFix is the way out for the warnings that nodes are known to give.
func warningFix(w string) string {
	low := strings.ToLower(w)
	for _, f := range []struct{ word, fix string }{
		{"clock", "set the clock of this machine, for example with chrony or systemd-timesyncd"},
		{"unlock", "protect the keys: keynode init --unlock prompt, file:F or credential:NAME"},
		{"dump", "start the node through its unit (LimitCORE=0), not under a debugger"},
		{"core", "start the node with LimitCORE=0 or ulimit -c 0"},
		{"certificate", "an issuer must be reachable: keyctl peer ls"},
		{"issuer", "make a second issuer"},
	} {
		if strings.Contains(low, f.word) {
			return f.fix
		}
	}
	return "the node's log says more"
}
