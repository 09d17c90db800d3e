package apitype

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// Bytes is a secret value: standard padded base64 in JSON, "[redacted]"
// wherever it is printed. Decoding is strict: one encoding for each value.
type Bytes []byte

const redacted = "[redacted]"

// String hides the value.
func (Bytes) String() string { return redacted }

// GoString hides the value.
func (Bytes) GoString() string { return redacted }

// Format hides the value, whatever the verb.
func (Bytes) Format(s fmt.State, _ rune) { fmt.Fprint(s, redacted) }

// LogValue hides the value.
func (Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }

var strict = base64.StdEncoding.Strict()

// MarshalJSON implements json.Marshaler. encoding/json keeps a copy in a
// buffer of its own: use [EncodePut] and [EncodeRecovered] where it matters.
func (b Bytes) MarshalJSON() ([]byte, error) { return b.append(nil), nil }

func (b Bytes) append(out []byte) []byte {
	out = append(out, '"')
	out = strict.AppendEncode(out, b)
	return append(out, '"')
}

// UnmarshalJSON implements json.Unmarshaler. The result is never nil.
func (b *Bytes) UnmarshalJSON(in []byte) error {
	if len(in) < 2 || in[0] != '"' || in[len(in)-1] != '"' {
		return errors.New("a value is a base64 string")
	}
	in = in[1 : len(in)-1]
	// The decoder would skip line ends, and an escape is no base64 digit.
	if bytes.ContainsAny(in, "\r\n\\") {
		return errors.New("a value is plain base64")
	}
	out := make([]byte, strict.DecodedLen(len(in)))
	n, err := strict.Decode(out, in)
	if err != nil {
		clear(out)
		return errors.New("a value is standard padded base64")
	}
	*b = out[:n]
	return nil
}

// EncodePut returns the JSON of r. Unlike json.Marshal it leaves the value in
// no buffer but the result, which the caller zeroes after use.
func EncodePut(r PutRequest) ([]byte, error) {
	value := r.Value
	r.Value = nil
	return encodeValue(value, r)
}

// EncodeRecovered is [EncodePut] for an answer.
func EncodeRecovered(r Recovered) ([]byte, error) {
	value := r.Value
	r.Value = nil
	return encodeValue(value, r)
}

// encodeValue puts the value back into rest, which encodes with an empty one in
// its first field.
func encodeValue(value Bytes, rest any) ([]byte, error) {
	const empty = `{"value":""`
	b, err := json.Marshal(rest)
	if err != nil {
		return nil, err
	}
	b, ok := bytes.CutPrefix(b, []byte(empty))
	if !ok {
		return nil, errors.New("apitype: value is not the first field")
	}
	out := make([]byte, 0, len(empty)+strict.EncodedLen(len(value))+len(b))
	out = append(out, `{"value":`...)
	out = value.append(out)
	return append(out, b...), nil
}
