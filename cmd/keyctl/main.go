// Keyctl stores, recovers and looks after secrets through a keymesh node's
// local API. It holds no keys and speaks to nobody but that node.
//
// Standard output carries the answer and nothing else; prompts, progress,
// warnings and errors go to standard error. The exit codes are the table of
// apitype, printed by "keyctl help exit-codes".
package main

import "os"

func main() {
	harden()
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
