package accesslog

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/dataplane/streaminfo"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func full() *streaminfo.Info {
	return &streaminfo.Info{
		Start:               time.Date(2026, 11, 22, 17, 43, 37, 599e6, time.FixedZone("", 3600)),
		Duration:            154 * time.Millisecond,
		Method:              []byte("POST"),
		Path:                []byte("/api/v1/locations?x=1"),
		Authority:           []byte("mydb.com"),
		UserAgent:           []byte("curl/8.5"),
		ForwardedFor:        []byte("10.0.0.1"),
		RequestID:           []byte("cc21d9b0"),
		Protocol:            streaminfo.HTTP11,
		BytesReceived:       226,
		BytesSent:           1<<63 - 1,
		Code:                204,
		CodeDetails:         "via_upstream",
		Flags:               streaminfo.UpstreamConnectionFailure | streaminfo.UpstreamRetryLimitExceeded,
		Route:               "default",
		Cluster:             "outbound|80||mydb.com",
		UpstreamHost:        netip.MustParseAddrPort("[::ffff:10.0.35.28]:80"),
		UpstreamHostname:    "dynamodb.us-east-1.amazonaws.com",
		UpstreamLocal:       netip.MustParseAddrPort("10.0.0.9:41000"),
		UpstreamServiceTime: 100 * time.Millisecond,
		UpstreamFailure:     "connection refused",
		Priority:            1,
		Attempts:            2,
		DownstreamRemote:    netip.MustParseAddrPort("[fe80::1%eth0]:4"),
		DownstreamLocal:     netip.MustParseAddrPort("127.0.0.1:15001"),
		OriginalDst:         netip.MustParseAddrPort("240.240.0.1:80"),
		RequestedServerName: []byte("mydb.com"),
	}
}

func hostile() *streaminfo.Info {
	return &streaminfo.Info{
		Method:    []byte("GET\r\n[2026-01-01T00:00:00.000Z] \"GET / HTTP/1.1\" 200"),
		Path:      []byte("/\"quoted\"\\back\x1b[31mred\x00\x7f\u0085\u2028\xff\xc3\x28 é"),
		Authority: []byte("a\nb"),
		UserAgent: []byte("\",\"response_code\":200,\"x\":\""),
		Protocol:  streaminfo.HTTP2,
		Code:      400,
		Flags:     streaminfo.DownstreamProtocolError,
		Route:     "a\"b\n",
	}
}

func TestGolden(t *testing.T) {
	for name, i := range map[string]*streaminfo.Info{"full": full(), "empty": {}, "hostile": hostile()} {
		for ext, format := range map[string]func([]byte, *streaminfo.Info) []byte{"txt": AppendText, "json": AppendJSON} {
			got := format([]byte("before|"), i)
			file := filepath.Join("testdata", name+"."+ext)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s:\n got %s\nwant %s", file, got, want)
			}
		}
	}
}

// textLine is Envoy's default format with nothing in a field that could end it.
var textLine = regexp.MustCompile(`^\[\d+-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "[^"]*" \d+ [A-Z,-]+ \d+ \d+ \d+ (\d+|-)( "[^"]*"){5}\n$`)

func FuzzFormat(f *testing.F) {
	f.Add([]byte("GET"), []byte("/"), []byte("mydb.com"), []byte("curl"))
	h := hostile()
	f.Add(h.Method, h.Path, h.Authority, h.UserAgent)
	f.Add([]byte("\xed\xa0\x80"), []byte("\xf4\x90\x80\x80"), []byte("\xe2\x80\xa9"), []byte("\xc2\x9b"))
	f.Fuzz(func(t *testing.T, method, path, host, agent []byte) {
		i := &streaminfo.Info{Method: method, Path: path, Authority: host, UserAgent: agent, Code: 200}
		text := AppendText(nil, i)
		if !textLine.Match(text) {
			t.Errorf("forged: %q", text)
		}
		for _, c := range text[:len(text)-1] {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, text)
			}
		}
		line := AppendJSON(nil, i)
		if bytes.Count(line, []byte("\n")) != 1 || !utf8.Valid(line) {
			t.Errorf("JSON: %q", line)
		}
		var v struct {
			Method, Path, Authority *string
			Agent                   *string `json:"user_agent"`
			Code                    int     `json:"response_code"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, pair := range []struct {
			got  *string
			want []byte
		}{{v.Method, method}, {v.Path, path}, {v.Authority, host}, {v.Agent, agent}} {
			if len(pair.want) == 0 {
				if pair.got != nil {
					t.Errorf("%q for nothing", *pair.got)
				}
			} else if pair.got == nil || *pair.got != string([]rune(string(pair.want))) { // bytes that are no UTF-8 become U+FFFD
				t.Errorf("%v, want %q", pair.got, pair.want)
			}
		}
		if v.Code != 200 {
			t.Errorf("code %d", v.Code)
		}
	})
}

func TestFlags(t *testing.T) {
	for want, f := range map[string]streaminfo.Flags{
		"-":           0,
		"UH":          streaminfo.NoHealthyUpstream,
		"UT":          streaminfo.UpstreamRequestTimeout,
		"UF,URX":      streaminfo.UpstreamRetryLimitExceeded | streaminfo.UpstreamConnectionFailure,
		"UC":          streaminfo.UpstreamConnectionTermination,
		"UO":          streaminfo.UpstreamOverflow,
		"NR":          streaminfo.NoRouteFound,
		"NC":          streaminfo.NoClusterFound,
		"DC":          streaminfo.DownstreamConnectionTermination,
		"DPE":         streaminfo.DownstreamProtocolError,
		"UPE":         streaminfo.UpstreamProtocolError,
		"DF":          streaminfo.DNSResolutionFailed,
		"DR":          streaminfo.DownstreamRemoteReset,
		"UDO":         streaminfo.UnconditionalDropOverload,
		"LH,LR,UMSDR": streaminfo.FailedLocalHealthCheck | streaminfo.LocalReset | streaminfo.UpstreamMaxStreamDurationReached,
	} {
		if f.String() != want {
			t.Errorf("%#x is %s, want %s", uint32(f), f, want)
		}
	}
	if f := streaminfo.LocalReset | streaminfo.UpstreamRemoteReset; !f.Has(streaminfo.LocalReset) || f.Has(streaminfo.LocalReset|streaminfo.NoRouteFound) {
		t.Error("Has")
	}
}

func TestFormatsAllocateNothing(t *testing.T) {
	buf := make([]byte, 0, 8192)
	for name, format := range map[string]func([]byte, *streaminfo.Info) []byte{"text": AppendText, "json": AppendJSON} {
		for _, i := range []*streaminfo.Info{full(), hostile()} {
			i.DownstreamRemote = netip.MustParseAddrPort("10.0.0.1:1") // a zone makes netip allocate
			if n := testing.AllocsPerRun(100, func() { buf = format(buf[:0], i) }); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
}

func BenchmarkFormat(b *testing.B) {
	i := full()
	buf := make([]byte, 0, 8192)
	for name, format := range map[string]func([]byte, *streaminfo.Info) []byte{"text": AppendText, "json": AppendJSON} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = format(buf[:0], i)
			}
		})
	}
}

func lines(s string) int { return strings.Count(s, "\n") }

func TestTimeIsThatOfThePackage(t *testing.T) {
	check := func(at time.Time) {
		t.Helper()
		if got, want := string(appendTime(nil, at)), at.UTC().Format(startTime); got != want {
			t.Fatalf("%d: %s, want %s", at.Unix(), got, want)
		}
	}
	for _, s := range []int64{-1 << 40, -86401, -1, 0, endOfFourDigits - 1, endOfFourDigits, 1 << 40} {
		check(time.Unix(s, 999_999_999))
	}
	for s := int64(0); s < endOfFourDigits; s += 86399 * 3 { // each date of a leap year's cycle, at changing times of day
		check(time.Unix(s, s%1_000_000_000).In(time.FixedZone("", 3600)))
	}
}

func TestAddressIsThatOfThePackage(t *testing.T) {
	for _, s := range []string{"0.0.0.0:0", "1.9.10.99:1", "100.199.200.255:65535", "[::1]:80", "[2001:db8::1]:443"} {
		if got := string(appendAddr(nil, netip.MustParseAddrPort(s))); got != s {
			t.Errorf("%s, want %s", got, s)
		}
	}
	if got := string(appendAddr(nil, netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"))); got != "10.0.0.1:80" {
		t.Error(got)
	}
}
