package analyze

import (
	"strings"
	"testing"
)

// TestEgressProxy: each way in which a Sidecar's egressProxy is not there is told with the field to mend; one that is there
// gives nothing.
func TestEgressProxy(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, field, says string }{
		"there":           {},
		"subset there":    {"port: {number: 80}", "port: {number: 80}, subset: v2", "", ""},
		"let in":          {"  outbound", "  egress: [{hosts: [\"./*.com\"]}]\n  outbound", "", ""},
		"no host":         {"mydb.com, port", "mydbs.com, port", "host", "nothing declares mydbs.com"},
		"no port":         {"port: {number: 80}", "port: {number: 81}", "port.number", "mydb.com has no port 81; declared: 80"},
		"no subset":       {"port: {number: 80}", "port: {number: 80}, subset: v9", "subset", "no DestinationRule declares subset v9"},
		"not let in":      {"  outbound", "  egress: [{hosts: [\"./*.net\"]}]\n  outbound", "host", "egress lets mydb.com in nowhere"},
		"nothing let in":  {"  outbound", "  egress: [{hosts: [\"~/*\"]}]\n  outbound", "host", "egress lets mydb.com in nowhere"},
		"another cluster": {"mydb.com, port", "proxy.egress.svc.cluster.local, port", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			yaml := swap(exampleStatic, "version: v1", "version: v2") + exampleSubsets + strings.Replace(exampleEgressProxy, tt.old, tt.new, 1)
			var got []string
			for _, i := range analyse(t, yaml, Options{Group: caller("")}).Issues {
				if i.Code != CodeNoEgressProxy {
					continue
				}
				if i.Origin.Line == 0 || i.Field != "spec.outboundTrafficPolicy.egressProxy."+tt.field {
					t.Errorf("%+v", i)
				}
				got = append(got, i.Message)
			}
			if tt.says == "" && len(got) > 0 || tt.says != "" && (len(got) != 1 || !strings.Contains(got[0], tt.says)) {
				t.Errorf("%q, want %q", got, tt.says)
			}
		})
	}
}
