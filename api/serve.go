package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// limits are the times of a server.
type limits struct {
	header, read, write, idle, drain time.Duration
}

func defaultLimits() limits {
	return limits{
		header: 5 * time.Second,
		read:   30 * time.Second,
		// The longest timeout that a request may ask for, and some.
		write: 150 * time.Second,
		idle:  time.Minute,
		drain: 10 * time.Second,
	}
}

// Serve answers requests from l until ctx ends; then it takes no new ones, lets
// those under way finish for at most 10 s, and returns nil after the last one.
// It closes l. A TCP listener must be on a loopback address, and then Config
// needs a Token.
func (s *Server) Serve(ctx context.Context, l net.Listener, kind Kind) error {
	if err := s.allowed(l, kind); err != nil {
		l.Close()
		return err
	}
	return s.serve(ctx, l, kind)
}

func (s *Server) allowed(l net.Listener, kind Kind) error {
	switch kind {
	case Unix:
		if _, ok := l.Addr().(*net.UnixAddr); !ok {
			return fmt.Errorf("api: %s is not a unix socket", l.Addr())
		}
	case TCP:
		a, ok := l.Addr().(*net.TCPAddr)
		if !ok || !a.IP.IsLoopback() {
			return fmt.Errorf("api: %s is not a loopback address", l.Addr())
		}
		if len(s.cfg.Token) == 0 {
			return errors.New("api: TCP needs a token")
		}
	default:
		return fmt.Errorf("api: unknown kind of listener %d", kind)
	}
	return nil
}

func (s *Server) serve(ctx context.Context, l net.Listener, kind Kind) error {
	var wg sync.WaitGroup
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	quit := make(chan struct{})
	base = context.WithValue(base, servingKey{}, &serving{base, &wg, quit})
	srv := s.httpServer(base, kind, &wg)
	srv.RegisterOnShutdown(sync.OnceFunc(func() { close(quit) }))
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(newCapped(l, maxConns)) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		drain, stop := context.WithTimeout(base, s.limits.drain)
		defer stop()
		if srv.Shutdown(drain) != nil {
			s.log.Warn("api: requests were cut off", "kind", kind.String())
		}
		if err = <-failed; errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
	}
	// What is still under way is told to stop, has a moment to say so, and then
	// loses its connection.
	cancel(errDraining)
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	_ = srv.Shutdown(last)
	srv.Close()
	wg.Wait()
	if err != nil {
		return fmt.Errorf("api: %s: %w", kind, err)
	}
	return nil
}

// httpServer returns a server with every limit set, whose handlers wg counts.
func (s *Server) httpServer(base context.Context, kind Kind, wg *sync.WaitGroup) *http.Server {
	handler := s.Handler(kind)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wg.Add(1)
			defer wg.Done()
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: s.limits.header,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       s.connContext(kind),
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// What is asked of "*" goes through the guard like everything else.
		DisableGeneralOptionsHandler: true,
	}
}

var errDraining = errors.New("the node is stopping")

// capped is a listener with at most n open connections; Accept waits for one to
// close.
type capped struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newCapped(l net.Listener, n int) *capped {
	return &capped{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (c *capped) Accept() (net.Conn, error) {
	select {
	case c.slots <- struct{}{}:
	case <-c.done:
		return nil, net.ErrClosed
	}
	conn, err := c.Listener.Accept()
	if err != nil {
		<-c.slots
		return nil, err
	}
	return &cappedConn{Conn: conn, free: sync.OnceFunc(func() { <-c.slots })}, nil
}

// Close implements net.Listener.
func (c *capped) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Listener.Close()
}

type cappedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *cappedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
