// Package roster holds the signed objects of membership and the rule by which
// a node merges them (protocol.md sections 2 and 5; SPEC.md in this directory
// gives the bytes):
//
//	network authority --IssuerCert--> issuer --MemberCert--> node --NodeRecord--> everybody
//	person --PersonBinding--> node          issuer or authority --Revocation--> everybody
//
// A chain holds when the IssuerCert is signed by the key whose SHA-256 is the
// network id, the MemberCert by the key that the IssuerCert names, and the
// NodeRecord by the key whose SHA-256 is the node id in the MemberCert. What
// has expired still holds, but counts as lapsed; what was revoked never does.
//
// The package is pure: the time is an argument, nothing is stored or sent. No
// type in it is safe for concurrent use.
package roster
