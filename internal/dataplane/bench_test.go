package dataplane_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// BenchmarkPlaneGET is a keep-alive GET of 1 kB through a Plane on loopback, from 32 clients. Allocations are those of the
// whole process, CPU time too (cpu-ns/op): clients and endpoint are as bare as Go allows.
func BenchmarkPlaneGET(b *testing.B) {
	response := []byte(planetest.Response(200, strings.Repeat("x", 1024)))
	u := planetest.NewUpstream(b, func(c *planetest.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.TCPConn.Read(buf)
			if err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
				return
			}
			if _, err := c.TCPConn.Write(response); err != nil {
				return
			}
		}
	})
	s := planetest.One(u.Addr)
	s.Outlier = true
	p := planetest.Start(b, dataplane.Options{AccessLog: func(*streaminfo.Info) {}}, s)
	request := []byte(planetest.Request("GET", "/", ""))
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	began := cpu()
	b.RunParallel(func(pb *testing.PB) {
		c := p.Dial(s.Address())
		buf := make([]byte, len(response))
		for pb.Next() {
			if _, err := c.TCPConn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if _, err := io.ReadFull(c.TCPConn, buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpu()-began)/float64(b.N), "cpu-ns/op")
}

// cpu is the processor time that the process has used, in ns.
func cpu() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
