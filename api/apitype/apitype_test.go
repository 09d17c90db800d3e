package apitype

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

// interfaceTable is the line "HTTP to exit" of interface.md.
var interfaceTable = map[int]int{
	400: 1, 413: 1, 422: 1, 401: 4, 403: 4, 404: 3, 409: 9, 412: 9, 424: 5, 429: 5, 503: 5, 504: 6, 502: 7, 507: 10, 500: 2, 501: 2, 505: 2,
}

func TestTable(t *testing.T) {
	seen := map[Type]bool{}
	for _, k := range Kinds() {
		if seen[k.Type] {
			t.Errorf("%s is there twice", k.Type)
		}
		seen[k.Type] = true
		if !strings.HasPrefix(string(k.Type), "urn:keymesh:problem:") || k.Title == "" {
			t.Errorf("row %+v", k)
		}
		if want, ok := interfaceTable[k.Status]; ok && k.Exit != want {
			t.Errorf("%s: status %d has exit %d, interface.md says %d", k.Type, k.Status, k.Exit, want)
		}
		if k.Status == 202 && k.Exit != ExitInDoubt {
			t.Errorf("%s: 202 has exit %d", k.Type, k.Exit)
		}
		if k.Status != 202 && ExitStatus(k.Status) != k.Exit {
			t.Errorf("%s: exit %d, but its status alone has %d", k.Type, k.Exit, ExitStatus(k.Status))
		}
		p := NewProblem(k.Type, "n is %d", 7)
		if p.Status != k.Status || p.Exit != k.Exit || p.Title != k.Title || p.Detail != "n is 7" || ExitCode(p) != k.Exit {
			t.Errorf("problem %+v", p)
		}
	}
	for status, want := range interfaceTable {
		if got := ExitStatus(status); got != want {
			t.Errorf("ExitStatus(%d) = %d, want %d", status, got, want)
		}
	}
	if _, ok := KindOf("urn:x"); ok {
		t.Error("a type that is not in the list")
	}
	if p := NewProblem("urn:x", ""); p.Type != Internal || p.Status != 500 {
		t.Errorf("an unknown type became %+v", p)
	}
}

func TestExitTextIsComplete(t *testing.T) {
	var codes []int
	for _, row := range ExitText() {
		codes = append(codes, row.Code)
		if row.Text == "" {
			t.Errorf("%d has no text", row.Code)
		}
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 64, 130}; !slices.Equal(codes, want) {
		t.Errorf("codes %v, interface.md has %v", codes, want)
	}
	for _, k := range Kinds() {
		if !slices.Contains(codes, k.Exit) {
			t.Errorf("%s has an exit code without text", k.Type)
		}
	}
}

type coded int

func (coded) Error() string   { return "coded" }
func (c coded) ExitCode() int { return int(c) }

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{context.DeadlineExceeded, 6},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), 6},
		{context.Canceled, 130},
		{coded(8), 8},
		{fmt.Errorf("a: %w", coded(8)), 8},
		{errors.Join(context.DeadlineExceeded, coded(8)), 8},
		{NewProblem(Quorum, ""), 5},
		{fmt.Errorf("get: %w", NewProblem(InDoubt, "")), 12},
		{&Problem{Type: "urn:newer", Status: 503}, 5},
		{&Problem{Type: "about:blank", Status: 418}, 1},
		{&Problem{Type: "urn:x", Status: 200}, 2},
		{&Problem{}, 2},
		{&Problem{Type: NotFound, Status: 200, Exit: 0}, 3}, // the table counts, not what the body claims
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("ExitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestProblemIsAnError(t *testing.T) {
	err := fmt.Errorf("put: %w", NewProblem(Conflict, "generation 7 is there"))
	if !errors.Is(err, &Problem{Type: Conflict}) || errors.Is(err, &Problem{Type: Fork}) || errors.Is(err, &Problem{}) {
		t.Error("errors.Is by type")
	}
	for want, p := range map[string]*Problem{
		"generation 7 is there":                     NewProblem(Conflict, "generation 7 is there"),
		"another writer came first":                 NewProblem(Conflict, ""),
		"the node answered 503 Service Unavailable": {Status: 503},
	} {
		if p.Error() != want {
			t.Errorf("%q, want %q", p.Error(), want)
		}
	}
}

const marker = "hunter2-MARKER"

// TestBytesNeverPrint: no way of printing shows a value or its base64.
func TestBytesNeverPrint(t *testing.T) {
	b := Bytes(marker)
	r := Recovered{Value: b}
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("x", "v", b)
	texts := []string{fmt.Sprint(b), fmt.Sprintf("%s %v %+v %#v %x %q %d", b, b, b, b, b, b, b), b.String(), b.GoString(), fmt.Sprintf("%v %+v %#v", r, r, r), fmt.Sprintf("%v", PutRequest{Value: b}), log.String()}
	for _, s := range texts {
		for _, bad := range []string{marker, base64.StdEncoding.EncodeToString(b), fmt.Sprintf("%x", marker), fmt.Sprint([]byte(marker))[1:20]} {
			if strings.Contains(s, bad) {
				t.Errorf("printed: %s", s)
			}
		}
	}
}

func TestBytesJSON(t *testing.T) {
	for _, v := range [][]byte{{}, {0}, []byte("a"), []byte("ab"), []byte("abc"), bytes.Repeat([]byte{0xfb, 0xff}, 500)} {
		j, err := json.Marshal(Bytes(v))
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := json.Marshal(v); !bytes.Equal(j, want) {
			t.Errorf("%x encodes as %s", v, j)
		}
		var back Bytes
		if err := json.Unmarshal(j, &back); err != nil || !bytes.Equal(back, v) || back == nil {
			t.Errorf("%s decodes as %x, %v", j, []byte(back), err)
		}
	}
	for _, bad := range []string{`null`, `1`, `{}`, `["YQ=="]`, `"YQ"`, `"YQ="`, `"YR=="`, `"YQ==\n"`, `"Y Q="`, `"_w=="`, `"YQ\u003d="`, `"===="`, `"é"`} {
		b := Bytes("old")
		if err := json.Unmarshal([]byte(bad), &b); err == nil && bad != "null" {
			t.Errorf("%s accepted as %x", bad, []byte(b))
		} else if err != nil && strings.Contains(err.Error(), "YQ") {
			t.Errorf("the error quotes: %v", err)
		}
	}
}

// TestEncodings: like json.Marshal, but in one buffer.
func TestEncodings(t *testing.T) {
	for _, v := range []Bytes{{}, Bytes(marker), bytes.Repeat([]byte{0xff}, MaxValue)} {
		put := PutRequest{Value: v, N: 5, K: 3, Labels: map[string]string{}}
		got, err := EncodePut(put)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := json.Marshal(put); !bytes.Equal(got, want) {
			t.Errorf("%.100s, want %.100s", got, want)
		}
		if cap(got) != len(got) {
			t.Errorf("the buffer grew: %d of %d", len(got), cap(got))
		}
		if len(got) > MaxBody {
			t.Errorf("a value of %d bytes makes a body of %d", len(v), len(got))
		}
		rec := Recovered{Value: v, Name: "a", Used: []string{}, Bad: []Bad{}}
		got, err = EncodeRecovered(rec)
		if want, _ := json.Marshal(rec); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%.100s, %v", got, err)
		}
	}
}

func FuzzBytes(f *testing.F) {
	for _, s := range []string{`""`, `"YQ=="`, `"YR=="`, `"YWI="`, `"\n"`, `"`, `x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var b Bytes
		if b.UnmarshalJSON(in) != nil {
			return
		}
		if again, err := b.MarshalJSON(); err != nil || !bytes.Equal(again, in) {
			t.Fatalf("%q decodes and encodes as %q", in, again)
		}
	})
}
