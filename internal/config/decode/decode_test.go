package decode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const walkthrough = "../../../testdata/walkthrough"

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWalkthrough(t *testing.T) {
	files, err := filepath.Glob(walkthrough + "/*.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		objects, issues := File(f, read(t, f))
		if len(issues) != 0 || len(objects) != 1 {
			t.Errorf("%s: %d objects, %v", f, len(objects), issues)
		}
	}
	objects, _ := File("4.yaml", read(t, walkthrough+"/4-https-destination-rule.yaml"))
	o := objects[0]
	dr := o.Spec.(*networking.DestinationRule)
	if o.Key != (config.Key{Kind: config.DestinationRule, Namespace: "default", Name: "mydynamodb"}) {
		t.Errorf("key %v", o.Key)
	}
	od := dr.TrafficPolicy.OutlierDetection
	if od.Consecutive_5XxErrors.GetValue() != 1 || od.Interval.AsDuration() != 15*time.Second || od.BaseEjectionTime.AsDuration() != time.Minute {
		t.Errorf("outlierDetection %v", od)
	}
	lb := dr.TrafficPolicy.LoadBalancer
	if lb.GetSimple() != networking.LoadBalancerSettings_ROUND_ROBIN || !lb.LocalityLbSetting.Enabled.GetValue() || lb.LocalityLbSetting.Failover[0].To != "us-west" {
		t.Errorf("loadBalancer %v", lb)
	}
	if got := o.At("spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to").String(); got != "4.yaml:16:13" {
		t.Errorf("position %s", got)
	}
	if got := o.At("spec.trafficPolicy.tls.sni").String(); got != "4.yaml:8:5" {
		t.Errorf("an absent field's position is its parent's, got %s", got)
	}
}

const head = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x}\n"
const drHead = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n"

func TestIssues(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string // issues, with "f" for the file
		unparsed bool
	}{
		{name: "unknown field", in: head + "spec:\n  hosts: [a.com]\n  endpoint: []\n",
			want: []string{"f:6:3: error: ServiceEntry default/x: spec.endpoint: unknown field (did you mean `endpoints`?); allowed: hosts, addresses, ports, location, resolution, endpoints, workloadSelector, exportTo, subjectAltNames [DTR0003]"}},
		{name: "all at once, by place", in: head + "spec:\n  resolution: DNSS\n  hosts: a.com\n  ports:\n  - number: http\n    nam: x\n",
			want: []string{
				"f:5:3: error: ServiceEntry default/x: spec.resolution: unknown value \"DNSS\"; allowed: NONE, STATIC, DNS, DNS_ROUND_ROBIN or DYNAMIC_DNS (did you mean `DNS`?) [DTR0005]",
				`f:6:3: error: ServiceEntry default/x: spec.hosts: wants a list, got the string "a.com" [DTR0004]`,
				`f:8:5: error: ServiceEntry default/x: spec.ports[0].number: wants a whole number, got the string "http" [DTR0004]`,
				"f:9:5: error: ServiceEntry default/x: spec.ports[0].nam: unknown field (did you mean `name`?); allowed: number, protocol, name, targetPort [DTR0003]",
			}},
		{name: "string wanted", in: head + "spec:\n  endpoints: [{address: 1, labels: {version: 1.5, on: true}}]\n",
			want: []string{
				`f:5:16: error: ServiceEntry default/x: spec.endpoints[0].address: wants a string, got the number 1 (write it in quotes) [DTR0004]`,
				`f:5:28: error: ServiceEntry default/x: spec.endpoints[0].labels.true: wants a string, got the boolean true (write it in quotes) [DTR0004]`,
				`f:5:37: error: ServiceEntry default/x: spec.endpoints[0].labels.version: wants a string, got the number 1.5 (write it in quotes) [DTR0004]`,
			}},
		{name: "out of range", in: head + "spec: {ports: [{number: -1}, {number: 1.5}]}\n",
			want: []string{
				`f:4:17: error: ServiceEntry default/x: spec.ports[0].number: -1 is out of range; allowed: 0 to 4294967295 [DTR0004]`,
				`f:4:31: error: ServiceEntry default/x: spec.ports[1].number: wants a whole number, got the number 1.5 [DTR0004]`,
			}},
		{name: "duration", in: drHead + "spec: {trafficPolicy: {connectionPool: {tcp: {connectTimeout: 5m3}}, outlierDetection: {interval: 5}}}\n",
			want: []string{
				`f:4:47: error: DestinationRule default/x: spec.trafficPolicy.connectionPool.tcp.connectTimeout: "5m3" is not a duration; write it with its unit, as in "15s", "1m30s" or "200ms" [DTR0006]`,
				`f:4:89: error: DestinationRule default/x: spec.trafficPolicy.outlierDetection.interval: wants a duration with its unit, as in "15s", "1m30s" or "200ms", got the number 5 [DTR0006]`,
			}},
		{name: "oneof", in: drHead + "spec: {trafficPolicy: {loadBalancer: {simple: RANDOM, consistentHash: {}}}}\n",
			want: []string{`f:4:39: error: DestinationRule default/x: spec.trafficPolicy.loadBalancer.simple: excludes consistentHash; give one of them [DTR0012]`}},
		{name: "duplicate key", in: head + "spec:\n  hosts: [a.com]\n  hosts: [b.com]\n",
			want: []string{`f:6:3: error: ServiceEntry default/x: spec.hosts: "hosts" stands here a second time; keep one [DTR0007]`}},
		{name: "duplicate key elsewhere", in: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, name: y}\n"},
		{name: "top-level key", in: head + "specs: {}\n",
			want: []string{"f:4:1: error: ServiceEntry default/x: specs: unknown field (did you mean `spec`?); allowed: apiVersion, kind, metadata, spec, status [DTR0003]"}},
		{name: "unknown kind", in: strings.Replace(head, "ServiceEntry", "ServiceEntri", 1), unparsed: true,
			want: []string{"f:2:1: error: kind: networking.istio.io has no kind \"ServiceEntri\" (did you mean `ServiceEntry`?) [DTR0008]"}},
		{name: "version", in: strings.Replace(head, "/v1", "/v9", 1),
			want: []string{`f:1:1: error: ServiceEntry default/x: apiVersion: networking.istio.io/v9 does not exist; allowed: networking.istio.io/ with v1, v1beta1 or v1alpha3 [DTR0009]`}},
		{name: "group", in: strings.Replace(head, "networking.istio.io", "network.istio.io", 1),
			want: []string{`f:1:1: error: ServiceEntry default/x: apiVersion: network.istio.io/v1 has no kind ServiceEntry; it is of networking.istio.io/v1 [DTR0009]`}},
		{name: "others' kinds", in: "apiVersion: gateway.solo.io/v1\nkind: VirtualService\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\n"},
		{name: "Kubernetes' own", in: "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: ExternalName, ports: [{port: 80}]}\n---\n" +
			"apiVersion: v1\nkind: Service\nmetadata: {name: w}\nspec:\n  clusterIP: 10.0.0.300\n  ports: [{name: http}]\n---\n" +
			"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: z}\nendpoints: [{addresses: [a.example.com]}]\n---\napiVersion: v1\nkind: Service\nmetadata: {name: y}\n---\n" +
			"apiVersion: v1\nkind: Service\nmetadata: {name: a_b, namespace: X}\n", unparsed: true,
			want: []string{
				`f:4:1: error: Service default/x: spec.externalName: is missing; with type ExternalName, the DNS name that stands behind the Service is wanted [DTR0212]`,
				`f:10:3: error: Service default/w: spec.clusterIP: "10.0.0.300" is no IP address; allowed: IPv4 or IPv6 [DTR0208]`,
				`f:11:11: error: Service default/w: spec.ports[0].port: 0 is no port; allowed: 1 to 65535 [DTR0204]`,
				`f:16:26: error: EndpointSlice default/z: endpoints[0].addresses[0]: "a.example.com" is no IP address; allowed: IPv4 or IPv6 [DTR0208]`,
				`f:20:12: error: Service default/: metadata.name: wants a string, got the boolean true (write it in quotes) [DTR0004]`,
				`f:24:12: error: Service X/a_b: metadata.name: "a_b" is no name of a Service; allowed: lower case letters, digits and '-', at most 63 [DTR0010]`,
				`f:24:23: error: Service X/a_b: metadata.namespace: "X" is no namespace; allowed: lower case letters, digits and '-', at most 63 [DTR0010]`,
			}},
		{name: "no business", in: strings.Replace(head, "ServiceEntry", "Gateway", 1),
			want: []string{`f:2:1: note: Gateway default/x: kind: ignored: Gateway says nothing about outbound traffic outside a mesh [DTR0013]`}},
		{name: "refused kind", in: strings.Replace(head, "ServiceEntry", "EnvoyFilter", 1) + "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: w}\n",
			want: []string{
				`f:2:1: warning: EnvoyFilter default/x: kind: EnvoyFilter is ignored: neither translate nor the embedded engine knows what it asks for [DTR0901]`,
				`f:6:1: warning: Telemetry default/w: kind: Telemetry is ignored: neither translate nor the embedded engine knows what it asks for [DTR0901]`,
			}},
		{name: "no name", in: "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {nmae: x}\n", unparsed: true,
			want: []string{
				`f:3:1: error: ServiceEntry default/: metadata.name: is missing [DTR0010]`,
				"f:3:12: error: ServiceEntry default/: metadata.nmae: unknown field (did you mean `name`?) [DTR0003]",
			}},
		{name: "no kind", in: "\n# c\n---\na: b\n", unparsed: true,
			want: []string{
				`f:4:1: error: apiVersion: is missing; every object has apiVersion, kind and metadata [DTR0002]`,
				`f:4:1: error: kind: is missing; every object has apiVersion, kind and metadata [DTR0002]`,
			}},
		{name: "syntax", in: head + "---\n" + head + "spec:\n  a: b\n c: d\n", unparsed: true,
			want: []string{`f:10:2: error: not valid YAML: did not find expected key [DTR0001]`}},
		{name: "scalar", in: "hello", unparsed: true,
			want: []string{`f:1:1: error: wants an object with apiVersion, kind and metadata, got the string "hello" [DTR0002]`}},
		{name: "list", in: "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  metadata: {name: x}\n  spec: {}\n- apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  metadata: {name: z, name: z}\n  spec:\n    host: a\n- 7\n", unparsed: true,
			want: []string{
				`f:10:23: error: ServiceEntry default/z: metadata.name: "name" stands here a second time; keep one [DTR0007]`,
				"f:12:5: error: ServiceEntry default/z: spec.host: unknown field (did you mean `hosts`?); allowed: hosts, addresses, ports, location, resolution, endpoints, workloadSelector, exportTo, subjectAltNames [DTR0003]",
				`f:13:3: error: items[2]: wants an object with apiVersion, kind and metadata, got the number 7 [DTR0002]`,
			}},
		{name: "list in list", in: "kind: List\nitems:\n- kind: List\n", unparsed: true,
			want: []string{`f:3:3: error: items[0]: a list inside a list is not read; put its items here [DTR0002]`}},
		{name: "old line ends", in: strings.ReplaceAll(head+"---\n"+head+"spec: {a: b}\n", "\n", "\r"),
			want: []string{`f:8:8: error: ServiceEntry default/x: spec.a: unknown field; allowed: hosts, addresses, ports, location, resolution, endpoints, workloadSelector, exportTo, subjectAltNames [DTR0003]`}},
		{name: "exotic line ends", in: "a: b\u2028---\u2028c: d", unparsed: true,
			want: []string{`f:1:1: error: "\u2028" before "---" is no line break here; write a newline [DTR0001]`}},
		{name: "empty", in: "# nothing\n---\n---\n...\n"},
		{name: "json", in: "{\n\t\"apiVersion\": \"networking.istio.io/v1\", \"kind\": \"ServiceEntry\",\n\t\"metadata\": {\"name\": \"x\"}, \"spec\": {\"host\": 1}}",
			want: []string{"f:3:38: error: ServiceEntry default/x: spec.host: unknown field (did you mean `hosts`?); allowed: hosts, addresses, ports, location, resolution, endpoints, workloadSelector, exportTo, subjectAltNames [DTR0003]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Read("f", []byte(tt.in))
			var got []string
			for _, i := range r.Issues {
				got = append(got, i.String())
				if config.Codes[i.Code] == "" {
					t.Errorf("code %q has no title", i.Code)
				}
			}
			if g, w := strings.Join(got, "\n"), strings.Join(tt.want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
			if r.Parsed == tt.unparsed {
				t.Errorf("parsed %t", r.Parsed)
			}
		})
	}
}

func TestBadObjectAlone(t *testing.T) {
	r := Read("f", []byte(head+"spec: {hosts: [a.com]}\n---\n"+drHead+"spec: {host: B.com, x: y}\n"))
	if len(r.Objects) != 1 || r.Objects[0].Kind != config.ServiceEntry {
		t.Errorf("objects %v", r.Objects)
	}
	if len(r.Refused) != 1 || r.Refused[0].Key.Name != "x" || len(r.Refused[0].Hosts) != 1 || r.Refused[0].Hosts[0] != "b.com" {
		t.Errorf("refused %+v", r.Refused)
	}
}

func TestDecoderReadsWhatChanged(t *testing.T) {
	one, two := head+"spec: {hosts: [a.com]}\n", drHead+"spec: {host: a.com}\n"
	var d Decoder
	first := d.Read("f", []byte(one+"---\n"+two))
	second := d.Read("f", []byte(one+"---\n"+strings.Replace(two, "a.com", "b.com", 1)))
	if second.Objects[0] != first.Objects[0] || second.Objects[1] == first.Objects[1] {
		t.Error("an unchanged document was read anew, or a changed one was not")
	}
	third := d.Read("f", []byte("# moved\n"+one+"---\n"+two))
	if got := third.Objects[1].At("spec.host").String(); got != "f:10:8" || len(d.docs) != 2 {
		t.Errorf("position %s, %d documents", got, len(d.docs))
	}
	bad := d.Read("f", []byte("a: [\n---\n"+two))
	again := d.Read("f", []byte("a: [\n---\n"+two))
	if bad.Parsed || again.Parsed || len(again.Issues) != 1 || again.Objects[0] != bad.Objects[0] {
		t.Errorf("%+v", again)
	}
}

func TestMetadata(t *testing.T) {
	in := `apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata:
  name: x
  namespace: ns
  creationTimestamp: 2024-05-06T07:08:09Z
  labels: {a/b: c}
  annotations: {d: "1"}
  managedFields: [{}]
spec: {export_to: ["."], endpoints: [{weight: "3"}]}
status: {addresses: [{value: 240.240.0.7, host: a.com}, 3], conditions: 7}
`
	r := Read("f", []byte(in))
	if len(r.Issues) > 0 {
		t.Fatal(r.Issues)
	}
	o := r.Objects[0]
	se := o.Spec.(*networking.ServiceEntry)
	if o.Namespace != "ns" || o.Created.Unix() != 1714979289 || o.Labels["a/b"] != "c" || o.Annotations["d"] != "1" || se.ExportTo[0] != "." || se.Endpoints[0].Weight != 3 {
		t.Errorf("%+v %v", o, se)
	}
	if st := o.Status.(*networking.ServiceEntryStatus); len(st.Addresses) != 1 || st.Addresses[0].Value != "240.240.0.7" {
		t.Errorf("status %v", st)
	}
}

func TestExpansionIsBounded(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'k'; c++ {
		p := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+p+", ", 10), ", ") + "]\n"
	}
	long := "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a, ", 2000) + "]\n"
	for name, in := range map[string]string{"lists": bomb, "strings": long, "cycle": "a: &a [*a]\n", "merge cycle": "a: &a\n  <<: *a\n"} {
		if r := Read("f", []byte(in)); r.Parsed || len(r.Issues) != 1 {
			t.Errorf("%s: parsed %t, %d issues", name, r.Parsed, len(r.Issues))
		}
	}
	ok := head + "spec:\n  hosts: &h [a.com]\n  addresses: *h\n  endpoints: [{address: b.com, labels: &l {a: b}}, {address: c.com, labels: {<<: *l, c: d}}]\n"
	r := Read("f", []byte(ok))
	if len(r.Issues) > 0 || r.Objects[0].Spec.(*networking.ServiceEntry).Endpoints[1].Labels["a"] != "b" {
		t.Errorf("anchors: %v", r.Issues)
	}
	if got := r.Objects[0].At("spec.endpoints[1].labels.a").Line; got != 7 {
		t.Errorf("a merged key is at line %d", got)
	}
}

func TestTooLarge(t *testing.T) {
	if r := Read("f", make([]byte, MaxFileSize+1)); r.Parsed || r.Issues[0].Code != config.CodeTooLarge {
		t.Errorf("%+v", r.Issues)
	}
}

func TestIssuesAreBounded(t *testing.T) {
	one := Read("f", []byte(head+"spec: {"+strings.Repeat("x: 1, ", 500)+strings.Repeat("'y': {}, ", 500)+"}"))
	if n := len(one.Issues); n < 2 || n > 2*maxProblems {
		t.Errorf("%d issues of one object", n)
	}
	docs := Read("f", []byte(strings.Repeat("---\n[]\n", maxIssues+10)))
	items := Read("f", []byte("kind: List\nitems:\n"+strings.Repeat("- 1\n", maxIssues+10)))
	for _, r := range []Result{docs, items} {
		if last := r.Issues[len(r.Issues)-1]; len(r.Issues) != maxIssues+1 || r.Parsed || last.Code != config.CodeTooLarge {
			t.Errorf("%d issues, the last %v", len(r.Issues), last)
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob(walkthrough + "/*.yaml")
	for _, p := range files {
		f.Add(read(f, p))
	}
	f.Add([]byte("a: &a [*a]\n---\nkind: List\nitems: [{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: x, name: y}}]"))
	f.Add([]byte("%YAML 1.1\n--- {apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: x}, spec: {a.b: 1, '': 2}}\n...\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := Read("f", data)
		lines := 2
		for _, br := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} { // YAML 1.1 knows them all
			lines += strings.Count(string(data), br)
		}
		for _, i := range r.Issues {
			if i.Origin.Line < 1 || i.Origin.Line > lines || i.Code == "" || strings.Contains(i.Message, "\n") {
				t.Errorf("issue %q at line %d of %d", i, i.Origin.Line, lines)
			}
		}
		for _, o := range r.Objects {
			if o.Namespace == "" || o.Name == "" || o.Spec == nil || o.Origin.Line < 1 {
				t.Errorf("object %+v", o)
			}
		}
		if !r.Parsed && len(r.Issues) == 0 {
			t.Error("not parsed, and nothing says why")
		}
	})
}

func TestEmptyDocumentsHideNothing(t *testing.T) {
	const object = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a.test}\n"
	for _, before := range []string{"", "---\n", "---\n---\n", "---\n# nothing\n\n---\n", "%YAML 1.2\n---\n", "---\n...\n---\n"} {
		objects, issues := File("f.yaml", []byte(before+object))
		if len(objects) != 1 || len(issues) != 0 {
			t.Errorf("%q before an object: %d objects, issues %v", before, len(objects), issues)
			continue
		}
		if got, want := objects[0].At("kind").Line, strings.Count(before, "\n")+2; got != want {
			t.Errorf("%q before an object: its kind stands on line %d, want %d", before, got, want)
		}
	}
}
