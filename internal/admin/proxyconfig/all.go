package proxyconfig

import (
	"context"
	"encoding/json"
	"io"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// All is everything that the tables show.
type All struct {
	Clusters  []*clusterv3.Cluster
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Endpoints *Endpoints // nil: a file that has none
}

// All reads everything. A file must be a /config_dump, with include_eds if endpoints are wanted.
func (s *Source) All(ctx context.Context, details bool) (*All, error) {
	var a All
	var err error
	if a.Clusters, err = s.Clusters(ctx); err != nil {
		return nil, err
	}
	if a.Listeners, err = s.Listeners(ctx); err != nil {
		return nil, err
	}
	if a.Routes, err = s.Routes(ctx); err != nil {
		return nil, err
	}
	if a.Endpoints, err = s.Endpoints(ctx, details); err != nil && s.data == nil {
		return nil, err
	}
	return &a, nil
}

// Write prints the four tables, with an empty line between them.
func (a *All) Write(w io.Writer, f Filter, wide bool) error {
	gap := func() error {
		_, err := io.WriteString(w, "\n")
		return err
	}
	steps := []func() error{
		func() error { return WriteClusters(w, a.Clusters, f) }, gap,
		func() error { return WriteListeners(w, a.Listeners, f) }, gap,
		func() error { return WriteRoutes(w, a.Routes, f) },
	}
	if a.Endpoints != nil {
		steps = append(steps, gap, func() error { return WriteEndpoints(w, a.Endpoints, f, wide) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// JSON gives one object with a list for each kind.
func (a *All) JSON(f Filter) (json.RawMessage, error) {
	out := struct {
		Clusters  json.RawMessage `json:"clusters"`
		Listeners json.RawMessage `json:"listeners"`
		Routes    json.RawMessage `json:"routes"`
		Endpoints json.RawMessage `json:"endpoints,omitempty"`
	}{}
	var err error
	if out.Clusters, err = ToJSON(FilterClusters(a.Clusters, f)); err != nil {
		return nil, err
	}
	if out.Listeners, err = ToJSON(FilterListeners(a.Listeners, f)); err != nil {
		return nil, err
	}
	if out.Routes, err = ToJSON(FilterRoutes(a.Routes, f)); err != nil {
		return nil, err
	}
	if a.Endpoints != nil {
		if out.Endpoints, err = ToJSON(FilterEndpoints(a.Endpoints.Clusters, f)); err != nil {
			return nil, err
		}
	}
	return json.Marshal(out)
}
