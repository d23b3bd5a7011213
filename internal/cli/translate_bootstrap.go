package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"detour.dev/detour/internal/bootstrap"
	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/xds"
)

// bootstrapFlags refuses flags that say something about a bootstrap where none is asked for.
func (f *translateFlags) bootstrapFlags(c *cobra.Command) error {
	if f.output == "bootstrap" {
		if f.kind != "all" {
			return usagef("--type %s: a bootstrap is always whole", f.kind)
		}
		return nil
	}
	for _, name := range []string{"admin", "listen", "bind", "resolver"} {
		if c.Flags().Changed(name) {
			return usagef("--%s is for -o bootstrap", name)
		}
	}
	return nil
}

// bootstrap prints the snapshot as an Envoy bootstrap in JSON.
func (f *translateFlags) bootstrap(s *xds.Snapshot, g xds.NodeGroup) ([]byte, error) {
	o := bootstrap.Options{Group: g, Bind: map[string]netip.AddrPort{}}
	var err error
	if o.Admin, err = optionalAddress("admin", f.admin); err != nil {
		return nil, err
	}
	if o.Listen, err = optionalAddress("listen", f.listen); err != nil {
		return nil, err
	}
	for name, at := range f.bind {
		if o.Bind[name], err = optionalAddress("bind "+name, at); err != nil {
			return nil, err
		}
	}
	if f.resolver != "" {
		if o.Resolver, err = dns.ParseServer(f.resolver); err != nil {
			return nil, usagef("--resolver: %w", err)
		}
	}
	b, err := bootstrap.Static(s, o)
	if err != nil {
		return nil, usagef("--bind: %w", err)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// optionalAddress reads IP:PORT; empty gives an invalid address.
func optionalAddress(flag, s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, usagef("--%s: %q is not IP:PORT", flag, s)
	}
	return a, nil
}
