package docs_test

// exception is a field that is neither simply served nor refused by validate. Of MeshConfig's fields state is what is
// refused of them.
type exception struct{ state, why string }

// exceptions by MESSAGE.field or MESSAGE.field=VALUE.
var exceptions = map[string]exception{
	"Sidecar.ingress":                     {ignored, "inbound traffic"},
	"Sidecar.inboundConnectionPool":       {ignored, "inbound traffic"},
	"WorkloadEntry.serviceAccount":        {ignored, "the identity of a workload in a mesh"},
	"SidecarPort.targetPort":              {ignored, "deprecated, and without a meaning for outbound traffic"},
	"L4MatchAttributes.sourceSubnet":      {ignored, "Istio's compiler reads it nowhere"},
	"Delay.exponentialDelay":              {"error", "reserved: Istio's compiler serves it nowhere"},
	"Abort.http2Error":                    {"error", "reserved: Istio's compiler serves it nowhere"},
	"WorkloadEntry.network":               {ignored, "networks of a mesh, joined by gateways"},
	"MeshConfig.h2UpgradePolicy":          {"UPGRADE", "HTTP/2 is not served by the embedded engine yet: requests to hosts without a policy of their own get 501"},
	"ClientTLSSettings.credentialName":    {"refused", "the secret is in a cluster: the host answers 503"},
	"ClientTLSSettings.mode=ISTIO_MUTUAL": {"refused", "as credentialName: a mesh's own certificates are in a cluster"},
}

const ignored = "ignored"

const compatibilityHead = `# Compatibility with Istio's traffic API

Every field of the kinds that detour reads, generated from the API's descriptors and from the tests (` + "`go test ./docs -run Compatibility -update`" + `).

* **served**: compiled, and run by the embedded engine.
* **refused**: compiled for an Envoy; the embedded engine says so at start and refuses that port or route alone.
* **ignored**: has nothing to do with outbound traffic.

The third column names the cases in which what detour compiles is held against istiod's own output (testdata/conformance,
run by test/conformance; with internal/config/translate/testdata/golden for what those leave out), the fourth those in which the embedded engine and
a real Envoy 1.40 get the same snapshot, the same upstreams and the same requests, and must agree (test/feature/parity_test.go).
A message that several kinds use is listed once.
`
