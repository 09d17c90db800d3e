package apitype

import (
	"encoding/json"
	"time"
)

// PathJobs is where jobs are; a job's id follows it as one segment.
const PathJobs = Base + "/jobs"

// Verbs of jobs. POST [PathSecrets]/{name}/{verb} starts one: the answer is 202
// with the [Job] and its Location.
const (
	JobVerify   = "verify"
	JobRepair   = "repair"
	JobRefresh  = "refresh"
	JobReshare  = "reshare"
	JobRehearse = "rehearse"
)

// States of a [Job].
const (
	JobRunning = "running"
	JobDone    = "done"   // Result and Seats are there
	JobFailed  = "failed" // Problem says why
)

// Job is work on a secret, or on all those of a node, that takes longer than a
// request. The node keeps it
// in memory until an hour after its end, so a restart forgets it: what it has
// done is not undone by that. The same POST again, while it runs, answers with
// the job that runs.
type Job struct {
	ID      string    `json:"id"`
	Verb    string    `json:"verb"`
	Name    string    `json:"name"` // of the secret; id of the node for drain and replace
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Seats   []Seat    `json:"seats"` // empty while it runs
	// Progress is there for drain and replace.
	Progress *MoveProgress `json:"progress,omitempty"`
	// Result is by verb: a [Verified] for verify, a [Repaired] for repair, a
	// [Refreshed] for refresh, a [PutResult] for reshare, a [Rehearsal] for
	// rehearse.
	Result json.RawMessage `json:"result,omitempty"`
	// Problem is what an answer would have been without a job.
	Problem *Problem `json:"problem,omitempty"`
}

// Refreshed is the result of refresh: the holders have other rows of the same
// value.
type Refreshed struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Gen     uint64 `json:"gen"`
	Epoch   uint32 `json:"epoch"` // that is in force now
	N       int    `json:"n"`
	InForce int    `json:"in_force"` // at so many holders; the others are told until they have it
	// Dropped are the holders whose dealings others complained of.
	Dropped []Bad `json:"dropped"`
}

// ReshareRequest is the body of POST /api/v1/secrets/{name}/reshare; the members
// are those of [PutRequest]. What is absent stays as it is. The result is a
// [PutResult].
type ReshareRequest struct {
	N              int      `json:"n,omitempty"`
	K              int      `json:"k,omitempty"`
	W              int      `json:"w,omitempty"`
	Holders        []string `json:"holders,omitempty"`
	AllowColocated bool     `json:"allow_colocated,omitempty"`
	New            bool     `json:"new,omitempty"`
}

// Rehearsal is the result of rehearse: the whole path of a recovery was walked
// with proofs of possession instead of rows. Nothing was released, and nobody
// was asked to approve.
type Rehearsal struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Manifest string `json:"manifest"`
	Gen      uint64 `json:"gen"`
	// OK: it would succeed, at once or after what is missing has come.
	OK bool `json:"ok"`
	// Exit is the exit code of "rehearse": 0, 5 when it would not succeed, 7
	// when Failed is not empty.
	Exit   int `json:"exit_code"`
	N      int `json:"n"`
	K      int `json:"k"`
	Proven int `json:"proven"` // seats that proved their rows
	Margin int `json:"margin"` // of these may still be lost; negative: so many are missing
	// Payloads are the proven seats that have the ciphertext.
	Payloads int `json:"payloads"`
	// Failed are the holders that failed their proof.
	Failed []Bad `json:"failed"`
	// Have of Need signatures are there with the person's own; Missing are the
	// clauses that are not satisfied, in words; Wait, in seconds, is set when
	// only delays are missing.
	Have      int        `json:"have"`
	Need      int        `json:"need"`
	Missing   []string   `json:"missing"`
	Wait      uint64     `json:"wait,omitempty"`
	Approvers []Approver `json:"approvers"`
	Policy    string     `json:"policy"` // in words
	Why       string     `json:"why,omitempty"`
}

// Approver is a person whose signature a recovery can need.
type Approver struct {
	Person    string `json:"person"`
	Nodes     int    `json:"nodes"`            // bound to the person
	Reachable int    `json:"reachable"`        // of these
	Silent    uint64 `json:"silent,omitempty"` // seconds since the last of them was heard; absent: reachable, or not known
}
