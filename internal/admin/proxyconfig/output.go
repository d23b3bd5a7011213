package proxyconfig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// ToJSON gives a list of messages as istioctl prints it: proto JSON with camelCase names.
func ToJSON[M proto.Message](all []M) (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, m := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		one, err := toJSON(m)
		if err != nil {
			return nil, err
		}
		b.Write(one)
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}

func toJSON(m proto.Message) ([]byte, error) { return protojson.Marshal(m) }

// One gives a single message as JSON.
func One(m proto.Message) (json.RawMessage, error) { return toJSON(m) }

// WriteRaw prints JSON, indented as istioctl does, or the same as YAML.
func WriteRaw(w io.Writer, raw json.RawMessage, asYAML bool) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "    "); err != nil {
		return err
	}
	b.WriteByte('\n')
	if asYAML {
		y, err := yaml.JSONToYAML(b.Bytes())
		if err != nil {
			return err
		}
		_, err = w.Write(y)
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// WriteBootstrap prints who the proxy is.
func WriteBootstrap(w io.Writer, d *adminv3.BootstrapConfigDump) error {
	n := d.GetBootstrap().GetNode()
	rows := [][]string{
		{"NODE", "CLUSTER", "AGENT", "VERSION", "LOCALITY"},
		{dash(n.GetId()), dash(n.GetCluster()), dash(n.GetUserAgentName()), dash(agentVersion(n)), locality(n.GetLocality())},
	}
	return table(w, 5, rows)
}

func agentVersion(n *corev3.Node) string {
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return n.GetUserAgentVersion()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
