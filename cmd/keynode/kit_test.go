package main

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rsc.io/qr"

	"keymesh/crypto/key"
)

// fixedKit is the same kit every time; its keys are no secret.
func fixedKit(t testing.TB) *Kit {
	t.Helper()
	na, err := key.AuthorityFromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	code, err := key.PersonFromSeed(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		t.Fatal(err)
	}
	owner, err := key.PersonFromSeed(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	k := &Kit{Network: na.Public().Network(), Authority: na, Owner: owner.Public(), Person: "owner", Code: code, Made: time.Unix(1_800_000_000, 0).UTC()}
	for i := range k.Index {
		k.Index[i] = byte(7 * i)
	}
	for i := range byte(3) {
		n := KitNode{ID: key.NodeID{i + 1, 31: 9}, Addrs: []string{fmt.Sprintf("wss://node-%d.example.org:7946", i)}}
		k.Nodes = append(k.Nodes, n)
	}
	k.Nodes[2].Addrs = append(k.Nodes[2].Addrs, "10.0.0.3:7946")
	return k
}

func kitText(t testing.TB, k *Kit) []byte {
	t.Helper()
	text, err := k.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKitVector(t *testing.T) {
	for name, k := range map[string]*Kit{"kit": fixedKit(t), "card": fixedKit(t).Card()} {
		path := filepath.Join("testdata", name+".txt")
		text := kitText(t, k)
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(text, want) {
			t.Errorf("%s is not what is made now (%v):\n%s", path, err, text)
		}
	}
}

func TestKitThereAndBack(t *testing.T) {
	full := fixedKit(t)
	bare := fixedKit(t)
	bare.Authority = key.AuthorityPrivate{}
	for _, k := range []*Kit{full, full.Card(), bare, bare.Card()} {
		text := kitText(t, k)
		got, err := ParseKit(text)
		if err != nil {
			t.Fatal(err)
		}
		if got.Network != k.Network || got.Owner != k.Owner || got.Person != k.Person || got.Index != k.Index || !got.Made.Equal(k.Made) ||
			got.IsCard() != k.IsCard() || got.Authority.IsZero() != k.Authority.IsZero() ||
			!slices.EqualFunc(got.Nodes, k.Nodes, func(a, b KitNode) bool { return a.ID == b.ID && slices.Equal(a.Addrs, b.Addrs) }) {
			t.Error("another kit came back")
		}
		if !k.IsCard() && !bytes.Equal(got.Code.Seed(), k.Code.Seed()) {
			t.Error("another recovery code came back")
		}
		if !bytes.Equal(kitText(t, got), text) {
			t.Error("the kit that came back has another text")
		}
		if s := fmt.Sprintf("%v %+v %#v %s", *k, *k, *k, k); strings.Trim(strings.ReplaceAll(s, "[redacted]", ""), " &") != "" {
			t.Errorf("a kit prints as %s", s)
		}
	}
}

func TestKitCardHoldsNoCode(t *testing.T) {
	k := fixedKit(t)
	seed := appendKitLine(nil, 1, "x", k.Code.Seed()[:kitLineBytes])
	groups := bytes.Fields(seed)[2]
	if !bytes.Contains(kitText(t, k), groups) {
		t.Fatal("the test looks for something that even the kit does not hold")
	}
	card := kitText(t, k.Card())
	page, err := k.Card().Page()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(card, groups) || bytes.Contains(page, groups) || bytes.Contains(card, []byte(" code ")) {
		t.Error("an approver card holds the recovery code")
	}
}

// TestKitEverySubstitution puts every other character in the place of each one
// that counts: all are refused, and one in a numbered line is refused naming
// that line. Only space for space is the same kit.
func TestKitEverySubstitution(t *testing.T) {
	text := kitText(t, fixedKit(t))
	line, comment, start := 1, text[0] == '#', true
	tried := 0
	for i, was := range text {
		if start {
			comment, start = was == '#', false
		}
		for _, c := range []byte(kitAlphabet + "1bioQPZ+#-!~\n\r\t \x00\xe9") {
			same := c == was || strings.IndexByte(" \t\r", c) >= 0 && strings.IndexByte(" \t\r", was) >= 0
			intoComment := comment && was == '\n' && text[i+1] == '#'
			if same || comment && was != '\n' || intoComment {
				continue
			}
			changed := bytes.Clone(text)
			changed[i] = c
			_, err := ParseKit(changed)
			tried++
			if err == nil && was == '\n' && (comment || i == len(text)-1 || text[i+1] == '\n' || text[i-1] == '\n') && strings.IndexByte(" \t\r", c) >= 0 {
				continue // an empty line more or less
			}
			if err == nil {
				t.Fatalf("byte %d (%q) of line %d may be %q", i, was, line, c)
			}
			if strings.IndexByte(kitAlphabet, c) >= 0 && strings.IndexByte(kitAlphabet, was) >= 0 && !strings.Contains(err.Error(), fmt.Sprintf("line %d of the text", line)) {
				t.Fatalf("a wrong character in line %d: %v", line, err)
			}
		}
		if was == '\n' {
			line++
			start = true
		}
	}
	if tried < 50_000 {
		t.Errorf("only %d substitutions were tried", tried)
	}
}

func TestKitLinesMissingTwiceSwapped(t *testing.T) {
	text := kitText(t, fixedKit(t))
	lines := bytes.SplitAfter(text, []byte("\n"))
	for i, l := range lines {
		if len(l) < 2 || l[0] == '#' {
			continue
		}
		without := bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil)
		twice := bytes.Join(slices.Insert(slices.Clone(lines), i, l), nil)
		swapped := slices.Clone(lines)
		if i+2 < len(lines) {
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
		}
		for what, b := range map[string][]byte{"missing": without, "twice": twice, "swapped": bytes.Join(swapped, nil)} {
			if bytes.Equal(b, text) {
				continue
			}
			if _, err := ParseKit(b); !errors.Is(err, errKit) && !(what == "swapped" && err == nil && len(lines[i+1]) < 2) {
				t.Errorf("line %d %s: %v", i+1, what, err)
			}
		}
	}
}

// TestKitLinesOfAnother mixes a line of another kit in, whose own checksum is
// right.
func TestKitLinesOfAnother(t *testing.T) {
	a, b := fixedKit(t), fixedKit(t)
	b.Code = key.GeneratePerson()
	as, bs := bytes.Split(kitText(t, a), []byte("\n")), bytes.Split(kitText(t, b), []byte("\n"))
	mixed := 0
	for i := range as {
		if bytes.Equal(as[i], bs[i]) {
			continue
		}
		mixed++
		lines := slices.Clone(as)
		lines[i] = bs[i]
		if _, err := ParseKit(bytes.Join(lines, []byte("\n"))); !errors.Is(err, errKit) || !strings.Contains(err.Error(), "belong together") {
			t.Errorf("a line of another kit: %v", err)
		}
	}
	if mixed != 3 { // two of the code and the end
		t.Errorf("%d lines differ", mixed)
	}
}

func TestKitRefuses(t *testing.T) {
	for what, change := range map[string]func(*Kit){
		"two nodes":          func(k *Kit) { k.Nodes = k.Nodes[:2] },
		"nine nodes":         func(k *Kit) { k.Nodes = slices.Repeat(k.Nodes, 3) },
		"a node twice":       func(k *Kit) { k.Nodes[1] = k.Nodes[0] },
		"no address":         func(k *Kit) { k.Nodes[1].Addrs = nil },
		"a bad address":      func(k *Kit) { k.Nodes[1].Addrs = []string{"https://x/"} },
		"another network":    func(k *Kit) { k.Network[0] ^= 1 },
		"no index key":       func(k *Kit) { k.Index = [32]byte{} },
		"an owner of no key": func(k *Kit) { k.Owner = key.PersonPublic{} },
		"a strange name":     func(k *Kit) { k.Person = "a b" },
		"no date":            func(k *Kit) { k.Made = time.Time{} },
	} {
		k := fixedKit(t)
		change(k)
		if _, err := k.Text(); !errors.Is(err, errKit) {
			t.Errorf("a kit with %s: %v", what, err)
		}
		// What is not written is refused when it is read, too.
		text := []byte(k.title() + "\n")
		fields := k.fields()
		fields = append(fields, kitField{"end", kitSum(k.title(), fields)})
		number := 1
		for _, f := range fields {
			for at := 0; at < len(f.value); at += kitLineBytes {
				label := f.label
				if at > 0 {
					label += "+"
				}
				text = appendKitLine(text, number, label, f.value[at:min(at+kitLineBytes, len(f.value))])
				number++
			}
		}
		if _, err := ParseKit(text); !errors.Is(err, errKit) {
			t.Errorf("the text of a kit with %s: %v", what, err)
		}
	}
}

func TestKitPage(t *testing.T) {
	k := fixedKit(t)
	page, err := k.Page()
	if err != nil {
		t.Fatal(err)
	}
	lines, err := k.Lines()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if !strings.Contains(html.UnescapeString(string(page)), string(l)) {
			t.Errorf("the page lacks %q", l)
		}
	}
	for _, bad := range []string{"<script", "src=", "href=", "url(", "@import", "http:", "https:"} {
		if bytes.Contains(page, []byte(bad)) {
			t.Errorf("the page holds %s", bad)
		}
	}
	if n := bytes.Count(page, []byte("<svg")); n != (len(lines)+linesPerCode-1)/linesPerCode {
		t.Errorf("%d codes for %d lines", n, len(lines))
	}
}

// TestKitCodeIsTheText redraws a code from its path and compares it with what
// the encoder makes of the same lines.
func TestKitCodeIsTheText(t *testing.T) {
	text := kitText(t, fixedKit(t))[:300]
	code, err := qr.Encode(string(text), qr.M)
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := drawCode(bytes.Clone(text))
	if err != nil {
		t.Fatal(err)
	}
	black := map[[2]int]bool{}
	for _, run := range strings.Split(strings.TrimSuffix(drawn.Path, "z"), "z") {
		var x, y, w, back int
		if _, err := fmt.Sscanf(run, "M%d %dh%dv1h-%d", &x, &y, &w, &back); err != nil || w != back {
			t.Fatalf("%q: %v", run, err)
		}
		for i := range w {
			black[[2]int{x + i - 4, y - 4}] = true
		}
	}
	for y := range code.Size {
		for x := range code.Size {
			if code.Black(x, y) != black[[2]int{x, y}] {
				t.Fatalf("module %d,%d differs", x, y)
			}
		}
	}
}

func FuzzParseKit(f *testing.F) {
	text := kitText(f, fixedKit(f))
	f.Add(text)
	f.Add(kitText(f, fixedKit(f).Card()))
	f.Add(text[:len(text)/2])
	f.Add([]byte(kitTitle + "\n01 network qqqq qqqqqq\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		k, err := ParseKit(in)
		if err != nil {
			if !errors.Is(err, errKit) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseKit(kitText(t, k))
		if err != nil || again.Owner != k.Owner || again.Index != k.Index {
			t.Fatal("an accepted kit does not come back", err)
		}
	})
}
