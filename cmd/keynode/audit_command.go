package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"keymesh/storage"
)

func auditCommand() *cobra.Command {
	var dir, unlock string
	create := &cobra.Command{
		Use: "create --data DIR", Short: "make an empty audit log for a node that has none", Args: cobra.NoArgs,
		Long: "Makes an empty audit log for a node whose log is lost, or whose data are older than audit logs. It\nnever overwrites one. What the lost log held stays lost; peers that keep its heads can show that it was.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absDir(dir)
			if err != nil {
				return err
			}
			if err := createAudit(dir, unlock); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "an empty audit log was made")
			return err
		},
	}
	create.Flags().StringVar(&dir, "data", "", "data directory")
	create.Flags().StringVar(&unlock, "unlock", "", "prompt, file:PATH, credential:NAME or none (default: as the identity says)")
	cmd := &cobra.Command{Use: "audit", Short: "make an audit log for a node that has none, or check an exported one"}
	cmd.AddCommand(create, auditVerifyCommand())
	return cmd
}

func createAudit(dir, unlock string) error {
	return offline(dir, unlock, func(id *Identity) error {
		if id.Network.IsZero() {
			return errors.New("this node has not joined a network: joining makes its audit log")
		}
		if err := storage.CreateAudit(dir, (*[32]byte)(id.StorageKey), id.Network, id.Node.ID()); err != nil {
			return fmt.Errorf("making the audit log: %w", err)
		}
		return nil
	})
}

// offline does something with the files of a node that does not run: it opens
// the identity and holds the lock of the data directory meanwhile. unlock is as
// on the command line; empty: as the identity says.
func offline(dir, unlock string, do func(*Identity) error) error {
	u := Unlock{}
	if unlock != "" {
		var err error
		if u, err = parseUnlock(unlock); err != nil {
			return err
		}
	}
	id, err := loadIdentity(dir, u)
	if err != nil {
		return err
	}
	defer id.Erase()
	release, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer release()
	return do(id)
}
