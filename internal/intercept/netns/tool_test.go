//go:build linux

package netns_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/miekg/dns"
)

// toolVariable makes the test binary a program that is statically linked and resolves by itself.
const toolVariable = "DETOUR_TEST_TOOL"

func runTool(name string, args []string) int {
	var err error
	switch name {
	case "get":
		err = toolGet(args[0], args[1])
	case "dns":
		err = toolDNS(args[0], args[1])
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func toolGet(network, to string) error {
	c, err := net.DialTimeout(network, to, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(os.Stdout, c)
	return err
}

// toolDNS asks a server that does not exist for the transport that the query came by.
func toolDNS(network, server string) error {
	m := new(dns.Msg)
	m.SetQuestion("mydb.com.", dns.TypeTXT)
	r, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(m, server)
	if err != nil {
		return err
	}
	for _, rr := range r.Answer {
		fmt.Println(rr.(*dns.TXT).Txt[0])
	}
	return nil
}
