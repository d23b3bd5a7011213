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
// # Bytes that arrive slowly
//
// A Parse call that returns 0, nil remembers in the Head how far it came. Call it again with the same Head and a
// buffer that starts with the same bytes: it goes on where it stopped, so that the cost is linear in the bytes
// however they were cut. Should the buffer have moved (it grew, or was compacted), the work starts over by itself;
// a driver that doubles its buffer stays linear. Before a Head with an unfinished parse is used for other bytes,
// call Reset. After success or an error no Reset is needed. A Body keeps its own state in the same way.
//
// # Strictness
//
// A message either has one reading, at every recipient, or it is refused: bare CR and LF, NUL and other control bytes,
// folded lines, space around names, repeated or contradicting lengths, any transfer coding but one "chunked", and
// names that become framing fields once '_' is read as '-'. What is accepted goes on byte for byte (Head.Clean), or
// through AppendRequest and AppendResponse, which remove hop-by-hop fields and touch nothing else.
package http1
