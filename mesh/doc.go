// Package mesh links the nodes of a network to one another and carries calls
// and pushes between them (protocol.md sections 4 and 5).
//
// A link is a WebSocket whose binary messages carry TLS 1.3 between the two
// nodes' own keys, in which frames of package mesh/frame travel. Whoever is in
// between, a reverse proxy or a relay, sees neither frames nor identities. Each
// node keeps the signed roster of the whole network (package mesh/roster), so
// that one known peer is enough to find all others.
//
// A [Node] starts nothing before [Node.Run], which owns every goroutine and
// ends after the last of them. The caller injects the listener and the dialler,
// so whole clusters run over mesh/memnet inside a testing/synctest bubble.
//
// # Bounds
//
// Before a peer has proved membership: 8 KiB read, 5 s, 32 such connections in
// all and 8 an address. Afterwards: frames of 1.25 MiB, 64 calls and 8 MiB in
// flight a peer and direction, 64 MiB in all. Verbs whose [Traits] say
// Unmetered wait in a fair queue; all others are limited to 20/s with a burst
// of 50 a peer. What is over a limit is answered "busy" and not looked at.
package mesh
