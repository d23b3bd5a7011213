//go:build linux

package feature

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// toolVariable makes this test binary one of the programs that a command line can name: statically linked ones, with a
// resolver of their own.
const toolVariable = "DETOUR_FEATURE_TOOL"

// tool makes a command line of one of the tools; the command gets toolVariable in its environment.
func tool(args ...string) []string {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{self}, args...)
}

// runTool is main of a tool.
func runTool(args []string) int {
	var err error
	switch args[0] {
	case "tcp": // ADDR [TEXT]: what a server says to TEXT, or before it
		err = tcpTool(args[1], strings.Join(args[2:], " "))
	case "udp": // ADDR: what becomes of a datagram
		err = udpTool(args[1])
	case "lookup": // udp|tcp NAME, with Go's own resolver
		err = lookupTool(args[1], args[2])
	case "serve": // ADDR: says "inside" to whoever connects, until SIGTERM
		err = serveTool(args[1])
	default:
		err = fmt.Errorf("no tool %q", args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		return 1
	}
	return 0
}

func tcpTool(addr, text string) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if text != "" {
		if _, err := io.WriteString(c, text+"\n"); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

func udpTool(addr string) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	var b [64]byte
	n, err := c.Read(b[:])
	fmt.Printf("%s", b[:n])
	return err
}

func lookupTool(network, name string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	addrs, err := r.LookupNetIP(context.Background(), "ip4", name)
	fmt.Println(addrs)
	return err
}

func serveTool(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		l.Close()
	}()
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		_, _ = io.WriteString(c, "inside")
		c.Close()
	}
}

// banner begins to serve a server-first protocol: it says its name before the client says anything, then repeats what it hears.
func (s *site) banner(port uint16) *listening {
	return s.n.listen(s.w.t, fmt.Sprintf("%s:%d", s.ip, port), func(c net.Conn) {
		_, _ = io.WriteString(c, "banner "+s.name+"\n")
		_, _ = io.Copy(c, c)
	})
}
