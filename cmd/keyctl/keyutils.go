package main

import (
	"fmt"

	"keymesh/api/apitype"
)

// keyutilsVerbs are the verbs of the other keyctl, the one of Linux keyutils
// (keyctl(1) of keyutils 1.6), each with the verb of ours that does the
// nearest thing, or "". None of ours may ever equal one of these: a script
// written for one program must never half-work with the other.
var keyutilsVerbs = map[string]string{
	"add": "put", "padd": "put", "update": "put", "pupdate": "put",
	"instantiate": "put", "pinstantiate": "put", "negate": "", "reject": "",
	"request": "get", "request2": "get", "prequest2": "get",
	"read": "get", "print": "get", "pipe": "get",
	"list": "ls", "rlist": "ls", "search": "ls", "show": "ls",
	"describe": "info", "rdescribe": "info", "security": "info",
	"revoke": "rm", "unlink": "rm", "invalidate": "rm", "purge": "rm",
	"clear": "rm", "reap": "rm", "timeout": "put", "id": "whoami",
	"link": "", "move": "", "newring": "", "new_session": "", "session": "",
	"chown": "", "chgrp": "", "setperm": "", "restrict_keyring": "",
	"persistent": "", "get_persistent": "", "supports": "version", "test": "",
	"dh_compute": "", "dh_compute_kdf": "", "dh_compute_kdf_oi": "",
	"pkey_query": "", "pkey_encrypt": "", "pkey_decrypt": "", "pkey_sign": "", "pkey_verify": "",
	"watch": "status", "watch_add": "", "watch_rm": "", "watch_session": "", "watch_sync": "",
}

// keyutilsError says that verb belongs to the other program.
func keyutilsError(verb string) error {
	hint := "run keyutils' own by its path, usually /usr/bin/keyctl; `keyctl doctor` says which keyctl comes first in PATH"
	if ours := keyutilsVerbs[verb]; ours != "" {
		hint = fmt.Sprintf("for keymesh the nearest verb is `keyctl %s`; for the kernel's keyrings run keyutils' own, usually /usr/bin/keyctl", ours)
	}
	return &failure{
		exit: apitype.ExitKeyutils,
		what: fmt.Sprintf("%q is a verb of Linux keyutils, and this keyctl is keymesh's", verb),
		hint: hint,
	}
}
