package tlstransport

import "crypto/tls"

// maxSessions bounds the sessions one Context keeps, over all its endpoints; the least recently used goes first.
// It stands in for max_session_keys, whose default of 1 would let regional endpoints evict each other; 0 still turns
// resumption off.
const maxSessions = 256

// sessionCache gives one handshake its entry of the Context's sessions: endpoints and names never share one.
type sessionCache struct {
	all tls.ClientSessionCache
	key string
}

func newSessions() tls.ClientSessionCache { return tls.NewLRUClientSessionCache(maxSessions) }

func (c *sessionCache) Get(string) (*tls.ClientSessionState, bool) { return c.all.Get(c.key) }

func (c *sessionCache) Put(_ string, s *tls.ClientSessionState) { c.all.Put(c.key, s) }
