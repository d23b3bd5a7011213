package tcpproxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/planetest"
)

func TestMain(m *testing.M) {
	lb.Debug = true // a second Done panics
	goleak.VerifyTestMain(m)
}

const name = "tls.test"

// certificate is self-signed, for name.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// tlsServer answers what it gets with its name in front, once the client has ended its direction.
func tlsServer(cert tls.Certificate, who string) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		s := tls.Server(c.TCPConn, &tls.Config{Certificates: []tls.Certificate{cert}})
		b, err := io.ReadAll(s)
		if err == nil {
			_, _ = io.WriteString(s, who+" "+string(b))
		}
		_ = s.Close()
	}
}

func tlsService(outlier bool, endpoints ...netip.AddrPort) planetest.Service {
	s := planetest.One(endpoints...)
	s.Host, s.Port, s.Protocol, s.VIP, s.Outlier = name, 443, planetest.TLS, netip.MustParseAddr("240.240.0.2"), outlier
	return s
}

// readHello reads the first record.
func readHello(c *planetest.Conn) bool {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c.R, head); err != nil {
		return false
	}
	_, err := io.CopyN(io.Discard, c.R, int64(head[3])<<8|int64(head[4]))
	return err == nil
}

const handshakeFailure = "\x15\x03\x03\x00\x02\x02\x28"

// helloFailures are what an endpoint does to a ClientHello.
var helloFailures = map[string]func(*planetest.Conn){
	"reset at once": func(c *planetest.Conn) { c.Reset() },
	"reset": func(c *planetest.Conn) {
		readHello(c)
		c.Reset()
	},
	"closed": func(c *planetest.Conn) { readHello(c) },
	"fatal alert": func(c *planetest.Conn) {
		readHello(c)
		c.Send(handshakeFailure)
		c.Gone()
	},
	"alert in pieces, then FIN": func(c *planetest.Conn) {
		readHello(c)
		c.Send(handshakeFailure[:3])
		c.Send(handshakeFailure[3:])
	},
	"half an alert": func(c *planetest.Conn) {
		readHello(c)
		c.Send(handshakeFailure[:3])
	},
	"silent": func(c *planetest.Conn) { c.Gone() },
}

// TestHelloFailover: until an endpoint's first byte the ClientHello goes to the next.
func TestHelloFailover(t *testing.T) {
	cert, roots := certificate(t)
	for failure, script := range helloFailures {
		t.Run(failure, func(t *testing.T) {
			bad := planetest.NewUpstream(t, script)
			good := planetest.NewUpstream(t, tlsServer(cert, "second"))
			failover(t, roots, bad.Addr, good.Addr)
		})
	}
	t.Run("refused", func(t *testing.T) {
		good := planetest.NewUpstream(t, tlsServer(cert, "second"))
		failover(t, roots, planetest.Refused(t), good.Addr)
	})
	t.Run("silent SYN", func(t *testing.T) {
		good := planetest.NewUpstream(t, tlsServer(cert, "second"))
		failover(t, roots, planetest.Silent(t), good.Addr)
	})
}

func failover(t *testing.T, roots *x509.CertPool, bad, good netip.AddrPort) {
	t.Helper()
	s := tlsService(true, bad, good)
	p := planetest.Start(t, dataplane.Options{}, s)
	c := tls.Client(p.Dial(s.Address()).TCPConn, &tls.Config{ServerName: name, RootCAs: roots})
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "second hello" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	_ = c.Close()
	i := p.Ended()
	if i.UpstreamHost != good || i.Attempts != 2 || i.Priority != 1 || string(i.RequestedServerName) != name {
		t.Errorf("logged %v, %d attempts, priority %d, %q", i.UpstreamHost, i.Attempts, i.Priority, i.RequestedServerName)
	}
	planetest.Until(t, "the first endpoint is ejected", func() bool {
		return p.Cluster(s).Stats().OutlierDetection.EjectionsActive.Value() == 1
	})
}

// TestNobodyTakesHello: the client learns why; a client that leaves is let go.
func TestNobodyTakesHello(t *testing.T) {
	_, roots := certificate(t)
	t.Run("alert", func(t *testing.T) {
		u := planetest.NewUpstream(t, helloFailures["fatal alert"])
		s := tlsService(true, u.Addr)
		p := planetest.Start(t, dataplane.Options{}, s)
		err := tls.Client(p.Dial(s.Address()).TCPConn, &tls.Config{ServerName: name, RootCAs: roots}).Handshake()
		if err == nil || !strings.Contains(err.Error(), "remote error: tls: handshake failure") {
			t.Errorf("got %v, want the endpoint's alert", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		s := tlsService(false, planetest.Refused(t))
		p := planetest.Start(t, dataplane.Options{}, s)
		c := p.Dial(s.Address())
		go func() { _ = tls.Client(c.TCPConn, &tls.Config{ServerName: name}).Handshake() }()
		if i := p.Ended(); i.Flags.String() != "UF" {
			t.Errorf("flags %v", i.Flags)
		}
	})
	for _, how := range []string{"FIN", "reset"} {
		t.Run("client leaves by "+how, func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			u := planetest.NewUpstream(t, func(c *planetest.Conn) {
				readHello(c)
				close(arrived)
				c.Gone()
				close(ended)
			})
			s := tlsService(false, u.Addr)
			p := planetest.Start(t, dataplane.Options{}, s)
			c := p.Dial(s.Address())
			c.Send(plainHello(false))
			<-arrived
			if how == "FIN" {
				_ = c.Close()
			} else {
				c.Reset()
			}
			<-ended
			planetest.Until(t, "the connection is gone", func() bool { return p.Connections() == 0 })
		})
	}
}

// plainHello is a ClientHello for name.
func plainHello(early bool) string {
	ext := "\x00\x00\x00\x0d\x00\x0b\x00\x00\x08" + name
	if early {
		ext += "\x00\x2a\x00\x00"
	}
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" + string([]byte{0, byte(len(ext))}) + ext
	msg := "\x01\x00" + string([]byte{0, byte(len(body))}) + body
	return "\x16\x03\x01" + string([]byte{0, byte(len(msg))}) + msg
}

// TestEarlyData: a hello that offers early data goes to one endpoint only.
func TestEarlyData(t *testing.T) {
	for _, early := range []bool{false, true} {
		bad := planetest.NewUpstream(t, helloFailures["reset"])
		got := make(chan bool, 8)
		good := planetest.NewUpstream(t, func(c *planetest.Conn) {
			got <- readHello(c)
			c.Send("\x16\x03\x03\x00\x01\x02") // the beginning of an answer
			c.Gone()
		})
		s := tlsService(true, bad.Addr, good.Addr)
		p := planetest.Start(t, dataplane.Options{}, s)
		c := p.Dial(s.Address())
		c.Send(plainHello(early))
		if early {
			if !c.Gone() {
				t.Error("the client saw an end in order")
			}
			if len(got) > 0 || good.Conns() > 0 {
				t.Error("early data may have been given to two endpoints")
			}
			continue
		}
		if b, err := c.R.ReadByte(); b != 22 || err != nil || !<-got {
			t.Errorf("no answer from the second endpoint: %v", err)
		}
		_ = c.Close()
	}
}

// TestTCP: a TCP port fails over until a connection is made; the server may speak first, and each end comes by itself.
func TestTCP(t *testing.T) {
	good := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Send("220 ready\r\n")
		got, err := c.Rest()
		c.Send("got " + got)
		if err != nil {
			t.Error(err)
		}
	})
	s := planetest.One(planetest.Refused(t), planetest.Silent(t), planetest.Refused(t), good.Addr)
	s.Port, s.Protocol, s.Outlier = 25, planetest.TCP, true
	p := planetest.Start(t, dataplane.Options{}, s)
	for range 2 {
		c := p.Dial(s.Address())
		if line, err := c.R.ReadString('\n'); line != "220 ready\r\n" || err != nil {
			t.Fatalf("got %q, %v", line, err)
		}
		c.Send("quit")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Rest(); got != "got quit" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if i := p.Ended(); i.BytesSent != 19 || i.BytesReceived != 4 || i.UpstreamHost != good.Addr {
			t.Errorf("logged %d down, %d up, %v", i.BytesSent, i.BytesReceived, i.UpstreamHost)
		}
	}
}

// TestReset: a reset on one side is one on the other, so that nothing looks complete.
func TestReset(t *testing.T) {
	ended := make(chan bool, 1)
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		line, _ := c.R.ReadString('\n')
		if line == "reset me\n" {
			c.Send("part")
			c.Reset()
			return
		}
		c.Send("ok")
		ended <- c.Gone()
	})
	s := planetest.One(u.Addr)
	s.Port, s.Protocol = 25, planetest.TCP
	p := planetest.Start(t, dataplane.Options{}, s)
	c := p.Dial(s.Address())
	c.Send("reset me\n")
	if !c.Gone() {
		t.Error("the endpoint's reset came as an end in order")
	}
	c = p.Dial(s.Address())
	c.Send("hello\n")
	if _, err := c.R.Peek(2); err != nil {
		t.Fatal(err)
	}
	c.Reset()
	if !<-ended {
		t.Error("the client's reset came as an end in order")
	}
}

// TestCompat: as an Envoy, one attempt for each connection, and no other endpoint for a ClientHello.
func TestCompat(t *testing.T) {
	good := planetest.NewUpstream(t, planetest.Serve("good"))
	s := planetest.One(planetest.Refused(t), good.Addr)
	s.Port, s.Protocol = 25, planetest.TCP
	p := planetest.Start(t, dataplane.Options{Compat: true}, s)
	if !p.Dial(s.Address()).Gone() {
		t.Error("ended in order")
	}
	if i := p.Ended(); i.Attempts != 1 {
		t.Errorf("%d attempts", i.Attempts)
	}
}
