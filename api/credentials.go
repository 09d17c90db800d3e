package api

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerUID returns the user at the other end of a unix socket, as the kernel
// knows it (unix(7), SO_PEERCRED): the one that connected, whatever became of
// the process since.
func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

type callerKey struct{}

// caller is who is at the other end of a connection.
type caller struct{ uid uint32 }

// connContext asks once a connection. Without an answer there is no caller in
// the context, and the guard refuses.
func (s *Server) connContext(kind Kind) func(context.Context, net.Conn) context.Context {
	if kind != Unix {
		return nil
	}
	return func(ctx context.Context, c net.Conn) context.Context {
		if cc, ok := c.(*cappedConn); ok {
			c = cc.Conn
		}
		uid, err := s.credentials(c)
		if err != nil {
			s.log.Warn("api: the caller's credentials cannot be read", "err", err)
			return ctx
		}
		return context.WithValue(ctx, callerKey{}, caller{uid})
	}
}
