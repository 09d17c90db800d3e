// Package share holds what is said about a secret: the manifest with its
// commitments, receipts, commit certificates, tombstones, queries, requests,
// releases, reassignments, parts of a refresh and heads of audit logs (protocol.md
// sections 1 to 9). It builds,
// parses and verifies them and knows nothing of networks or disks.
//
// Every body is deterministic CBOR with integer keys (SPEC.md lists them) and
// travels in a [key.Object]. A function named Open verifies signature, encoding
// and the rules that the object alone can break; it never says that the signer
// was entitled to anything beyond that.
package share
