package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		GroupID:           groupTool,
		Short:             "Print the version of this program",
		Long:              "Version prints the version of keyctl; keyctl status shows that of the node.\nIt asks nobody.",
		Example:           "  keyctl version",
		Args:              exactArgs(0, "keyctl version"),
		ValidArgsFunction: noCompletion,
		RunE: func(*cobra.Command, []string) error {
			v := versionInfo()
			if a.json() {
				return a.printJSON(v)
			}
			commit := ""
			if v.Commit != "" {
				commit = " " + v.Commit
			}
			return a.print(fmt.Appendf(nil, "keymesh keyctl %s%s %s %s\n", v.Version, commit, v.Go, v.Platform))
		},
	}
}

// version of this program; that of keynode is the same.
const version = "0.1.0"

// versionJSON is the answer of version.
type versionJSON struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// versionInfo reads what the linker recorded.
func versionInfo() versionJSON {
	v := versionJSON{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v.Commit = s.Value[:12]
		}
		if s.Key == "vcs.modified" && s.Value == "true" && v.Commit != "" {
			v.Commit += "+changes"
		}
	}
	return v
}

// release is the version as it stands in the User-Agent.
func release() string { return versionInfo().Version }
