// Package tlstransport owns TLS origination: Envoy's UpstreamTlsContext compiled (Context), the client handshake on
// an event loop (Start), and the encrypted stream that follows (Stream), which is an event.Stream like a plain socket.
//
// The handshake computes and verifies on a goroutine of its own, so that the loop never waits for a signature; the
// established stream needs no goroutine at all. Nothing is ever accepted without a check of chain and name, unless
// the configuration says so (Context.Insecure).
package tlstransport
