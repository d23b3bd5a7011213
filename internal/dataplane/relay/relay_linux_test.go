package relay

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPipeInsteadOfBuffer: while a receiver does not read, a direction that much moves in holds its pipe and no buffer beside it.
func TestPipeInsteadOfBuffer(t *testing.T) {
	r, sa, sb := prepare(t)
	// The receiver takes little and the sender is always ahead, so that no pause in between gives the buffer back.
	const ahead = 100 << 10
	if err := unix.SetsockoptInt(sa.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, 2*ahead); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(sb.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10); err != nil {
		t.Fatal(err)
	}
	if err := r.b.SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.CopyN(r.a, pattern{}, 64<<20) // it ends with the connection
	}()
	for n := 0; n < ahead; {
		var err error
		if n, err = unix.IoctlGetInt(sa.FD(), unix.SIOCINQ); err != nil {
			t.Fatal(err)
		}
	}
	r.start(sa, sb, Options{})
	held, buffer := 0, false
	for b := make([]byte, 4<<10); held == 0; {
		if _, err := r.b.Read(b); err != nil {
			t.Fatal(err)
		}
		r.on(func() { held, buffer = r.relay.Up.splice.Held(), r.relay.Up.buf != nil })
	}
	if buffer {
		t.Errorf("a buffer is kept beside %d bytes in the pipe", held)
	}
	r.on(func() { r.relay.Close() })
	<-wrote
	<-r.done
}

// TestEndedDirection: one that has ended holds no buffer for as long as the other lasts.
func TestEndedDirection(t *testing.T) {
	r := start(t, Options{ToA: []byte("greeting ")})
	write(t, r.b, "all", true)
	if got := read(t, r.a); got != "greeting all" {
		t.Errorf("a got %q", got)
	}
	r.on(func() {
		if r.relay.Down.buf != nil {
			t.Error("a buffer is kept")
		}
		r.relay.Close()
	})
	<-r.done
}
