package xds

import (
	"crypto/sha256"
	"encoding/hex"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Sum is the hash of one resource, or of one virtual host.
type Sum [16]byte

// Sums are the hashes of a snapshot's resources, in their order. Who makes snapshots one after the other keeps those of the
// resources that stay.
type Sums struct {
	Clusters, Endpoints, Listeners, Routes []Sum
	Names                                  Sum
}

// SumOf hashes the deterministic encoding of a message.
func SumOf(m proto.Message) Sum {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // only invalid UTF-8 can do this; decode refuses that earlier
		b = []byte(err.Error())
	}
	full := sha256.Sum256(b)
	return Sum(full[:])
}

// SumOfRoutes hashes a route configuration whose virtual hosts have these hashes.
func SumOfRoutes(rc *routev3.RouteConfiguration, hosts []Sum) Sum {
	head := &routev3.RouteConfiguration{}
	rc.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Name() != "virtual_hosts" {
			head.ProtoReflect().Set(fd, v)
		}
		return true
	})
	own := SumOf(head)
	h := sha256.New()
	h.Write(own[:])
	for i := range hosts {
		h.Write(hosts[i][:])
	}
	return Sum(h.Sum(nil)[:len(Sum{})])
}

// SumOfNames hashes a name table.
func SumOfNames(names []Name) Sum {
	h := sha256.New()
	for _, n := range names {
		h.Write([]byte(n.Host))
		for _, a := range n.Addrs {
			h.Write([]byte(" " + a.String()))
		}
		h.Write([]byte{0})
	}
	return Sum(h.Sum(nil)[:len(Sum{})])
}

// Hash computes the version of a snapshot from its contents: the first 16 hex digits of a SHA-256 over the hashes of all
// resources.
func (s *Snapshot) Hash() string {
	sums := Sums{Clusters: sumAll(s.Clusters), Endpoints: sumAll(s.Endpoints), Listeners: sumAll(s.Listeners), Names: SumOfNames(s.Names)}
	for _, rc := range s.Routes {
		sums.Routes = append(sums.Routes, SumOfRoutes(rc, sumAll(rc.VirtualHosts)))
	}
	return s.HashOf(&sums)
}

func sumAll[M proto.Message](list []M) []Sum {
	out := make([]Sum, len(list))
	for i, m := range list {
		out[i] = SumOf(m)
	}
	return out
}

// HashOf is Hash where the resources' own hashes are known.
func (s *Snapshot) HashOf(sums *Sums) string {
	h := sha256.New()
	for i, list := range [][]Sum{sums.Clusters, sums.Endpoints, sums.Listeners, sums.Routes, {sums.Names}} {
		h.Write([]byte{byte(i)}) // where one kind ends and the next begins
		for j := range list {
			h.Write(list[j][:])
		}
	}
	if s.RegistryOnly {
		h.Write([]byte("registry only"))
	}
	if s.Undeclared != "" {
		h.Write([]byte("undeclared to " + s.Undeclared))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
