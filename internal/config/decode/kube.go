package decode

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// kubeKinds are the kinds of Kubernetes that decide where a service's endpoints are, by API group. They are read leniently:
// a cluster wrote them, and what they say beside that is nobody's business here.
var kubeKinds = map[string]map[config.Kind]func(*object, []byte, *config.Object) proto.Message{
	"":                 {config.Service: kubeService, config.Node: kubeNode},
	"discovery.k8s.io": {config.EndpointSlice: kubeSlice},
}

// The few fields that count of Kubernetes' types (core/v1 Service, discovery.k8s.io/v1 EndpointSlice).
type (
	kubeServiceObject struct {
		Spec struct {
			Type         string            `json:"type"`
			ClusterIP    string            `json:"clusterIP"`
			ClusterIPs   []string          `json:"clusterIPs"`
			ExternalName string            `json:"externalName"`
			Ports        []kubeServicePort `json:"ports"`
			Distribution string            `json:"trafficDistribution"`
		} `json:"spec"`
	}
	kubeServicePort struct {
		Name        string `json:"name"`
		Protocol    string `json:"protocol"`
		AppProtocol string `json:"appProtocol"`
		Port        uint16 `json:"port"`
	}
	kubeSliceObject struct {
		AddressType string `json:"addressType"`
		Ports       []struct {
			Name string `json:"name"`
			Port uint16 `json:"port"`
		} `json:"ports"`
		Endpoints []struct {
			Addresses  []string `json:"addresses"`
			NodeName   string   `json:"nodeName"`
			Zone       string   `json:"zone"`
			Conditions struct {
				Ready *bool `json:"ready"`
			} `json:"conditions"`
		} `json:"endpoints"`
	}
)

// kube reads an object of Kubernetes; false when it is none of those that count.
func (o *object) kube(m map[string]any) (*config.Object, bool) {
	kind, _ := m["kind"].(string)
	api, _ := m["apiVersion"].(string)
	group, _, grouped := strings.Cut(api, "/")
	if !grouped {
		group = ""
	}
	read := kubeKinds[group][config.Kind(kind)]
	if read == nil {
		return nil, false
	}
	res := &config.Object{APIVersion: api, Origin: o.origin, Where: o.at}
	o.key.Kind = config.Kind(kind)
	o.metadata(m, res)
	res.Key = o.key
	if o.key.Kind == config.Service && o.key.Name != "" && !isLabel(o.key.Name) {
		o.problem(config.CodeBadMetadata, "metadata.name", "%s is no name of a Service; allowed: lower case letters, digits and '-', at most 63", quote(o.key.Name))
	}
	data, err := json.Marshal(m)
	if err != nil {
		o.problem(config.CodeWrongType, "", "can't be read: %v", err)
		return res, true
	}
	res.Spec = read(o, data, res)
	return res, true
}

// parse reads the object into Kubernetes' own type.
func (o *object) parse(data []byte, into any) bool {
	if err := json.Unmarshal(data, into); err != nil {
		o.problem(config.CodeWrongType, "spec", "is not what a Kubernetes %s has: %s", o.key.Kind, strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

// address tells whether ip is an address, and says so at path where it is none.
func (o *object) address(path, ip string) bool {
	if _, err := netip.ParseAddr(ip); err != nil {
		o.problem(config.CodeBadAddress, path, "%q is no IP address; allowed: IPv4 or IPv6", ip)
		return false
	}
	return true
}

// kubeService makes a Service a ServiceEntry: NAME.NAMESPACE.svc.cluster.local with its cluster addresses, whose endpoints
// come from EndpointSlices. An ExternalName is a name to look up. What a ServiceEntry says by exportTo and by an annotation, a
// Service says by an annotation and by trafficDistribution.
func kubeService(o *object, data []byte, res *config.Object) proto.Message {
	var s kubeServiceObject
	out := &networking.ServiceEntry{Resolution: networking.ServiceEntry_STATIC, Location: networking.ServiceEntry_MESH_INTERNAL}
	if !o.parse(data, &s) {
		return out
	}
	out.Hosts = []string{o.key.Name + "." + o.key.Namespace + "." + config.ClusterDomain}
	out.ExportTo = kubeExportTo(res.Annotations)
	if d := s.Spec.Distribution; slices.Contains([]string{"PreferClose", "PreferSameZone", "PreferSameNode"}, d) {
		res.Annotations = maps.Clone(res.Annotations)
		if res.Annotations == nil {
			res.Annotations = map[string]string{}
		}
		res.Annotations[config.AnnotationDistribution] = d
	}
	for i, p := range s.Spec.Ports {
		if p.Port == 0 {
			o.problem(config.CodeBadPort, fmt.Sprintf("spec.ports[%d].port", i), "0 is no port; allowed: 1 to 65535")
		}
		out.Ports = append(out.Ports, &networking.ServicePort{Number: uint32(p.Port), Name: p.Name, Protocol: kubeProtocol(p)})
	}
	if s.Spec.Type == "ExternalName" {
		out.Resolution, out.Location = networking.ServiceEntry_DNS, networking.ServiceEntry_MESH_EXTERNAL
		if s.Spec.ExternalName == "" {
			o.problem(config.CodeBadEndpoint, "spec.externalName", "is missing; with type ExternalName, the DNS name that stands behind the Service is wanted")
			return out
		}
		out.Endpoints = []*networking.WorkloadEntry{{Address: s.Spec.ExternalName}}
		return out
	}
	for _, ip := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		if ip == "" || ip == "None" || slices.Contains(out.Addresses, ip) {
			continue
		}
		if !o.address("spec.clusterIP", ip) {
			break
		}
		out.Addresses = append(out.Addresses, ip)
	}
	return out
}

// kubeExportTo reads to which namespaces an annotation exports a Service; nil where there is none.
func kubeExportTo(annotations map[string]string) []string {
	list := annotations["networking.istio.io/exportTo"]
	if list == "" {
		return nil
	}
	var out []string
	for ns := range strings.SplitSeq(list, ",") {
		out = append(out, strings.TrimSpace(ns))
	}
	return out
}

// kubeProtocol tells a port's protocol as istiod does (pkg/config/kube: ConvertProtocol): UDP by its transport, else by what
// appProtocol, or without one the port's name, begins with; a word that is none leaves the ports whose servers speak first.
func kubeProtocol(p kubeServicePort) string {
	if p.Protocol == "UDP" {
		return "UDP"
	}
	word := strings.ToUpper(cmp.Or(p.AppProtocol, p.Name))
	switch p.AppProtocol {
	case "kubernetes.io/h2c":
		return "HTTP2"
	case "kubernetes.io/ws":
		return "HTTP"
	case "kubernetes.io/wss":
		return "HTTPS"
	}
	if strings.HasPrefix(word, "GRPC-WEB") {
		return "GRPC-WEB"
	}
	word, _, _ = strings.Cut(word, "-")
	if slices.Contains(portWords, word) {
		return word
	}
	if slices.Contains(speaksFirst, p.Port) {
		return "TCP"
	}
	return ""
}

// portWords are the words that tell a port's protocol.
var portWords = []string{"GRPC", "HTTP", "HTTP_PROXY", "HTTP2", "HTTPS", "TCP", "UDP", "TLS", "MONGO", "REDIS", "MYSQL"}

// speaksFirst are the ports of SMTP, DNS, MySQL and MongoDB: looking at a client's first bytes there would wait in vain.
var speaksFirst = []uint16{25, 53, 3306, 27017}

// kubeSlice makes an EndpointSlice a ServiceEntry that only has endpoints: those that are ready, with the node and zone they
// are in as labels.
func kubeSlice(o *object, data []byte, _ *config.Object) proto.Message {
	var s kubeSliceObject
	out := &networking.ServiceEntry{Resolution: networking.ServiceEntry_STATIC}
	if !o.parse(data, &s) || s.AddressType == "FQDN" {
		return out
	}
	ports := map[string]uint32{}
	for _, p := range s.Ports {
		ports[p.Name] = uint32(p.Port)
	}
	for i, e := range s.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
			continue
		}
		if !o.address(fmt.Sprintf("endpoints[%d].addresses[0]", i), e.Addresses[0]) {
			continue
		}
		labels := map[string]string{}
		if e.NodeName != "" {
			labels[config.LabelNode] = e.NodeName
		}
		if e.Zone != "" {
			labels[config.LabelZone] = e.Zone
		}
		out.Endpoints = append(out.Endpoints, &networking.WorkloadEntry{Address: e.Addresses[0], Ports: ports, Labels: labels})
	}
	return out
}

// kubeNode keeps a Node's labels, which tell its region and zone.
func kubeNode(o *object, _ []byte, res *config.Object) proto.Message {
	return &networking.WorkloadEntry{Address: o.key.Name, Labels: res.Labels}
}
