package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"keymesh/api/apitype"
)

// rehearse starts a job that has ended once it is asked about.
func (f *fakeNode) rehearse(name string) (any, *apitype.Problem) {
	s, p := f.find(name, 0)
	if p != nil {
		return nil, p
	}
	r := apitype.Rehearsal{Name: name, ID: strings.Repeat("1d", 32), Manifest: strings.Repeat("ab", 32), Gen: s.gen, N: 5, K: 3, Have: 1, Need: 1,
		Failed: []apitype.Bad{}, Missing: []string{}, Approvers: []apitype.Approver{{Person: "person-" + strings.Repeat("q", 52), Nodes: 1, Silent: 90}}, Policy: "the owner"}
	seats := f.seats(func(n string) string {
		switch {
		case f.offline[n]:
			return "unreachable"
		case f.liars[n]:
			r.Failed = append(r.Failed, apitype.Bad{Node: nodeID(n), Name: n, Why: "its proof does not open"})
			return "bad"
		}
		r.Proven++
		return "proven"
	})
	for i := range seats {
		if seats[i].State == "unreachable" {
			seats[i].Silent = 3600
		}
	}
	r.Margin, r.Payloads, r.OK = r.Proven-3, r.Proven, r.Proven >= 3
	if !r.OK {
		r.Exit, r.Why = apitype.ExitQuorum, fmt.Sprintf("%d seats prove their rows and 3 are needed", r.Proven)
	}
	if len(r.Failed) > 0 {
		r.Exit = apitype.ExitIntegrity
	}
	result, _ := json.Marshal(r)
	j := apitype.Job{ID: "JOB" + strconv.Itoa(len(f.jobs)), Verb: "rehearse", Name: name, State: apitype.JobRunning, Seats: []apitype.Seat{}}
	done := j
	done.State, done.Seats, done.Result = apitype.JobDone, seats, result
	f.jobs[j.ID] = done
	return j, nil
}

// move starts a job that moves a thousand seats, one of which stays where a holder
// is offline. It shows its progress while the fake is asleep.
func (f *fakeNode) move(verb, node string, req fakeRequest) apitype.Job {
	by, _ := req.body["new"].(string)
	r := apitype.MoveResult{Node: node, New: by, Moved: 1000, Bytes: 196000, Seconds: 12.34, Failed: []apitype.MoveStays{}, Notes: []string{}}
	if f.offline["echo"] {
		r.Moved, r.NotMoved, r.Still, r.Exit, r.Notes = 999, 1, 2, apitype.ExitQuorum, []string{"a note\x1b[2J"}
		r.Failed = append(r.Failed, apitype.MoveStays{Name: "demo/db\x1b", ID: strings.Repeat("1d", 32), Why: "no node can take the seat"})
	}
	j := apitype.Job{ID: "JOB" + strconv.Itoa(len(f.jobs)), Verb: verb, Name: node, State: apitype.JobRunning, Seats: []apitype.Seat{},
		Progress: &apitype.MoveProgress{Found: 1000, Done: 400, Left: 600, AtRisk: 3}}
	done := j
	done.State = apitype.JobDone
	done.Result, _ = json.Marshal(r)
	f.jobs[j.ID] = done
	return j
}

func (f *fakeNode) job(id string) (any, *apitype.Problem) {
	j, ok := f.jobs[id]
	if !ok {
		return nil, apitype.NewProblem(apitype.NotFound, "there is no such job")
	}
	if f.asleep > 0 {
		f.asleep--
		j.State, j.Seats, j.Result = apitype.JobRunning, nil, nil
	}
	return j, nil
}

// look shows a request. That of a recovery which is answered 202 has a word
// more each time that it is looked at, and is ready when none is missing.
func (f *fakeNode) look(id string) (any, *apitype.Problem) {
	for _, r := range f.asks {
		if r.Request == id {
			return r, nil
		}
	}
	f.looks++
	r := apitype.Request{Request: id, State: "open", Mine: true, Have: 2 - f.missing, Need: 3, Missing: []string{"1 more of ann, bob"}, Version: strconv.Itoa(f.looks), Ready: f.missing == 0}
	for i := range 2 - f.missing {
		r.Said = append(r.Said, apitype.Said{Person: "person-" + strings.Repeat(string(rune('x'+i)), 52), Name: []string{"ann", "bob"}[i], Note: "yes\x1b[2J"})
	}
	if f.missing > 0 {
		f.missing--
	}
	return r, nil
}

// receipt knows one true receipt, and one of another network.
func (f *fakeNode) receipt(raw string) apitype.Receipt {
	switch raw {
	case "true", "elsewhere":
		return apitype.Receipt{Valid: true, Here: raw == "true", Network: "network-x", ID: strings.Repeat("1d", 32), Gen: 3, Owner: "person-o", OwnerName: "olga",
			Requester: "person-r", Words: []string{"one", "two"}, Reason: "ill\x1b", K: 3, N: 5, Policy: "any of the owner", Approvals: []apitype.Said{{Person: "person-a", Name: "ann"}},
			Releases: []apitype.Release{{Node: nodeID("alpha"), Name: "alpha", X: 1, Audit: 42}}}
	}
	return apitype.Receipt{Why: "an approval: the signature is wrong"}
}
