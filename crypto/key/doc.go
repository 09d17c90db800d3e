// Package key holds the typed keys of keymesh, their text forms, labelled
// signatures and the one deterministic encoding in which every signed object
// travels (protocol.md sections 1 and 2; SPEC.md in this directory gives the
// bytes).
//
// A signed object on the wire is the CBOR array
//
//	[ type uint, body bytes, key bytes(32), sig bytes(65) ]
//
// where body is deterministic CBOR (RFC 8949 section 4.2.1) with integer keys,
// and sig is the suite byte 0x01 followed by the Ed25519 signature (RFC 8032)
// over T("keymesh/v1/sig/" + type-name, network id, body) with the body as it
// was received. [Sign] is the only function that signs and [Object.Verify] the
// only one that verifies.
//
// The package is pure: it does no I/O but reading the system's random source
// when a key is generated.
package key
