package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"

	"keymesh/api/apitype"
)

// place is where a node's API is: a unix socket, or a URL with the file of its
// token. from says who named it, for doctor and for errors.
type place struct {
	socket    string
	addr      string
	tokenFile string
	from      string
}

// String names the place as a person would.
func (p place) String() string {
	if p.addr != "" {
		return p.addr
	}
	return p.socket
}

const (
	systemSocket = "/run/keymesh/api.sock"
	maxConfig    = 64 << 10
	maxToken     = 4 << 10
)

// place finds the node in the documented order: flag, environment, context of
// cli.toml, the user's runtime directory, the system's.
func (a *app) place() (place, error) {
	all, err := a.places()
	if err != nil {
		return place{}, err
	}
	if len(all) > 1 {
		return place{}, usage("only bench takes more than one --socket or --addr", "give one node")
	}
	return all[0], nil
}

// places is place for bench, which takes several nodes by flags.
func (a *app) places() ([]place, error) {
	var out []place
	for _, s := range a.opts.sockets {
		out = append(out, place{socket: s, from: "--socket"})
	}
	for _, s := range a.opts.addrs {
		out = append(out, place{addr: s, tokenFile: a.opts.tokenFile, from: "--addr"})
	}
	if len(out) == 0 {
		p, err := a.defaultPlace()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	for i, p := range out {
		if p.addr != "" && p.tokenFile == "" {
			out[i].tokenFile = a.env.get("KEYMESH_TOKEN_FILE")
		}
		if err := out[i].check(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// defaultPlace is the node that no flag named.
func (a *app) defaultPlace() (place, error) {
	if s := a.env.get("KEYMESH_SOCKET"); s != "" {
		return place{socket: s, from: "KEYMESH_SOCKET"}, nil
	}
	if s := a.env.get("KEYMESH_ADDR"); s != "" {
		return place{addr: s, tokenFile: a.opts.tokenFile, from: "KEYMESH_ADDR"}, nil
	}
	if p, ok, err := a.contextPlace(); err != nil || ok {
		return p, err
	}
	if dir := a.env.get("XDG_RUNTIME_DIR"); dir != "" {
		s := filepath.Join(dir, "keymesh", "api.sock")
		if _, err := os.Lstat(s); err == nil {
			return place{socket: s, from: "XDG_RUNTIME_DIR"}, nil
		}
	}
	return place{socket: systemSocket, from: "the built-in default"}, nil
}

// check refuses a place that cannot be one, before anything is sent to it.
func (p place) check() error {
	if p.addr == "" {
		// sun_path has 108 bytes with the final zero (unix(7)).
		if p.socket == "" || len(p.socket) > 107 {
			return usage(fmt.Sprintf("the socket path of %s is empty or over 107 bytes", p.from), "give another one with --socket PATH")
		}
		return nil
	}
	u, err := url.Parse(p.addr)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return usage(fmt.Sprintf("the address of %s is not of the form http://127.0.0.1:PORT", p.from), "keyctl --addr http://127.0.0.1:PORT --token-file FILE status")
	}
	if p.tokenFile == "" {
		return usage("an address needs the token of its node", "add --token-file FILE; the node writes it beside its socket as `token`")
	}
	return nil
}

// cliConfig is cli.toml: named nodes and which of them is meant.
type cliConfig struct {
	Context  string                `toml:"context"`
	Contexts map[string]cliContext `toml:"contexts"`
}

// cliContext is one named node: a socket, or an address and its token's file.
type cliContext struct {
	Socket    string `toml:"socket"`
	Addr      string `toml:"addr"`
	TokenFile string `toml:"token-file"`
}

// contextPlace returns the node of the context in use; ok is false when there
// is no file, or no context is chosen in it.
func (a *app) contextPlace() (p place, ok bool, err error) {
	path := a.configFile()
	if path == "" {
		return place{}, false, nil
	}
	data, err := readLimited(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, false, nil
	}
	if err != nil {
		return place{}, false, configError(path, err.Error())
	}
	var c cliConfig
	meta, err := toml.Decode(string(data), &c)
	if err != nil {
		return place{}, false, configError(path, err.Error())
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		why := fmt.Sprintf("unknown key %q", extra[0].String())
		if n := nearest(extra[0][len(extra[0])-1], []string{"context", "contexts", "socket", "addr", "token-file"}); n != "" {
			why += fmt.Sprintf(", did you mean %q?", n)
		}
		return place{}, false, configError(path, why)
	}
	if c.Context == "" {
		return place{}, false, nil
	}
	x, found := c.Contexts[c.Context]
	if !found || (x.Socket == "") == (x.Addr == "") {
		return place{}, false, configError(path, fmt.Sprintf("context %q needs [contexts.%s] with either a socket or an addr", c.Context, c.Context))
	}
	p = place{socket: x.Socket, addr: x.Addr, tokenFile: x.TokenFile, from: "context " + c.Context}
	if a.opts.tokenFile != "" {
		p.tokenFile = a.opts.tokenFile
	}
	return p, true, nil
}

func (a *app) configFile() string {
	dir := a.env.get("XDG_CONFIG_HOME")
	if dir == "" {
		home := a.env.get("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "keymesh", "cli.toml")
}

func configError(path, why string) error {
	return &failure{exit: apitype.ExitLocal, what: "cannot use " + path, why: why, hint: "correct the file, or pass --socket PATH"}
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, nil
}
