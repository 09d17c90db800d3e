package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/keystore"
	"keymesh/storage"
)

const storeCreateLong = `Makes an empty store for a node whose store is lost or damaged and whose identity
is there still. It never overwrites one: move store.db, STORE and epochkey away
first, and keep them until all is well.

The node keeps its name, its keys and its seats. The other holders tell it which
those are and help it to make its rows again, without the secret existing
anywhere. Until they have told what it promised, it signs nothing. What only this
node knew is lost: writes of its own that were not answered, requests and
contacts of its persons, and the tickets that it gave out.`

func storeCommand() *cobra.Command {
	var dir, unlock string
	create := &cobra.Command{
		Use: "create --data DIR", Short: "make an empty store for a node that has lost its own", Args: cobra.NoArgs, Long: storeCreateLong,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absDir(dir)
			if err != nil {
				return err
			}
			if err := createStore(cmd.Context(), dir, unlock); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "an empty store was made; once the node runs the other holders fill it")
			return err
		},
	}
	create.Flags().StringVar(&dir, "data", "", "data directory")
	create.Flags().StringVar(&unlock, "unlock", "", "prompt, file:PATH, credential:NAME or none (default: as the identity says)")
	cmd := &cobra.Command{Use: "store", Short: "make a store for a node that has lost its own"}
	cmd.AddCommand(create)
	return cmd
}

func createStore(ctx context.Context, dir, unlock string) error {
	return offline(dir, unlock, func(id *Identity) error {
		if id.Network.IsZero() {
			return errors.New("this node has not joined a network: nobody could fill its store")
		}
		return fillLater(ctx, dir, (*[32]byte)(id.StorageKey))
	})
}

// fillLater makes an empty store that is marked as put back.
func fillLater(ctx context.Context, dir string, k *[32]byte) error {
	if err := storage.Create(dir, k); err != nil {
		err = fmt.Errorf("making the store: %w", err)
		if errors.Is(err, storage.ErrExists) {
			err = hint(err, "move store.db, STORE and epochkey out of %s first, and keep them until all is well", dir)
		}
		return err
	}
	db, err := storage.Open(dir, k, storage.Options{})
	if err != nil {
		return fmt.Errorf("opening the new store: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- db.Run(ctx) }()
	err = keystore.MarkRestored(ctx, db)
	cancel()
	return errors.Join(err, <-ran, db.Close())
}
