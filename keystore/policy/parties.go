package policy

import (
	"slices"

	"keymesh/crypto/key"
)

// leaves calls f on every leaf, in order.
func (p *Policy) leaves(f func(*Policy)) {
	if !p.gate() {
		f(p)
	}
	for _, s := range p.subs {
		s.leaves(f)
	}
}

// IsParty reports whether the person is the owner or named anywhere in the
// policy, as an approver, by a recovery key or as one who may veto. Only
// parties learn that a secret exists.
func (p *Policy) IsParty(owner, person key.PersonPublic) bool {
	if person.IsZero() {
		return false
	}
	if person == owner {
		return true // who may always replace and delete it
	}
	found := false
	p.leaves(func(l *Policy) { found = found || slices.Contains(l.keys, person) })
	return found
}

// Persons are the keys that the policy names, in order of mention and not each
// once; the zero key for the owner.
func (p *Policy) Persons() []key.PersonPublic {
	var out []key.PersonPublic
	p.leaves(func(l *Policy) { out = append(out, l.keys...) })
	return out
}

// Approvers are those whose signature some clause wants, recovery keys among
// them, in order of mention and each once.
func (p *Policy) Approvers(owner key.PersonPublic) []key.PersonPublic {
	return p.named(owner, func(l *Policy) bool { return l.kind != kindDelay })
}

// Codes are the recovery keys that the policy names, in order of mention and
// each once.
func (p *Policy) Codes() []key.PersonPublic {
	return p.named(key.PersonPublic{}, func(l *Policy) bool { return l.kind == kindCode })
}

// VetoKeys are those whom some delay lets veto, in order of mention and each
// once. Nobody else's veto counts (protocol.md section 7).
func (p *Policy) VetoKeys(owner key.PersonPublic) []key.PersonPublic {
	return p.named(owner, func(l *Policy) bool { return l.kind == kindDelay })
}

func (p *Policy) named(owner key.PersonPublic, of func(*Policy) bool) []key.PersonPublic {
	var out []key.PersonPublic
	p.leaves(func(l *Policy) {
		if !of(l) {
			return
		}
		for _, k := range l.keys {
			if k.IsZero() && l.kind != kindCode {
				k = owner
			}
			if !k.IsZero() && !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	})
	return out
}

// LongestWait is the longest time in seconds that the delays on one way take,
// so how long a request may have to live: 0 without a delay clause. Delays
// beside one another run together, a delay inside a clause runs before those
// beside the clause.
func (p *Policy) LongestWait() uint64 {
	if p.kind == kindDelay {
		return p.seconds
	}
	var delays, rest uint64
	for _, s := range p.subs {
		if s.kind == kindDelay {
			delays = max(delays, s.seconds)
		} else {
			rest = max(rest, s.LongestWait())
		}
	}
	return delays + rest
}
