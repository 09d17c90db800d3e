package apitype

import "time"

// PathEvents is the stream of events, as text/event-stream.
const PathEvents = Base + "/events"

// TypeEvents is the content type of [PathEvents].
const TypeEvents = "text/event-stream"

// Kinds of an [Event].
const (
	EventRequest   = "request"   // a request came in
	EventWord      = "word"      // words on it are known that were not before
	EventReleased  = "released"  // a holder gave its row
	EventVetoed    = "vetoed"    // it was ended for good
	EventWithdrawn = "withdrawn" // who asked took it back
	EventGap       = "gap"       // events before the next may be lost; without id and request
)

// Event is something that happened to a request on a secret that the person
// owns, or may approve or stop.
type Event struct {
	ID      string    `json:"id,omitempty"` // to go on after
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Request *Request  `json:"request,omitempty"` // as it was then
}
