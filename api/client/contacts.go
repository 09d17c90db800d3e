package client

import (
	"context"
	"net/http"
	"net/url"

	"keymesh/api/apitype"
)

// Contacts returns the persons whom the acting person can name in policies.
func (c *Client) Contacts(ctx context.Context) ([]apitype.Contact, error) {
	out, err := get[apitype.Contacts](ctx, c, apitype.PathContacts, nil)
	return out.Items, err
}

// AddContact gives a person a name.
func (c *Client) AddContact(ctx context.Context, n apitype.NewContact) (apitype.Contact, error) {
	var out apitype.Contact
	if err := c.post(ctx, apitype.PathContacts, n, &out, true); err != nil {
		return apitype.Contact{}, err
	}
	return out, nil
}

// RemoveContact forgets a name.
func (c *Client) RemoveContact(ctx context.Context, name string) (apitype.Contact, error) {
	var out apitype.Contact
	_, err := c.do(ctx, call{method: http.MethodDelete, path: apitype.PathContacts, query: url.Values{"name": {name}}, write: true}, &out)
	if err != nil {
		return apitype.Contact{}, err
	}
	return out, nil
}

// TestPolicy says what a policy would do.
func (c *Client) TestPolicy(ctx context.Context, t apitype.PolicyTest) (apitype.PolicyVerdict, error) {
	var out apitype.PolicyVerdict
	if err := c.post(ctx, apitype.PathPolicy, t, &out, false); err != nil {
		return apitype.PolicyVerdict{}, err
	}
	return out, nil
}
