// Package frame is the wire format of a link (protocol.md section 4.4; SPEC.md
// in this directory has the rules and vectors):
//
//	u32      length of what follows, big-endian
//	0x84     CBOR array of four
//	uint     kind: 1 request, 2 reply, 3 push, 4 failure
//	uint     call id: of the asking side; 0 in a push, never 0 otherwise
//	uint     verb; a reply and a failure repeat that of their request
//	bytes    body; of a failure CBOR [code, text]
//
// A frame has at most 1.25 MiB with its length, and 8 KiB before the sender is
// authenticated. Every integer is in its shortest form (RFC 8949 section
// 4.2.1), so a frame has one encoding.
//
// The package is pure. It reads from an io.Reader that the caller gives
// deadlines to.
package frame
