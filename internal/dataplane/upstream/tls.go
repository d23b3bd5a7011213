package upstream

import (
	"fmt"
	"log/slog"
	"sync"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/upstream/tlstransport"
)

// TLSContexts holds the TLS settings of all clusters, shared by the workers, so that sessions are resumed and files read
// once whichever worker connects.
type TLSContexts struct {
	Log *slog.Logger

	mu  sync.Mutex
	all map[tlsKey]*tlsEntry // guarded by mu
}

// tlsKey tells two versions of a cluster apart, both of which may be connected to. Versions that connect alike have one.
type tlsKey struct{ cluster, pool string }

func keyOf(cfg *cluster.Config) tlsKey { return tlsKey{cfg.Name, cfg.PoolKey} }

type tlsEntry struct {
	ctx *tlstransport.Context
	err error
}

// Get gives the context for a cluster. Settings that did not change keep theirs, with its sessions, across
// configurations.
func (t *TLSContexts) Get(cfg *cluster.Config) (*tlstransport.Context, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.all[keyOf(cfg)]; e != nil {
		return e.ctx, e.err
	}
	if t.all == nil {
		t.all = map[tlsKey]*tlsEntry{}
	}
	e := &tlsEntry{}
	e.ctx, e.err = t.compile(cfg)
	t.all[keyOf(cfg)] = e
	return e.ctx, e.err
}

// Retain forgets the settings of clusters that are gone, and of versions that are not in force any more; who still connects
// by one has them made anew.
func (t *TLSContexts) Retain(clusters map[string]*cluster.Cluster) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.all {
		if c := clusters[key.cluster]; c == nil || keyOf(c.Config()) != key {
			delete(t.all, key)
		}
	}
}

func (t *TLSContexts) compile(cfg *cluster.Config) (*tlstransport.Context, error) {
	var u tlsv3.UpstreamTlsContext
	if err := cfg.TransportSocket.GetTypedConfig().UnmarshalTo(&u); err != nil {
		return nil, fmt.Errorf("transport_socket %s: %w", cfg.TransportSocket.GetName(), err)
	}
	ctx, err := tlstransport.New(&u, tlstransport.Options{Log: t.Log})
	if err != nil {
		return nil, err
	}
	if ctx.Insecure() {
		t.Log.Warn("TLS WITHOUT VERIFICATION: any server can pose as the endpoints of this host (insecureSkipVerify, or no CA)",
			"cluster", cfg.Name)
	}
	return ctx, nil
}
