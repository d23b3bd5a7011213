// Package dataplane is the embedded engine: it compiles an xDS snapshot and serves connections by it, in this process,
// without an Envoy. It knows internal/xds and nothing of Istio.
//
// # The life of a request
//
//	listener        a worker's event loop accepts a connection (worker.go); its original destination says which Listener
//	                resource it belongs to (listener/), or that nothing declares it
//	listenerfilter  where several filter chains are possible, the first bytes are looked at (inspect.go, tlsinspector/)
//	networkfilter   the chain is an HTTP connection manager (hcm/) or a TCP proxy (tcpproxy/)
//	codec           hcm cuts the bytes into requests (codec/http1/)
//	route           host, path, fields and weights give a route and a cluster (route/)
//	httpfilter      cors and fault may answer or delay it, its head is changed, copies are made (hcm/filters.go,
//	                httpfilter/mirror/), unless the route is plain; the router takes the request (httpfilter/router/)
//	cluster, lb     the cluster picks an endpoint: priority, locality, algorithm (cluster/, lb/)
//	upstream        an idle connection or a new one, raced with another where it stays silent (upstream/)
//	outlier         Done of the attempt judges the endpoint, and may eject it before it returns (outlier/)
//
// Connections that nothing decodes go from inspect.go to tcpproxy/ and relay/.
//
// # Threads
//
// Each worker is one goroutine with its own event loop (event/), its own connections, pools and buffers. What workers
// share is immutable and swapped by atomic pointers (the compiled snapshot, HostSets), or made of atomics (Host, stats).
// Locks are taken only where something fails or changes, or a limit is reached.
package dataplane
