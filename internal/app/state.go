package app

import (
	"slices"
	"sync/atomic"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/admin"
	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// state is what the admin API sees of the process (admin.State).
type state struct {
	a        *App
	live     atomic.Bool
	draining atomic.Bool
}

var _ admin.State = (*state)(nil)

// Snapshot implements admin.State.
func (s *state) Snapshot() (*xds.Snapshot, time.Time) {
	snap, at, _ := s.a.plane.Snapshot()
	return snap, at
}

// Clusters implements admin.State.
func (s *state) Clusters() *adminv3.Clusters {
	out := &adminv3.Clusters{}
	for _, c := range s.a.clusters.Clusters() {
		out.ClusterStatuses = append(out.ClusterStatuses, c.Status())
	}
	return out
}

// Endpoints implements admin.State.
func (s *state) Endpoints() (out []admin.Assigned) {
	for _, c := range s.a.clusters.Clusters() {
		out = append(out, c)
	}
	return out
}

// Hosts implements admin.State.
func (s *state) Hosts() (out []admin.Host) {
	now := time.Now()
	for _, c := range s.a.clusters.Clusters() {
		for _, e := range c.Hosts().Endpoints() {
			text, at := e.LastError()
			out = append(out, admin.Host{Cluster: c.Name(), Address: e.String(), EjectedFor: e.EjectedFor(now).Milliseconds(),
				EjectedLeft: e.EjectedLeft(now).Milliseconds(), LastError: text, LastErrorAt: at})
		}
	}
	return out
}

// Listeners implements admin.State: the sockets that are bound.
func (s *state) Listeners() *adminv3.Listeners {
	out := &adminv3.Listeners{}
	for _, b := range s.a.plane.Bound() {
		at := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: b.Addr.Addr().String(),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(b.Addr.Port())}}}}
		if b.Path != "" {
			at = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: b.Path, Mode: b.Mode}}}
		}
		out.ListenerStatuses = append(out.ListenerStatuses, &adminv3.ListenerStatus{Name: b.Name, LocalAddress: at})
	}
	return out
}

// Rejected implements admin.State: objects of the configuration, and resources that the engine refused.
func (s *state) Rejected() (out []admin.Rejected) {
	status := s.a.pipeline.Status()
	for _, i := range status.Issues {
		if i.Severity != config.Error || i.Code == config.CodeSinkRejected { // those the engine tells of itself
			continue
		}
		name := i.Origin.File // a document that can't be read has no object
		if i.Object != (config.Key{}) {
			name = i.Object.String()
		}
		reason := i.Message
		if i.Field != "" {
			reason = i.Field + ": " + reason
		}
		out = append(out, admin.Rejected{Name: name, Origin: i.Origin.String(), Reason: reason, At: status.Updated})
	}
	snap, at, rejected := s.a.plane.Snapshot()
	for _, r := range rejected {
		out = append(out, admin.Rejected{TypeURL: r.TypeURL, Name: r.Name, Reason: r.Reason, Version: snap.Version, At: at})
	}
	return slices.Clip(out)
}

// ServerState implements admin.State.
func (s *state) ServerState() adminv3.ServerInfo_State {
	switch {
	case s.draining.Load():
		return adminv3.ServerInfo_DRAINING
	case s.live.Load():
		return adminv3.ServerInfo_LIVE
	}
	return adminv3.ServerInfo_INITIALIZING
}

// Drain implements admin.State.
func (s *state) Drain() {
	s.draining.Store(true)
	s.a.plane.Drain()
}

// Quit implements admin.State.
func (s *state) Quit() { s.a.Quit() }
