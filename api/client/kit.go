package client

import (
	"context"

	"keymesh/api/apitype"
)

// Kit makes, checks or erases (see apitype.KitRequest). The caller zeroes the
// secrets of the answer after use.
func (c *Client) Kit(ctx context.Context, r apitype.KitRequest) (apitype.Kit, error) {
	var out apitype.Kit
	if err := c.post(ctx, apitype.PathKit, r, &out, r.Act == apitype.KitErase || r.Act == apitype.KitRotate); err != nil {
		return apitype.Kit{}, err
	}
	return out, nil
}

// Persons returns the persons of the node, the default one first.
func (c *Client) Persons(ctx context.Context) ([]apitype.PersonInfo, error) {
	out, err := get[apitype.Persons](ctx, c, apitype.PathPersons, nil)
	return out.Items, err
}

// NewPerson makes a person on the node.
func (c *Client) NewPerson(ctx context.Context, name string) (apitype.PersonInfo, error) {
	var out apitype.PersonInfo
	if err := c.post(ctx, apitype.PathPersons, apitype.NewPerson{Name: name}, &out, true); err != nil {
		return apitype.PersonInfo{}, err
	}
	return out, nil
}

// ExportPerson seals a person of the node under a passphrase.
func (c *Client) ExportPerson(ctx context.Context, r apitype.PersonExport) (apitype.PersonFile, error) {
	var out apitype.PersonFile
	if err := c.post(ctx, apitype.PathPersonExport, r, &out, false); err != nil {
		return apitype.PersonFile{}, err
	}
	return out, nil
}

// ImportPerson brings a person that another node exported to this one.
func (c *Client) ImportPerson(ctx context.Context, r apitype.PersonImport) (apitype.PersonInfo, error) {
	var out apitype.PersonInfo
	if err := c.post(ctx, apitype.PathPersonImport, r, &out, true); err != nil {
		return apitype.PersonInfo{}, err
	}
	return out, nil
}
