package analyze

import (
	"cmp"
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// Network is what Resolve and Connect use of the world. Nil functions mean the system's.
type Network struct {
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	Now         func() time.Time
	Roots       *x509.CertPool // authorities that are trusted where the configuration names none
}

const (
	// probeTimeout bounds one look-up or one handshake.
	probeTimeout = 5 * time.Second
	// probesAtOnce bounds how many go on together.
	probesAtOnce = 16
)

func (n Network) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if n.LookupNetIP != nil {
		return n.LookupNetIP(ctx, "ip", host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (n Network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if n.DialContext != nil {
		return n.DialContext(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (n Network) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}

// each runs f for all items, some at a time, and waits for all.
func each[T any](items []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, probesAtOnce)
	for _, it := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(it)
		})
	}
	wg.Wait()
}

// resolve looks up every name among the endpoints, each once.
func (r *run) resolve(ctx context.Context) {
	type question struct {
		name   string
		places []translate.PlannedEndpoint
		addrs  []netip.Addr
		err    error
	}
	byName := map[string]*question{}
	var all []*question
	for _, p := range r.plans {
		for _, e := range p.Endpoints {
			if !e.IsName {
				continue
			}
			q := byName[e.Address]
			if q == nil {
				q = &question{name: e.Address}
				byName[e.Address] = q
				all = append(all, q)
			}
			q.places = append(q.places, e)
		}
	}
	slices.SortFunc(all, func(a, b *question) int { return cmp.Compare(a.name, b.name) })
	each(all, func(q *question) {
		addrs, err := r.opt.Network.lookup(ctx, q.name)
		if err == nil && len(addrs) == 0 {
			err = &net.DNSError{Err: "no address", Name: q.name, IsNotFound: true}
		}
		q.addrs, q.err = addrs, err
	})
	for _, q := range all {
		if q.err == nil {
			r.addrs[q.name] = q.addrs
			continue
		}
		for _, e := range q.places {
			place := e.At
			if place.Field != "spec.hosts" {
				place.Field += ".address"
			}
			r.report(at(config.Warning, CodeNotResolved, place, "%s does not resolve: %v", q.name, q.err))
		}
	}
	for _, p := range r.plans {
		r.sameAddress(p)
	}
}

// sameAddress tells that two names of one host lead to the same place: what looks like a second endpoint is none.
func (r *run) sameAddress(p *translate.Plan) {
	type found struct {
		name string
		port uint32
	}
	first := map[netip.AddrPort]found{}
	for _, e := range p.Endpoints {
		for _, a := range r.addrs[e.Address] {
			key := netip.AddrPortFrom(a, uint16(e.Port))
			was, taken := first[key]
			if !taken {
				first[key] = found{e.Address, e.Port}
				continue
			}
			if was.name == e.Address {
				continue
			}
			place := e.At
			if place.Field != "spec.hosts" {
				place.Field += ".address"
			}
			r.report(at(config.Warning, CodeSameAddress, place, "%s and %s have the same address, %s: as endpoints of %s they fail together, so neither takes over for the other",
				was.name, e.Address, a, p.Host))
			break
		}
	}
}
