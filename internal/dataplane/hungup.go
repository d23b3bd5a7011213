package dataplane

import (
	"context"
	"crypto/x509"
	"strings"
	"sync"
	"time"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/upstream/tlstransport"
)

// hangups tells, once in a while for each endpoint, that a client ended its TLS handshake with an endpoint that had taken
// over, and which names that endpoint's certificate carries: the application checks the certificate for the name it
// asked for, so an endpoint that carries another can't take over (walkthrough, step 7b).
type hangups struct {
	mu   sync.Mutex
	last map[string]time.Time // guarded by mu; by cluster and endpoint
}

const (
	hangupEvery   = 10 * time.Second
	hangupTimeout = 3 * time.Second
	maxHangups    = 1024
)

// report is called on a worker's loop when a client hung up in the handshake.
func (h *hangups) report(p *Plane, cluster string, e *lb.Endpoint, sni string) {
	if e.Priority == 0 || e.Path != "" {
		return // nothing took over: the client had its own reason
	}
	key := cluster + " " + e.String()
	now := time.Now()
	h.mu.Lock()
	if h.last == nil || len(h.last) >= maxHangups {
		h.last = map[string]time.Time{}
	}
	recent := now.Sub(h.last[key]) < hangupEvery
	if !recent {
		h.last[key] = now
	}
	h.mu.Unlock()
	if recent {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), hangupTimeout)
		defer cancel()
		names, err := p.certificateNames(ctx, e.Host, sni)
		if (&x509.Certificate{DNSNames: names}).VerifyHostname(sni) == nil {
			return // the name is there: the client had its own reason, or said all it had to say in few bytes
		}
		carries := strings.Join(names, ", ")
		if err != nil {
			carries = "unknown: " + err.Error()
		}
		p.Log.Warn("another endpoint took over, and the client hung up in the TLS handshake: its certificate probably does not carry the name",
			"cluster", cluster, "endpoint", e.Name, "address", e.String(), "locality", lb.LocalityName(e.Locality),
			"asked_for", sni, "certificate_names", carries)
	}()
}

// certificateNames asks an endpoint for its certificate, on the way that connections to it take.
func (p *Plane) certificateNames(ctx context.Context, h *lb.Host, sni string) ([]string, error) {
	c, err := p.Via.Dial(ctx, h)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	names, _, err := tlstransport.Probe(ctx, c, sni)
	return names, err
}
