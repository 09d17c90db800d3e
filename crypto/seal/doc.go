// Package seal encrypts: to a node's sealing key (HPKE), a secret's payload
// under its data key, records at rest, labels under the index key, and under a
// passphrase (protocol.md sections 2 and 3).
//
// Every box but the payload starts with the suite byte 0x01; the payload's
// suite is the manifest's and is bound by its context. || is concatenation,
// integers are big-endian.
//
//	to a key     0x01 | enc 1120 | ChaCha20-Poly1305        [To], [PrivateKey.Open]
//	at rest      0x01 | nonce 24 | XChaCha20-Poly1305       [Box], [Unbox]
//	label        as at rest, plaintext padded               [SealLabel], [OpenLabel]
//	payload      XChaCha20-Poly1305, plaintext padded       [Keys.Seal], [Keys.Open]
//	passphrase   0x01 | t 1 | KiB 4 | p 1 | salt 16 | nonce 24 | XChaCha20-Poly1305
//	                                                        [UnderPassphrase], [OpenPassphrase]
//
// To a key: HPKE base mode (RFC 9180) with MLKEM768-X25519 (draft-ietf-hpke-pq,
// X-Wing), HKDF-SHA256 and ChaCha20Poly1305, empty aad, and as info the 32 bytes
//
//	T("keymesh/v1/seal", purpose, H(manifest), x, epoch, node, H(request))
//
// where x and epoch are integers (u64 in T), node is the sending node of a
// Release and the receiving node of a dealing, and H(request) is 32 zero bytes
// where there is no request. [Info] computes it.
//
// Payload: okm = HKDF-SHA256(DK, salt=ctx, info="keymesh/v1/dk", 88 bytes) =
// key 32 | nonce 24 | kc 32; ciphertext = XChaCha20-Poly1305(key, nonce,
// pad(secret), aad=ctx).
//
// Padding is that of ISO/IEC 7816-4: one byte 0x80, then zeros up to the
// smallest size of the list that holds it. The lists are 256 B, 1, 4, 16, 64,
// 256 KiB and 1 MiB for payloads, and 256, 512, 768 and 1024 B for labels.
//
// Passphrase: the key is Argon2id (RFC 9106) of passphrase and salt with t
// passes, KiB of memory and p lanes, 32 bytes; aad is the header, all before
// the ciphertext. Parameters outside [KDFParams]' limits are refused before any
// work, on writing and on reading alike.
//
// The package is pure but for the system's random source. Everything is safe
// for concurrent use but [Keys].
package seal
