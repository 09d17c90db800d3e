package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

const exportKind = "audit log"

// maxExportLine bounds a line of an export, in bytes.
const maxExportLine = 16 << 10

// exportStart is the first line of an export.
type exportStart struct {
	Keymesh string        `json:"keymesh"` // "audit log"
	Version int           `json:"version"`
	Network key.NetworkID `json:"network"`
	Node    key.NodeID    `json:"node"`
	Log     string        `json:"log"` // id of the log, hexadecimal
}

// exportEntry is a line for an entry.
type exportEntry struct {
	Seq       uint64   `json:"seq"`
	Prev      key.Hash `json:"prev"`
	Time      uint64   `json:"time"`
	Kind      string   `json:"kind"`
	ID        key.Hash `json:"id,omitzero"`
	Person    string   `json:"person,omitempty"`
	Node      string   `json:"node,omitempty"`
	Request   key.Hash `json:"request,omitzero"`
	Detail    string   `json:"detail,omitempty"`
	RequestID string   `json:"request_id,omitempty"`
	Hash      key.Hash `json:"hash"`
}

// exportWitness is a line for a head that a peer holds. Which peer that is, is
// the exporter's word.
type exportWitness struct {
	Peer key.NodeID `json:"peer"`
	Head []byte     `json:"head"`
}

// exportEnd is the last line.
type exportEnd struct {
	End  uint64   `json:"end"`
	Hash key.Hash `json:"hash"`
	Head []byte   `json:"head,omitempty"` // signed by the node
}

// Export writes the whole log as JSON lines that [VerifyExport] checks without
// any key: a line with network, node and log, one for each head of this log that
// a peer holds, one for each entry with its hash and the one before, and one
// with the end. sign, when not nil, is asked to sign the head with which the
// export ends; without it an export proves its order but not its origin.
func (a *Audit) Export(ctx context.Context, w io.Writer, sign func(share.AuditHead) key.Object) error {
	if err := a.startRead(); err != nil {
		return err
	}
	defer a.reads.RUnlock()
	held := a.ownHeads()
	v := a.view()
	end := exportEnd{End: v.pos.seq, Hash: v.pos.hash}
	if sign != nil {
		h, err := a.Head()
		if err != nil {
			return err
		}
		v, end = a.view(), exportEnd{End: h.Seq, Hash: h.Hash, Head: sign(h).Encode()}
	}
	out := lineWriter{w: bufio.NewWriter(w)}
	out.line(exportStart{exportKind, format, a.net, a.node, hex.EncodeToString(a.id[:])})
	for _, c := range held {
		out.line(exportWitness{c.peer, c.object})
	}
	err := a.each(ctx, &v, 1, func(e *AuditEntry) error {
		if e.Seq > end.End {
			return errEnough
		}
		out.line(e.line())
		return out.err
	})
	out.line(end)
	if err == errEnough {
		err = nil
	}
	if err = errors.Join(err, out.err); err == nil {
		err = out.w.Flush()
	}
	if err != nil {
		return fmt.Errorf("exporting the audit log: %w", err)
	}
	return nil
}

// lineWriter writes JSON lines until one fails.
type lineWriter struct {
	w   *bufio.Writer
	err error
}

func (l *lineWriter) line(x any) {
	if l.err != nil {
		return
	}
	b, err := json.Marshal(x)
	if err == nil {
		_, err = l.w.Write(append(b, '\n'))
	}
	l.err = err
}

// line is the entry as it is exported.
func (e *AuditEntry) line() exportEntry {
	return exportEntry{
		Seq: e.Seq, Prev: e.Prev, Time: e.Time, Kind: e.Kind, ID: e.ID, Person: e.Person,
		Node: e.Node, Request: e.Request, Detail: e.Detail, RequestID: e.RequestID, Hash: e.Hash,
	}
}

// ExportReport says what an export that is in order shows.
type ExportReport struct {
	Network key.NetworkID
	Node    key.NodeID // whose log it is; the caller knows whom it asked
	Seq     uint64     // of the last entry
	Hash    key.Hash   // of the last entry
	// Signed is the time of the node's signature under the end, 0 without one.
	Signed uint64
	// Heads is how many heads signed by the node, of its peers and of the
	// caller, agree with the export.
	Heads int
}

// VerifyExport checks an export that was read from anywhere: that every line is
// as Export writes it, that the entries are all there and in order, and that
// they bear out every head that the node signed: those that its peers hold, the
// one under the end, and those that the caller got from peers. Errors wrap
// [ErrDamaged], naming the first bad line, or [ErrRewritten].
func VerifyExport(r io.Reader, heads ...[]byte) (ExportReport, error) {
	return checkExport(r, func(key.NetworkID, key.NodeID) [][]byte { return heads })
}

func checkExport(r io.Reader, heads func(key.NetworkID, key.NodeID) [][]byte) (ExportReport, error) {
	c := exportCheck{lines: bufio.NewScanner(r)}
	c.lines.Buffer(nil, maxExportLine)
	if err := c.run(heads); err != nil {
		return ExportReport{}, err
	}
	return c.rep, nil
}

// VerifyExport is the function of that name with the heads that are kept here of
// the node whose log the export is of, a peer or this one.
func (a *Audit) VerifyExport(r io.Reader) (ExportReport, error) {
	return checkExport(r, a.headsOf)
}

// headsOf are the heads kept here that a node signed.
func (a *Audit) headsOf(net key.NetworkID, node key.NodeID) [][]byte {
	if net != a.net {
		return nil
	}
	var out [][]byte
	for _, w := range a.Witnesses() {
		for _, b := range append(append([][]byte{w.Mine, w.Theirs}, w.Proof...), w.Earlier...) {
			if h := a.known(b); h != nil && h.Node == node {
				out = append(out, b)
			}
		}
	}
	return out
}

// exportCheck is one run of VerifyExport.
type exportCheck struct {
	lines  *bufio.Scanner
	number int // of the line
	rep    ExportReport
	pos    position
	claims claims // heads that the entries must bear out
}

// maxClaims bounds the heads in an export.
const maxClaims = 4 * maxWitnesses

func (c *exportCheck) bad(format string, a ...any) error {
	return damaged("line %d of the export: %s", c.number, fmt.Sprintf(format, a...))
}

func (c *exportCheck) run(heads func(key.NetworkID, key.NodeID) [][]byte) error {
	if err := c.start(); err != nil {
		return err
	}
	for _, b := range heads(c.rep.Network, c.rep.Node) {
		if err := c.claim(key.NodeID{}, b); err != nil {
			return err
		}
	}
	if err := c.claims.check(0, c.pos.hash); err != nil {
		return err
	}
	for {
		b, err := c.next()
		if err != nil {
			return err
		}
		switch {
		case bytes.HasPrefix(b, []byte(`{"peer":`)) && c.pos.seq == 0:
			err = c.witness(b)
		case bytes.HasPrefix(b, []byte(`{"end":`)):
			return c.end(b)
		default:
			err = c.entry(b)
		}
		if err != nil {
			return err
		}
	}
}

func (c *exportCheck) next() ([]byte, error) {
	c.number++
	if c.lines.Scan() {
		return c.lines.Bytes(), nil
	}
	if err := c.lines.Err(); err != nil {
		return nil, c.bad("%v", err)
	}
	return nil, c.bad("it is missing: the export was cut off")
}

// parse reads a line, which must be what Export makes of x.
func (c *exportCheck) parse(b []byte, x any) error {
	if err := json.Unmarshal(b, x); err != nil {
		return c.bad("it does not parse")
	}
	if again, err := json.Marshal(x); err != nil || !bytes.Equal(again, b) {
		return c.bad("it is not written as it should be")
	}
	return nil
}

func (c *exportCheck) start() error {
	b, err := c.next()
	if err != nil {
		return err
	}
	var s exportStart
	if err := c.parse(b, &s); err != nil {
		return err
	}
	id, err := hex.DecodeString(s.Log)
	if err != nil || len(id) != len(storeID{}) || hex.EncodeToString(id) != s.Log || s.Keymesh != exportKind {
		return c.bad("no export of an audit log begins so")
	}
	if s.Version != format {
		return fmt.Errorf("%w: the export has %d", ErrVersion, s.Version)
	}
	c.rep.Network, c.rep.Node = s.Network, s.Node
	c.pos.hash = chainStart(s.Network, s.Node, storeID(id))
	return nil
}

// claim notes a head that the node has signed.
func (c *exportCheck) claim(peer key.NodeID, b []byte) error {
	h, err := share.OpenAuditHead(c.rep.Network, b)
	if err != nil {
		return c.bad("a head: %v", err)
	}
	if h.Node != c.rep.Node || len(c.claims) >= maxClaims {
		return c.bad("a head of another node, or too many")
	}
	c.claims = append(c.claims, claim{peer, b, *h})
	return nil
}

func (c *exportCheck) witness(b []byte) error {
	var w exportWitness
	if err := c.parse(b, &w); err != nil {
		return err
	}
	if err := c.claim(w.Peer, w.Head); err != nil {
		return err
	}
	return c.claims[len(c.claims)-1:].check(0, c.pos.hash)
}

func (c *exportCheck) entry(b []byte) error {
	var x exportEntry
	if err := c.parse(b, &x); err != nil {
		return err
	}
	e := AuditEntry{
		Seq: x.Seq, Prev: x.Prev, Time: x.Time, Kind: x.Kind, ID: x.ID, Person: x.Person,
		Node: x.Node, Request: x.Request, Detail: x.Detail, RequestID: x.RequestID,
	}
	if err := e.check(); err != nil {
		return c.bad("%v", err)
	}
	if e.Seq != c.pos.seq+1 {
		return c.bad("entry %d stands where entry %d should", e.Seq, c.pos.seq+1)
	}
	e.encode()
	if e.Prev != c.pos.hash {
		return c.bad("entry %d does not follow entry %d", e.Seq, c.pos.seq)
	}
	if e.Hash != x.Hash {
		return c.bad("entry %d was changed", e.Seq)
	}
	c.pos = position{e.Seq, e.Hash}
	return c.claims.check(e.Seq, e.Hash)
}

func (c *exportCheck) end(b []byte) error {
	var x exportEnd
	if err := c.parse(b, &x); err != nil {
		return err
	}
	if x.End != c.pos.seq || x.Hash != c.pos.hash {
		return c.bad("the export ends with entry %d, and the log with entry %d", c.pos.seq, x.End)
	}
	if len(x.Head) > 0 {
		if err := c.claim(c.rep.Node, x.Head); err != nil {
			return err
		}
		h := c.claims[len(c.claims)-1]
		if h.Seq != x.End || h.Hash != x.Hash {
			return c.bad("the signature is not under the end")
		}
		c.rep.Signed = h.Time
	}
	if err := c.claims.end(c.pos.seq); err != nil {
		return err
	}
	if c.lines.Scan() || c.lines.Err() != nil {
		c.number++
		return c.bad("there is more after the end")
	}
	c.rep.Seq, c.rep.Hash, c.rep.Heads = c.pos.seq, c.pos.hash, len(c.claims)
	return nil
}
