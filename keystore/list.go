package keystore

import "context"

// List x
func (s *Store) List(ctx context.Context, p Person, o ListOptions) (Page, error) { return Page{}, nil }

// Info x
func (s *Store) Info(ctx context.Context, p Person, name string) (Info, error) { return Info{}, nil }

// Plan x
func (s *Store) Plan(ctx context.Context, p Person, name string, size int, o PutOptions) (PutResult, error) {
	return PutResult{}, nil
}

// Summary x
func (s *Store) Summary(ctx context.Context, p Person) (secrets, atRisk, below int, err error) {
	return 0, 0, 0, nil
}

type summaries struct{}

func newSummaries() *summaries { return &summaries{} }
