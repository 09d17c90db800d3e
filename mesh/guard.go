package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// errAddress: the address resolves to something that a mesh never dials.
var errAddress = errors.New("the address is not one to dial")

// guardedDial connects with the rules of security.md, applied to what a name
// resolved to: records are other people's words, and must not make this node
// knock at a metadata service or a daemon on loopback.
func guardedDial(loopback bool) dialer {
	d := net.Dialer{
		Timeout: authTime,
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %.80q", errAddress, address)
			}
			return checkIP(ap.Addr(), loopback)
		},
	}
	return func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}

// checkIP refuses link-local, metadata, unspecified and multicast addresses,
// and, unless allowed, loopback ones; also inside IPv4-mapped, NAT64 (RFC 6052,
// RFC 8215) and 6to4 (RFC 3056) addresses.
func checkIP(a netip.Addr, loopback bool) error {
	a = a.WithZone("").Unmap()
	metadata := netip.MustParseAddr("fd00:ec2::254")
	bad := a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == metadata ||
		a.Is4() && (a.As4()[0] == 0 || a.As4() == [4]byte{255, 255, 255, 255})
	if bad || a.IsLoopback() && !loopback {
		return fmt.Errorf("%w: %v", errAddress, a)
	}
	if inner, ok := wrapped(a); ok && (inner.IsLoopback() || checkIP(inner, false) != nil) {
		return fmt.Errorf("%w: %v wraps %v", errAddress, a, inner)
	}
	return nil
}

// wrapped returns the IPv4 address inside an address of a translation prefix.
func wrapped(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a),
		netip.MustParsePrefix("64:ff9b:1::/48").Contains(a),
		netip.MustParsePrefix("::/96").Contains(a) && !a.IsLoopback() && !a.IsUnspecified():
		return netip.AddrFrom4([4]byte(b[12:])), true
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// onLoopback reports whether the node itself lives on loopback: then its
// peers' loopback addresses are meant.
func onLoopback(l net.Listener, advertise []string) bool {
	if l != nil {
		if ap, err := netip.ParseAddrPort(l.Addr().String()); err == nil && ap.Addr().Unmap().IsLoopback() {
			return true
		}
	}
	for _, s := range advertise {
		host, _, err := net.SplitHostPort(bare(s))
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() || host == "localhost" {
			return true
		}
	}
	return false
}

// bare is an address without its scheme.
func bare(addr string) string {
	return strings.TrimPrefix(strings.TrimPrefix(addr, "ws://"), "wss://")
}

// hostOf is what half-open connections are counted by: the IPv4 address, the
// IPv6 /64, or the host as it is written.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.WithZone("").Unmap(); ip.Is6() {
		p, _ := ip.Prefix(64)
		return p.String()
	}
	return ip.String()
}
