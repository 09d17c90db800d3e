package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"keymesh/api/apitype"
)

// failure is how a command ends when not well: one sentence, its cause, one
// line for each holder concerned, and the next command to run.
type failure struct {
	exit    int
	what    string   // the sentence: what could not be done
	why     string   // the cause; may be empty
	details []string // one line each
	hint    string
	problem *apitype.Problem // the node's own words, for -o json
	quiet   bool             // everything was said already; only the code counts
}

func (f *failure) Error() string {
	if f.why == "" {
		return f.what
	}
	return f.what + ": " + f.why
}

// ExitCode makes apitype.ExitCode find the code.
func (f *failure) ExitCode() int { return f.exit }

// usage is an error of the command line, or of what stands on it.
func usage(what, hint string) *failure {
	return &failure{exit: apitype.ExitLocal, what: what, hint: hint}
}

// local is an error of this machine: a file, a terminal, a stream.
func local(what string, err error, hint string) *failure {
	return &failure{exit: apitype.ExitLocal, what: what, why: cause(err), hint: hint}
}

// cause shortens an error of the os package to what a person needs.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// interruption is the failure of a command that a signal ended.
func interruption(err error) error {
	out := &failure{exit: apitype.ExitInterrupted, what: "interrupted", hint: "run the command again"}
	var f *failure
	if errors.As(err, &f) {
		out.hint = f.hint
	}
	return out
}

// apiError turns an error of the API client into a failure. what says what
// could not be done, with public names; verb is the command, for the hint.
func apiError(what, verb string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, errInterrupted)
	}
	f := &failure{exit: apitype.ExitCode(err), what: what, why: printable(err.Error())}
	var p *apitype.Problem
	if errors.As(err, &p) {
		f.problem = p
		f.why = printable(p.Error())
		f.details = problemLines(p)
	}
	f.hint = hintFor(f, verb)
	if errors.Is(err, fs.ErrPermission) {
		f.hint = "run keyctl as the user who runs the node; keyctl doctor shows who that is"
	}
	if p != nil && p.Hint != "" && !repeats(f.exit) {
		f.hint = printable(p.Hint) + "; " + f.hint
	}
	return f
}

// repeats reports whether the hint here is all that the node could advise: the
// same command once more, or with what is there now.
func repeats(exit int) bool {
	return exit == apitype.ExitInDoubt || exit == apitype.ExitTimeout || exit == apitype.ExitConflict
}

// problemLines names the holders of a problem, one a line, and a fork's
// manifests.
func problemLines(p *apitype.Problem) []string {
	var out []string
	for _, s := range p.Peers {
		line := fmt.Sprintf("%s: %s", nodeName(s.Name, s.Node), printable(s.State))
		if s.Why != "" {
			line += ": " + bounded(s.Why)
		}
		out = append(out, line)
	}
	for _, b := range p.Bad {
		out = append(out, fmt.Sprintf("%s gave a bad row: %s", nodeName(b.Name, b.Node), bounded(b.Why)))
	}
	for _, m := range p.Manifests {
		out = append(out, "manifest "+printable(m))
	}
	return out
}

// hintFor is the next command after an exit code.
func hintFor(f *failure, verb string) string {
	switch f.exit {
	case apitype.ExitNotFound:
		return "keyctl ls shows the names that exist"
	case apitype.ExitDenied:
		if f.problem != nil && f.problem.Type == apitype.Denied {
			return "keyctl whoami shows as whom this node acts"
		}
		return "keyctl doctor checks the socket and the token"
	case apitype.ExitQuorum:
		return "keyctl peer ls shows who is missing; then again: " + verb
	case apitype.ExitTimeout:
		return "again with more time: " + verb + " --timeout 2m"
	case apitype.ExitIntegrity:
		return "replace the holders named above; keyctl peer ls shows their operators"
	case apitype.ExitUnreachable:
		return "start the node with `keynode run --data DIR`, or name another with --socket PATH; keyctl doctor says what is wrong"
	case apitype.ExitConflict:
		return conflictHint(f.problem, verb)
	case apitype.ExitStorage:
		return "free disk space at the holders; keyctl doctor checks this node"
	case apitype.ExitInDoubt:
		if strings.HasPrefix(verb, "keyctl rm") {
			return "those that miss it are told when they return; a retry asks again: " + verb
		}
		return "a retry continues it: " + verb
	case apitype.ExitLocal:
		return verb + " --help"
	}
	return "keyctl doctor checks the node; its log says more"
}

func conflictHint(p *apitype.Problem, verb string) string {
	if p != nil && p.Type == apitype.Fork {
		return "read either with keyctl get NAME --manifest H; a put that follows heals it"
	}
	if p != nil && p.Gen > 0 {
		return fmt.Sprintf("keyctl get NAME shows generation %d, which is there; then --cas %d", p.Gen, p.Gen)
	}
	return "keyctl info NAME shows what is there; then again: " + verb
}

// report prints err and returns its exit code. It is the only place that
// prints errors. silent is for completions, which a shell would show.
func (a *app) report(err error, silent bool) int {
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{exit: apitype.ExitCode(err), what: printable(err.Error()), hint: "keyctl help"}
	}
	if silent || f.quiet {
		return f.exit
	}
	if a.opts.output == "json" {
		a.reportJSON(f)
		return f.exit
	}
	fmt.Fprintf(a.stderr, "error: %s\n", f.Error())
	for _, d := range f.details {
		fmt.Fprintf(a.stderr, "  %s\n", d)
	}
	if f.hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", f.hint)
	}
	return f.exit
}

// errorJSON is an error under -o json: one line on standard error.
type errorJSON struct {
	Error   string           `json:"error"`
	Exit    int              `json:"exit_code"`
	Details []string         `json:"details,omitempty"`
	Hint    string           `json:"hint,omitempty"`
	Problem *apitype.Problem `json:"problem,omitempty"`
}

func (a *app) reportJSON(f *failure) {
	line, err := json.Marshal(errorJSON{Error: f.Error(), Exit: f.exit, Details: f.details, Hint: f.hint, Problem: f.problem})
	if err != nil {
		line = []byte(`{"error":"the error has no JSON form"}`)
	}
	fmt.Fprintf(a.stderr, "%s\n", line)
}

// bounded is printable for words of strangers: at most 200 bytes.
func bounded(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
		for !utf8.ValidString(s) && len(s) > most-utf8.UTFMax {
			s = s[:len(s)-1]
		}
		s += "..."
	}
	return printable(s)
}

// printable returns s with everything escaped that a terminal would act upon:
// control characters, bidirectional overrides, invalid UTF-8. Names, labels and
// reasons were chosen by others.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, "\\U%08x", r)
		default:
			fmt.Fprintf(&b, "\\u%04x", r)
		}
		i += size
	}
	return b.String()
}

// nodeName is how a node is called in a line: its name, else its id.
func nodeName(name, id string) string {
	if name != "" {
		return printable(name)
	}
	return printable(id)
}
