package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/intercept/nft"
)

// setup is the child's work before it becomes COMMAND, and what comes out of it.
type setup struct {
	cfg    childConfig
	fds    []int
	kinds  []string
	helper int
}

func (s *setup) add(kind string, fd int) {
	s.kinds = append(s.kinds, kind)
	s.fds = append(s.fds, fd)
}

// run stops at the first part that this machine refuses; trying is the test.
func (s *setup) run() error {
	if s.cfg.Plain {
		return s.startHelper()
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"helper", s.startHelper}, // first, so that it is ready when COMMAND starts
		{"mounts", mountAll},
		{"loopback interface", func() error { return linkUp(s.cfg.IPv6) }},
		{"packet filter", s.filter},
		{"sockets", s.listen},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// linkUp makes every address local to lo, so that packets to anywhere meet the nat rules and then detour's listeners.
// Without IPv6 on the host only the range of allocated addresses is routed, so that a program's own choice of
// address family comes out as on the host.
func linkUp(hostIPv6 bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	route := func(own netip.Addr, to string) error {
		bits := own.BitLen()
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("address %s: %w", own, err)
		}
		_, dst, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Src: own.AsSlice()}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("route %s: %w", to, err)
		}
		return nil
	}
	if err := route(nft.OwnIPv4, "0.0.0.0/0"); err != nil {
		return err
	}
	if !haveIPv6() {
		return nil
	}
	if hostIPv6 {
		return route(nft.OwnIPv6, "::/0")
	}
	return route(nft.OwnIPv6, "2001:2::/48")
}

// haveIPv6 tells whether the kernel speaks IPv6 at all.
func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/lo")
	return err == nil
}

func (s *setup) filter() error {
	if s.cfg.PrivateLoopback {
		return nft.Install(false)
	}
	if nft.Install(true) != nil {
		return nft.Install(false)
	}
	fd, err := nft.OpenQueue()
	if err != nil {
		return nil // the rules let packets pass where nobody reads the queue
	}
	s.add(kindQueue, fd)
	return nil
}

// listen makes detour's sockets. They are bound to one address each, so that answers come from the address that the
// nat rules expect.
func (s *setup) listen() error {
	hosts := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if haveIPv6() {
		hosts = append(hosts, netip.IPv6Loopback())
	}
	for _, host := range hosts {
		for _, want := range []struct {
			kind   string
			socket int
			port   uint16
		}{
			{kindCapture, unix.SOCK_STREAM, nft.CapturePort},
			{kindLoopback, unix.SOCK_STREAM, nft.LoopbackPort},
			{kindDNSStream, unix.SOCK_STREAM, nft.DNSPort},
			{kindDNSPacket, unix.SOCK_DGRAM, nft.DNSPort},
		} {
			fd, err := bound(want.socket, netip.AddrPortFrom(host, want.port))
			if err != nil {
				return fmt.Errorf("%s: %w", want.kind, err)
			}
			s.add(want.kind, fd)
		}
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return fmt.Errorf("sock_diag: %w", err)
	}
	s.add(kindDiag, fd)
	return nil
}

func bound(kind int, at netip.AddrPort) (int, error) {
	family, sa := sockaddr(at)
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, sa)
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(at netip.AddrPort) (family int, sa unix.Sockaddr) {
	if at.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// resolverSockets are where the C library would ask a daemon instead of DNS: nscd (glibc), nss-resolve (systemd).
var resolverSockets = []string{
	"/run/nscd/socket",
	"/var/run/nscd/socket",
	"/run/systemd/resolve/io.systemd.Resolve",
}

const resolvConf = "/etc/resolv.conf"

// mountAll changes what COMMAND sees of the file system; the host sees none of it. The files to put in place live in a
// tmpfs that has no name any more once they are bound.
func mountAll() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private: %w", err)
	}
	targets := map[string]string{}
	if path, err := filepath.EvalSymlinks(resolvConf); err == nil {
		// Without the file the C library asks 127.0.0.1, which is captured as any server is.
		old, _ := os.ReadFile(path)
		targets[path] = resolverConfig(string(old))
	}
	for _, socket := range resolverSockets {
		if path, err := filepath.EvalSymlinks(socket); err == nil {
			targets[path] = ""
		}
	}
	for dir := range strings.SplitSeq("/tmp:/dev:/var", ":") {
		if apart(targets, dir) && unix.Mount("detour", dir, "tmpfs", 0, "size=64k,mode=0700") == nil {
			err := bindAll(targets, dir)
			if e := unix.Unmount(dir, unix.MNT_DETACH); err == nil {
				err = e
			}
			return err
		}
	}
	return fmt.Errorf("no place for a tmpfs")
}

// apart tells whether none of the targets is below dir.
func apart(targets map[string]string, dir string) bool {
	for path := range targets {
		if strings.HasPrefix(path, dir+"/") {
			return false
		}
	}
	return true
}

func bindAll(targets map[string]string, dir string) error {
	for path, content := range targets {
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, []byte(content), 0o444); err != nil {
			return err
		}
		if err := os.Chmod(file, 0o444); err != nil {
			return err
		}
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// resolverConfig is the host's resolv.conf with one name server, which is captured as any is. Search list and options
// stay: they decide which names a program asks for.
func resolverConfig(old string) string {
	var b strings.Builder
	b.WriteString("# made by detour run; queries to any name server are answered by detour\nnameserver 127.0.0.1\n")
	for line := range strings.Lines(old) {
		word, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		switch word {
		case "search", "domain", "options":
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}
