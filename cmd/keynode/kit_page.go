package main

import (
	"bytes"
	"fmt"
	"html/template"

	"rsc.io/qr"
)

// linesPerCode is how many lines of a kit go into one QR code: few enough for a
// plain telephone to read it from paper.
const linesPerCode = 6

// kitPage is one printable page that needs nothing from anywhere: styles are
// inline, the codes are SVG, and its policy forbids loading or running anything.
const kitPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{{.Title}}</title>
<style>
@page { size: A4; margin: 14mm }
body { font: 11pt/1.35 sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 0 auto; padding: 4mm }
h1 { font-size: 16pt; margin: 0 0 2mm }
p { margin: 0 0 1.5mm }
pre { font: 9.5pt/1.45 monospace; border: 1px solid #000; padding: 2.5mm; margin: 3mm 0; white-space: pre }
figure { display: inline-block; width: 54mm; margin: 0 3mm 3mm 0; text-align: center; break-inside: avoid; font-size: 9pt }
svg { width: 54mm; height: 54mm; display: block; shape-rendering: crispEdges }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Words}}<p>{{.}}</p>
{{end}}<pre>{{range .Lines}}{{.}}
{{end}}</pre>
{{range .Codes}}<figure><svg viewBox="0 0 {{.Size}} {{.Size}}" role="img" aria-label="{{.Name}}"><rect width="{{.Size}}" height="{{.Size}}" fill="#fff"/><path d="{{.Path}}"/></svg><figcaption>{{.Name}}</figcaption></figure>
{{end}}<p>The codes hold the lines above, in order. A program that reads them gives the text back.</p>
</body>
</html>
`

type pageData struct {
	Title        string
	Words, Lines []string
	Codes        []pageCode
}

type pageCode struct {
	Name, Path string
	Size       int
}

// Page returns the kit as one self-contained HTML page. The caller wipes it.
// Template and QR encoder work on strings, so that copies stay in memory until
// they are collected.
func (k *Kit) Page() ([]byte, error) {
	lines, err := k.Lines()
	if err != nil {
		return nil, err
	}
	defer wipeLines(lines)
	d := pageData{Title: "keymesh recovery kit", Words: k.words()}
	if k.IsCard() {
		d.Title = "keymesh approver card"
	}
	for _, l := range lines {
		d.Lines = append(d.Lines, string(l))
	}
	chunks := (len(lines) + linesPerCode - 1) / linesPerCode
	for i := range chunks {
		part := lines[i*linesPerCode : min((i+1)*linesPerCode, len(lines))]
		code, err := drawCode(append(bytes.Join(part, []byte("\n")), '\n'))
		if err != nil {
			return nil, err
		}
		code.Name = fmt.Sprintf("code %d of %d", i+1, chunks)
		d.Codes = append(d.Codes, code)
	}
	t, err := template.New("kit").Parse(kitPage)
	if err != nil {
		return nil, fmt.Errorf("the kit's page: %w", err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, d); err != nil {
		return nil, fmt.Errorf("the kit's page: %w", err)
	}
	return out.Bytes(), nil
}

// drawCode makes a QR code with its quiet zone of four modules as one SVG path.
func drawCode(text []byte) (pageCode, error) {
	defer clear(text)
	code, err := qr.Encode(string(text), qr.M)
	if err != nil {
		return pageCode{}, fmt.Errorf("drawing a code: %w", err)
	}
	const quiet = 4
	var path []byte
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			run := 0
			for x+run < code.Size && code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				path = fmt.Appendf(path, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	return pageCode{Path: string(path), Size: code.Size + 2*quiet}, nil
}
