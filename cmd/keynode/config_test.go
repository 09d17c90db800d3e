package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func configFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keynode.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, path string, env []string, flags map[string]string) Config {
	t.Helper()
	c, err := loadConfig(path, env, flags)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfigDefaults(t *testing.T) {
	want := Config{
		Listen: ":7946", APISocket: "/run/keymesh/api.sock", StorageMax: 10 << 30,
		QuotaSecrets: 10000, QuotaBytes: 1 << 30, LogLevel: "info", LogFormat: "text",
	}
	got := mustLoad(t, "", nil, nil)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := mustLoad(t, "", []string{"XDG_RUNTIME_DIR=/run/user/7"}, nil); got.APISocket != "/run/user/7/keymesh/api.sock" {
		t.Errorf("API socket of a session: %s", got.APISocket)
	}
}

// TestConfigDefaultText: the printed file is accepted as it is and with every
// setting uncommented, and both mean the defaults.
func TestConfigDefaultText(t *testing.T) {
	text := defaultConfigText()
	uncommented := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`).ReplaceAllString(text, "$1")
	if n := strings.Count(uncommented, "\n") - strings.Count(regexp.MustCompile(`(?m)^[a-z_]+ = .*\n`).ReplaceAllString(uncommented, ""), "\n"); n != len(settings()) {
		t.Fatalf("%d lines uncommented for %d settings", n, len(settings()))
	}
	want := mustLoad(t, "", nil, nil)
	for _, s := range []string{text, uncommented} {
		if got := mustLoad(t, configFile(t, s), nil, nil); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	// The test reaches the settings: one that is changed is seen.
	changed := strings.Replace(uncommented, `log_format = "text"`, `log_format = "json"`, 1)
	if got := mustLoad(t, configFile(t, changed), nil, nil); got.LogFormat != "json" {
		t.Error("an uncommented setting has no effect")
	}
}

func TestConfigPrecedence(t *testing.T) {
	path := configFile(t, "log_level = \"warn\"\nlisten = \"127.0.0.1:1\"\nadvertise = [\"a:1\", \"b:2\"]\nquota_secrets = 7\n")
	c := mustLoad(t, path, nil, nil)
	if c.LogLevel != "warn" || c.Listen != "127.0.0.1:1" || len(c.Advertise) != 2 || c.QuotaSecrets != 7 {
		t.Errorf("file over default: %+v", c)
	}
	env := []string{"KEYMESH_LOG_LEVEL=error", "KEYMESH_LISTEN=127.0.0.1:2", "KEYMESH_ADVERTISE=c:3,wss://d:4", "KEYMESH_QUOTA_SECRETS=8", "KEYMESH_STORAGE_MAX=2GiB"}
	c = mustLoad(t, path, env, nil)
	if c.LogLevel != "error" || c.Listen != "127.0.0.1:2" || !reflect.DeepEqual(c.Advertise, []string{"c:3", "wss://d:4"}) || c.QuotaSecrets != 8 || c.StorageMax != 2<<30 {
		t.Errorf("environment over file: %+v", c)
	}
	c = mustLoad(t, path, env, map[string]string{"listen": "127.0.0.1:3", "advertise": "", "log-level": "debug"})
	if c.LogLevel != "debug" || c.Listen != "127.0.0.1:3" || c.Advertise != nil {
		t.Errorf("flag over environment: %+v", c)
	}
}

func TestConfigUnknownNames(t *testing.T) {
	for text, want := range map[string][]string{
		"lisen = \"x\"\n": {":1:", `"lisen"`, `"listen"`},
		"# c\n\nlog_level = \"info\"\nlog-format = \"json\"\n": {":4:", `"log-format"`, `"log_format"`},
		"\n\"apisocket\" = \"/x\"\n":                           {":2:", `"api_socket"`},
		"[log]\nlevel = \"info\"\n":                            {":1:", `"log"`},
		"\n[storage_maxx]\nx = 1\n":                            {":2:", `"storage_max"`},
		"bootstrapp.x = 1\n":                                   {":1:", `"bootstrap"`},
		"Listen = \"127.0.0.1:1\"\n":                           {":1:", `"Listen"`, `"listen"`},
		strings.Repeat("x", 5000) + " = 1\n":                   {":1:", "is not a setting"},
	} {
		path := configFile(t, text)
		_, err := loadConfig(path, nil, nil)
		if err == nil {
			t.Errorf("%.60q was accepted", text)
			continue
		}
		for _, w := range append(want, path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.60q: %v lacks %s", text, err, w)
			}
		}
		if len(err.Error()) > 500 {
			t.Errorf("%.60q: an error of %d bytes", text, len(err.Error()))
		}
		wantHint(t, err, "config default")
	}
	if _, err := loadConfig("", []string{"KEYMESH_LISTENN=:1"}, nil); err == nil || !strings.Contains(err.Error(), "KEYMESH_LISTEN") {
		t.Errorf("a misspelt variable: %v", err)
	}
	for _, e := range []string{"KEYMESH_SOCKET=/x", "KEYMESH_ADDR=http://x", "KEYMESH_OF_ANOTHER_PROGRAM=1", "KEYMESH", "LISTEN=:1"} {
		if _, err := loadConfig("", []string{e}, nil); err != nil {
			t.Errorf("%s: %v", e, err)
		}
	}
	if _, err := loadConfig("", nil, map[string]string{"api-sock": "/x"}); err == nil || !strings.Contains(err.Error(), "--api-socket") {
		t.Errorf("a misspelt flag: %v", err)
	}
}

// TestConfigBadValues: each is refused from the file with its line.
func TestConfigBadValues(t *testing.T) {
	long := strings.Repeat("a", 300) + ":1"
	for _, line := range []string{
		`listen = "7946"`, `listen = ":http"`, `listen = ":70000"`, `listen = "example.org:1"`, `listen = 7946`, `listen = [":1"]`, `listen = "[::1"`, `listen = ":-1"`,
		`advertise = "a:1"`, `advertise = [1]`, `advertise = ["a"]`, `advertise = ["http://a:1"]`, `advertise = ["ws://a"]`, `advertise = ["ws://a:1/path"]`,
		`advertise = ["ws://u:p@a:1"]`, `advertise = [":1"]`, `advertise = ["a:0"]`, `advertise = ["0.0.0.0:1"]`, `advertise = ["[::]:1"]`, `advertise = ["224.0.0.1:1"]`,
		`advertise = ["` + long + `"]`, `advertise = ["a:1","a:2","a:3","a:4","a:5","a:6","a:7","a:8","a:9"]`, `advertise = ["ws://a:1?x"]`, `advertise = ["ws://a:1#x"]`, `advertise = ["a b:1"]`,
		`bootstrap = ["wss://"]`, `bootstrap = [["a:1"]]`,
		`api_socket = "api.sock"`, `api_socket = "/` + strings.Repeat("a", 200) + `"`, `api_socket = 1`,
		`api_tcp = "0.0.0.0:1"`, `api_tcp = ":1"`, `api_tcp = "localhost:1"`, `api_tcp = "192.168.1.1:1"`, `api_tcp = "127.0.0.1"`, `api_tcp = "[::]:1"`, `api_tcp = "127.1:1"`,
		`unlock = "ask"`, `unlock = 1`,
		`storage_max = -1`, `storage_max = 0`, `storage_max = "1 XiB"`, `storage_max = "ten"`, `storage_max = 1.5`, `storage_max = "99999999 TiB"`, `storage_max = "1000"`, `storage_max = ""`, `storage_max = "GiB"`, `storage_max = "-1 GiB"`,
		`quota_secrets = -1`, `quota_secrets = "5"`, `quota_bytes = true`,
		`log_level = "loud"`, `log_level = ""`, `log_format = "xml"`,
	} {
		path := configFile(t, "# first\n"+line+"\n")
		c, err := loadConfig(path, nil, nil)
		if err == nil {
			t.Errorf("%.80s was accepted: %+v", line, c)
			continue
		}
		if !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%.80s: a config beside the error", line)
		}
		if !strings.Contains(err.Error(), path+":2:") && !strings.Contains(err.Error(), "system's limit") {
			t.Errorf("%.80s: %v names no line", line, err)
		}
	}
	for _, text := range []string{"listen", "listen = ", "listen = \"a", "listen = \":1\"\nlisten = \":2\"\n", "\xff = 1", "a = 1\na.b = 2"} {
		if _, err := loadConfig(configFile(t, text), nil, nil); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestConfigGoodValues(t *testing.T) {
	for _, line := range []string{
		`listen = ""`, `listen = "127.0.0.1:0"`, `listen = "[::1]:7946"`, `listen = "localhost:1"`, `listen = "0.0.0.0:65535"`,
		`advertise = ["ws://a.example:1", "wss://[2001:db8::1]:443", "10.0.0.1:7946"]`, `bootstrap = []`,
		`api_tcp = "127.0.0.1:0"`, `api_tcp = "[::1]:8080"`, `api_tcp = "127.9.9.9:1"`,
		`unlock = "credential:keymesh"`, `unlock = "none"`, `storage_max = 1073741824`, `storage_max = "1 TB"`, `quota_secrets = 0`,
	} {
		if _, err := loadConfig(configFile(t, line), nil, nil); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for text, want := range map[string]uint64{"1048576": 1 << 20, "3 MiB": 3 << 20, "3MB": 3e6, "5000 kB": 5e6, "2097152 B": 2 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q = %d, %v", text, got, err)
		}
	}
}

func TestConfigCrossChecks(t *testing.T) {
	if _, err := loadConfig("", nil, map[string]string{"listen": "", "advertise": "a:1"}); err == nil {
		t.Error("a node that does not listen advertises addresses")
	}
	_, err := loadConfig("", nil, map[string]string{"storage_max": "512 MiB"})
	wantHint(t, err, "lower quota_bytes")
	if _, err := loadConfig(filepath.Join(t.TempDir(), "none"), nil, nil); err == nil {
		t.Error("a missing file was taken for an empty one")
	}
	if _, err := loadConfig(configFile(t, strings.Repeat("#\n", maxConfig)), nil, nil); err == nil {
		t.Error("a huge file was read")
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"listen", "lisen", 1}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"ab", "ba", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzConfig: no text is accepted that leaves a value outside of its limits,
// and errors stay short.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(defaultConfigText()))
	f.Add([]byte("listen = \":1\"\nadvertise = [\"ws://a:1\"]\napi_tcp = \"127.0.0.1:1\"\n"))
	f.Add([]byte("[log]\nlevel = 1\n"))
	f.Add([]byte("\"listen\" = '''x'''\nx.y.z = {}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c Config
		if err := applyFile(&c, settings(), "f", text); err != nil {
			if len(err.Error()) > 1200 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if len(c.Advertise) > maxAdvertise || len(c.Bootstrap) > maxBootstrap || c.StorageMax != 0 && c.StorageMax < minStorage {
			t.Fatalf("accepted: %+v", c)
		}
		if c.APITCP != "" && !strings.HasPrefix(c.APITCP, "127.") && !strings.HasPrefix(c.APITCP, "[::") {
			t.Fatalf("the API would listen on %q", c.APITCP)
		}
	})
}
