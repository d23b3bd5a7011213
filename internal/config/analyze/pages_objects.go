package analyze

import (
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

const (
	exampleSubsets = exampleRuleHead + "  subsets:\n  - {name: v2, labels: {version: v2}}\n"
	exampleStatic  = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  resolution: STATIC
  endpoints:
  - {address: 192.0.2.1, labels: {version: v1}}
`
	exampleEgressProxy = `---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  outboundTrafficPolicy:
    mode: ALLOW_ANY
    egressProxy: {host: mydb.com, port: {number: 80}}
`
	exampleOneRouter = `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api.example.net]
`
	exampleSecond = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mydb-later}
spec:
  host: mydb.com
  trafficPolicy:
`
)

// objectPages are about what objects say of each other.
var objectPages = []Page{
	{
		Code: CodeNoSuchPort, Title: "A port that the host does not have",
		Why: `A match for a port that none of the hosts declares never holds, so its rule is never used. A destination with such a
port has no cluster, and answers 503. Name a declared port, or declare it in the ServiceEntry.`,
		Bad:  exampleStatic + exampleRouter + "  - match: [{port: 8080}]\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - match: [{port: 80}]\n" + exampleTo,
	}, {
		Code: CodeEmptySubset, Title: "A subset selects no endpoint",
		Why: `A subset is the endpoints that have all of its labels. None has them, so requests that a VirtualService sends to the
subset get 503. Label the endpoints in the ServiceEntry, or mend the subset's labels.`,
		Bad: exampleStatic + exampleSubsets, Good: swap(exampleStatic, "version: v1", "version: v2") + exampleSubsets,
	}, {
		Code: CodeNoSuchSubset, Title: "A route leads to a subset that nobody declares",
		Why: `Subsets are declared in the host's DestinationRule. The route names one that is not there: requests that take it get
503, in a mesh too, and nothing else says so.`,
		Bad:  swap(exampleStatic, "version: v1", "version: v2") + exampleSubsets + exampleRouter + "  - route: [{destination: {host: mydb.com, subset: v3}}]\n",
		Good: swap(exampleStatic, "version: v1", "version: v2") + exampleSubsets + exampleRouter + "  - route: [{destination: {host: mydb.com, subset: v2}}]\n",
	}, {
		Code: CodeNoSuchHost, Title: "A host that nothing defines",
		Why: `A DestinationRule for a host that no ServiceEntry declares applies to nothing; a VirtualService for one routes nothing;
a route to one answers 503. Often it is a slip of the pen. Names of a cluster's own services are looked for only where
Kubernetes Services stand in the same files.`,
		Bad:  exampleStatic + swap(examplePolicy, "mydb.com", "mydbs.com") + "    loadBalancer: {simple: ROUND_ROBIN}\n",
		Good: exampleStatic + examplePolicy + "    loadBalancer: {simple: ROUND_ROBIN}\n",
	}, {
		Code: CodeNoEgressProxy, Title: "The egressProxy is not there",
		Why: `Everything that nothing declares goes to a Sidecar's egressProxy: a host that is declared, with that port and subset,
and that the Sidecar's egress lets in. Else there is no cluster for it: requests get 503 and connections are closed, in a
mesh too. Declare the host, or name one that is.`,
		Bad:  exampleStatic + swap(exampleEgressProxy, "mydb.com", "proxy.example.net"),
		Good: exampleStatic + exampleEgressProxy,
	}, {
		Code: CodeHostTwice, Title: "Two objects claim one host",
		Why: `ServiceEntries of one namespace for one host are added up, and resolution and location are the first one's; of
several namespaces only one counts for a caller. Of several DestinationRules for one host the first trafficPolicy counts
and the others' are not used, without a word in a mesh. Keep one object for each host.`,
		Bad:  exampleStatic + examplePolicy + "    loadBalancer: {simple: ROUND_ROBIN}\n" + exampleSecond + "    connectionPool: {tcp: {connectTimeout: 1s}}\n",
		Good: exampleStatic + examplePolicy + "    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {connectTimeout: 1s}}\n",
	},
}

// routePages are about rules that do not do what they say.
var routePages = []Page{
	{
		Code: CodeRetryStays, Title: "Retries can't leave the first priority", Flags: exampleEast,
		Why: `A retry picks another endpoint of the priority that the first attempt had. Where that has no more endpoints than
there are retries, they meet the same endpoints again until an ejection has landed, though another locality could serve.
retryRemoteLocalities: true lets them go there. (In a mesh that needs attempts of 2 or more.)`,
		Bad:  exampleFailover + exampleRouter + "  - retries: {attempts: 2, retryOn: connect-failure}\n" + exampleTo,
		Good: exampleFailover + exampleRouter + "  - retries: {attempts: 2, retryOn: connect-failure, retryRemoteLocalities: true}\n" + exampleTo,
	}, {
		Code: CodeRetryTwice, Title: "Retries of requests that may have been done already",
		Why: `retryOn with 5xx, gateway-error, reset or a status sends a request again that an endpoint has got and may have worked
on. That is right for GET and its like (RFC 9110 §9.2.2); a POST can be done twice: two orders, two payments. Put a rule
that matches the safe methods, with these retries, before the one for the rest. connect-failure, refused-stream and
reset-before-request are safe for all.`,
		Bad: exampleStatic + exampleRouter + "  - retries: {attempts: 2, retryOn: '5xx,reset'}\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - match: [{method: {exact: GET}}, {method: {exact: HEAD}}]\n    retries: {attempts: 2, retryOn: '5xx,reset'}\n" + exampleTo +
			"  - retries: {attempts: 2, retryOn: 'connect-failure,refused-stream'}\n" + exampleTo,
	}, {
		Code: CodeShortTimeout, Title: "The timeout is over before the retries can begin",
		Why: `When an endpoint is silent, each attempt takes connectTimeout (10 s unless set), or perTryTimeout where that is
shorter. The route's timeout holds for all attempts together: here it ends the request before the last of them begins, so
that the retries are there on paper only. Shorten connectTimeout or perTryTimeout, or give the route more time.`,
		Bad:  exampleStatic + exampleRouter + "  - timeout: 5s\n    retries: {attempts: 2, retryOn: connect-failure}\n" + exampleTo,
		Good: exampleStatic + examplePolicy + "    connectionPool: {tcp: {connectTimeout: 1s}}\n" + exampleRouter + "  - timeout: 5s\n    retries: {attempts: 2, retryOn: connect-failure}\n" + exampleTo,
	}, {
		Code: CodeFaultAlways, Title: "A fault without a percentage",
		Why: `The field's documentation says that a fault without percentage hits every request. detour does that; istiod writes 0 %
for a delay and nothing for an abort, so that in a mesh it never fires. Write the percentage.`,
		Bad:  exampleStatic + exampleRouter + "  - fault: {abort: {httpStatus: 503}}\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - fault: {abort: {httpStatus: 503, percentage: {value: 10}}}\n" + exampleTo,
	}, {
		Code: CodeOtherProtocol, Title: "Rules for a protocol that none of the host's ports has",
		Why: `http rules see requests, tls rules the name in a ClientHello, tcp rules bytes. On a port that is declared HTTPS or TLS
the application speaks TLS itself: nobody here can read its requests, so http rules with their retries, timeouts and
rewrites are never used for it. Write tls rules; or declare a port HTTP, have the application speak HTTP to it, and have
detour speak TLS to the endpoints with a DestinationRule's tls.`,
		Bad:  swap(exampleOne, "number: 80, name: http, protocol: HTTP", "number: 443, name: https, protocol: HTTPS") + exampleOneRouter + "  http:\n  - timeout: 30s\n    route: [{destination: {host: api.example.net}}]\n",
		Good: swap(exampleOne, "number: 80, name: http, protocol: HTTP", "number: 443, name: https, protocol: HTTPS") + exampleOneRouter + "  tls:\n  - match: [{sniHosts: [api.example.net]}]\n    route: [{destination: {host: api.example.net}}]\n",
	}, {
		Code: CodeNeverMatches, Title: "A match that no request can fulfil",
		Why: `Every path begins with a slash; methods are told apart by case; requests come to a VirtualService by its hosts, so an
authority that is none of them never comes; and a gateway that spec.gateways does not name is not asked. A match like that
is never true, and its rule never used, in a mesh too.`,
		Bad:  exampleStatic + exampleRouter + "  - match: [{uri: {prefix: api/v1}}]\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - match: [{uri: {prefix: /api/v1}}]\n" + exampleTo,
	},
}

// otherPages are of codes that validation and translation find, and that are about more than a wrong value.
var otherPages = []Page{
	{
		Code: config.CodeLocalityLB, Title: "localityLbSetting is not valid, or lacks outlierDetection",
		Why: `failover and failoverPriority order localities only where outlierDetection stands beside them: without it no endpoint
is ever found to be bad, and all localities serve alike. The other messages of this code say which value is wrong and what
is allowed; those are errors, as in a mesh.`,
		Bad:  exampleEntry + examplePolicy + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west1}]}}\n",
		Good: exampleFailover + "    loadBalancer: {localityLbSetting: {failover: [{from: us-east1, to: us-west1}]}}\n", Flags: exampleEast,
	}, {
		Code: config.CodeLoadBalancer, Title: "loadBalancer is not valid, or does nothing",
		Why: `consistentHash without a key spreads requests at random; warmup works with ROUND_ROBIN and LEAST_REQUEST only. Both
are accepted in a mesh and do nothing there. The other messages of this code say which value is wrong.`,
		Bad:  exampleStatic + examplePolicy + "    loadBalancer: {consistentHash: {}}\n",
		Good: exampleStatic + examplePolicy + "    loadBalancer: {consistentHash: {httpHeaderName: x-user}}\n",
	}, {
		Code: config.CodeUnreachable, Title: "A rule can never be reached",
		Why: `Rules are tried in order and the first that matches takes the request. An earlier rule takes every request that this
one would: it has no match, or a shorter prefix and no further condition. Put the more specific rule first.`,
		Bad:  exampleStatic + exampleRouter + "  - match: [{uri: {prefix: /api}}]\n" + exampleTo + "  - match: [{uri: {prefix: /api/v2}}]\n    timeout: 5s\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - match: [{uri: {prefix: /api/v2}}]\n    timeout: 5s\n" + exampleTo + "  - match: [{uri: {prefix: /api}}]\n" + exampleTo,
	}, {
		Code: translate.CodeInsecure, Title: "A certificate is not verified",
		Why: `insecureSkipVerify takes any certificate from anybody who can answer: reading and changing the traffic needs no more
than a place on the way. Without sni and names on a port that is not HTTP, the chain is verified but no name is. Name the
authority in caCertificates, and sni or subjectAltNames where there is no request to take the name from.`,
		Bad: exampleHTTPS + exampleOriginate + ", insecureSkipVerify: true}\n", Good: exampleHTTPS + exampleOriginate + "}\n",
	}, {
		Code: translate.CodeUnreachableHost, Title: "No connection can be recognised as meant for a host",
		Why: `A TCP port carries no host name, so a connection is known by its address alone. This host has none: it states none,
and its label declines an allocated one. State addresses, or remove the label.`,
		Bad: `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pg, labels: {networking.istio.io/enable-autoallocate-ip: "false"}}
spec:
  hosts: [pg.example.net]
  ports:
  - {number: 5432, name: pg, protocol: TCP}
  resolution: DNS
`,
		Good: `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pg}
spec:
  hosts: [pg.example.net]
  addresses: [192.0.2.10]
  ports:
  - {number: 5432, name: pg, protocol: TCP}
  resolution: DNS
`,
	}, {
		Code: translate.CodeHostClaimed, Title: "Two VirtualServices route one host",
		Why: `Outside gateways VirtualServices for one host are not merged: the first, by age and name, serves, and the rules of the
others are not used. Put the rules into one VirtualService, or let it delegate.`,
		Bad:  exampleStatic + exampleRouter + "  - timeout: 5s\n" + exampleTo + swap(exampleRouter, "{name: mydb}", "{name: mydb-later}") + "  - timeout: 7s\n" + exampleTo,
		Good: exampleStatic + exampleRouter + "  - timeout: 5s\n" + exampleTo,
	}, {
		Code: translate.CodeCredential, Title: "A secret can't be read outside Kubernetes",
		Why: `credentialName names a Kubernetes secret, and ISTIO_MUTUAL takes a mesh's own certificates. Neither exists here. A mesh's
sidecar drops TLS there without a word and sends plain text; detour never does: the host answers 503. Name files in
caCertificates, clientCertificate and privateKey.`,
		Bad: exampleHTTPS + exampleOriginate + ", credentialName: mydb-ca}\n", Good: exampleHTTPS + exampleOriginate + ", caCertificates: /etc/ssl/mydb-ca.pem}\n",
	}, {
		Code: translate.CodeBadAnnotation, Title: "An annotation has a value that is not known",
		Why:  "`detour.dev/host-rewrite` is `preserve` (endpoints see the application's Host) or `endpoint` (they see their own name).\nAny other value is ignored.",
		Bad:  swap(exampleOne, "{name: api}", "{name: api, annotations: {detour.dev/host-rewrite: keep}}"),
		Good: swap(exampleOne, "{name: api}", "{name: api, annotations: {detour.dev/host-rewrite: preserve}}"),
	}, {
		Code: translate.CodeNoDelegate, Title: "A rule delegates to nothing",
		Why: `The VirtualService that the rule delegates to is not there, or is not visible (exportTo), or has hosts of its own. The
rule is left out, so that its requests go to the rules after it, or get 404. Mend the name or the namespace.`,
		Bad:  exampleStatic + exampleRouter + "  - delegate: {name: mydb-rules}\n",
		Good: exampleStatic + exampleRouter + "  - delegate: {name: mydb-rules}\n" + swap(swap(exampleRouter, "{name: mydb}", "{name: mydb-rules}"), "  hosts: [mydb.com]\n", "") + "  - match: [{uri: {prefix: /}}]\n" + exampleTo,
	}, {
		Code: config.CodeUnsupported, Title: "The embedded engine does not serve it yet",
		Why: "`detour translate` compiles it and Envoy serves it. `run` and `proxy` start, say so, and refuse the port or route it is\n" +
			"about, alone: 501 for HTTP, a reset for TCP. Everything else is served. It is about HTTP/2 and gRPC ports, CONNECT tunnels, and\n" +
			"EnvoyFilter, WasmPlugin and Telemetry, which nothing here obeys.",
		Bad: swap(exampleStatic, "protocol: HTTP}", "protocol: GRPC}"), Good: exampleStatic,
	},
}
