package dnstest

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	s, err := Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ask := func(timeout time.Duration) (*dns.Msg, time.Duration, error) {
		c := dns.Client{Timeout: timeout}
		return c.Exchange(new(dns.Msg).SetQuestion("db.test.", dns.TypeA), s.Addr.String())
	}
	s.Set("DB.test", time.Minute, netip.MustParseAddr("192.0.2.1"))
	if m, _, err := ask(time.Minute); err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 60 {
		t.Fatal(m, err)
	}
	s.SetTrouble("db.test", Trouble{Delay: 30 * time.Millisecond})
	if m, took, err := ask(time.Minute); err != nil || len(m.Answer) != 1 || took < 30*time.Millisecond {
		t.Fatal(m, took, err)
	}
	s.SetTrouble("db.test", Trouble{})
	s.Remove("db.test")
	if m, _, err := ask(time.Minute); err != nil || m.Rcode != dns.RcodeNameError {
		t.Fatal(m, err)
	}
	if n := s.Count("db.test.", dns.TypeA); n != 3 {
		t.Fatalf("counted %d questions, 3 were asked", n)
	}
	if err := s.Add("not a record"); err == nil {
		t.Fatal("nonsense was taken for a record")
	}
	s.SetTrouble(".", Trouble{Delay: time.Hour})
	pending := make(chan error, 1)
	go func() { _, _, err := ask(200 * time.Millisecond); pending <- err }()
	for s.Count("db.test", dns.TypeA) < 4 {
		runtime.Gosched()
	}
	s.Close() // must not wait for the hour
	if err := <-pending; err == nil {
		t.Fatal("an answer from a closed server")
	}
}
