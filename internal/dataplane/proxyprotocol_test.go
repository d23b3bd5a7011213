package dataplane_test

import (
	"strings"
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
