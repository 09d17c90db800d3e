package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxPetname is the longest petname, in bytes.
const MaxPetname = 64

// ErrPetname: nobody can be called that; the text says why.
var ErrPetname = errors.New("not a petname")

// CheckPetname refuses what no person can be called in policies: a petname is 1
// to [MaxPetname] bytes of letters, digits and . _ - @ + in Unicode
// normalization form C, in words that single spaces divide. None of its words is
// one of the text form, however it is capitalised, so that nobody is called
// "the owner" or "ann or bob"; it is no number and does not begin like a key.
// Errors wrap [ErrPetname].
func CheckPetname(name string) error {
	bad := func(f string, a ...any) error { return fmt.Errorf("%w: "+f, append([]any{ErrPetname}, a...)...) }
	switch {
	case name == "" || len(name) > MaxPetname:
		return bad("it has 1 to %d bytes", MaxPetname)
	case !utf8.ValidString(name) || !norm.NFC.IsNormalString(name):
		return bad("it is UTF-8 in Unicode normalization form C")
	case strings.HasPrefix(strings.ToLower(name), keyPrefix):
		return bad("%q begins like a key", name)
	case digits(name):
		return bad("%q is a number", name)
	}
	for _, word := range strings.Split(name, " ") {
		switch {
		case word == "":
			return bad("its words are divided by single spaces")
		case strings.IndexFunc(word, func(r rune) bool { return !inWord(r) }) >= 0:
			return bad("it has letters, digits and . _ - @ + only")
		case isReserved(word):
			return bad("%q is a word of policies", word)
		}
	}
	return nil
}
