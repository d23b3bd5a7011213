// Package http1 is the HTTP/1.1 codec: bytes in, events out, and the reverse. It owns the syntax and the framing of
// messages (RFC 9112) and the message-level rules of RFC 9110 that a proxy must obey; it reads no socket, starts no
// goroutine, keeps no clock and makes no routing decision.
//
// # Reading
//
// ParseRequest and ParseResponse read one head. Every slice of a Head points into the buffer that was parsed, so a
// Head is valid as long as that buffer is neither moved nor overwritten. With a Head that is reused nothing is
// allocated. A Body then walks over the bytes after the head; it never copies.
//
// A driver relays a body so: call Forward and write what it took; if it stopped without done, call Next, which asks for
// more bytes (Need), or shows a trailer section to rewrite with AppendTrailers. Only where the framing changes
// (ResponseRewrite.Downstream) the whole body is read with Next. Remaining and Skip let splice move payload.
//
// # Bytes that arrive slowly
//
// A Parse call that returns 0, nil remembers in the Head how far it came. Call it again with the same Head and a
// buffer that starts with the same bytes: it goes on where it stopped, so that the cost is linear in the bytes
// however they were cut. Should the buffer have moved (it grew, or was compacted), the work starts over by itself;
// a driver that doubles its buffer stays linear. A Head with an unfinished parse must be Reset before it is used for
// other bytes, and before it goes back to a pool: the buffer may come back under another connection's bytes, and the
// parse would go on in the middle. After success or an error no Reset is needed; Body.Start resets a Body.
//
// # Strictness
//
// A message either has one reading, at every recipient, or it is refused: bare CR and LF, NUL and other control bytes,
// folded lines, space around names, repeated or contradicting lengths, any transfer coding but one "chunked", and
// names that become framing fields once '_' is read as '-'. What is accepted goes on byte for byte (Head.Clean), or
// through AppendRequest and AppendResponse, which remove hop-by-hop fields and touch nothing else.
package http1
