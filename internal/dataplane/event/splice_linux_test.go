package event

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// Everything that is spliced comes out at the other end in order, however slowly it is taken; what can't go stays held.
func TestSplice(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		from, feeder := tcpPair(t, d)
		to, reader := tcpPair(t, d)
		data := make([]byte, 32<<20)
		for i := range data {
			data[i] = byte(i>>16 ^ i>>8 ^ i)
		}
		go func() {
			_, _ = feeder.Write(data)
			_ = feeder.CloseWrite()
		}()
		var sp Splice
		full, ended := false, false
		step := func() bool {
			for {
				if sp.Held() > 0 {
					if _, err := sp.Drain(to); err == ErrAgain {
						full = true
						return true
					} else if err != nil {
						t.Fatal(err)
					}
					continue
				}
				n, err := sp.Fill(from, 1<<20)
				switch {
				case err == io.EOF:
					ended = true
					return true
				case err == ErrAgain:
					return false
				case err != nil || n <= 0:
					t.Fatal(n, err)
				}
			}
		}
		until(t, d, "the reader's side is full", step)
		if !full || sp.Held() == 0 {
			t.Fatalf("32 MB fit into sockets: held %d, ended %t", sp.Held(), ended)
		}
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(reader)
			got <- b
		}()
		until(t, d, "the end", func() bool { step(); return ended })
		if err := to.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b := <-got; !bytes.Equal(b, data) {
			t.Errorf("%d bytes of %d came, or others", len(b), len(data))
		}
		if n := uint64(len(data)); from.BytesRead != n || to.BytesWritten != n {
			t.Errorf("counted %d in, %d out", from.BytesRead, to.BytesWritten)
		}
		if sp.pipe != nil || d.pipes.open != len(d.pipes.free) {
			t.Errorf("%d pipes, %d of them free", d.pipes.open, len(d.pipes.free))
		}
		d.DropPipes()
		if d.pipes.open != 0 {
			t.Error("DropPipes left some")
		}
	})
}

// A pipe that holds bytes is never used again; there are never more than maxPipes, and giving up is no error.
func TestSpliceBounds(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		from, feeder := tcpPair(t, d)
		all := make([]Splice, maxPipes)
		for i := range all {
			_, _ = feeder.Write([]byte("x"))
			until(t, d, "a byte", func() bool {
				n, err := all[i].Fill(from, 1)
				if err != nil && err != ErrAgain {
					t.Fatal(err)
				}
				return n == 1
			})
		}
		_, _ = feeder.Write([]byte("y"))
		var sp Splice
		until(t, d, "a refusal", func() bool {
			_, err := sp.Fill(from, 1)
			return errors.Is(err, ErrNoSplice)
		})
		b := make([]byte, 2)
		if n, err := from.Read(b); n != 1 || b[0] != 'y' {
			t.Errorf("read %q, %v after a refusal", b[:n], err)
		}
		for i := range all {
			all[i].Drop(d)
			all[i].Drop(d)
		}
		if d.pipes.open != 0 || len(d.pipes.free) != 0 {
			t.Errorf("%d pipes, %d free, although all held something", d.pipes.open, len(d.pipes.free))
		}
	})
}

// A reset shows as such.
func TestSpliceReset(t *testing.T) {
	eachPoller(t, func(t *testing.T, d *Dispatcher) {
		from, feeder := tcpPair(t, d)
		_ = feeder.SetLinger(0)
		_ = feeder.Close()
		var sp Splice
		until(t, d, "a reset", func() bool {
			n, err := sp.Fill(from, 1)
			if n > 0 || err == io.EOF {
				t.Fatal(n, err)
			}
			return err != ErrAgain
		})
		if sp.pipe != nil || d.pipes.open != len(d.pipes.free) {
			t.Error("a pipe was lost")
		}
	})
}
