package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"keymesh/api/apitype"
)

// call is one request.
type call struct {
	method, path string // path is escaped
	query        url.Values
	header       http.Header
	body         []byte    // JSON; nil: none
	upload       io.Reader // instead of body: lines of JSON
	write        bool      // losing the answer leaves the outcome open
	limit        int64     // bytes of an answer; 0: 2 MiB
	job          bool      // 202 is the answer that is hoped for
}

const defaultLimit = 2 << 20

// do sends c and decodes a good answer into out, which may be nil. It returns
// the status of the answer. The buffer of the answer is zeroed.
func (cl *Client) do(ctx context.Context, c call, out any) (int, error) {
	if err := cl.setup(); err != nil {
		return 0, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := cl.request(ctx, c)
	if err != nil {
		return 0, err
	}
	resp, err := cl.http.Do(req)
	if err != nil {
		return 0, cl.broken(ctx, c, sent.Load(), err)
	}
	defer resp.Body.Close()
	limit := c.limit
	if limit == 0 {
		limit = defaultLimit
	}
	body, err := readAll(resp, limit)
	defer clear(body)
	if err != nil {
		if errors.Is(err, errTooLong) {
			return 0, cl.bad(resp, err.Error())
		}
		return 0, cl.broken(ctx, c, true, err)
	}
	return resp.StatusCode, cl.decode(resp, body, out, c.job)
}

func (cl *Client) request(ctx context.Context, c call) (*http.Request, error) {
	q := c.query
	if q == nil {
		q = url.Values{}
	}
	if cl.As != "" && forPerson(c.path) {
		q.Set("as", cl.As)
	}
	if t := nodeTimeout(ctx); t > 0 && c.path != apitype.PathHealthz && c.path != apitype.PathReadyz {
		q.Set("timeout", strconv.FormatFloat(t.Seconds(), 'f', 3, 64))
	}
	u := cl.base + c.path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	var body io.Reader
	if c.body != nil {
		body = bytes.NewReader(c.body)
	}
	if c.upload != nil {
		body = c.upload
	}
	req, err := http.NewRequestWithContext(ctx, c.method, u, body)
	if err != nil {
		// The error would quote the URL with the name in it.
		return nil, errors.New("the request cannot be made of this name")
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", apitype.TypeJSON+", "+apitype.TypeProblemJSON)
	req.Header.Set("User-Agent", cl.agent())
	if c.body != nil {
		req.Header.Set("Content-Type", apitype.TypeJSON)
	}
	if c.upload != nil {
		req.Header.Set("Content-Type", apitype.TypeAudit)
	}
	if len(cl.Token) > 0 {
		req.Header.Set("Authorization", "Bearer "+string(cl.Token))
	}
	return req, nil
}

// forPerson reports whether a path acts for a person; others take none.
func forPerson(path string) bool {
	return path == apitype.PathStatus || path == apitype.PathKit || path == apitype.PathContacts || path == apitype.PathPolicy || path == apitype.PathAudit || path == apitype.PathEvents || path == apitype.PathReceiptVerify || strings.HasPrefix(path, apitype.PathJobs) || strings.HasPrefix(path, apitype.PathRequests) || strings.HasPrefix(path, apitype.PathSecrets)
}

func (cl *Client) agent() string {
	if cl.Agent != "" {
		return cl.Agent
	}
	return "keymesh"
}

// nodeTimeout leaves the node less time than the caller has, so that its
// account of who is missing arrives before the caller gives up.
func nodeTimeout(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := time.Until(deadline)
	left -= min(left/5, 500*time.Millisecond)
	return min(max(left, time.Millisecond), apitype.MaxTimeout*time.Second)
}

// broken makes the error of a call that got no answer.
func (cl *Client) broken(ctx context.Context, c call, sent bool, err error) error {
	if cause := ctx.Err(); cause != nil {
		what := "no answer from the node at " + cl.Target()
		if c.write && sent {
			what += "; the write may still complete"
		}
		return fmt.Errorf("%s: %w", what, cause)
	}
	// A *url.Error quotes the URL, which holds the name of the secret.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &op):
		err = op.Err
	case errors.As(err, &cert):
		err = cert.Err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the connection was closed")
	}
	return &Unreachable{Target: cl.Target(), Sent: c.write && sent, Err: err}
}

var errTooLong = errors.New("the answer is too long")

// readAll reads at most limit bytes into one buffer, so that no copy of a value
// is left behind by growing.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, errTooLong
	}
	if n := resp.ContentLength; n >= 0 {
		b := make([]byte, n)
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		return b, errTooLong
	}
	return b, err
}

func (cl *Client) bad(resp *http.Response, why string) error {
	return &BadAnswer{Target: cl.Target(), Status: resp.StatusCode, Why: why}
}

// decode judges an answer: a problem becomes the error, whatever the status.
func (cl *Client) decode(resp *http.Response, body []byte, out any, job bool) error {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch media {
	case apitype.TypeProblemJSON:
		p := &apitype.Problem{}
		if json.Unmarshal(body, p) != nil {
			return cl.bad(resp, "its problem cannot be read")
		}
		p.Status = resp.StatusCode
		bound(p)
		return p
	case apitype.TypeJSON:
		if resp.StatusCode == http.StatusAccepted && !job {
			p := &Pending{}
			if json.Unmarshal(body, &p.Pending) != nil || p.Request == "" {
				return cl.bad(resp, "its body cannot be read")
			}
			return p
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated && (!job || resp.StatusCode != http.StatusAccepted) {
			return cl.bad(resp, "an unexpected status")
		}
		if out == nil {
			return nil
		}
		if json.Unmarshal(body, out) != nil {
			return cl.bad(resp, "its body cannot be read")
		}
		return nil
	}
	return cl.bad(resp, fmt.Sprintf("content type %.80q", media))
}

// bound cuts what a stranger at the address could make long.
func bound(p *apitype.Problem) {
	for _, s := range []*string{&p.Title, &p.Detail, &p.Hint} {
		if len(*s) > 2000 {
			*s = (*s)[:2000]
		}
	}
}
