package lb

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Bounds and defaults of the consistent hash algorithms (envoy.config.cluster.v3.Cluster.RingHashLbConfig, MaglevLbConfig).
const (
	DefaultMinRingSize = 1024
	MaxRingSize        = 8 << 20
	DefaultTableSize   = 65537
	MaxTableSize       = 5000011
)

// hashed is a consistent hash algorithm: the same hash gives the same endpoint as in an Envoy with the same endpoints.
type hashed interface {
	Chooser
	// at gives the endpoint for a hash. attempt above 0 gives alternatives, in Envoy's order, which may be the same
	// endpoint.
	at(hash uint64, attempt uint32) *Endpoint
}

// hashShare is an endpoint and its part of all weights in its priority, which add up to 1, or to less where a locality
// has nobody healthy.
type hashShare struct {
	e     *Endpoint
	share float64
}

// made is an algorithm by hash with what it was made of.
type made struct {
	byHash  hashed // nil if there is nobody
	shares  []hashShare
	current bool // by the policy in force
}

func newHashed(a Algorithm, shares []hashShare, p Params) hashed {
	if a == Maglev {
		return newMaglev(shares, p)
	}
	return newRing(shares, p)
}

// flatShares weighs endpoints by their own weight.
func flatShares(eps []*Endpoint) []hashShare { return addShares(nil, eps, 1) }

// addShares divides part among endpoints, by weight.
func addShares(to []hashShare, eps []*Endpoint, part float64) []hashShare {
	var sum float64
	for _, e := range eps {
		sum += float64(e.Weight)
	}
	for _, e := range eps {
		to = append(to, hashShare{e, float64(e.Weight) * part / sum})
	}
	return to
}

// hashKey is what an endpoint is placed by: envoy.lb's hash_key in its metadata, else its address, or its name.
func hashKey(e *Endpoint, names bool) string {
	if key := e.Metadata.GetFilterMetadata()["envoy.lb"].GetFields()["hash_key"].GetStringValue(); key != "" {
		return key
	}
	if names && e.Hostname != "" {
		return e.Hostname
	}
	return e.String()
}

// ring is RING_HASH: a ring of hashes, of which each endpoint has a number in proportion to its weight. A request goes to
// the owner of the first hash that is not below its own.
type ring struct {
	hashes []uint64 // ascending
	owner  []uint32 // of each hash, an index of eps
	eps    []*Endpoint
}

// ringSize is how many hashes a ring has: at least as many as asked for, and at least one of each endpoint.
func ringSize(shares []hashShare, p Params) float64 {
	least := 1.0
	for _, s := range shares {
		least = min(least, s.share)
	}
	minSize, maxSize := p.MinRingSize, p.MaxRingSize
	if minSize == 0 {
		minSize = DefaultMinRingSize
	}
	if maxSize == 0 {
		maxSize = MaxRingSize
	}
	return min(math.Ceil(float64(least*float64(minSize)))/least, float64(maxSize))
}

// newRing follows RingHashLoadBalancer::Ring. The conversions keep a compiler from fusing operations, which would round
// otherwise than Envoy.
func newRing(shares []hashShare, p Params) *ring {
	scale := ringSize(shares, p)
	type entry struct {
		hash  uint64
		owner uint32
	}
	entries := make([]entry, 0, int(scale)+1)
	var have, want float64
	r := &ring{eps: make([]*Endpoint, len(shares))}
	for i, s := range shares {
		r.eps[i] = s.e
		key := append([]byte(hashKey(s.e, p.HashHostnames)), '_')
		want += float64(scale * s.share)
		for n := uint64(0); have < want; n++ {
			entries = append(entries, entry{xxhash.Sum64(strconv.AppendUint(key, n, 10)), uint32(i)})
			have++
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.owner, b.owner))
	})
	r.hashes, r.owner = make([]uint64, len(entries)), make([]uint32, len(entries))
	for i, e := range entries {
		r.hashes[i], r.owner[i] = e.hash, e.owner
	}
	return r
}

func (r *ring) Choose(in *PickInfo) *Endpoint { return r.at(in.hash(), 0) }

func (r *ring) at(hash uint64, attempt uint32) *Endpoint {
	i, _ := slices.BinarySearch(r.hashes, hash)
	return r.eps[r.owner[(i+int(attempt))%len(r.owner)]]
}

// maglev is MAGLEV: a table in which each endpoint has a number of places in proportion to its weight, spread by a
// permutation of its own ("Maglev: A Fast and Reliable Software Network Load Balancer", listing 1, with weights as in
// MaglevTable).
type maglev struct {
	table []uint32 // indexes of eps
	eps   []*Endpoint
}

type maglevBuild struct {
	key        string
	e          *Endpoint
	share      float64
	next, skip uint64 // the permutation's next place, and its step
	target     float64
}

func newMaglev(shares []hashShare, p Params) *maglev {
	size := p.TableSize
	if size == 0 {
		size = DefaultTableSize
	}
	var most float64
	build := make([]maglevBuild, len(shares))
	for i, s := range shares {
		key := hashKey(s.e, p.HashHostnames)
		seeded := xxhash.NewWithSeed(1)
		_, _ = seeded.WriteString(key) // never fails
		build[i] = maglevBuild{key: key, e: s.e, share: s.share, next: xxhash.Sum64String(key) % size, skip: seeded.Sum64()%(size-1) + 1}
		most = max(most, s.share)
	}
	slices.SortStableFunc(build, func(a, b maglevBuild) int { return cmp.Compare(a.key, b.key) })
	m := &maglev{table: make([]uint32, size), eps: make([]*Endpoint, len(shares))}
	for i := range build {
		m.eps[i] = build[i].e
	}
	m.fill(build, most)
	return m
}

const nobody = math.MaxUint32

// fill lets endpoints take places in turn until all are taken: the heaviest in every round, the others in those rounds in
// which they have earned it.
func (m *maglev) fill(build []maglevBuild, most float64) {
	for i := range m.table {
		m.table[i] = nobody
	}
	size := uint64(len(m.table))
	taken := uint64(0)
	for round := 1.0; taken < size; round++ {
		for i := range build {
			b := &build[i]
			if taken == size {
				return
			}
			if float64(round*b.share) < b.target {
				continue
			}
			b.target += most
			for m.table[b.next] != nobody {
				b.step(size)
			}
			m.table[b.next] = uint32(i)
			b.step(size)
			taken++
		}
	}
}

func (b *maglevBuild) step(size uint64) {
	if b.next += b.skip; b.next >= size {
		b.next -= size
	}
}

func (m *maglev) Choose(in *PickInfo) *Endpoint { return m.at(in.hash(), 0) }

func (m *maglev) at(hash uint64, attempt uint32) *Endpoint {
	if attempt > 0 {
		hash ^= -uint64(attempt) // Envoy's ~0 - attempt + 1
	}
	return m.eps[m.table[hash%uint64(len(m.table))]]
}
