package intercept

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// relay copies bytes both ways until both ends have finished, passing on the end of each direction when it comes. If
// either breaks off, the other is reset, so that nobody takes a broken stream for a complete one.
func relay(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	var once sync.Once
	reset := func() {
		for _, c := range []*net.TCPConn{a, b} {
			_ = c.SetLinger(0)
			c.Close()
		}
	}
	one := func(to, from *net.TCPConn) {
		_, err := io.Copy(to, from)
		if err == nil {
			err = to.CloseWrite()
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			once.Do(reset)
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
	a.Close()
	b.Close()
}

// temporary tells whether accepting may go on after err. Out of descriptors or memory, it first gives others a moment
// to release some: the kernel tells nobody when that happens.
func temporary(err error) bool {
	for _, shortage := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, shortage) {
			time.Sleep(10 * time.Millisecond)
			return true
		}
	}
	return errors.Is(err, syscall.ECONNABORTED)
}
