package dataplane_test

import (
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

func socketOf(t *testing.T, m proto.Message) *corev3.TransportSocket {
	t.Helper()
	typed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.TransportSocket{Name: "s", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed}}
}

// The endpoint learns who the client is and where it wanted to go, on each connection, before the client's own bytes.
func TestProxyProtocol(t *testing.T) {
	for _, version := range []corev3.ProxyProtocolConfig_Version{corev3.ProxyProtocolConfig_V1, corev3.ProxyProtocolConfig_V2} {
		up := planetest.NewUpstream(t, echo("up"))
		s := planetest.One(up.Addr)
		s.Protocol, s.Port = planetest.TCP, 5432
		p := planetest.Start(t, dataplane.Options{}, s)
		snap := planetest.Snapshot(s)
		snap.Clusters[1].TransportSocket = socketOf(t, &proxyv3.ProxyProtocolUpstreamTransport{
			Config: &corev3.ProxyProtocolConfig{Version: version}, TransportSocket: socketOf(t, &rawv3.RawBuffer{})})
		if r := p.Set(snap); len(r.Rejected) > 0 {
			t.Fatal(r.Rejected)
		}
		c := p.Dial(s.Address())
		from := c.LocalAddr().String()
		got, err := exchange(t, c, "hello")
		if err != nil {
			t.Fatal(err)
		}
		ip, port, _ := strings.Cut(from, ":")
		want := "up:PROXY TCP4 " + ip + " 240.240.0.1 " + port + " 5432\r\nhello"
		if version == corev3.ProxyProtocolConfig_V2 {
			if !strings.HasPrefix(got, "up:\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c") || !strings.HasSuffix(got, "\xf0\xf0\x00\x01"+got[len(got)-9:len(got)-7]+"\x15\x38hello") {
				t.Errorf("version 2: %q", got)
			}
		} else if got != want {
			t.Errorf("version 1: %q, want %q", got, want)
		}
	}
}

// TestProxyProtocolReuse: requests of one client go over one connection to an endpoint, those of another over its own, and
// none stays behind its client.
func TestProxyProtocolReuse(t *testing.T) {
	var mu sync.Mutex
	introduced := map[string]string{} // client, by the header's port
	up := planetest.NewUpstream(t, func(c *planetest.Conn) {
		line, err := c.R.ReadString('\n')
		if err != nil {
			return
		}
		for r := c.Request(); r != nil; r = c.Request() {
			port := strings.Fields(line)[4]
			mu.Lock()
			if who := introduced[port]; who == "" {
				introduced[port] = r.URL.Path
			} else if who != r.URL.Path {
				t.Errorf("%s came over the connection of %s", r.URL.Path, who)
			}
			mu.Unlock()
			c.Send(planetest.Response(200, "ok"))
		}
	})
	s := planetest.One(up.Addr)
	p := planetest.Start(t, dataplane.Options{}, s)
	snap := planetest.Snapshot(s)
	snap.Clusters[1].TransportSocket = socketOf(t, &proxyv3.ProxyProtocolUpstreamTransport{TransportSocket: socketOf(t, &rawv3.RawBuffer{})})
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	one, two := p.Dial(s.Address()), p.Dial(s.Address())
	for range 3 {
		for path, c := range map[string]*planetest.Client{"/one": one, "/two": two} {
			c.Send(planetest.Request("GET", path, ""))
			if a := c.Read("GET"); a.Text != "ok" {
				t.Fatalf("got %d %q", a.StatusCode, a.Text)
			}
		}
	}
	active := &p.Cluster(s).Stats().UpstreamCxActive
	if n := up.Conns(); n != 2 || active.Value() != 2 {
		t.Errorf("%d connections for two clients, %d open", n, active.Value())
	}
	one.Close()
	planetest.Until(t, "its connection is closed", func() bool { return active.Value() == 1 })
	two.Close()
	planetest.Until(t, "all are closed", func() bool { return active.Value() == 0 })
}
