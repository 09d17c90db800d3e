package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Config is what `keynode run` can be told. A value comes from the first of:
// flag, environment variable KEYMESH_<NAME>, file, default.
type Config struct {
	Listen    string   // host:port of the mesh listener; "" does not listen
	Advertise []string // addresses told to the network, <= 8: ws://h:p, wss://h:p or h:p
	Bootstrap []string // addresses asked when no known peer answers, <= 64

	APISocket string // absolute path of the unix socket of the local API
	APITCP    string // loopback host:port of the local API, "" for none

	Unlock Unlock // the zero value leaves it to the identity file

	StorageMax   uint64 // bytes that this node offers as a holder
	QuotaSecrets uint64 // secrets that one operator may keep here
	QuotaBytes   uint64 // bytes that one operator may keep here

	LogLevel  string // debug, info, warn, error
	LogFormat string // text, json
}

// maxConfig is the largest config file, in bytes.
const maxConfig = 1 << 20

// setting is one key of the file; the environment variable and the flag have
// the same name in their own spelling.
type setting struct {
	name string
	doc  string                     // comment in the default file
	text string                     // default, as TOML
	set  func(*Config, value) error // checks and stores
}

// value is one value and where it came from. v is what TOML knows (string,
// int64, bool, []any) or, from flag and environment, a string.
type value struct {
	v    any
	text bool // v is a string that may have to be split or parsed
}

// settings returns all settings in the order of the default file.
func settings() []setting {
	return []setting{
		{"listen", "Where other nodes connect, host:port. No host means every interface; \"\" does not listen,\nand then this node reaches others but is not reached.", `":7946"`, setListen},
		{"advertise", "Addresses that other nodes are told, at most 8: ws://host:port, wss://host:port or host:port.\nThey are needed where a node is behind a proxy or listens on every interface.", `[]`, setAdvertise},
		{"bootstrap", "Addresses of members that are asked when no known peer answers. One is enough, and only the\nfirst time: peers are remembered.", `[]`, setBootstrap},
		{"api_socket", "Unix socket of the local API. \"\" means $XDG_RUNTIME_DIR/keymesh/api.sock, or\n/run/keymesh/api.sock without that variable.", `""`, setAPISocket},
		{"api_tcp", "Address of the local API over TCP, loopback only, with a token. \"\" is off.", `""`, setAPITCP},
		{"unlock", "Where the passphrase comes from: prompt, file:PATH, credential:NAME or none. \"\" means as the\nidentity was made.", `""`, setUnlock},
		{"storage_max", "Space that this node offers as a holder. It accepts nothing more at 90 % of it.", `"10 GiB"`, sizeSetting(func(c *Config) *uint64 { return &c.StorageMax })},
		{"quota_secrets", "How many secrets one operator may keep here.", `10000`, setQuotaSecrets},
		{"quota_bytes", "How much space one operator may use here.", `"1 GiB"`, sizeSetting(func(c *Config) *uint64 { return &c.QuotaBytes })},
		{"log_level", "debug, info, warn or error.", `"info"`, oneOf(func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
		{"log_format", "text or json.", `"text"`, oneOf(func(c *Config) *string { return &c.LogFormat }, "text", "json")},
	}
}

// defaultConfigText returns the default file: every setting as a comment with
// its default.
func defaultConfigText() string {
	var b strings.Builder
	b.WriteString("# keynode configuration (TOML). Flags and KEYMESH_* environment variables go first.\n")
	for _, s := range settings() {
		fmt.Fprintf(&b, "\n# %s\n# %s = %s\n", strings.ReplaceAll(s.doc, "\n", "\n# "), s.name, s.text)
	}
	return b.String()
}

// loadConfig puts together the file at path ("" for none), the environment (as
// os.Environ gives it) and the flags that were given, by setting name; lists
// are separated by commas there. It checks every value and names the file's
// line, the variable or the flag that is wrong. It touches nothing but the file.
func loadConfig(path string, env []string, flags map[string]string) (Config, error) {
	var c Config
	all := settings()
	for _, s := range all {
		m := map[string]any{}
		if _, err := toml.Decode("v = "+s.text, &m); err != nil {
			return Config{}, fmt.Errorf("default of %s: %w", s.name, err)
		}
		if err := s.set(&c, value{v: m["v"]}); err != nil {
			return Config{}, fmt.Errorf("default of %s: %w", s.name, err)
		}
	}
	if path != "" {
		text, err := readConfig(path)
		if err != nil {
			return Config{}, err
		}
		if err := applyFile(&c, all, path, text); err != nil {
			return Config{}, err
		}
	}
	if err := applyEnv(&c, all, env); err != nil {
		return Config{}, err
	}
	if err := applyFlags(&c, all, flags); err != nil {
		return Config{}, err
	}
	if c.APISocket == "" {
		c.APISocket = defaultSocket(env)
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// check is what single values cannot show.
func (c Config) check() error {
	if len(c.Advertise) > 0 && c.Listen == "" {
		return hint(errors.New("addresses are advertised, but this node does not listen"), "set listen, or advertise nothing")
	}
	if c.QuotaBytes > c.StorageMax {
		return hint(errors.New("quota_bytes is more than storage_max"), "one operator cannot use more than there is: lower quota_bytes or raise storage_max")
	}
	if len(c.APISocket) > maxSocketPath {
		return fmt.Errorf("the path of the API socket is longer than %d bytes, which is the system's limit", maxSocketPath)
	}
	return nil
}

func defaultSocket(env []string) string {
	for _, e := range env {
		if dir, ok := strings.CutPrefix(e, "XDG_RUNTIME_DIR="); ok && filepath.IsAbs(dir) {
			return filepath.Join(dir, "keymesh", "api.sock")
		}
	}
	return "/run/keymesh/api.sock"
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the config file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("reading the config file: %w", err)
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("config file %s is longer than %d bytes", path, maxConfig)
	}
	return b, nil
}

// applyFile applies a file's text; path is for errors only.
func applyFile(c *Config, all []setting, path string, text []byte) error {
	m := map[string]any{}
	if _, err := toml.Decode(string(text), &m); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("%s:%d: %.200s", path, pe.Position.Line, pe.Message)
		}
		return fmt.Errorf("%s: %.200s", path, err.Error())
	}
	// In the order of the file, so that the first wrong line is the one named.
	keys := slices.Collect(maps.Keys(m))
	slices.SortFunc(keys, func(a, b string) int {
		if d := lineOf(text, a) - lineOf(text, b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, k := range keys {
		where := fmt.Sprintf("%s:%d: %.100q", path, lineOf(text, k), k)
		s, ok := find(all, k)
		if !ok {
			return hint(fmt.Errorf("%s is not a setting; the nearest is %q", where, nearest(k, all)), "keynode config default prints all settings")
		}
		if err := s.set(c, value{v: m[k]}); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	return nil
}

// keymeshVariables are variables of ours that are not settings of the daemon.
var keymeshVariables = []string{"KEYMESH_SOCKET", "KEYMESH_ADDR"}

// applyEnv applies KEYMESH_*. A variable that is nearly a setting is refused as
// a mistake; others with this prefix belong to other programs.
func applyEnv(c *Config, all []setting, env []string) error {
	for _, e := range env {
		name, v, _ := strings.Cut(e, "=")
		rest, ok := strings.CutPrefix(name, "KEYMESH_")
		if !ok || slices.Contains(keymeshVariables, name) {
			continue
		}
		k := strings.ToLower(rest)
		s, ok := find(all, k)
		if !ok {
			if near := nearest(k, all); distance(k, near) <= 2 {
				return fmt.Errorf("environment: %.100q is not a setting; the nearest is %q", name, envName(near))
			}
			continue
		}
		if err := s.set(c, value{v: v, text: true}); err != nil {
			return fmt.Errorf("environment: %s: %w", name, err)
		}
	}
	return nil
}

func applyFlags(c *Config, all []setting, flags map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(flags)) {
		s, ok := find(all, strings.ReplaceAll(k, "-", "_"))
		if !ok {
			return fmt.Errorf("--%s is not a setting; the nearest is %q", k, "--"+strings.ReplaceAll(nearest(k, all), "_", "-"))
		}
		if err := s.set(c, value{v: flags[k], text: true}); err != nil {
			return fmt.Errorf("--%s: %w", strings.ReplaceAll(k, "_", "-"), err)
		}
	}
	return nil
}

func envName(name string) string { return "KEYMESH_" + strings.ToUpper(name) }

func find(all []setting, name string) (setting, bool) {
	i := slices.IndexFunc(all, func(s setting) bool { return s.name == name })
	if i < 0 {
		return setting{}, false
	}
	return all[i], true
}

// lineOf returns the line, from 1, on which a key at the top of a TOML text is
// set or its table begins. The parser keeps no positions of keys; a key that is
// written in another way than plain or quoted is said to be on line 1.
func lineOf(text []byte, name string) int {
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimLeft(line, " \t[")
		for _, form := range []string{name, `"` + name + `"`, "'" + name + "'"} {
			rest, ok := strings.CutPrefix(line, form)
			rest = strings.TrimLeft(rest, " \t")
			if ok && rest != "" && strings.ContainsRune("=.]", rune(rest[0])) {
				return i + 1
			}
		}
	}
	return 1
}

// nearest returns the name of the setting with the least edit distance.
func nearest(name string, all []setting) string {
	return slices.MinFunc(all, func(a, b setting) int {
		return distance(name, a.name) - distance(name, b.name)
	}).name
}

// distance is the Levenshtein distance in bytes; beyond 64 bytes nothing is
// near, which bounds the work.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
