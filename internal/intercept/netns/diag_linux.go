package netns

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// diag asks the kernel for the listening sockets of the namespace that its socket was made in (sock_diag(7)).
type diag struct {
	mu   sync.Mutex
	file *os.File
}

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	stateListen      = 10 // TCP_LISTEN
	requestSize      = 56 // struct inet_diag_req_v2
)

func (d *diag) listening() (map[uint16]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.file.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	ports := map[uint16]bool{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := d.dump(family, ports); err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
	}
	return ports, nil
}

func (d *diag) dump(family byte, ports map[uint16]bool) error {
	b := make([]byte, unix.NLMSG_HDRLEN+requestSize)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request := b[unix.NLMSG_HDRLEN:]
	request[0], request[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], 1<<stateListen)
	if _, err := d.file.Write(b); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := d.file.Read(buf)
		if err != nil {
			return err
		}
		if done, err := addPorts(buf[:n], ports); done || err != nil {
			return err
		}
	}
}

// addPorts reads one datagram of struct inet_diag_msg: family, state, timer, retransmits, then the source port.
func addPorts(b []byte, ports map[uint16]bool) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, nil
		}
		body := b[unix.NLMSG_HDRLEN:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) >= 4 {
				if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
					return true, unix.Errno(errno)
				}
			}
			return true, nil
		case sockDiagByFamily:
			if len(body) >= 6 {
				ports[binary.BigEndian.Uint16(body[4:])] = true
			}
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}
