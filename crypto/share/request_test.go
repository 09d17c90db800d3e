package share

import (
	"bytes"
	"errors"
	"math/big"
	"strings"
	"testing"

	"keymesh/crypto/key"
)

const end = ^uint64(0)

// edges are times around which sums wrap or limits lie.
func edges() (out []uint64) {
	for _, base := range []uint64{
		0, clockSkew, QueryLife, QueryLife + clockSkew, RequestLifeMax, RequestLifeMax + clockSkew, created,
		created + clockSkew, 1 << 63, end - RequestLifeMax, end - clockSkew, end - QueryLife - clockSkew, end - 1,
	} {
		out = append(out, base-1, base, base+1)
	}
	return out
}

func integer(n uint64) *big.Int { return new(big.Int).SetUint64(n) }

func sum(a ...uint64) *big.Int {
	out := new(big.Int)
	for _, n := range a {
		out.Add(out, integer(n))
	}
	return out
}

// In whole numbers, where nothing wraps: expires + skew >= now, and
// expires <= now + life + skew.
func TestLifeIsThatOfWholeNumbers(t *testing.T) {
	for _, life := range []uint64{QueryLife, RequestLifeMax} {
		for _, now := range edges() {
			for _, expires := range edges() {
				want := sum(expires, clockSkew).Cmp(integer(now)) >= 0 && integer(expires).Cmp(sum(now, life, clockSkew)) <= 0
				if err := checkLife(now, expires, life); (err == nil) != want || (err != nil && !errors.Is(err, ErrExpired)) {
					t.Errorf("now %d, expires %d, life %d: %v", now, expires, life, err)
				}
			}
		}
	}
}

func TestRequestsLifeIsThatOfWholeNumbers(t *testing.T) {
	for _, now := range edges() {
		for _, from := range []uint64{0, now - clockSkew - 1, now, now + clockSkew, now + clockSkew + 1, end - 1, end} {
			for _, to := range []uint64{0, from, from + 1, from + RequestLifeMax, from + RequestLifeMax + 1, now - clockSkew, now - clockSkew - 1, end} {
				r := Request{Verb: VerbRecover, Created: from, Expires: to}
				long := from > to || sum(from, RequestLifeMax).Cmp(integer(to)) < 0
				expired := integer(from).Cmp(sum(now, clockSkew)) > 0 || sum(to, clockSkew).Cmp(integer(now)) < 0
				err := r.checkLife()
				if err == nil {
					err = r.CheckTime(now)
				}
				switch {
				case long && !errors.Is(err, ErrRequest),
					!long && expired && !errors.Is(err, ErrExpired),
					!long && !expired && err != nil:
					t.Errorf("now %d, created %d, expires %d: %v", now, from, to, err)
				}
			}
		}
	}
}

func TestQueries(t *testing.T) {
	for name, c := range map[string]struct {
		change func(q *Query)
		want   error
	}{
		"as it is":                {func(*Query) {}, nil},
		"at its end":              {func(q *Query) { q.Expires = created }, nil},
		"by a slow clock":         {func(q *Query) { q.Expires = created - clockSkew }, nil},
		"past":                    {func(q *Query) { q.Expires = created - clockSkew - 1 }, ErrExpired},
		"of the epoch":            {func(q *Query) { q.Expires = 0 }, ErrExpired},
		"by a fast clock":         {func(q *Query) { q.Expires = created + QueryLife + clockSkew }, nil},
		"living too long":         {func(q *Query) { q.Expires = created + QueryLife + clockSkew + 1 }, ErrExpired},
		"living for ever":         {func(q *Query) { q.Expires = end }, ErrExpired},
		"living for ever, nearly": {func(q *Query) { q.Expires = end - clockSkew }, ErrExpired},
		"for another node":        {func(q *Query) { q.Node = node(2).ID() }, ErrRequest},
		"for no node":             {func(q *Query) { q.Node = key.NodeID{} }, ErrRequest},
	} {
		q := fixedQuery()
		c.change(&q)
		got, err := OpenQuery(testNet, SignQuery(approver(), testNet, q).Encode(), node(1).ID(), created)
		if !errors.Is(err, c.want) || (got == nil) != (c.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	q := fixedQuery()
	q.Person = owner().Public()
	b := key.Sign(approver(), testNet, key.TypeQuery, key.Marshal(&q)).Encode()
	if got, err := OpenQuery(testNet, b, node(1).ID(), created); got != nil || !errors.Is(err, ErrRequest) {
		t.Error("an approver asks as the owner:", err)
	}
}

func TestRequests(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *Request)
		want   error
	}{
		"as it is":              {func(*Request) {}, nil},
		"at its end":            {func(r *Request) { r.Created, r.Expires = created-60, created }, nil},
		"of one second":         {func(r *Request) { r.Expires = r.Created }, nil},
		"by a slow clock":       {func(r *Request) { r.Created, r.Expires = created-3600, created-clockSkew }, nil},
		"past":                  {func(r *Request) { r.Created, r.Expires = created-3600, created-clockSkew-1 }, ErrExpired},
		"by a fast clock":       {func(r *Request) { r.Created = created + clockSkew }, nil},
		"from the future":       {func(r *Request) { r.Created = created + clockSkew + 1 }, ErrExpired},
		"as long as may be":     {func(r *Request) { r.Expires = r.Created + RequestLifeMax }, nil},
		"living too long":       {func(r *Request) { r.Expires = r.Created + RequestLifeMax + 1 }, ErrRequest},
		"living for ever":       {func(r *Request) { r.Expires = end }, ErrRequest},
		"always":                {func(r *Request) { r.Created, r.Expires = 0, end }, ErrRequest},
		"at the end of time":    {func(r *Request) { r.Created, r.Expires = end, end }, ErrExpired},
		"expired when created":  {func(r *Request) { r.Expires = r.Created - 1 }, ErrRequest},
		"to recover":            {func(r *Request) { r.Verb = VerbRecover }, nil},
		"to change the policy":  {func(r *Request) { r.Verb = VerbPolicy }, nil},
		"to delete":             {func(r *Request) { r.Verb = VerbDelete }, nil},
		"for nothing":           {func(r *Request) { r.Verb = 0 }, ErrRequest},
		"to rehearse":           {func(r *Request) { r.Verb = VerbRehearse }, nil},
		"for something unknown": {func(r *Request) { r.Verb = 5 }, ErrRequest},
		"the longest key":       {func(r *Request) { r.Ephemeral = make([]byte, MaxEphemeral) }, nil},
		"too long a key":        {func(r *Request) { r.Ephemeral = make([]byte, MaxEphemeral+1) }, ErrRequest},
		"the longest payload":   {func(r *Request) { r.Payload = make([]byte, MaxPayload) }, nil},
		"too long a payload":    {func(r *Request) { r.Payload = make([]byte, MaxPayload+1) }, ErrRequest},
		"the longest purpose":   {func(r *Request) { r.Purpose = strings.Repeat("a", MaxPurpose) }, nil},
		"too long a purpose":    {func(r *Request) { r.Purpose = strings.Repeat("a", MaxPurpose+1) }, ErrRequest},
		"a purpose not of text": {func(r *Request) { r.Purpose = "\xff" }, key.ErrEncoding},
	} {
		r := fixedRequest()
		c.change(&r)
		got, err := OpenRequest(testNet, SignRequest(approver(), testNet, r).Object.Encode(), created)
		if !errors.Is(err, c.want) || (got == nil) != (c.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := fixedRequest()
	r.Person = owner().Public()
	b := key.Sign(approver(), testNet, key.TypeRequest, key.Marshal(&r)).Encode()
	if got, err := OpenRequest(testNet, b, created); got != nil || !errors.Is(err, ErrRequest) {
		t.Error("an approver requests as the owner:", err)
	}
}

func TestApprovals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(a *Approval)
		want   error
	}{
		"as it is":         {func(*Approval) {}, nil},
		"a veto":           {func(a *Approval) { a.Verdict = VerdictVeto }, nil},
		"no verdict":       {func(a *Approval) { a.Verdict = 0 }, ErrRequest},
		"a note":           {func(a *Approval) { a.Note = string(make([]byte, MaxNote)) }, nil},
		"a long note":      {func(a *Approval) { a.Note = string(make([]byte, MaxNote+1)) }, ErrRequest},
		"verdict 3":        {func(a *Approval) { a.Verdict = 3 }, ErrRequest},
		"at its end":       {func(a *Approval) { a.Expires = created }, nil},
		"by a slow clock":  {func(a *Approval) { a.Expires = created - clockSkew }, nil},
		"past":             {func(a *Approval) { a.Expires = created - clockSkew - 1 }, ErrExpired},
		"by a fast clock":  {func(a *Approval) { a.Expires = created + RequestLifeMax + clockSkew }, nil},
		"living too long":  {func(a *Approval) { a.Expires = created + RequestLifeMax + clockSkew + 1 }, ErrExpired},
		"living for ever":  {func(a *Approval) { a.Expires = end }, ErrExpired},
		"without an end":   {func(a *Approval) { a.Expires = 0 }, ErrExpired},
		"of a wrapped sum": {func(a *Approval) { a.Expires = end - clockSkew + 1 }, ErrExpired},
	} {
		a := fixedApproval()
		c.change(&a)
		got, err := OpenApproval(testNet, SignApproval(owner(), testNet, a).Encode(), created)
		if !errors.Is(err, c.want) || (got == nil) != (c.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := fixedApproval()
	a.Person = owner().Public()
	b := key.Sign(approver(), testNet, key.TypeApproval, key.Marshal(&a)).Encode()
	if got, err := OpenApproval(testNet, b, created); got != nil || !errors.Is(err, ErrRequest) {
		t.Error("an approver approves as the owner:", err)
	}
}

// A Request is named by what it says and by nothing else: one that differs in
// any field is another, for which no approval was given.
func TestARequestIsApprovedInAllItsFields(t *testing.T) {
	seen := map[key.Hash]string{SignRequest(approver(), testNet, fixedRequest()).Hash: "as it is"}
	for name, change := range map[string]func(r *Request){
		"id":        func(r *Request) { r.ID[31] ^= 1 },
		"gen":       func(r *Request) { r.Gen++ },
		"ephemeral": func(r *Request) { r.Ephemeral = bytes.Repeat([]byte{0xe8}, 1216) },
		"nonce":     func(r *Request) { r.Nonce[0] ^= 1 },
		"verb":      func(r *Request) { r.Verb++ },
		"payload":   func(r *Request) { r.Payload = []byte{0} },
		"purpose":   func(r *Request) { r.Purpose += "." },
		"created":   func(r *Request) { r.Created++ },
		"expires":   func(r *Request) { r.Expires++ },
		"manifest":  func(r *Request) { r.Manifest[0] ^= 1 },
	} {
		r := fixedRequest()
		change(&r)
		h := SignRequest(approver(), testNet, r).Hash
		if other, ok := seen[h]; ok {
			t.Errorf("another %s has the hash of %s", name, other)
		}
		seen[h] = name
	}
	if h := SignRequest(owner(), testNet, fixedRequest()).Hash; seen[h] != "" {
		t.Error("another person's has the hash of", seen[h])
	}
}

func TestTombstones(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *Tombstone)
		want   error
	}{
		"as it is":                 {func(*Tombstone) {}, nil},
		"of one generation":        {func(s *Tombstone) { s.Scope = ScopeOne }, nil},
		"of the first":             {func(s *Tombstone) { s.Gen = 1 }, nil},
		"of the last":              {func(s *Tombstone) { s.Gen = end }, nil},
		"at the end of time":       {func(s *Tombstone) { s.Time = end }, nil},
		"of generation 0":          {func(s *Tombstone) { s.Gen = 0 }, ErrTombstone},
		"of no scope":              {func(s *Tombstone) { s.Scope = 0 }, ErrTombstone},
		"of scope 3":               {func(s *Tombstone) { s.Scope = 3 }, ErrTombstone},
		"of another id":            {func(s *Tombstone) { s.ID[0] ^= 1 }, ErrTombstone},
		"of another salt":          {func(s *Tombstone) { s.Salt[0] ^= 1 }, ErrTombstone},
		"of another's id":          {func(s *Tombstone) { s.ID = ID(approver().Public(), s.Salt) }, ErrTombstone},
		"of another owner":         {func(s *Tombstone) { s.Owner = approver().Public() }, ErrTombstone},
		"of another owner, its id": {func(s *Tombstone) { s.Owner = approver().Public(); s.ID = ID(s.Owner, s.Salt) }, ErrTombstone},
	} {
		s := fixedTombstone()
		c.change(&s)
		got, h, err := OpenTombstone(testNet, SignTombstone(owner(), testNet, s).Encode())
		if !errors.Is(err, c.want) || (got == nil) != (c.want != nil) || h.IsZero() != (c.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who does not own the id cannot delete it, whatever it writes.
	for name, change := range map[string]func(s *Tombstone){
		"as the owner":         func(*Tombstone) {},
		"as itself":            func(s *Tombstone) { s.Owner = approver().Public() },
		"as itself, no salt":   func(s *Tombstone) { s.Owner, s.Salt = approver().Public(), key.Hash{} },
		"as nobody":            func(s *Tombstone) { s.Owner = key.PersonPublic{} },
		"with the id as salt":  func(s *Tombstone) { s.Owner, s.Salt = approver().Public(), s.ID },
		"as nobody for no one": func(s *Tombstone) { s.Owner, s.ID, s.Salt = key.PersonPublic{}, key.Hash{}, key.Hash{} },
	} {
		s := fixedTombstone()
		change(&s)
		if got, h, err := OpenTombstone(testNet, SignTombstone(approver(), testNet, s).Encode()); got != nil || !h.IsZero() || !errors.Is(err, ErrTombstone) {
			t.Errorf("a stranger deletes %s: %v", name, err)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		scope    uint8
		gen, has uint64
		want     bool
	}{
		{ScopeOne, 5, 5, true}, {ScopeOne, 5, 4, false}, {ScopeOne, 5, 6, false},
		{ScopeAll, 5, 5, true}, {ScopeAll, 5, 4, true}, {ScopeAll, 5, 0, true}, {ScopeAll, 5, 6, false}, {ScopeAll, 5, end, false},
		{ScopeAll, end, end, true}, {ScopeOne, end, 0, false},
	} {
		s := Tombstone{Scope: c.scope, Gen: c.gen}
		if s.Covers(c.has) != c.want {
			t.Errorf("scope %d of %d covers %d: %v", c.scope, c.gen, c.has, !c.want)
		}
	}
}
