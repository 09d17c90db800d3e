package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
)

const (
	alpn         = "keymesh/1"
	joinExporter = "EXPORTER-keymesh-join"
	exporterSize = 32
	outerBudget  = 32 << 10
)

var (
	errIdentity = errors.New("the far side is another node than the one dialled")
	errRevoked  = errors.New("the node was revoked")
)

// certificate makes the self-signed certificate that carries the node's key.
// Nothing in it but the key means anything, so it never ends.
func certificate(k key.NodePrivate) (tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	signer := k.TLS()
	der, err := x509.CreateCertificate(rand.Reader, t, t, signer.Public(), signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the TLS certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer}, nil
}

// peerKey returns the key that the far side proved to have.
func peerKey(cs tls.ConnectionState) (key.NodePublic, error) {
	if cs.Version != tls.VersionTLS13 || cs.DidResume || cs.NegotiatedProtocol != alpn {
		return key.NodePublic{}, errors.New("not a fresh TLS 1.3 connection of " + alpn)
	}
	if len(cs.PeerCertificates) != 1 {
		return key.NodePublic{}, fmt.Errorf("%d certificates instead of one", len(cs.PeerCertificates))
	}
	pub, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return key.NodePublic{}, errors.New("the certificate's key is not Ed25519")
	}
	if err := key.CheckPublic([32]byte(pub)); err != nil {
		return key.NodePublic{}, err
	}
	return key.NodePublic(pub), nil
}

// tlsConfig is both sides' configuration. VerifyConnection also runs on
// resumption, which VerifyPeerCertificate does not; there are no tickets
// anyway. check may refuse the far side by its id.
func tlsConfig(cert tls.Certificate, check func(key.NodeID) error) *tls.Config {
	return &tls.Config{
		Certificates:       []tls.Certificate{cert},
		MinVersion:         tls.VersionTLS13,
		CurvePreferences:   []tls.CurveID{tls.X25519MLKEM768},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // identities are pinned keys, not names
		NextProtos:         []string{alpn},

		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			pub, err := peerKey(cs)
			if err != nil {
				return err
			}
			return check(pub.ID())
		},
	}
}

// pinned checks for one id; the zero id stands for any.
func pinned(want key.NodeID) func(key.NodeID) error {
	return func(id key.NodeID) error {
		if !want.IsZero() && id != want {
			return errIdentity
		}
		return nil
	}
}

// outerTLS is the TLS of a wss:// address, verified against the system's roots
// as any HTTPS client does.
func outerTLS(dial func(ctx context.Context, network, addr string) (net.Conn, error), raw **guarded, deadline time.Time) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		(*raw).left.Store(outerBudget)
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			c.Close()
			return nil, err
		}
		t := tls.Client(c, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		(*raw).left.Store(frame.MaxPreAuth + 4<<10) // the outer records' own bytes
		return t, nil
	}
}
