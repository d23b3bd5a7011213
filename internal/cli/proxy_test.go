package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const goodEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: 9}}]
`

// free are flags that listen on ports nobody knows, and ask no DNS server of this machine.
var free = []string{"--listen", "127.0.0.1:0", "--http-proxy", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--admin", "127.0.0.1:0",
	"--resolver", "127.0.0.1:9", "--state-file=", "--locality", "us-east1"}

// TestExitStatus: what is wrong is one line each on stderr, nothing on stdout, and the status tells whose fault it is.
func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", goodEntry)
	bad := file("bad.yaml", strings.Replace(goodEntry, "STATIC", "STATIK", 1)+"---\nkind: [\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().String()
	inUse := func(flag string) string {
		return "^detour: --" + flag + " " + regexp.QuoteMeta(busy) + ": address already in use .*\n$"
	}
	proxy := func(more ...string) []string { return append(append([]string{"proxy", "-f", good}, free...), more...) }
	for _, tc := range []struct {
		args   []string
		status int
		stderr string // a regular expression
	}{
		{[]string{"bogus"}, 2, `^detour: unknown command "bogus" .*--help'\)\n$`},
		{[]string{"proxy"}, 2, `^detour: no configuration: -f PATH is needed .*\n$`},
		{[]string{"proxy", "--bogus"}, 2, `^detour: unknown flag: --bogus .*\n$`},
		{[]string{"ps", "x"}, 2, `^detour: .*\n$`},
		{[]string{"version", "x"}, 2, `^detour: .*\n$`},
		{proxy("x"), 2, `^detour: unexpected argument "x"; a configuration is named with -f \(see 'detour proxy --help'\)\n$`},
		{proxy("--outbound-policy", "x"), 2, `^detour: --outbound-policy "x": not one of allow-any, registry-only .*\n$`},
		{proxy("--log-level", "x"), 2, `^detour: --log-level "x": not one of debug, info, warn, error .*\n$`},
		{proxy("--compat", "x"), 2, `^detour: --compat "x": .*\n$`},
		{proxy("--concurrency", "0"), 2, `^detour: --concurrency 0: .*\n$`},
		{proxy("--drain-time", "-1s"), 2, `^detour: --drain-time -1s: .*\n$`},
		{proxy("--access-log-format", "x"), 2, `^detour: --access-log-format "x": .*\n$`},
		{proxy("--resolver", "x"), 2, `^detour: --resolver: .*\n$`},
		{proxy("--listen", "x"), 2, `^detour: --listen "x": missing port in address\n$`},
		{proxy("--dns", "127.0.0.1:99999"), 2, `^detour: --dns "127.0.0.1:99999": invalid port\n$`},
		{proxy("--access-log", dir), 1, `^detour: --access-log: .*is a directory\n$`},
		{proxy("--listen", busy), 1, inUse("listen")},
		{proxy("--http-proxy", busy), 1, inUse("http-proxy")},
		{proxy("--dns", busy), 1, inUse("dns")},
		{proxy("--admin", busy), 1, inUse("admin")},
		{proxy("--admin", "unix:"+good), 1, `^detour: --admin unix:.*: exists and is no socket\n$`},
		{proxy("-f", filepath.Join(dir, "none")), 1, `^\S+none: error: .*no such file.*\ndetour: 1 error in the configuration; --keep-going .*\n$`},
		{append([]string{"proxy", "-f", bad}, free...), 1,
			`^\S+bad.yaml:7:\d+: error: .*STATIK.*\n\S+bad.yaml:1\d:\d+: error: .*\ndetour: 2 errors in the configuration; --keep-going .*\n$`},
		{[]string{"run", "-f", bad, "--locality", "x", "--", "true"}, 125, `bad.yaml:7:.*\n.*\ndetour: run: 2 errors in the configuration\n$`},
		{[]string{"run", "-f", good, "--locality", "x", "--resolver", "x", "--", "true"}, 125, `^detour: run: --resolver: .*\n$`},
		{[]string{"run", "-f", good}, 125, `^detour: run: no COMMAND .*\n$`},
		{[]string{"run", "--bogus"}, 125, `^detour: run: unknown flag: --bogus .*\n$`},
		{[]string{"run", "-f", "-", "--", "true"}, 125, `^detour: run: -f -: .*\n$`},
		{[]string{"run", "-f", good, "--locality", "x", "--resolver", "127.0.0.1:9", "--via", "environment", "--", "sh", "-c", "exit 7"}, 7, `^$`},
		{[]string{"run", "-f", good, "--locality", "x", "--resolver", "127.0.0.1:9", "--via", "environment", "--", "no-such-command"}, 127, `^detour: run: .*\n$`},
	} {
		p := launch(t, dir, "", tc.args...)
		if status := p.wait(); status != tc.status || !regexp.MustCompile(tc.stderr).MatchString(p.err()) || p.out() != "" {
			t.Errorf("%v: status %d, want %d; stderr %q, want %s; stdout %q", tc.args, status, tc.status, p.err(), tc.stderr, p.out())
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "detour", "*.sock")); err != nil || len(left) > 0 {
		t.Errorf("sockets were left behind: %v, %v", left, err)
	}
}

// daemon is a running proxy.
type daemon struct {
	*process
	dir string
	at  map[string]string // what the line says: listen, http_proxy, dns, admin
}

var pair = regexp.MustCompile(`(listen|http_proxy|dns|admin)=(\S+)`)

func startProxy(t *testing.T, stdin string, more ...string) *daemon {
	t.Helper()
	d := &daemon{dir: t.TempDir(), at: map[string]string{}}
	d.process = launch(t, d.dir, stdin, append(append([]string{"proxy"}, free...), more...)...)
	d.serving()
	return d
}

// serving waits for the line that says where it listens.
func (d *daemon) serving() {
	d.t.Helper()
	await(d.t, "it serves", func() bool {
		select {
		case <-d.done:
			d.t.Fatal("it ended")
		default:
		}
		return strings.Contains(d.err(), "msg=serving")
	})
	for line := range strings.Lines(d.err()) {
		if strings.Contains(line, "msg=serving") {
			for _, m := range pair.FindAllStringSubmatch(line, -1) {
				d.at[m[1]] = m[2]
			}
		}
	}
}

// TestSignals: SIGHUP changes nothing, SIGTERM drains, the second one ends at once; the status is 0 and no socket stays.
func TestSignals(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "admin.sock")
	d := startProxy(t, goodEntry, "-f", "-", "--admin", "unix:"+sock, "--access-log=")
	if len(d.at) != 4 || d.at["admin"] != "unix:"+sock {
		t.Errorf("the line says %v", d.at)
	}
	for what, addr := range d.at {
		if strings.HasSuffix(addr, ":0") {
			t.Errorf("%s is said to be %s", what, addr)
		}
	}
	if info, err := os.Stat(sock); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin socket: %v, %v", info, err)
	}
	ps := launch(t, d.dir, "", "ps")
	if ps.wait() != 0 || !regexp.MustCompile(`(?m)^\s*`+strconv.Itoa(d.cmd.Process.Pid)+`\s+LIVE\s`).MatchString(ps.out()) {
		t.Errorf("ps does not list it: %s", ps.out())
	}
	d.signal(syscall.SIGHUP)
	await(t, "it says what SIGHUP is", func() bool { return strings.Contains(d.err(), "hangup: nothing to do") })

	c, err := net.Dial("tcp", d.at["http_proxy"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: mydb.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nab") // under way for ever
	tr := &http.Transport{DisableKeepAlives: true}
	tr.DialContext = dialUnix(sock)
	admin := &http.Client{Transport: tr, Timeout: patience}
	await(t, "the request has come", func() bool { return strings.Contains(page(admin, "/stats"), "downstream_rq_total: 1\n") })
	d.signal(syscall.SIGTERM)
	await(t, "it drains", func() bool { return page(admin, "/ready") == "DRAINING\n" })
	begin := time.Now()
	d.signal(syscall.SIGTERM)
	if status := d.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(begin); took > drainTime/2 {
		t.Errorf("the second signal took %v", took)
	}
	left, _ := filepath.Glob(filepath.Join(d.dir, "detour", "*.sock"))
	if _, err := os.Stat(sock); err == nil || len(left) > 0 {
		t.Errorf("sockets were left behind: %v, %v", err, left)
	}
}

// TestLogsWithoutReader: logs that nobody reads any more do not end the process.
func TestLogsWithoutReader(t *testing.T) {
	d := &daemon{dir: t.TempDir(), at: map[string]string{}}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d.process = &process{t: t, cmd: exec.Command(binary, append([]string{"proxy", "-f", "-"}, free...)...), done: make(chan struct{})}
	d.cmd.Env, d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = environment(d.dir), strings.NewReader(goodEntry), in, tap{d.process, &d.stderr}
	d.begin()
	in.Close()
	d.serving()
	out.Close()
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	ask := func(url string) int {
		r, err := admin.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	for range 3 {
		if status := ask("http://" + d.at["http_proxy"] + "/"); status != 502 { // an undeclared Host
			t.Errorf("got %d", status)
		}
	}
	await(t, "the log could not be written", func() bool {
		r, err := admin.Get("http://" + d.at["admin"] + "/stats?filter=access_log")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return regexp.MustCompile(`(failed|dropped): [1-9]`).Match(b)
	})
	d.signal(syscall.SIGTERM)
	if status := d.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func page(c *http.Client, path string) string {
	r, err := c.Get("http://localhost" + path)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return string(b)
}

func TestProxyVariables(t *testing.T) {
	for _, tc := range []struct {
		in   []string
		want map[string]string
	}{
		{nil, map[string]string{}},
		{[]string{"HTTP_PROXY=a", "http_proxy=b"}, map[string]string{"http_proxy": "b"}},
		{[]string{"http_proxy=b", "HTTP_PROXY=a"}, map[string]string{"http_proxy": "b"}},
		{[]string{"ALL_PROXY=x", "https_proxy=y", "NO_PROXY=z"}, map[string]string{"all_proxy": "x", "http_proxy": "x", "https_proxy": "y", "no_proxy": "z"}},
		{[]string{"http_proxy=http://a=b"}, map[string]string{"http_proxy": "http://a=b"}},
	} {
		if got := proxyVariables(tc.in); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%v: got %v, want %v", tc.in, got, tc.want)
		}
	}
}

func dialUnix(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}
