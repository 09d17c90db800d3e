package api

import (
	"context"
	"net/http"

	"keymesh/api/apitype"
)

// Identities is what the API needs of the node's persons and their kits. An
// *apitype.Problem among its errors is answered as it is; other errors are
// internal ones.
type Identities interface {
	// Kit makes, checks, erases or rotates (see apitype.KitRequest) for a person; "" is
	// the default one.
	Kit(ctx context.Context, person string, r apitype.KitRequest) (apitype.Kit, error)
	// ListPersons returns the persons of this node, the default one first.
	ListPersons(ctx context.Context) []apitype.PersonInfo
	// NewPerson makes a person with keys of its own.
	NewPerson(ctx context.Context, name string) (apitype.PersonInfo, error)
	// ExportPerson seals a person under a passphrase.
	ExportPerson(ctx context.Context, r apitype.PersonExport) (apitype.PersonFile, error)
	// ImportPerson takes in what ExportPerson of another node made.
	ImportPerson(ctx context.Context, r apitype.PersonImport) (apitype.PersonInfo, error)
}

// maxKitBody bounds kits, exported persons and passphrases, in bytes.
const maxKitBody = 64 << 10

// identityEndpoints are the paths of kits and persons.
func (s *Server) identityEndpoints() map[string]map[string]endpoint {
	return map[string]map[string]endpoint{
		apitype.PathKit: {http.MethodPost: {person: true, body: true, serve: s.kit}},
		apitype.PathPersons: {
			http.MethodGet:  {serve: s.persons},
			http.MethodPost: {body: true, serve: s.newPerson},
		},
		apitype.PathPersonExport: {http.MethodPost: {body: true, serve: s.exportPerson}},
		apitype.PathPersonImport: {http.MethodPost: {body: true, serve: s.importPerson}},
	}
}

// identities is the node's, or the problem that there is none.
func (s *Server) identities() (Identities, error) {
	if s.cfg.Identities == nil {
		return nil, apitype.NewProblem(apitype.Unavailable, "this node does not manage persons")
	}
	return s.cfg.Identities, nil
}

// secretReply is reply for a body that is to be zeroed once it was written.
func secretReply(status int, v any) (answer, error) {
	a, err := reply(status, v)
	a.secret = true
	return a, err
}

func (s *Server) kit(r *request) (answer, error) {
	ids, err := s.identities()
	if err != nil {
		return answer{}, err
	}
	var in apitype.KitRequest
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	defer clear(in.Text)
	switch {
	case in.Act != apitype.KitMake && in.Act != apitype.KitRotate && in.Act != apitype.KitCheck && in.Act != apitype.KitList && in.Act != apitype.KitErase:
		return answer{}, unprocessable("act is make, check, list, erase or rotate, not %.40q", in.Act)
	case (in.Act == apitype.KitMake || in.Act == apitype.KitRotate) != (len(in.Text) == 0):
		return answer{}, unprocessable("check, list and erase take the text of a kit, make and rotate take none")
	case len(in.Text) > maxKitBody:
		return answer{}, unprocessable("a kit has at most %d bytes", maxKitBody)
	}
	out, err := ids.Kit(r.ctx, r.as, in)
	if err != nil {
		return answer{}, err
	}
	defer func() {
		for _, b := range []apitype.Bytes{out.Text, out.Page, out.CardText, out.CardPage} {
			clear(b)
		}
	}()
	out.Kept, out.Erased = present(out.Kept), present(out.Erased)
	nodes := make([]apitype.KitNode, 0, len(out.Nodes))
	for _, n := range out.Nodes {
		nodes = append(nodes, apitype.KitNode{Node: n.Node, Addrs: present(n.Addrs)})
	}
	out.Nodes = nodes
	return secretReply(http.StatusOK, out)
}

func (s *Server) persons(r *request) (answer, error) {
	ids, err := s.identities()
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusOK, apitype.Persons{Items: append([]apitype.PersonInfo{}, ids.ListPersons(r.ctx)...)})
}

func (s *Server) newPerson(r *request) (answer, error) {
	ids, err := s.identities()
	if err != nil {
		return answer{}, err
	}
	var in apitype.NewPerson
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	out, err := ids.NewPerson(r.ctx, in.Name)
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusCreated, out)
}

func (s *Server) exportPerson(r *request) (answer, error) {
	ids, err := s.identities()
	if err != nil {
		return answer{}, err
	}
	var in apitype.PersonExport
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	defer clear(in.Passphrase)
	out, err := ids.ExportPerson(r.ctx, in)
	if err != nil {
		return answer{}, err
	}
	return secretReply(http.StatusOK, out)
}

func (s *Server) importPerson(r *request) (answer, error) {
	ids, err := s.identities()
	if err != nil {
		return answer{}, err
	}
	var in apitype.PersonImport
	if bad := decodeStrict(r.body, &in); bad != nil {
		return answer{}, bad
	}
	defer clear(in.Passphrase)
	if len(in.File) > maxKitBody {
		return answer{}, unprocessable("an exported person has at most %d bytes", maxKitBody)
	}
	out, err := ids.ImportPerson(r.ctx, in)
	if err != nil {
		return answer{}, err
	}
	return reply(http.StatusCreated, out)
}
