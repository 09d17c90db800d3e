package api

import (
	"context"
	"errors"
	"fmt"

	"keymesh/api/apitype"
	"keymesh/keystore"
)

// op is what a request was doing when an error came; it decides between the
// problems of reads and of writes.
type op struct {
	write       bool // reached, or may have reached, holders with a change
	deletes     bool // the change is a deletion
	conditional bool // If-Match or If-None-Match
}

// problemOf maps an error to its problem (interface.md). Whatever is not
// expected is an internal problem without detail; see [Server.answerError] for
// what is logged.
func problemOf(err error, o op) *apitype.Problem {
	if p := asProblem(err); p != nil {
		return p
	}
	if p := certain(err, o); p != nil {
		return p
	}
	switch {
	case errors.Is(err, keystore.ErrVetoed):
		return apitype.NewProblem(apitype.Denied, "the request was vetoed")
	case errors.Is(err, keystore.ErrNoRequest):
		return apitype.NewProblem(apitype.NotFound, "this node knows of no such request of, or for, this person")
	case errors.Is(err, keystore.ErrEnded):
		return apitype.NewProblem(apitype.Gone, "%.500s", err)
	case errors.Is(err, keystore.ErrNotAlone):
		return apitype.NewProblem(apitype.Denied, "%.500s", err)
	case errors.Is(err, keystore.ErrDenied):
		return apitype.NewProblem(apitype.Denied, "every holder that answered denies this person")
	case errors.Is(err, keystore.ErrExpired):
		return apitype.NewProblem(apitype.NotFound, "the secret, or this generation of it, has expired")
	case errors.Is(err, keystore.ErrNotFound):
		return apitype.NewProblem(apitype.NotFound, "no such secret or generation")
	case errors.Is(err, keystore.ErrTooLarge):
		return apitype.NewProblem(apitype.TooLarge, "the value is longer than %d bytes", apitype.MaxValue)
	case errors.Is(err, keystore.ErrInput):
		return apitype.NewProblem(apitype.Unprocessable, "%.500s", err)
	case errors.Is(err, keystore.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		if o.write {
			return hinted(apitype.NewProblem(apitype.InDoubt, "the deadline passed; the write may still complete"))
		}
		return hinted(apitype.NewProblem(apitype.Timeout, "the holders did not answer in time"))
	case errors.Is(err, context.Canceled), errors.Is(err, errDraining):
		if o.write {
			return hinted(apitype.NewProblem(apitype.InDoubt, "the request was cut off; the write may still complete"))
		}
		return hinted(apitype.NewProblem(apitype.Unavailable, "the node is stopping"))
	}
	return apitype.NewProblem(apitype.Internal, "")
}

// certain maps the errors that carry an account of the holders.
func certain(err error, o op) *apitype.Problem {
	var (
		doubt *keystore.InDoubtError
		confl *keystore.ConflictError
		integ *keystore.IntegrityError
		quor  *keystore.QuorumError
		place *keystore.PlacementError
		p     *apitype.Problem
	)
	switch {
	case errors.Is(err, keystore.ErrStopped):
		p = apitype.NewProblem(apitype.Damaged, "the node's own store or its audit log has failed and serves nothing")
	case errors.As(err, &doubt):
		p = apitype.NewProblem(apitype.InDoubt, "%.500s", doubt)
		p.Need, p.Have, p.Gen, p.Peers = doubt.Need, doubt.Have, doubt.Gen, states(doubt.Seats)
		if !doubt.Manifest.IsZero() {
			p.Manifest = doubt.Manifest.String()
		}
	case errors.As(err, &confl):
		p = conflict(confl, o)
	case errors.As(err, &integ):
		p = apitype.NewProblem(apitype.Integrity, "%.500s", integ)
		p.Need, p.Have, p.Bad = integ.Need, integ.Have, badRows(integ.Bad)
	case errors.Is(err, keystore.ErrFull):
		p = apitype.NewProblem(apitype.Full, "too many holders have no room; nothing was stored")
		if errors.As(err, &quor) {
			p.Need, p.Have, p.Peers = quor.Need, quor.Have, states(quor.Seats)
		}
	case errors.As(err, &place):
		p = apitype.NewProblem(apitype.Holders, "%.500s", place)
		p.Need, p.Have, p.Peers = place.Want, place.Have, states(place.Seats)
	case errors.As(err, &quor):
		t := apitype.Quorum
		if o.write {
			t = apitype.Holders
		}
		p = apitype.NewProblem(t, "%.500s", quor)
		p.Need, p.Have, p.Peers = quor.Need, quor.Have, states(quor.Seats)
	default:
		return nil
	}
	hinted(p)
	if o.deletes && p.Type == apitype.Holders {
		p.Hint = "nothing was deleted; bring the silent holders back and repeat it"
	}
	if o.deletes && p.Type == apitype.InDoubt {
		p.Hint = "the holders that miss the deletion are told when they are back; repeating it asks them again"
	}
	return p
}

func conflict(e *keystore.ConflictError, o op) *apitype.Problem {
	t := apitype.Conflict
	switch {
	case len(e.Fork) > 0:
		t = apitype.Fork
	case o.conditional:
		t = apitype.Precondition
	}
	p := apitype.NewProblem(t, "%.500s", e)
	p.Gen = e.Have
	for _, m := range e.Fork {
		p.Manifests = append(p.Manifests, m.String())
	}
	return p
}

// hinted adds what to do next.
func hinted(p *apitype.Problem) *apitype.Problem {
	switch p.Type {
	case apitype.InDoubt:
		p.Hint = "repeat the request: it continues the same write"
	case apitype.Fork:
		p.Hint = "recover one of the manifests by its hash, then put the right value"
	case apitype.Conflict, apitype.Precondition:
		p.Hint = "look at the generation that is there and decide again"
	case apitype.Quorum:
		p.Hint = "bring the unreachable holders back"
	case apitype.Holders:
		p.Hint = "bring holders back or invite more; nothing was stored"
	case apitype.Integrity:
		p.Hint = "the named holders gave bad rows: have their operators look, and bring the others back"
	case apitype.Full:
		p.Hint = "make room at the full holders or invite more"
	case apitype.Damaged:
		p.Hint = "see the node's log; restart it once the disk is well"
	case apitype.Timeout:
		p.Hint = "try again with a longer timeout"
	case apitype.RateLimited, apitype.Unavailable:
		p.Hint = "try again in a moment"
	}
	return p
}

// asProblem returns a copy of a problem in the chain of err, made to agree with
// the table.
func asProblem(err error) *apitype.Problem {
	var p *apitype.Problem
	if !errors.As(err, &p) {
		return nil
	}
	out := *p
	k, ok := apitype.KindOf(p.Type)
	if !ok {
		return apitype.NewProblem(apitype.Internal, "")
	}
	out.Title, out.Status, out.Exit = k.Title, k.Status, k.Exit
	return &out
}

func states(seats []keystore.SeatState) []apitype.PeerState {
	var out []apitype.PeerState
	for _, s := range seats {
		out = append(out, apitype.PeerState{Node: s.Node.String(), Name: s.Name, Operator: s.Operator, State: s.State, Why: bounded(s.Why)})
	}
	return out
}

func badRows(rows []keystore.BadRow) []apitype.Bad {
	out := make([]apitype.Bad, 0, len(rows))
	for _, b := range rows {
		out = append(out, apitype.Bad{Node: b.Node.String(), Name: b.Name, Why: bounded(b.Why)})
	}
	return out
}

// bounded cuts text that may quote a peer.
func bounded(s string) string { return fmt.Sprintf("%.500s", s) }
