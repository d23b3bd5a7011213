package analyze

const (
	exampleTLSEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.example.net]
  ports:
  - {number: 443, name: tls, protocol: TLS}
  resolution: DNS
  endpoints:
  - {address: good.example.net}
`
	exampleOriginate = `---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mydb}
spec:
  host: mydb.com
  trafficPolicy:
    tls: {mode: SIMPLE`
	exampleHTTPS = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mydb}
spec:
  hosts: [mydb.com]
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 443}
  resolution: DNS
  endpoints:
  - {address: db.us-east1.example.net}
`
)

// networkPages are about what the world says: --resolve and --connect.
var networkPages = []Page{
	{
		Code: CodeNotResolved, Title: "An endpoint's name does not resolve", Flags: "--resolve",
		Why: `DNS gives no address for the endpoint, asked as this machine asks it. An endpoint without address takes no traffic;
the others take its share. Mend the name, or ask the server that detour will ask, with --resolver.`,
		Bad:  exampleOne + "  endpoints:\n  - {address: missing.example.org}\n",
		Good: exampleOne + "  endpoints:\n  - {address: good.example.net}\n",
	}, {
		Code: CodeSameAddress, Title: "Several names of one host resolve to the same address", Flags: "--resolve",
		Why: `Two endpoints of a host are the same machine under two names. They fail together, so that neither takes over for
the other, and outlier detection judges one machine twice. Name endpoints that are different machines.`,
		Bad:  exampleOne + "  endpoints:\n  - {address: good.example.net}\n  - {address: same.example.net}\n",
		Good: exampleOne + "  endpoints:\n  - {address: good.example.net}\n  - {address: 192.0.2.7}\n",
	}, {
		Code: CodeNotConnected, Title: "No connection to an endpoint can be made", Flags: "--connect",
		Why: `The connection to the endpoint, or its TLS handshake where TLS is spoken, failed when tried from this machine. The
message says how. An endpoint that can't be reached now can't take over either.`,
		Bad:  swap(exampleTLSEntry, "good.example.net", "refuses.example.net"),
		Good: exampleTLSEntry,
	}, {
		Code: CodeWrongNames, Title: "An endpoint's certificate does not carry the name it must", Flags: "--connect",
		Why: `On TLS and HTTPS ports the application verifies the host it asked for; where detour speaks TLS, it verifies what the
configuration says. This endpoint's certificate carries other names, so every handshake with it fails: it can't take over.
Use endpoints whose certificates carry the name, or let detour speak TLS (a port declared HTTP, and tls in a
DestinationRule): each endpoint is then verified by its own name.`,
		Bad:  exampleTLSEntry + "  - {address: other-name.example.net}\n",
		Good: exampleTLSEntry,
	}, {
		Code: CodeNobodyCertified, Title: "No endpoint has a certificate for the name", Flags: "--connect",
		Why: `None of the host's endpoints has a certificate for the name that is verified, so no connection can succeed. The name
is one that only this configuration knows, as in the host of a ServiceEntry that stands for others' services. Let detour
speak TLS: declare the port HTTP and set tls in a DestinationRule, without sni.`,
		Bad:  exampleTLSEntry[:len(exampleTLSEntry)-len("  - {address: good.example.net}\n")] + "  - {address: other-name.example.net}\n",
		Good: exampleTLSEntry,
	}, {
		Code: CodeNotTrusted, Title: "An endpoint's certificate is not trusted", Flags: "--connect",
		Why: `The certificate is not signed by an authority that is trusted here, or it is not valid now. Name the authority in
tls.caCertificates. On TLS and HTTPS ports this is a note: the application may trust others than this machine does.`,
		Bad:  swap(exampleTLSEntry, "good.example.net", "untrusted.example.net"),
		Good: exampleTLSEntry,
	}, {
		Code: CodeExpires, Title: "A certificate expires soon", Flags: "--connect",
		Why: `An endpoint's certificate ends within 21 days. Whoever runs the endpoint renews it in time, or all traffic of it
fails on that day. Most are renewed by a program: this one was not.`,
		Bad:  swap(exampleTLSEntry, "good.example.net", "expires.example.net"),
		Good: exampleTLSEntry,
	}, {
		Code: CodeCertificate, Title: "What an endpoint's certificate says", Flags: "--connect",
		Why: `This is a note: the names of an endpoint's certificate and the day it ends, as shown in a handshake just now. It is
said of every endpoint that could be reached.`,
		Bad: exampleTLSEntry,
	},
}

// transportPages are about TLS that is missing, doubled, or can't verify.
var transportPages = []Page{
	{
		Code: CodeNoCertFile, Title: "A certificate or key is not on this machine",
		Why: `tls names a file that does not exist here or that this user can't read. Where detour runs without it, every request to
the host gets 503. A relative path begins at the working directory of detour. Where the configuration is meant for another
machine, look at it there.`,
		Bad: exampleHTTPS + exampleOriginate + ", caCertificates: certs-that-are-missing/ca.pem}\n", Good: exampleHTTPS + exampleOriginate + ", caCertificates: system}\n",
	}, {
		Code: CodePlain443, Title: "Port 443 is declared HTTP",
		Why: `Applications speak TLS to port 443. Declared HTTP, its first bytes are taken for a request and refused. Declare it
HTTPS or TLS: the ClientHello's name then says which host is meant and the bytes are relayed. To have detour speak TLS,
declare a port 80 with targetPort 443 and set tls in a DestinationRule.`,
		Bad:  swap(exampleOne, "number: 80, name: http, protocol: HTTP", "number: 443, name: https, protocol: HTTP"),
		Good: swap(exampleOne, "number: 80, name: http, protocol: HTTP", "number: 443, name: https, protocol: HTTPS"),
	}, {
		Code: CodePlainToTLS, Title: "Plain HTTP goes to an endpoint's port 443",
		Why: `The application speaks HTTP and nothing makes TLS of it, but the endpoint's port 443 speaks TLS: it answers with an
error, and what was sent could be read on the way. Set tls in the host's DestinationRule.`,
		Bad: exampleHTTPS, Good: exampleHTTPS + exampleOriginate + "}\n",
	}, {
		Code: CodeTLSInTLS, Title: "TLS is put around TLS",
		Why: `The port is declared TLS or HTTPS: the application speaks TLS itself. With tls in the DestinationRule detour puts a
second TLS around it, and the server finds a handshake where it expects a request. Remove tls; or, if detour is to speak
TLS, declare the port HTTP and have the application speak HTTP to it.`,
		Bad:  swap(exampleHTTPS, "number: 80, name: http, protocol: HTTP, targetPort: 443", "number: 443, name: https, protocol: HTTPS") + exampleOriginate + "}\n",
		Good: swap(exampleHTTPS, "number: 80, name: http, protocol: HTTP, targetPort: 443", "number: 443, name: https, protocol: HTTPS"),
	}, {
		Code: CodeNoSuchName, Title: "Certificates are verified for a name that an endpoint can't have",
		Why: `sni and subjectAltNames hold for all endpoints of a host. A name that belongs to one of them fits only that one: the
others are refused at the handshake, which is found out when they should take over. A name in a domain of your own is on
no provider's certificate. Leave sni out: detour then sends and verifies each endpoint's own name. Or list the names of
all endpoints in subjectAltNames.`,
		Bad: exampleHTTPS + "  - {address: db.us-west1.example.net}\n" + exampleOriginate + ", sni: db.us-east1.example.net}\n",
		Good: exampleHTTPS + "  - {address: db.us-west1.example.net}\n" + exampleOriginate +
			"}\n    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 0, maxEjectionPercent: 50}\n",
	}, {
		Code: CodeTLSToPlain, Title: "TLS goes to an endpoint's port 80",
		Why: `Port 80 speaks plain HTTP: a server there answers a TLS handshake with an error or not at all. A port of the
ServiceEntry leads to the same port of the endpoints unless targetPort says another. Where detour speaks TLS for an
application that calls port 80, write targetPort: 443.`,
		Bad: swap(exampleHTTPS, ", targetPort: 443", "") + exampleOriginate + "}\n", Good: exampleHTTPS + exampleOriginate + "}\n",
	},
}
