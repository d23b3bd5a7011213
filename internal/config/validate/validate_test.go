package validate

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judge reads a file and gives all that is said of it, and the gravest of it.
func judge(name string, data []byte) ([]config.Issue, string) {
	objects, issues := decode.File(name, data)
	for _, o := range objects {
		issues = append(issues, Object(o).Issues...)
	}
	verdict := "accept"
	for _, i := range issues {
		if i.Severity == config.Error {
			return issues, "reject"
		}
		if i.Severity == config.Warning {
			verdict = "warn"
		}
	}
	return issues, verdict
}

func TestBad(t *testing.T) {
	var index []struct{ File, Detour string }
	b, err := os.ReadFile("../../../testdata/conformance/bad/index.json")
	if err == nil {
		err = json.Unmarshal(b, &index)
	}
	if err != nil || len(index) < 38 {
		t.Fatal(len(index), err)
	}
	var golden strings.Builder
	for _, e := range index {
		data, err := os.ReadFile("../../../testdata/conformance/bad/" + e.File)
		if err != nil {
			t.Fatal(err)
		}
		issues, got := judge(e.File, data)
		if got != e.Detour {
			t.Errorf("%s: %s, want %s", e.File, got, e.Detour)
		}
		for _, i := range issues {
			if i.Origin.Line == 0 || i.Origin.Column == 0 || config.Codes[i.Code] == "" {
				t.Errorf("%s: no place or no known code: %v", e.File, i)
			}
			golden.WriteString(i.String() + "\n")
		}
	}
	compare(t, "testdata/bad.golden", golden.String())
}

func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s differs (%v); go test -update and look at the difference. Got:\n%s", path, err, got)
	}
}

func TestGood(t *testing.T) {
	files, _ := filepath.Glob("testdata/good/*.yaml")
	more, _ := filepath.Glob("../../../testdata/walkthrough/*.yaml")
	if files = append(files, more...); len(files) < 18 {
		t.Fatalf("%d files", len(files))
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if issues, _ := judge(f, data); len(issues) > 0 {
			t.Errorf("%s: %v", f, issues)
		}
	}
}

const api = "apiVersion: networking.istio.io/v1\nmetadata: {name: x}\nkind: "

// se, dr and vs make an object around the fields in question.
func se(fields string) string {
	return api + "ServiceEntry\nspec: {hosts: [a.com], ports: [{number: 80, name: http, protocol: HTTP}], " + fields + "}"
}

func dr(fields string) string {
	return api + "DestinationRule\nspec: {host: a.com, trafficPolicy: {" + fields + "}}"
}

func vs(route string) string {
	return api + "VirtualService\nspec: {hosts: [a.com], http: [{" + route + "}]}"
}

const toA = "route: [{destination: {host: a.com}}]"

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct{ in, want string }{ // want: "" for nothing at all, else FIELD [CODE] of each issue
		{se("resolution: DNS, exportTo: ['.'], subjectAltNames: [x]"), ""},
		{se("resolution: STATIC, addresses: [10.0.0.1, '::1'], endpoints: [{address: 1.2.3.4, ports: {http: 8080}, labels: {a/b: c}, locality: a/b/c, weight: 3, network: net, serviceAccount: s}, {address: 'fd00::1'}]"), ""},
		{se("resolution: STATIC, endpoints: [{address: 'unix:///run/x.sock'}]"), ""},
		{se("resolution: STATIC, endpoints: [{address: 'unix://x'}]"), "spec.endpoints[0].address DTR0212"},
		{se("resolution: STATIC, endpoints: [{address: 'unix:///x', ports: {http: 80}}]"), "spec.endpoints[0].address DTR0212"},
		{se("resolution: STATIC, endpoints: [{address: b.com}]"), "spec.endpoints[0].address DTR0212"},
		{se("resolution: STATIC, endpoints: [{address: b_c}]"), "spec.endpoints[0].address DTR0212"},
		{se("resolution: DNS, endpoints: [{address: 'unix:///x'}, {locality: r}, {address: '*.b.com'}, {address: b.com, ports: {http: 0}}]"),
			"spec.endpoints[0].address DTR0212, spec.endpoints[1].address DTR0212, spec.endpoints[2].address DTR0212, spec.endpoints[3].ports.http DTR0204"},
		{se("resolution: DNS, endpoints: [{address: b.com, labels: {'a b': c, d: 'e f'}}]"), "spec.endpoints[0].labels DTR0213, spec.endpoints[0].labels DTR0213"},
		{se("resolution: DNS, addresses: [10.0.0.0/33]"), "spec.addresses[0] DTR0208"},
		{se("resolution: STATIC, addresses: [10.0.0.0/8], endpoints: [{address: 1.2.3.4}]"), ""},
		{se("resolution: DNS, exportTo: [ns]"), ""},
		{se("resolution: DNS, exportTo: ['.', '.']"), "spec.exportTo[1] DTR0201"},
		{se("resolution: DNS, exportTo: ['a b']"), "spec.exportTo[0] DTR0201"},
		{se("resolution: NONE"), ""},
		{se("resolution: DYNAMIC_DNS"), "spec.hosts[0] DTR0203"},
		{api + "ServiceEntry\nspec: {hosts: ['*.a.com', '*-b.a.com'], resolution: DYNAMIC_DNS, ports: [{number: 443, name: tls, protocol: TLS}]}", ""},
		{api + "ServiceEntry\nspec: {hosts: ['*.a.com'], resolution: DYNAMIC_DNS, addresses: [1.2.3.4], ports: [{number: 443, name: tls, protocol: TCP}]}", "spec.addresses DTR0208, spec.ports[0].protocol DTR0207"},
		{api + "ServiceEntry\nspec: {hosts: ['*-b.a.com'], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}", "warning spec.hosts[0] DTR0203"},
		{se("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.com}, {address: b.com}]"), "spec.endpoints DTR0210"},
		{se("resolution: STATIC, workloadSelector: {labels: {a: b}}"), ""},
		{api + "ServiceEntry\nspec: {hosts: ['*.a.com', a.1, 'a..b', 'a.*.b', " + strings.Repeat("a", 64) + ".com], resolution: DNS, endpoints: [{address: b.com}], ports: [{number: 80, name: http, protocol: http}]}",
			"spec.hosts[1] DTR0203, spec.hosts[2] DTR0203, spec.hosts[3] DTR0203, spec.hosts[4] DTR0203"},
		{api + "ServiceEntry\nspec: {hosts: [a.com, b.com], resolution: DNS, ports: [{number: 5432, name: pg, protocol: TCP}]}", "spec.ports[0].protocol DTR0214"},
		{api + "ServiceEntry\nspec: {hosts: [a.com], resolution: DNS, ports: [{number: 1, name: a, protocol: GRPC}, {number: 2, name: b}, {number: 3, name: a, protocol: MONGO, targetPort: 70000}, {number: 4, name: 'c d', protocol: TLS}]}",
			"spec.ports[2].name DTR0206, spec.ports[2].targetPort DTR0204, spec.ports[3].name DTR0205, warning spec.ports[0].protocol DTR0901"},
		{strings.Replace(se("resolution: DNS"), "name: x}", "name: x, annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}}", 1), ""},

		{vs("route: [{destination: {host: a.com}, weight: 2147483647}, {destination: {host: b.com}, weight: 2147483647}, {destination: {host: c.com}, weight: 2}]"), "spec.http[0].route DTR0404"},
		{dr("outlierDetection: {}, tls: {mode: DISABLE}, loadBalancer: {simple: LEAST_REQUEST}"), ""},
		{dr("outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 3, interval: 1ms, baseEjectionTime: 1h, maxEjectionPercent: 100, minHealthPercent: 50, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, outlierDetectionHttpErrorCodes: [429]}"), ""},
		{dr("outlierDetection: {maxEjectionPercent: 101, minHealthPercent: -1, consecutiveLocalOriginFailures: 1, baseEjectionTime: 1.5ms, outlierDetectionHttpErrorCodes: [99]}"),
			"spec.trafficPolicy.outlierDetection.baseEjectionTime DTR0302, spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures DTR0302, spec.trafficPolicy.outlierDetection.maxEjectionPercent DTR0302, spec.trafficPolicy.outlierDetection.minHealthPercent DTR0302, warning spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes[0] DTR0302"},
		{dr("outlierDetection: {consecutiveErrors: 1}"), "warning spec.trafficPolicy.outlierDetection.consecutiveErrors DTR0302"},
		{dr(""), "spec.trafficPolicy DTR0304"},
		{dr("connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, tcpKeepalive: {probes: 1, time: 1s, interval: 1s}, maxConnectionDuration: 1s, idleTimeout: 0s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 1, maxRequestsPerConnection: 1, maxRetries: 1, idleTimeout: 1s}}"), ""},
		{dr("connectionPool: {}"), "spec.trafficPolicy.connectionPool DTR0305"},
		{dr("connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s}, http: {maxRetries: -1, maxConcurrentStreams: 1}}"),
			"spec.trafficPolicy.connectionPool.http.maxRetries DTR0305, spec.trafficPolicy.connectionPool.tcp.connectTimeout DTR0305, spec.trafficPolicy.connectionPool.tcp.maxConnections DTR0305, warning spec.trafficPolicy.connectionPool.http.maxConcurrentStreams DTR0901"},
		{dr("loadBalancer: {simple: PASSTHROUGH}"), ""},
		{dr("loadBalancer: {warmup: {}, consistentHash: {}}"), "spec.trafficPolicy.loadBalancer.warmup.duration DTR0304, warning spec.trafficPolicy.loadBalancer DTR0304, warning spec.trafficPolicy.loadBalancer.consistentHash DTR0304"},
		{dr("outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}, {to: '*'}], failoverPriority: [topology.kubernetes.io/region]}}"),
			"spec.trafficPolicy.loadBalancer.localityLbSetting.failoverPriority[0] DTR0303, spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to DTR0303, spec.trafficPolicy.loadBalancer.localityLbSetting.failover[1].to DTR0303, warning spec.trafficPolicy.loadBalancer.localityLbSetting.failover[1].from DTR0303"},
		{dr("tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, subjectAltNames: [x], sni: z}"), ""},
		{dr("tls: {mode: MUTUAL, caCertificates: /ca}"), "spec.trafficPolicy.tls.clientCertificate DTR0306, spec.trafficPolicy.tls.privateKey DTR0306"},
		{dr("tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: /ca, subjectAltNames: [x]}"), "spec.trafficPolicy.tls.caCertificates DTR0306, spec.trafficPolicy.tls.subjectAltNames DTR0306"},
		{dr("tls: {mode: SIMPLE, privateKey: /k}"), "warning spec.trafficPolicy.tls.mode DTR0306"},
		{dr("tls: {mode: SIMPLE, credentialName: c, caCertificates: /ca}"), "spec.trafficPolicy.tls.caCertificates DTR0306"},
		{dr("tls: {mode: ISTIO_MUTUAL}"), ""},
		{dr("tls: {mode: SIMPLE, caCrl: /crl}"), ""},
		{dr("tunnel: {}, proxyProtocol: {version: V2}, retryBudget: {}, portLevelSettings: [{port: {number: 0}}]"),
			"spec.trafficPolicy.portLevelSettings[0] DTR0308, spec.trafficPolicy.tunnel DTR0309, spec.trafficPolicy.tunnel.targetHost DTR0309, spec.trafficPolicy.tunnel.targetPort DTR0309, warning spec.trafficPolicy.portLevelSettings[0].port.number DTR0308, warning spec.trafficPolicy.tunnel DTR0901"},
		{api + "DestinationRule\nspec: {host: a.com, subsets: [{name: v1, labels: {v: '1'}}, {name: ''}], workloadSelector: {}}", "spec.subsets[1].name DTR0307, warning spec.workloadSelector DTR0213"},
		{api + "DestinationRule\nspec: {host: a.com, exportTo: ['~']}", "spec.exportTo[0] DTR0201"},

		{vs("name: nn, " + toA + ", retries: {attempts: 2, perTryTimeout: 1s, retryOn: 'connect-failure,503', retryRemoteLocalities: true, retryIgnorePreviousHosts: false, backoff: 25ms}"), ""},
		{vs("match: [{uri: {prefix: /}}], " + toA + ", retries: {attempts: 0}"), ""},
		{vs(toA + ", retries: {attempts: 0, retryOn: 5xx}"), "spec.http[0].retries.attempts DTR0405"},
		{vs(toA + ", retries: {attempts: -1, retryOn: 'bogus,600', perTryTimeout: 0s}"), "spec.http[0].retries.attempts DTR0405, spec.http[0].retries.perTryTimeout DTR0405, spec.http[0].retries.retryOn DTR0405, spec.http[0].retries.retryOn DTR0405"},
		{vs("match: [{uri: {prefix: /x}}], " + toA), ""},
		{vs("match: [{uri: {exact: /}, method: {exact: GET}}], " + toA), ""},
		{vs(toA + ", timeout: 1s, mirror: {host: b.com}"), ""},
		{vs("route: [{destination: {host: a.com, subset: v1, port: {number: 0}}, headers: {}}]"), "spec.http[0].route[0].destination.port.number DTR0403"},
		{vs("route: [{destination: {host: a.com}}, {weight: 0}]"), "spec.http[0].route DTR0404, spec.http[0].route[1].destination DTR0403"},
		{vs("redirect: {uri: /x}"), ""},
		{api + "ServiceEntry\nspec: {hosts: [a.com], resolution: DNS, ports: [{number: 53, name: dns, protocol: udp}, {number: 80, name: http, protocol: HTTP}]}", "warning spec.ports[0].protocol DTR0207"},
		{vs("name: nn"), "spec.http[0] DTR0402"},
		{vs(toA + "}, {" + toA), "warning spec.http[1] DTR0410"},
		{api + "VirtualService\nspec: {hosts: ['*', a.com, a.com, '*.b.com', 10.0.0.1], gateways: [mesh, gw], http: [{" + toA + "}]}",
			"spec.hosts[0] DTR0401"},
		{api + "VirtualService\nspec: {hosts: [a.com, a.com, '*.com', 10.0.0.1], gateways: [mesh, ns/gw], http: [{" + toA + "}]}", "spec.hosts[1] DTR0401, spec.hosts[2] DTR0401"},
		{api + "VirtualService\nspec: {hosts: ['*'], gateways: [gw], tcp: [{route: [{destination: {host: a.com}}]}]}", "note spec.gateways DTR0013"},
		{api + "VirtualService\nspec: {hosts: ['*'], gateways: [gw], tcp: [{}]}", "spec.tcp[0].route DTR0402"},
		{api + "VirtualService\nspec: {hosts: [a.com], tcp: [{route: [{destination: {host: a.com}}]}]}", ""},
		{"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {egress: [{bind: 'unix:///run/x', port: {protocol: HTTP, name: a}, hosts: ['*/*']}, {bind: 'unix://@x', port: {number: 0, protocol: TCP, name: d}, hosts: ['~default/*']}, " +
			"{captureMode: NONE, bind: 127.0.0.1, port: {number: 2, protocol: HTTP_PROXY, name: b}, hosts: ['*/*']}, {bind: 127.0.0.1, port: {number: 3, protocol: HTTP, name: c}, hosts: ['~/*']}, {hosts: ['*/*']}]}", ""},
		{"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\nspec: {egress: [{hosts: ['*/*']}, {bind: 'unix:///run/x', port: {number: 1, protocol: HTTP, name: a}, hosts: ['*/*']}, " +
			"{bind: 'unix://x', captureMode: NONE, hosts: ['*/*']}, {captureMode: IPTABLES, bind: 'unix:///run/y', port: {protocol: HTTPP, name: b}, hosts: ['~a.b/*']}, {port: {number: 0, protocol: HTTP, name: c}, hosts: ['*/*']}, " +
			"{port: {number: 1, protocol: HTTP, name: c}, hosts: ['*/*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.com}}}",
			"spec.egress[0] DTR0601, spec.egress[1].bind DTR0601, spec.egress[2] DTR0601, spec.egress[3].captureMode DTR0601, spec.egress[3].hosts[0] DTR0601, spec.egress[3].port.protocol DTR0601, " +
				"spec.egress[4].bind DTR0601, spec.egress[5].port.number DTR0601, spec.outboundTrafficPolicy.egressProxy DTR0601, spec.outboundTrafficPolicy.egressProxy.port DTR0601, warning spec.egress[2].bind DTR0601"},
	} {
		objects, issues := decode.File("f", []byte(tt.in))
		if len(issues) > 0 || len(objects) != 1 {
			t.Errorf("%s: %v", tt.in, issues)
			continue
		}
		v := Object(objects[0])
		var got []string
		errors := 0
		for _, i := range v.Issues {
			s := i.Field + " " + i.Code
			if i.Severity != config.Error {
				s = i.Severity.String() + " " + s
			} else {
				errors++
			}
			got = append(got, s)
			if i.Origin.Line == 0 || i.Code == config.CodeUnsupported && i.Severity != config.Warning {
				t.Errorf("%v", i)
			}
		}
		slices.Sort(got)
		if g := strings.Join(got, ", "); g != tt.want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.in, g, tt.want)
		}
		if v.Rejected != (errors > 0) || v.Ignored != strings.HasPrefix(tt.want, "note") {
			t.Errorf("%s: rejected %t, ignored %t", tt.in, v.Rejected, v.Ignored)
		}
	}
}

func TestIssuesAreBounded(t *testing.T) {
	warn := strings.Repeat("{address: 1.2.3.4, locality: a/b/c/d}, ", 200)
	for _, tt := range []struct {
		last     string
		rejected bool
	}{{"{address: 1.2.3.4}", false}, {"{address: ''}, {address: ''}", true}} {
		objects, _ := decode.File("f", []byte(se("resolution: STATIC, endpoints: ["+warn+tt.last+"]")))
		if v := Object(objects[0]); v.Rejected != tt.rejected || len(v.Issues) > maxIssues+1 {
			t.Errorf("%s: rejected %t, %d issues", tt.last, v.Rejected, len(v.Issues))
		}
	}
}

// FuzzObject judges whatever decode accepts, and holds that every issue has a place, a code and one line.
func FuzzObject(f *testing.F) {
	for _, pattern := range []string{"../../../testdata/conformance/bad/*.yaml", "testdata/good/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, p := range files {
			data, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		issues, _ := judge("f", data)
		for _, i := range issues {
			if i.Origin.Line < 1 || config.Codes[i.Code] == "" || i.Message == "" || strings.Contains(i.Message, "\n") {
				t.Errorf("%q", i)
			}
		}
	})
}
