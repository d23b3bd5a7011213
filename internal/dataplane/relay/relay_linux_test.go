package relay

import (
	"io"
	"testing"
	"time"
)

// TestPipeInsteadOfBuffer: while a receiver does not read, a direction that much moved in holds its pipe and no buffer
// beside it; nor does one that has ended.
func TestPipeInsteadOfBuffer(t *testing.T) {
	r := start(t, Options{})
	write(t, r.b, "all", true)
	if got := read(t, r.a); got != "all" {
		t.Errorf("a got %q", got)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.CopyN(r.a, pattern{}, 64<<20) // more than fits anywhere: it ends with the connection
	}()
	held, buffers := 0, 0
	for end := time.Now().Add(20 * time.Second); held == 0 && time.Now().Before(end); {
		r.on(func() {
			held, buffers = r.relay.Up.splice.Held(), 0
			for _, f := range []*Flow{&r.relay.Up, &r.relay.Down} {
				if f.buf != nil {
					buffers++
				}
			}
		})
	}
	if held == 0 || buffers > 0 {
		t.Errorf("%d bytes in the pipe, %d buffers", held, buffers)
	}
	r.on(func() { r.relay.Close() })
	<-wrote
	<-r.done
}
