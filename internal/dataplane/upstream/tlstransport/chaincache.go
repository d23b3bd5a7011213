package tlstransport

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"time"
)

const (
	// chainFor bounds how long a chain that was verified is not verified again.
	chainFor = 10 * time.Minute
	// maxChains bounds the chains that one Context remembers.
	maxChains = 256
)

// chainCache remembers which chains of certificates led to a trusted authority, since that costs a signature check a
// certificate and endpoints send the same one every time. It belongs to one material, so that a change of authorities or
// revocation lists forgets everything. Only that a chain is trusted is remembered: whose name the leaf must carry differs
// between endpoints, and is checked in every handshake.
type chainCache struct {
	mu      sync.Mutex
	trusted map[chainKey]span // guarded by mu
}

// chainKey is the hash of all certificates that a peer sent, in their order.
type chainKey [sha256.Size]byte

// span is when a verdict holds. A clock that is set back ends it too.
type span struct{ from, until time.Time }

func keyOf(certs []*x509.Certificate) (key chainKey) {
	h := sha256.New()
	for _, c := range certs {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(c.Raw)))
		h.Write(size[:])
		h.Write(c.Raw)
	}
	h.Sum(key[:0])
	return key
}

func (c *chainCache) has(key chainKey, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.trusted[key]
	return ok && !now.Before(s.from) && now.Before(s.until)
}

// put remembers that the peer's certificates lead to a trusted authority until, at most.
func (c *chainCache) put(key chainKey, now, until time.Time) {
	if limit := now.Add(chainFor); until.After(limit) {
		until = limit
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.trusted) >= maxChains || c.trusted == nil {
		c.trusted = map[chainKey]span{} // endpoints that send another chain each time gain nothing
	}
	c.trusted[key] = span{now, until}
}
