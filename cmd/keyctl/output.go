package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// json reports whether the answer is wanted as JSON.
func (a *app) json() bool { return a.opts.output == "json" }

// printJSON prints the answer as one indented JSON value. The shapes are those
// of apitype and of the types in this package; fields are only ever added.
func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return a.print(append(b, '\n'))
}

// print writes the answer, and fails when it did not arrive whole: a script
// must not take half an answer for one.
func (a *app) print(b []byte) error {
	if _, err := a.stdout.Write(b); err != nil {
		return local("cannot write the answer", err, "look where standard output goes")
	}
	return nil
}

// table collects rows and prints them in columns.
type table struct {
	b strings.Builder
	w *tabwriter.Writer
}

func newTable(head ...string) *table {
	t := &table{}
	t.w = tabwriter.NewWriter(&t.b, 0, 0, 2, ' ', 0)
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

// row adds a row. Cells are escaped: most were chosen by others.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// text returns the table without blanks at the ends of its lines.
func (t *table) text() string {
	_ = t.w.Flush() // writes to memory
	lines := strings.Split(t.b.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

func (t *table) writeTo(a *app) error { return a.print([]byte(t.text())) }

// fact is one line of "label  text" in a description.
func fact(w io.Writer, label, format string, args ...any) {
	fmt.Fprintf(w, "%-12s %s\n", label, printable(fmt.Sprintf(format, args...)))
}

// dash is s, or a dash where there is nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when formats a time, or says that there is none.
func when(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// plural is "1 holder", "2 holders".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// byteCount formats a number of bytes in binary units.
func byteCount(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
