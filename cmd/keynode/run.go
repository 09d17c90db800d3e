package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// configName is the file in the data directory that is read when --config
// names none.
const configName = "keynode.toml"

func runCommand() *cobra.Command {
	var dir, file string
	cmd := &cobra.Command{
		Use: "run --data DIR", Short: "run the node in the foreground; SIGTERM drains and ends it", Args: cobra.NoArgs,
		Long: "Starting never creates: the directory is made by keynode init or join. Values come from flags, then\nKEYMESH_* in the environment, then the config file (DIR/" + configName + " unless --config names another), then defaults.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absDir(dir)
			if err != nil {
				return err
			}
			cfg, err := runConfig(cmd, dir, file)
			if err != nil {
				return err
			}
			return runNode(cmd.Context(), dir, cfg, newLog(cfg, cmd.ErrOrStderr()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data", "", "data directory")
	f.StringVar(&file, "config", "", "config file (default: DIR/"+configName+" if it exists)")
	f.String("listen", "", "host:port for other nodes")
	f.StringSlice("advertise", nil, "address told to the network, may be repeated")
	f.StringSlice("bootstrap", nil, "address of any member, may be repeated")
	f.String("api-socket", "", "path of the API's unix socket")
	f.String("api-tcp", "", "loopback host:port for the API, with a token")
	f.String("unlock", "", "prompt, file:PATH, credential:NAME or none")
	f.String("storage-max", "", "space offered, as in \"10 GiB\"")
	f.String("log-level", "", "debug, info, warn or error")
	f.String("log-format", "", "text or json")
	return cmd
}

// runConfig gathers the flags that were given over environment, file and
// defaults.
func runConfig(cmd *cobra.Command, dir, file string) (Config, error) {
	if file == "" {
		if _, err := os.Stat(filepath.Join(dir, configName)); err == nil {
			file = filepath.Join(dir, configName)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return Config{}, fmt.Errorf("looking for a config file: %w", err)
		}
	}
	flags := map[string]string{}
	for _, name := range []string{"listen", "api-socket", "api-tcp", "unlock", "storage-max", "log-level", "log-format"} {
		if cmd.Flags().Changed(name) {
			flags[name], _ = cmd.Flags().GetString(name)
		}
	}
	for _, name := range []string{"advertise", "bootstrap"} {
		if cmd.Flags().Changed(name) {
			list, _ := cmd.Flags().GetStringSlice(name)
			flags[name] = strings.Join(list, ",")
		}
	}
	return loadConfig(file, os.Environ(), flags)
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "check a config file, or print the default one"}
	cmd.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "say whether the file is a valid configuration", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := loadConfig(args[0], nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return nil
		},
	}, &cobra.Command{
		Use: "default", Short: "print every setting with its default", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), defaultConfigText())
			return err
		},
	})
	return cmd
}

func newLog(cfg Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // loadConfig admits only the four names
	}
	opt := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
