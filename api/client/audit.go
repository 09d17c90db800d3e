package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"keymesh/api/apitype"
)

// Audit returns at most limit entries of the node's audit log after position
// since, or the newest when since is nil, the oldest first.
func (c *Client) Audit(ctx context.Context, since *uint64, limit int) (apitype.AuditPage, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if since != nil {
		q.Set("since", strconv.FormatUint(*since, 10))
	}
	return get[apitype.AuditPage](ctx, c, apitype.PathAudit, q)
}

// AuditVerify has the node read its whole log again and ask its peers.
func (c *Client) AuditVerify(ctx context.Context) (apitype.AuditCheck, error) {
	return get[apitype.AuditCheck](ctx, c, apitype.PathAuditVerify, nil)
}

// AuditVerifyExport has the node check an export of any node's log.
func (c *Client) AuditVerifyExport(ctx context.Context, export io.Reader) (apitype.AuditExportCheck, error) {
	var out apitype.AuditExportCheck
	_, err := c.do(ctx, call{method: http.MethodPost, path: apitype.PathAuditVerify, upload: export}, &out)
	if err != nil {
		return apitype.AuditExportCheck{}, err
	}
	return out, nil
}

// errCut: an answer broke off.
var errCut = errors.New("the export broke off; what was written is a part of it")

// AuditExport writes the export of the node's log to w and returns its size in
// bytes. After an error w may hold a part of it.
func (c *Client) AuditExport(ctx context.Context, w io.Writer) (int64, error) {
	if err := c.setup(); err != nil {
		return 0, err
	}
	q := call{method: http.MethodGet, path: apitype.PathAuditExport}
	req, err := c.request(ctx, q)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", apitype.TypeAudit+", "+apitype.TypeProblemJSON)
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, c.broken(ctx, q, false, err)
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode != http.StatusOK || media != apitype.TypeAudit {
		body, err := readAll(resp, defaultLimit)
		if err != nil {
			return 0, c.bad(resp, err.Error())
		}
		if err := c.decode(resp, body, nil, false); err != nil {
			return 0, err
		}
		return 0, c.bad(resp, "no export")
	}
	n, err := io.Copy(w, &marked{r: resp.Body})
	var broken *readError
	switch {
	case errors.As(err, &broken) && ctx.Err() != nil:
		return n, fmt.Errorf("%w: %w", errCut, ctx.Err())
	case errors.As(err, &broken):
		return n, &Unreachable{Target: c.Target(), Err: errCut}
	}
	return n, err
}

// marked tells the errors of a reader from those of a writer.
type marked struct{ r io.Reader }

type readError struct{ error }

// Read implements io.Reader.
func (m *marked) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}
