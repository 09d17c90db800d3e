package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	maxAdvertise = 8
	maxBootstrap = 64
	maxAddress   = 256

	// maxSocketPath is what sockaddr_un of Linux holds, without its final zero.
	maxSocketPath = 107

	// minStorage leaves room for a store at all.
	minStorage = 1 << 20
)

// str returns a string value.
func (v value) str() (string, error) {
	s, ok := v.v.(string)
	if !ok {
		return "", errors.New(`it must be a string in quotes ("...")`)
	}
	return s, nil
}

// list returns a list of strings; in flag and environment it is one string
// with commas, and an empty one is no entry.
func (v value) list() ([]string, error) {
	if s, ok := v.v.(string); ok && v.text {
		if s == "" {
			return nil, nil
		}
		return strings.Split(s, ","), nil
	}
	items, ok := v.v.([]any)
	if !ok {
		return nil, errors.New(`it must be a list of strings (["...", "..."])`)
	}
	var out []string
	for _, it := range items {
		s, ok := it.(string)
		if !ok {
			return nil, errors.New(`it must be a list of strings (["...", "..."])`)
		}
		out = append(out, s)
	}
	return out, nil
}

// number returns a whole number that is not negative.
func (v value) number() (uint64, error) {
	switch n := v.v.(type) {
	case int64:
		if n >= 0 {
			return uint64(n), nil
		}
	case string:
		if !v.text {
			break
		}
		if n, err := strconv.ParseUint(n, 10, 63); err == nil {
			return n, nil
		}
	}
	return 0, errors.New("it must be a whole number, not negative")
}

func setListen(c *Config, v value) error {
	s, err := v.str()
	if err != nil {
		return err
	}
	if s != "" {
		host, _, err := splitHostPort(s)
		if err != nil {
			return err
		}
		if _, err := netip.ParseAddr(host); host != "" && host != "localhost" && err != nil {
			return fmt.Errorf("%.100q is not an address of an interface", host)
		}
	}
	c.Listen = s
	return nil
}

func setAdvertise(c *Config, v value) (err error) {
	c.Advertise, err = addresses(v, maxAdvertise)
	return err
}

func setBootstrap(c *Config, v value) (err error) {
	c.Bootstrap, err = addresses(v, maxBootstrap)
	return err
}

func addresses(v value, most int) ([]string, error) {
	list, err := v.list()
	if err != nil {
		return nil, err
	}
	if len(list) > most {
		return nil, fmt.Errorf("there are %d addresses, at most %d are allowed", len(list), most)
	}
	for _, a := range list {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// checkAddress accepts ws://host:port, wss://host:port and host:port of
// something that can be dialled.
func checkAddress(a string) error {
	if len(a) > maxAddress {
		return fmt.Errorf("the address %.100q... is longer than %d bytes", a, maxAddress)
	}
	hostPort := a
	if strings.Contains(a, "://") {
		u, err := url.Parse(a)
		if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
			return fmt.Errorf("%.200q is not an address: use ws://host:port, wss://host:port or host:port", a)
		}
		hostPort = u.Host
	}
	host, port, err := splitHostPort(hostPort)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(host)
	if host == "" || port == 0 || err == nil && (ip.IsUnspecified() || ip.IsMulticast()) {
		return fmt.Errorf("nobody can connect to %.200q: it needs a host and a port", a)
	}
	return nil
}

func splitHostPort(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%.200q is not host:port", s)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%.200q: the port must be a number up to 65535", s)
	}
	if strings.ContainsAny(host, " /@?#\\\x00\r\n\t") {
		return "", 0, fmt.Errorf("%.200q is not host:port", s)
	}
	return host, uint16(n), nil
}

func setAPISocket(c *Config, v value) error {
	s, err := v.str()
	if err != nil {
		return err
	}
	if s != "" && !filepath.IsAbs(s) {
		if !v.text {
			return fmt.Errorf("%.200q is not an absolute path", s)
		}
		// A flag or variable is given from a directory that its user knows.
		if s, err = filepath.Abs(s); err != nil {
			return err
		}
	}
	c.APISocket = s
	return nil
}

func setAPITCP(c *Config, v value) error {
	s, err := v.str()
	if err != nil {
		return err
	}
	if s != "" {
		host, _, err := splitHostPort(s)
		if err != nil {
			return err
		}
		// A name could be made to resolve to something else.
		if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
			return fmt.Errorf("%.200q is not a loopback address: the API is never opened to a network; use 127.0.0.1:PORT or [::1]:PORT", s)
		}
	}
	c.APITCP = s
	return nil
}

func setUnlock(c *Config, v value) error {
	s, err := v.str()
	if err != nil || s == "" {
		c.Unlock = Unlock{}
		return err
	}
	c.Unlock, err = parseUnlock(s)
	return err
}

func setQuotaSecrets(c *Config, v value) (err error) {
	c.QuotaSecrets, err = v.number()
	return err
}

func sizeSetting(field func(*Config) *uint64) func(*Config, value) error {
	return func(c *Config, v value) error {
		n, err := v.size()
		if err != nil {
			return err
		}
		if n < minStorage {
			return errors.New("it must be at least 1 MiB")
		}
		*field(c) = n
		return nil
	}
}

// size returns a number of bytes: a whole number, or a string with a unit.
func (v value) size() (uint64, error) {
	s, ok := v.v.(string)
	if !ok {
		return v.number()
	}
	return parseSize(s)
}

// parseSize reads "10 GiB", "512MiB", "4 kB" or plain bytes.
func parseSize(s string) (uint64, error) {
	units := map[string]uint64{"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
	digits := strings.TrimRight(s, "kKMGTiB ")
	n, err := strconv.ParseUint(digits, 10, 63)
	unit, ok := units[strings.TrimLeft(s[len(digits):], " ")]
	if err != nil || !ok {
		return 0, fmt.Errorf("%.100q is not a size: use a number of bytes or a unit, as in \"10 GiB\"", s)
	}
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%.100q is too large", s)
	}
	return n * unit, nil
}

func oneOf(field func(*Config) *string, allowed ...string) func(*Config, value) error {
	return func(c *Config, v value) error {
		s, err := v.str()
		if err != nil {
			return err
		}
		if !slices.Contains(allowed, s) {
			return fmt.Errorf("%.100q is not one of %s", s, strings.Join(allowed, ", "))
		}
		*field(c) = s
		return nil
	}
}
