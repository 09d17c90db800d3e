package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// A line of a kit is number, label, groups of four characters and a checksum:
//
//	05 code       xxxx xxxx xxxx xxxx xxxx xxxx xxxx xxxx cccccc
//
// The characters are those of BIP-173: no capital, no 1, b, i or o. The six of
// the checksum are Bech32m (BIP-350) over number, label and data: up to four
// wrong characters in a line are found with certainty, more of them but for one
// case in 2^30.
const (
	kitAlphabet  = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	kitLineBytes = 20 // at most, in one line: 32 characters and nothing left over
	kitCheckLen  = 6
	kitGroup     = 4
)

// bech32m is the checksum's final constant (BIP-350).
const bech32m = 0x2bc830a3

// polymod is the remainder of the symbols, each below 32, modulo the generator
// of BIP-173.
func polymod(symbols []byte) uint32 {
	gen := [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3}
	sum := uint32(1)
	for _, s := range symbols {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(s)
		for i, g := range gen {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	return sum
}

// expand is the part of a line that is not data, as symbols.
func expand(head string) []byte {
	out := make([]byte, 0, 2*len(head)+1)
	for _, c := range []byte(head) {
		out = append(out, c>>5)
	}
	out = append(out, 0)
	for _, c := range []byte(head) {
		out = append(out, c&31)
	}
	return out
}

// toSymbols splits bytes into groups of five bits, the last filled with zeros.
func toSymbols(b []byte) []byte {
	out := make([]byte, 0, (len(b)*8+4)/5)
	acc, bits := uint(0), 0
	for _, c := range b {
		acc, bits = acc<<8|uint(c), bits+8
		for bits >= 5 {
			bits -= 5
			out = append(out, byte(acc>>bits&31))
		}
	}
	if bits > 0 {
		out = append(out, byte(acc<<(5-bits)&31))
	}
	return out
}

// fromSymbols undoes toSymbols and refuses what it does not make.
func fromSymbols(symbols []byte) ([]byte, error) {
	out := make([]byte, 0, len(symbols)*5/8)
	acc, bits := uint(0), 0
	for _, s := range symbols {
		acc, bits = acc<<5|uint(s), bits+5
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(acc>>bits))
		}
	}
	if bits >= 5 || acc&(1<<bits-1) != 0 {
		return nil, errors.New("it has another length")
	}
	return out, nil
}

// lineCheck returns the six symbols that follow data in a line with this head.
func lineCheck(head string, data []byte) []byte {
	all := append(append(expand(head), data...), make([]byte, kitCheckLen)...)
	defer clear(all)
	sum := polymod(all) ^ bech32m
	out := make([]byte, kitCheckLen)
	for i := range out {
		out[i] = byte(sum >> (5 * (kitCheckLen - 1 - i)) & 31)
	}
	return out
}

// appendKitLine appends one line with its end. number is 1 to 99, data at most
// kitLineBytes.
func appendKitLine(out []byte, number int, label string, data []byte) []byte {
	symbols := toSymbols(data)
	defer clear(symbols)
	out = fmt.Appendf(out, "%02d %-10s", number, label)
	for i, s := range symbols {
		if i%kitGroup == 0 {
			out = append(out, ' ')
		}
		out = append(out, kitAlphabet[s])
	}
	out = append(out, ' ')
	for _, s := range lineCheck(lineHead(number, label), symbols) {
		out = append(out, kitAlphabet[s])
	}
	return append(out, '\n')
}

func lineHead(number int, label string) string { return fmt.Sprintf("%02d%s", number, label) }

// parseKitLine reads one line, which must have that number. It says nothing of
// whether there is such a label.
func parseKitLine(line []byte, number int) (label string, data []byte, err error) {
	rest, ok := bytes.CutPrefix(line, fmt.Appendf(nil, "%02d ", number))
	if !ok {
		return "", nil, fmt.Errorf("it should be line %02d of the kit", number)
	}
	rest = bytes.TrimLeft(rest, " \t")
	at := bytes.IndexAny(rest, " \t")
	if at < 1 || at > 12 {
		return "", nil, errors.New("it has no name and data")
	}
	label = string(rest[:at])
	symbols, err := lineSymbols(rest[at:])
	if err != nil {
		return label, nil, err
	}
	defer clear(symbols)
	all := append(expand(lineHead(number, label)), symbols...)
	defer clear(all)
	if polymod(all) != bech32m {
		return label, nil, errors.New("a character is wrong")
	}
	data, err = fromSymbols(symbols[:len(symbols)-kitCheckLen])
	return label, data, err
}

// lineSymbols reads the groups and the checksum behind a label: strictly as
// appendKitLine writes them, but for how much space is between them.
func lineSymbols(rest []byte) ([]byte, error) {
	const most = (kitLineBytes*8 + 4) / 5
	out := make([]byte, 0, most+kitCheckLen)
	group, short := 0, false
	for i := 0; i <= len(rest); i++ {
		if i < len(rest) && rest[i] != ' ' && rest[i] != '\t' {
			s := strings.IndexByte(kitAlphabet, rest[i])
			if s < 0 {
				return nil, fmt.Errorf("%.8q is no character of a kit", string(rest[i]))
			}
			if len(out) == cap(out) {
				return nil, errors.New("it is too long")
			}
			out = append(out, byte(s))
			group++
			continue
		}
		switch {
		case group == 0:
		case group == kitCheckLen && onlySpace(rest[i:]):
			if len(out) <= kitCheckLen {
				return nil, errors.New("it is cut off")
			}
			return out, nil
		case group > kitGroup || short:
			return nil, errors.New("its groups are not of four characters, with six at the end")
		default:
			short = group < kitGroup
		}
		group = 0
	}
	return nil, errors.New("it is cut off")
}

func onlySpace(b []byte) bool { return len(strings.TrimRight(string(b), " \t")) == 0 }
