// Package upstream owns connections to endpoints: making them (with TLS where the cluster asks for it), racing a silent
// one with another (guarantee E3), keeping idle ones, and dropping those that the peer closed.
//
// Everything here belongs to one worker and runs on its event loop.
package upstream

import (
	"time"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
)

// Conn is an established connection to an endpoint.
type Conn struct {
	Stream  event.Stream
	Sock    *event.Socket
	Host    *lb.Host
	Cluster *cluster.Cluster
	In      buffer.Window

	pools     *Pools
	transport string // Config.PoolKey it was made with
	sni       string // server name taken from the request, where the cluster does that
	client           // that it was introduced with
	requests  uint32
	made      time.Time
	idleFor   event.Timer
	isIdle    bool
	closed    bool
	counted   bool   // it holds a place among the cluster's connections
	base      uint64 // Sock.BytesWritten when the current request began
}

// Begin marks the beginning of a request on the connection.
func (c *Conn) Begin() {
	c.requests++
	c.base = c.Sock.BytesWritten
}

// Reused says whether the connection served a request before the current one.
func (c *Conn) Reused() bool { return c.requests > 1 }

// Written says whether any byte of the current request was given to the kernel.
func (c *Conn) Written() bool { return c.Sock.BytesWritten > c.base }

// Acked says how much of the current request the peer's kernel has acknowledged.
func (c *Conn) Acked() (a Ack) {
	acked, ok := c.Sock.Acked()
	if !ok {
		return AckUnknown
	}
	const syn = 1 // tcpi_bytes_acked counts the SYN of the side that connected
	switch {
	case acked >= c.Sock.BytesWritten+syn:
		return AckAll
	case acked <= c.base+syn:
		return AckNone
	}
	return AckSome
}

// Ack is how much of a request was acknowledged.
type Ack uint8

// What Acked can say.
const (
	AckUnknown Ack = iota
	AckNone
	AckSome
	AckAll
)

// Close closes the connection.
func (c *Conn) Close() { c.end(false) }

// Abort closes it with a reset, so that the peer can't take an unfinished request for a whole one.
func (c *Conn) Abort() { c.end(true) }

func (c *Conn) end(abort bool) {
	if c.closed {
		return
	}
	c.closed = true
	c.idleFor.Stop()
	c.In.Release()
	if abort {
		c.Stream.Abort()
	} else {
		c.Stream.Close()
	}
	st := c.Cluster.Stats()
	st.UpstreamCxActive.Dec()
	st.UpstreamCxDestroy.Inc()
	st.UpstreamCxLengthMs.Record(c.pools.D.Now().Sub(c.made))
	st.UpstreamCxRxBytes.Add(c.Sock.BytesRead)
	st.UpstreamCxTxBytes.Add(c.Sock.BytesWritten)
	c.Host.Stats.CxActive.Dec()
	if c.counted {
		c.pools.release(c.Cluster)
	}
	c.pools.gone(c)
	c.pools.served(c)
}

// OnEvent watches the connection while it is idle: whatever arrives then, a FIN above all, ends it.
func (c *Conn) OnEvent(readable, _ bool) {
	if !readable || !c.isIdle {
		return
	}
	var b [1]byte
	if _, err := c.Stream.Read(b[:]); err == event.ErrAgain {
		return
	}
	c.pools.removeIdle(c)
	c.Cluster.Stats().UpstreamCxDestroyRemote.Inc()
	c.Close()
}
