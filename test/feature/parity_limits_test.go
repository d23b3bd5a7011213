//go:build linux

package feature

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestParityRetryLimits: while a retry is under way nothing else may be retried, by maxRetries or by the budget.
func TestParityRetryLimits(t *testing.T) {
	second := stub{status: func(n int, _ *http.Request) int {
		if n == 2 || n > 3 {
			return 200
		}
		return 503
	}, hold: func(n int) bool { return n == 2 }}
	for _, host := range []string{"limits.test", "budget.test"} {
		t.Run(host, func(t *testing.T) {
			parity{config: "limits", upstreams: map[string]stub{"10.1.0.1:8080": second},
				script: func(a *actor) {
					first := a.start(call{url: "http://" + host + "/first"})
					a.awaitArrivals(2)
					a.get("http://" + host + "/second")
					a.release()
					a.finish(first)
					a.get("http://" + host + "/third")
				}}.run(t)
		})
	}
}

// numbered serves HTTP and answers with the number of the connection.
func numbered() func(*actor, string, net.Conn) {
	var made atomic.Int64
	return func(_ *actor, _ string, c net.Conn) {
		n := made.Add(1)
		for br := bufio.NewReader(c); ; {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nconnection %d", n)
		}
	}
}

// TestParityConnectionLife: how long and for how many requests a connection to an endpoint is used.
func TestParityConnectionLife(t *testing.T) {
	parity{config: "limits",
		prepare: func(*world) map[string]stub {
			return map[string]stub{"10.1.0.1:8082": {raw: numbered()}, "10.1.0.1:8083": {raw: numbered()}, "10.1.0.1:8084": {raw: numbered()}, "10.1.0.1:8086": {raw: numbered()}}
		},
		script: func(a *actor) {
			for _, port := range []string{"82", "83"} {
				url := "http://limits.test:" + port + "/"
				a.gets(url, url)
				a.pause(500 * time.Millisecond)
				a.gets(url, url)
			}
			for range 5 {
				a.gets("http://limits.test:84/", "http://limits.test:86/")
			}
		}}.run(t)
}

// full makes an address that answers no SYN: a listener whose queue is full.
func (a *actor) full(addr string) {
	a.t.Helper()
	to := netip.MustParseAddrPort(addr)
	a.w.app.must(a.t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		a.t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 0); err != nil {
			return err
		}
		c, err := net.DialTimeout("tcp", addr, patience)
		if err == nil {
			a.t.Cleanup(func() { c.Close() })
		}
		return err
	})
}

// TestParityConnectTimeout: endpoints that answer no SYN.
func TestParityConnectTimeout(t *testing.T) {
	parity{config: "limits", script: func(a *actor) {
		a.full("10.1.0.1:8085")
		a.full("10.1.0.1:7001")
		a.took(call{url: "http://limits.test:85/"}, 200*time.Millisecond, 900*time.Millisecond)
		a.tookTo("tcp", 200*time.Millisecond, 900*time.Millisecond, func() { a.exchange("silent", "10.200.30.1:9001", "hello") })
	}}.run(t)
}

// tookTo notes whether something took between least and most.
func (a *actor) tookTo(what string, least, most time.Duration, do func()) {
	a.t.Helper()
	begin := time.Now()
	do()
	switch d := time.Since(begin); {
	case d < least-5*time.Millisecond:
		a.note("%s: after %v, too early", what, d)
	case d > most:
		a.note("%s: after %v, too late", what, d)
	}
}

// TestParityRelayLimits: TCP connections beyond maxConnections, that nothing moves on, or that last too long.
func TestParityRelayLimits(t *testing.T) {
	parity{config: "limits", upstreams: map[string]stub{"10.1.0.1:7000": {raw: echoEach}, "10.1.0.1:7002": {raw: echoEach}},
		script: func(a *actor) {
			first := a.talkTo("10.200.30.1:9000")
			first.say("one")
			a.exchange("beyond", "10.200.30.1:9000", "two")
			first.say("three")
			first.end()
			await(a.t, "room again", func() bool { return a.converse("10.200.30.1:9000", "four") != "closed" })
			for _, to := range [][2]string{{"idle", "10.200.30.2:9000"}, {"aged", "10.200.30.3:9000"}} {
				a.tookTo(to[0], 300*time.Millisecond, 2*time.Second, func() { // from before the proxy's timer starts
					d := a.talkTo(to[1])
					d.say("one")
					d.over()
				})
			}
		}}.run(t)
}

// echoEach answers each piece that it gets with its address.
func echoEach(_ *actor, addr string, c net.Conn) {
	b := make([]byte, 100)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s got %s", addr, b[:n])
	}
}

// dialogue is a connection on which words go to and fro.
type dialogue struct {
	a *actor
	c net.Conn
}

func (a *actor) talkTo(addr string) *dialogue {
	c, err := a.dial(addr)
	if err != nil {
		a.t.Fatal(err)
	}
	return &dialogue{a, c}
}

func (d *dialogue) say(word string) {
	b := make([]byte, 100)
	_, _ = io.WriteString(d.c, word)
	n, err := d.c.Read(b)
	d.a.note("%s -> %q %v", word, b[:n], err == nil)
}

// over waits until the other side ends the connection.
func (d *dialogue) over() {
	b, _ := io.ReadAll(d.c)
	d.a.note("at the end %q", b)
	d.end()
}

func (d *dialogue) end() { d.c.Close() }

func TestParityDelegates(t *testing.T) {
	parity{config: "delegates", upstreams: map[string]stub{"10.1.0.1:8080": {}},
		script: func(a *actor) {
			for _, path := range []string{"/v1", "/v1/sub/x", "/v1/x", "/v2", "/v9", "/gone", "/"} {
				a.get("http://root.test"+path, "x-one: one")
				a.get("http://root.test"+path, "x-two: two")
				a.do(call{method: "POST", url: "http://root.test" + path, header: []string{"x-one: one"}, body: "a body"})
			}
		}}.run(t)
}

// TestParityMeshDefaults: MeshConfig's defaultTrafficPolicy, where there is no DestinationRule.
func TestParityMeshDefaults(t *testing.T) {
	parity{config: "mesh", mesh: "defaults", flags: []string{"--labels", "version=v1"},
		prepare: func(*world) map[string]stub {
			return map[string]stub{"10.1.0.1:8080": {status: always(500)}, "10.1.0.2:8080": {}, "10.1.0.3:8080": {raw: numbered()}}
		},
		script: func(a *actor) {
			a.outcomes("ejected", "http://mesh.test/", 20)
			a.gets("http://retried.test/", "http://retried.test/", "http://retried.test/")
		}}.run(t)
}
