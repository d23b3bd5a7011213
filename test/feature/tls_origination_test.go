//go:build linux

package feature

import (
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"testing"

	"detour.dev/detour/internal/testcert"
)

// mutualWorld has one endpoint that wants a client certificate, and a rule that has one.
func mutualWorld(t *testing.T) (w *world, certPath, keyPath string) {
	t.Parallel()
	w = newWorld(t)
	w.east.serve(443, w.pair(eastName), func() *tls.Config {
		return &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: w.ca.Pool()}
	})
	certPath, keyPath = w.clientPair("client")
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, w.walkthrough(httpsRule, "mode: SIMPLE", fmt.Sprintf("mode: MUTUAL\n      clientCertificate: %s\n      privateKey: %s\n      caCertificates: %s",
		certPath, keyPath, w.caFile())))
	return w, certPath, keyPath
}

func (w *world) clientPair(name string) (cert, key string) {
	w.t.Helper()
	p, err := w.ca.Issue(testcert.Template{Client: true})
	if err != nil {
		w.t.Fatal(err)
	}
	if cert, key, err = p.WriteFiles(w.scratch, name); err != nil {
		w.t.Fatal(err)
	}
	return cert, key
}

// clientSerial is the certificate that the last request came with.
func (w *world) clientSerial() string {
	w.t.Helper()
	d := w.deliveries()
	if len(d) == 0 || d[len(d)-1].TLS == nil || len(d[len(d)-1].TLS.PeerCertificates) == 0 {
		w.t.Fatal("no request with a client certificate")
	}
	return d[len(d)-1].TLS.PeerCertificates[0].SerialNumber.String()
}

// TestTLSClientCertificate presents one, and takes the files' new contents without a restart; a pair that does not fit
// together is not taken.
func TestTLSClientCertificate(t *testing.T) {
	w, cert, key := mutualWorld(t)
	w.proxyIn("us-east1")
	c := w.client()
	all(t, fromEast, c.gets(2))
	old := w.clientSerial()

	newCert, newKey := w.clientPair("next")
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	fresh := func() string { // a new connection's certificate
		t.Helper()
		w.east.ports[443].stop()
		w.east.ports[443].start(t)
		await(t, "a request is served", func() bool { return c.get().String() == fromEast })
		return w.clientSerial()
	}
	rename(newCert, cert) // half of it
	if got := fresh(); got != old {
		t.Error("a certificate was taken without its key")
	}
	rename(newKey, key)
	await(t, "the new pair is in use", func() bool { return fresh() != old })
}

// TestTLSResumption shakes hands in full once; later connections resume.
func TestTLSResumption(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := newTLS() // the server keeps its keys
	w.east.serve(443, w.pair(eastName), func() *tls.Config { return config })
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, w.httpsRule())
	w.proxyIn("us-east1")
	c := w.client()
	resumed := func() bool {
		w.east.ports[443].stop()
		w.east.ports[443].start(t)
		w.t.Helper()
		if s := c.get().String(); s != fromEast {
			t.Fatal(s)
		}
		d := w.deliveries()
		return d[len(d)-1].TLS.DidResume
	}
	all(t, fromEast, c.gets(2))
	await(t, "a connection resumes", resumed)
}

// TestTLSVersions: TLS 1.2 and 1.3 do, what is older does not.
func TestTLSVersions(t *testing.T) {
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.east.serve(443, w.pair(eastName), func() *tls.Config { return &tls.Config{MinVersion: version, MaxVersion: version} })
			w.write(entryFile, w.walkthrough(httpsEntry))
			w.write(ruleFile, w.httpsRule())
			w.proxyIn("us-east1")
			r := w.client().get()
			switch d := w.deliveries(); {
			case !ok && (r.Status != 503 || len(d) > 0):
				t.Errorf("got %v", r)
			case ok && (r.String() != fromEast || d[0].TLS.Version != version):
				t.Errorf("got %v", r)
			}
		})
	}
}

// TestTLSAuthorityRefused: a chain that caCertificates does not know is no chain, whatever its names.
func TestTLSAuthorityRefused(t *testing.T) {
	w := tlsRegions(t)
	other, err := testcert.NewCA("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := other.Server(eastName)
	if err != nil {
		t.Fatal(err)
	}
	w.east.ports[443].behave(behaviour{Cert: forged})
	w.write(entryFile, w.walkthrough(httpsEntry))
	w.write(ruleFile, w.httpsRule())
	p := w.proxyIn("us-east1")
	all(t, fromWest, w.client().gets(3))
	if !p.ejected(cluster80, w.east, 443) {
		t.Error("us-east-1 is not ejected")
	}
}

// TestAnalyzeForetells what step 7b shows: us-west can't take over for mydb.com.
func TestAnalyzeForetells(t *testing.T) {
	w := step7World(t)
	w.west.ports[443].behave(behaviour{Cert: w.pair(westName)})
	p := w.start(w.asRoot(detour("analyze", "-f", w.dir, "--locality", "us-east1", "--connect")))
	p.wait()
	found := false
	for l := range strings.Lines(p.out()) {
		found = found || strings.Contains(l, westName) && strings.Contains(l, service1) && strings.Contains(l, "certificate")
	}
	if !found {
		t.Error("no line says that us-west-1's certificate does not carry mydb.com")
	}
}
