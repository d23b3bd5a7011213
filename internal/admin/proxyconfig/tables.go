package proxyconfig

import (
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
)

// Filter keeps what matches all of its fields that are set, as istioctl's flags do.
type Filter struct {
	FQDN      string // part of a cluster's or a virtual host's name
	Port      int    // an endpoint's own; a service's of clusters, listeners and routes
	Cluster   string // an endpoint's cluster, or one that a route leads to, whole
	Address   string
	Status    string // HEALTHY, …
	Subset    string
	Direction string
	Type      string // a listener's: HTTP, TCP, HTTP+TCP
	Name      string // a route configuration's
}

// table prints rows in columns; pad is the space between them, as istioctl has it.
func table(w io.Writer, pad int, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, pad, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = clean(r[i])
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// FilterEndpoints gives the clusters with the endpoints that match; clusters without any are left out.
func FilterEndpoints(all *adminv3.Clusters, f Filter) []*adminv3.ClusterStatus {
	var out []*adminv3.ClusterStatus
	for _, c := range all.GetClusterStatuses() {
		var hosts []*adminv3.HostStatus
		for _, h := range c.GetHostStatuses() {
			if f.endpoint(c.GetName(), h) {
				hosts = append(hosts, h)
			}
		}
		if len(hosts) > 0 {
			c.HostStatuses = hosts
			out = append(out, c)
		}
	}
	return out
}

func (f Filter) endpoint(cluster string, h *adminv3.HostStatus) bool {
	addr, port := endpointAddress(h.GetAddress())
	return (f.Address == "" || strings.EqualFold(addr, f.Address)) &&
		(f.Port == 0 || uint32(f.Port) == port) &&
		(f.Cluster == "" || strings.EqualFold(cluster, f.Cluster)) &&
		(f.FQDN == "" || strings.Contains(parseName(cluster).host, f.FQDN)) &&
		(f.Status == "" || strings.EqualFold(h.GetHealthStatus().GetEdsHealthStatus().String(), f.Status))
}

// endpointRow is one line of the endpoints' table.
type endpointRow struct {
	addr    string
	port    uint32
	cluster string
	host    *adminv3.HostStatus
}

// WriteEndpoints prints istioctl's table, by address, port and cluster; wide adds what istioctl does not show.
func WriteEndpoints(w io.Writer, e *Endpoints, f Filter, wide bool) error {
	var all []endpointRow
	for _, c := range FilterEndpoints(e.Clusters, f) {
		for _, h := range c.GetHostStatuses() {
			addr, port := endpointAddress(h.GetAddress())
			all = append(all, endpointRow{addr, port, c.GetName(), h})
		}
	}
	sort.SliceStable(all, func(i, j int) bool {
		a, b := &all[i], &all[j]
		switch {
		case a.addr != b.addr:
			return a.addr < b.addr
		case a.port != b.port:
			return a.port < b.port
		}
		return a.cluster < b.cluster
	})
	head := []string{"ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"}
	if wide {
		head = append(head, "PRIORITY", "LOCALITY", "WEIGHT", "EJECTED FOR", "LAST ERROR")
	}
	rows := [][]string{head}
	for _, r := range all {
		row := []string{r.addr, r.host.GetHealthStatus().GetEdsHealthStatus().String(), "OK", r.cluster}
		if r.port != 0 {
			row[0] += ":" + strconv.FormatUint(uint64(r.port), 10)
		}
		switch {
		case e.FromDump:
			row[2] = "-"
		case r.host.GetHealthStatus().GetFailedOutlierCheck():
			row[2] = "FAILED"
		}
		if wide {
			row = append(row, wideColumns(e, r)...)
		}
		rows = append(rows, row)
	}
	return table(w, 5, rows)
}

func wideColumns(e *Endpoints, r endpointRow) []string {
	x, known := e.Hosts[HostKey{r.cluster, detourAddress(r.host.GetAddress())}]
	ejected, last := "-", "-"
	if known && x.EjectedFor > 0 {
		ejected = (time.Duration(x.EjectedFor) * time.Millisecond).Round(time.Second).String()
	} else if r.host.GetHealthStatus().GetFailedOutlierCheck() {
		ejected = "?" // an Envoy does not tell
	}
	if known && x.LastError != "" {
		last = x.LastError
	}
	return []string{
		strconv.FormatUint(uint64(r.host.GetPriority()), 10),
		locality(r.host.GetLocality()),
		strconv.FormatUint(uint64(r.host.GetWeight()), 10),
		ejected,
		last,
	}
}

// locality gives region/zone/subzone without empty ends, "-" for none.
func locality(l *corev3.Locality) string {
	s := strings.TrimRight(l.GetRegion()+"/"+l.GetZone()+"/"+l.GetSubZone(), "/")
	if s == "" {
		return "-"
	}
	return s
}

// clusterName is DIRECTION|PORT|SUBSET|HOST taken apart; any other name is a host only.
type clusterName struct {
	direction, port, subset, host string
}

func parseName(s string) clusterName {
	parts := strings.SplitN(s, "|", 4)
	if len(parts) < 4 {
		return clusterName{host: s}
	}
	return clusterName{parts[0], parts[1], parts[2], parts[3]}
}

func (n clusterName) less(o clusterName) bool {
	a, _ := strconv.Atoi(n.port)
	b, _ := strconv.Atoi(o.port)
	switch {
	case n.host != o.host:
		return n.host < o.host
	case n.subset != o.subset:
		return n.subset < o.subset
	case a != b:
		return a < b
	}
	return n.direction < o.direction
}

// FilterClusters gives the clusters that match, by host, subset, port and direction.
func FilterClusters(all []*clusterv3.Cluster, f Filter) []*clusterv3.Cluster {
	var out []*clusterv3.Cluster
	for _, c := range all {
		n := c.GetName()
		if strings.Contains(n, f.FQDN) && strings.Contains(n, f.Subset) && strings.Contains(n, f.Direction) &&
			(f.Cluster == "" || strings.EqualFold(n, f.Cluster)) &&
			(f.Port == 0 || strings.Contains(n, "|"+strconv.Itoa(f.Port)+"|")) {
			out = append(out, c)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return parseName(out[i].GetName()).less(parseName(out[j].GetName())) })
	return out
}

// WriteClusters prints istioctl's table of clusters.
func WriteClusters(w io.Writer, all []*clusterv3.Cluster, f Filter) error {
	rows := [][]string{{"SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"}}
	for _, c := range FilterClusters(all, f) {
		n := parseName(c.GetName())
		row := []string{n.host, n.port, n.subset, n.direction, clusterType(c), configOf(c.GetMetadata())}
		for i := 1; i < 4; i++ {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	return table(w, 5, rows)
}

// clusterType names a cluster's discovery. The DNS cluster as an extension is called by the names it had before.
func clusterType(c *clusterv3.Cluster) string {
	x := c.GetClusterType()
	if x == nil {
		return c.GetType().String()
	}
	d := &dnsv3.DnsCluster{}
	if x.GetTypedConfig().MessageIs(d) && unpack(x.GetTypedConfig(), d) == nil {
		if d.GetAllAddressesInSingleEndpoint() {
			return "LOGICAL_DNS"
		}
		return "STRICT_DNS"
	}
	return x.GetName()
}

// configOf names the object that made a cluster or a route, NAME.NAMESPACE, from Istio's metadata.
func configOf(m *corev3.Metadata) string {
	path := m.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
	if path == "" {
		return ""
	}
	parts := strings.Split(path, "/") // /apis/networking.istio.io/VERSION/namespaces/NS/KIND/NAME
	if len(parts) != 8 || !strings.HasPrefix(path, "/apis/networking.istio.io/") {
		return "<unknown>"
	}
	return parts[7] + "." + parts[5]
}
