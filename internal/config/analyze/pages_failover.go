package analyze

import "strings"

// failoverPages are the reasons why a failover never happens, or happens too often.
var failoverPages = []Page{
	{
		Code: CodeNeverEjected, Title: "maxEjectionPercent rounds to no endpoint, so failover can never happen", Flags: exampleEast,
		Why: `Failover begins when outlier detection ejects an endpoint. Envoy ejects one more while
100 × (ejected + 1) ÷ endpoints is at most maxEjectionPercent, counted over all localities together; of two endpoints
that is one at 50 % and none below. So the nearest endpoint is found to be bad and keeps its traffic all the same.
Write the percentage the finding names, or, for a host outside the mesh, leave the field out: detour then ejects all but
the last endpoint. A name counts as one endpoint; with --resolve its addresses count.`,
		Bad:  exampleEntry + examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 10}\n",
		Good: exampleEntry + examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 50}\n",
	}, {
		Code: CodePartlyEjected, Title: "maxEjectionPercent keeps some of the nearest endpoints, so failover is never complete", Flags: exampleEast,
		Why: `Some of the nearest endpoints can be ejected, but not all of them: when a whole locality fails, those that have to
stay get a part of the requests, which fail. Write the percentage the finding names.`,
		Bad: swap(exampleEntry, "  - {address: db.us-west1", "  - {address: db2.us-east1.example.net, locality: us-east1}\n  - {address: db.us-west1") +
			examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 34}\n",
		Good: swap(exampleEntry, "  - {address: db.us-west1", "  - {address: db2.us-east1.example.net, locality: us-east1}\n  - {address: db.us-west1") +
			examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 67}\n",
	}, {
		Code: CodeNoOutlier, Title: "Endpoints in several localities without outlierDetection: there is no failover", Flags: exampleEast,
		Why: `Without outlierDetection no endpoint is ever found to be bad, and localities have no order: requests go to all of
them evenly, near or far, and a share of them fails as long as one endpoint does. Add outlierDetection to the host's
DestinationRule.`,
		Bad: exampleEntry, Good: exampleFailover,
	}, {
		Code: CodeNothingNear, Title: "The caller's locality is unknown or has no endpoint, so no endpoint is preferred",
		Why: `Endpoints are ordered by how near they are to the caller. A caller without a locality, or in one where no endpoint
is, is equally far from all of them: requests go everywhere, and no endpoint is only a fallback. Give --locality or
DETOUR_LOCALITY; for callers elsewhere, say which region comes first with localityLbSetting.failover.`,
		Bad: exampleFailover, Good: exampleEntry + exampleRule + "    loadBalancer: {localityLbSetting: {enabled: false}}\n",
	}, {
		Code: CodeStockIstio, Title: "A mesh would not eject any endpoint where detour does", Flags: exampleEast,
		Why: `This is a note. maxEjectionPercent is not set. detour then ejects all but the last endpoint of a host outside the
mesh; an Envoy that istiod configures ejects at most 10 % of them, which of fewer than ten is none. If the same files are
used in a mesh too, write maxEjectionPercent.`,
		Bad: exampleEntry + examplePolicy + exampleOutlier, Good: exampleFailover,
	}, {
		Code: CodeDistribute, Title: "distribute leaves localities without traffic, whatever fails", Flags: exampleEast,
		Why: `distribute says which share of a caller's requests each locality gets. It is no order of failover: a locality that
it does not list gets nothing, even when all that it lists are down, and outlierDetection changes nothing about that.
List every locality that may serve, with a small weight, or write failover instead.`,
		Bad:  exampleFailover + "    loadBalancer: {localityLbSetting: {distribute: [{from: us-east1/*, to: {us-east1/*: 100}}]}}\n",
		Good: exampleFailover + "    loadBalancer: {localityLbSetting: {distribute: [{from: us-east1/*, to: {us-east1/*: 99, us-west1/*: 1}}]}}\n",
	}, {
		Code: CodeOnePriority, Title: "An order of failover is asked for, and all endpoints are in one priority", Flags: exampleEast,
		Why: `failover and failoverPriority compare regions or labels of caller and endpoints. Where they find no difference, all
endpoints are in the first priority and serve together: there is nothing to fail over to. Give the endpoints the
localities, or the labels, that the setting compares.`,
		Bad:  strings.ReplaceAll(strings.ReplaceAll(exampleFailover, ", locality: us-east1", ""), ", locality: us-west1", "") + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west1}]}}\n",
		Good: exampleFailover + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west1}]}}\n",
	}, {
		Code: CodePanic, Title: "minHealthPercent is above what is left once an endpoint is ejected", Flags: exampleEast,
		Why: `minHealthPercent is Envoy's panic threshold: where fewer endpoints than that are healthy, requests go to all of
them, the ejected ones too. Of two endpoints one is 50 %: any number above makes the first ejection useless.`,
		Bad: strings.ReplaceAll(exampleEntry, "locality: us-west1", "locality: us-east1") + examplePolicy +
			"    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 50, minHealthPercent: 60}\n",
		Good: strings.ReplaceAll(exampleEntry, "locality: us-west1", "locality: us-east1") + examplePolicy +
			"    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 50, minHealthPercent: 50}\n",
	}, {
		Code: CodeLastEndpoint, Title: "The only endpoint can be ejected", Flags: exampleEast,
		Why: `With maxEjectionPercent: 100 the last endpoint can be ejected too. Of a host with one endpoint that leaves nothing:
every request gets 503 for baseEjectionTime, however well the endpoint is by then. Add a second endpoint, or write 99.`,
		Bad: swap(swap(swap(exampleEntry, "  - {address: db.us-west1.example.net, locality: us-west1}\n", ""), "DNS", "STATIC"), "db.us-east1.example.net", "192.0.2.1") +
			examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 100}\n",
		Good: swap(swap(swap(exampleEntry, "  - {address: db.us-west1.example.net, locality: us-west1}\n", ""), "DNS", "STATIC"), "db.us-east1.example.net", "192.0.2.1") +
			examplePolicy + "    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 99}\n",
	}, {
		Code: CodeApplication500, Title: "Errors of the application itself move traffic to another region", Flags: exampleEast,
		Why: `consecutive5xxErrors counts every status from 500 on. A 500 is the application's own error: it would be the same in
another region, and moving there takes the traffic from healthy endpoints to far ones. consecutiveGatewayErrors counts
502, 503, 504 and failed connections only.`,
		Bad:  exampleEntry + examplePolicy + "    outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 50}\n",
		Good: exampleEntry + examplePolicy + "    outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 1, maxEjectionPercent: 50}\n",
	}, {
		Code: CodeNoSuchLocality, Title: "A locality is named that no endpoint is in", Flags: exampleEast,
		Why: `localityLbSetting sends callers to a region, or a share of the requests to a locality, and no endpoint is there. A
failover then prefers none of the other regions; of distribute the share goes to the localities that are left, and where
none is left requests get 503. It is mostly a slip of the pen: names are compared letter by letter.`,
		Bad:  exampleFailover + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west}]}}\n",
		Good: exampleFailover + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west1}]}}\n",
	},
}
