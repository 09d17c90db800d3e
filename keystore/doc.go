// Package keystore is what happens to a secret: a dealer splits it and places
// its rows at holders, custodians keep them, a reader joins them again, and
// nothing but holders' answers is needed to find, list or delete it
// (protocol.md sections 1 to 7; SPEC.md in this directory gives the records
// that stay on a writer's disk and argues the order of its steps).
//
// A [Store] has the two sides of a node. The owner's side is [Store.Put],
// [Store.Recover], [Store.Delete], [Store.List] and [Store.Info]; the holder's
// side is [Store.Answer]. Both use one [Shelf] and one [Network]. [New] does no
// I/O and starts nothing; [Store.Run] owns every goroutine that outlives a call.
//
// A Store is safe for concurrent use. Every operation ends by its timeout (30 s
// unless the options say otherwise) with a value or with one of the errors of
// this package.
package keystore
