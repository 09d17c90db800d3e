package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"keymesh/crypto/key"
)

// ParseKit reads the text of a kit or card, strictly. Errors wrap errKit and
// name the line, never what stands on it. The caller erases the kit.
func ParseKit(text []byte) (*Kit, error) {
	if len(text) > maxKitText {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errKit, maxKitText)
	}
	title, fields, err := readFields(text)
	defer wipeFields(fields)
	if err != nil {
		return nil, err
	}
	last := len(fields) - 1
	if last < 0 || fields[last].label != "end" {
		return nil, fmt.Errorf("%w: its last lines are missing", errKit)
	}
	if subtle.ConstantTimeCompare(kitSum(title, fields[:last]), fields[last].value) != 1 {
		return nil, fmt.Errorf("%w: its lines do not belong together", errKit)
	}
	k, err := kitOf(title, fields[:last])
	if err != nil {
		return nil, err
	}
	if err := k.check(); err != nil {
		k.Erase()
		return nil, err
	}
	return k, nil
}

// readFields reads the lines and puts fields that span several together.
func readFields(text []byte) (title string, fields []kitField, err error) {
	number := 0
	ended := false
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimRight(bytes.TrimLeft(line, " \t"), " \t\r")
		switch {
		case len(line) == 0 || line[0] == '#':
			continue
		case ended:
			return "", fields, fmt.Errorf("%w: line %d of the text: something follows the end", errKit, i+1)
		case number == 0:
			if title = string(line[:min(len(line), 40)]); title != kitTitle && title != cardTitle {
				return "", fields, fmt.Errorf("%w: line %d of the text should be %q or %q", errKit, i+1, kitTitle, cardTitle)
			}
		default:
			label, data, err := parseKitLine(line, number)
			if err == nil {
				fields, err = addLine(fields, label, data)
			}
			if err != nil {
				return "", fields, fmt.Errorf("%w: line %d of the text%s: %w", errKit, i+1, called(number, label), err)
			}
			ended = label == "end"
		}
		number++
	}
	return title, fields, nil
}

// called is a line's own number and name, when it has one.
func called(number int, label string) string {
	if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz+") != "" || label == "" {
		return ""
	}
	return fmt.Sprintf(" (%02d %s)", number, label)
}

// addLine appends a line to the fields, or its data to the last of them.
func addLine(fields []kitField, label string, data []byte) ([]kitField, error) {
	base, more := strings.CutSuffix(label, "+")
	if !more {
		return append(fields, kitField{label, data}), nil
	}
	last := len(fields) - 1
	if last < 0 || fields[last].label != base || len(fields[last].value)%kitLineBytes != 0 {
		clear(data)
		return fields, fmt.Errorf("it does not belong here")
	}
	f := &fields[last]
	whole := append(bytes.Clone(f.value), data...)
	clear(f.value)
	clear(data)
	f.value = whole
	return fields, nil
}

// fieldReader takes fields in order.
type fieldReader struct {
	left []kitField
	err  error
}

func (r *fieldReader) peek(label string) bool {
	return r.err == nil && len(r.left) > 0 && r.left[0].label == label
}

// take returns the next field, which must have that label and length; 0 is any
// length.
func (r *fieldReader) take(label string, size int) []byte {
	if !r.peek(label) || size != 0 && len(r.left[0].value) != size {
		if r.err == nil {
			r.err = fmt.Errorf("%w: the field %q is missing, misplaced or has another length", errKit, label)
		}
		return make([]byte, size)
	}
	v := r.left[0].value
	r.left = r.left[1:]
	return v
}

func kitOf(title string, fields []kitField) (k *Kit, err error) {
	k = new(Kit)
	defer func() {
		if err != nil {
			k.Erase()
			k = nil
		}
	}()
	r := &fieldReader{left: fields}
	k.Network = key.NetworkID(r.take("network", 32))
	if r.peek("authority") {
		if k.Authority, err = key.AuthorityFromSeed(r.take("authority", key.SeedSize)); err != nil {
			return k, err
		}
	}
	k.Owner = key.PersonPublic(r.take("owner", 32))
	k.Person = string(r.take("person", 0))
	k.Index = [32]byte(r.take("index", 32))
	if title == kitTitle {
		if k.Code, err = key.PersonFromSeed(r.take("code", key.SeedSize)); err != nil {
			return k, err
		}
	}
	k.Made = time.Unix(int64(binary.BigEndian.Uint64(r.take("made", 8))), 0).UTC()
	for r.peek("node") {
		n := KitNode{ID: key.NodeID(r.take("node", 32))}
		for r.peek("address") {
			n.Addrs = append(n.Addrs, string(r.take("address", 0)))
		}
		k.Nodes = append(k.Nodes, n)
	}
	if r.err == nil && len(r.left) > 0 {
		r.err = fmt.Errorf("%w: the field %.12q does not belong there", errKit, r.left[0].label)
	}
	return k, r.err
}
