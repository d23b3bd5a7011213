package tlsinspector

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// capture gives the ClientHello that crypto/tls sends.
func capture(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, cfg).Handshake()
		a.Close()
	}()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-done
	return append(head, body...)
}

// fragment cuts the handshake message of a hello into records of n bytes.
func fragment(hello []byte, n int) (out []byte) {
	for msg := hello[recordHeader:]; len(msg) > 0; {
		k := min(n, len(msg))
		out = append(out, recordHandshake, 3, 1, byte(k>>8), byte(k))
		out = append(out, msg[:k]...)
		msg = msg[k:]
	}
	return out
}

func u16(n int) []byte { return []byte{byte(n >> 8), byte(n)} }

func vector(size int, b []byte) []byte {
	if size == 1 {
		return append([]byte{byte(len(b))}, b...)
	}
	return append(u16(len(b)), b...)
}

func extension(kind int, body []byte) []byte { return append(u16(kind), vector(2, body)...) }

func sni(name string) []byte {
	return extension(extServerName, vector(2, append([]byte{nameTypeHost}, vector(2, []byte(name))...)))
}

// hello makes a ClientHello of extensions; nil: none at all.
func hello(extensions []byte) []byte {
	msg := append([]byte{3, 3}, make([]byte, 32)...)
	msg = append(msg, vector(1, make([]byte, 32))...)
	msg = append(msg, vector(2, []byte{0x13, 1, 0x0a, 0x0a})...) // with a GREASE suite
	msg = append(msg, vector(1, []byte{0})...)
	if extensions != nil {
		msg = append(msg, vector(2, extensions)...)
	}
	msg = append([]byte{typeClientHello, 0, byte(len(msg) >> 8), byte(len(msg))}, msg...)
	return append(append([]byte{recordHandshake, 3, 1}, u16(len(msg))...), msg...)
}

// grease is RFC 8701's reserved extension, empty and with a byte.
var grease = append(extension(0x0a0a, nil), extension(0xfafa, []byte{0})...)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var early = extension(extEarlyData, nil)

func TestParse(t *testing.T) {
	real13 := capture(t, &tls.Config{ServerName: "MyDB.com", NextProtos: []string{"h2", "http/1.1"}})
	real12 := capture(t, &tls.Config{ServerName: "mydb.com", MaxVersion: tls.VersionTLS12})
	nameless := capture(t, &tls.Config{ServerName: "192.0.2.1", InsecureSkipVerify: true})
	long := extension(0x1234, make([]byte, MaxHello))
	for _, c := range []struct {
		name string
		in   []byte
		want Hello
		err  error
	}{
		{"TLS 1.3", real13, Hello{ServerName: "mydb.com", ALPN: []string{"h2", "http/1.1"}, Len: len(real13)}, nil},
		{"TLS 1.2", real12, Hello{ServerName: "mydb.com", Len: len(real12)}, nil},
		{"no name", nameless, Hello{Len: len(nameless)}, nil},
		{"fragments", fragment(real13, 7), Hello{ServerName: "mydb.com", ALPN: []string{"h2", "http/1.1"}, Len: len(fragment(real13, 7))}, nil},
		{"fragments of one byte", fragment(real12, 1), Hello{ServerName: "mydb.com", Len: len(fragment(real12, 1))}, nil},
		{"something behind it", append(bytes.Clone(real12), "more"...), Hello{ServerName: "mydb.com", Len: len(real12)}, nil},
		{"no extensions", hello(nil), Hello{Len: len(hello(nil))}, nil},
		{"GREASE", hello(join(grease, sni("a.test"))), Hello{ServerName: "a.test", Len: len(hello(join(grease, sni("a.test"))))}, nil},
		{"early data", hello(join(sni("a.test"), early)), Hello{ServerName: "a.test", EarlyData: true, Len: len(hello(join(sni("a.test"), early)))}, nil},
		{"trailing dot", hello(sni("a.test.")), Hello{ServerName: "a.test", Len: len(hello(sni("a.test.")))}, nil},
		{"name of another type", hello(extension(extServerName, vector(2, append([]byte{9}, vector(2, []byte("x"))...)))), Hello{Len: 96}, nil},
		{"empty name", hello(sni("")), Hello{}, ErrMalformed},
		{"name too long", hello(sni(strings.Repeat("a", 256))), Hello{}, ErrMalformed},
		{"name with NUL", hello(sni("a\x00b")), Hello{}, ErrMalformed},
		{"name with a space", hello(sni("a b")), Hello{}, ErrMalformed},
		{"empty protocol", hello(extension(extALPN, vector(2, []byte{0}))), Hello{}, ErrMalformed},
		{"extension cut short", hello([]byte{0, 0, 0, 9, 1}), Hello{}, ErrMalformed},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), Hello{}, ErrNotTLS},
		{"server hello", []byte{22, 3, 3, 0, 4, 2, 0, 0, 0}, Hello{}, ErrNotTLS},
		{"SSL 2", []byte{0x80, 0x2e, 1, 3, 1}, Hello{}, ErrNotTLS},
		{"empty record", []byte{22, 3, 1, 0, 0}, Hello{}, ErrMalformed},
		{"huge record", []byte{22, 3, 1, 0xff, 0xff}, Hello{}, ErrMalformed},
		{"alert between", append(fragment(real12, 9)[:14], 21, 3, 1, 0, 2, 2, 40), Hello{}, ErrMalformed},
		{"too long", []byte{22, 3, 1, 0x40, 0, 1, 0, 0x40, 1}, Hello{}, ErrTooLong},
		{"too long at once", hello(long)[:MaxHello], Hello{}, ErrTooLong},
	} {
		got, ok, err := Parse(c.in)
		if !errors.Is(err, c.err) || ok != (c.err == nil) {
			t.Errorf("%s: ok %v, %v", c.name, ok, err)
			continue
		}
		if c.err == nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// TestPrefixes: of every proper prefix of a hello nothing is said, but that more is needed.
func TestPrefixes(t *testing.T) {
	whole := capture(t, &tls.Config{ServerName: "mydb.com"})
	for _, in := range [][]byte{whole, fragment(whole, 50)} {
		for n := range in {
			if h, ok, err := Parse(in[:n]); ok || err != nil {
				t.Fatalf("%d of %d bytes: %+v %v %v", n, len(in), h, ok, err)
			}
		}
	}
}

func FuzzHello(f *testing.F) {
	whole := capture(f, &tls.Config{ServerName: "mydb.com", NextProtos: []string{"h2"}})
	for _, seed := range [][]byte{whole, fragment(whole, 33), fragment(whole, 1), whole[:40], hello(nil), hello(join(grease, sni("a.test"), early, grease)),
		capture(f, &tls.Config{ServerName: "x.y", MaxVersion: tls.VersionTLS12}), []byte("GET / HTTP/1.1\r\n\r\n"), {22, 3, 1, 0, 0}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, ok, err := Parse(in)
		switch {
		case ok && err != nil:
			t.Fatal("both understood and refused")
		case !ok && err == nil && len(in) >= MaxHello:
			t.Fatal("asks for more than it may keep")
		case !ok:
			return
		}
		if h.Len > len(in) || h.Len < recordHeader {
			t.Fatalf("takes %d of %d bytes", h.Len, len(in))
		}
		if len(h.ServerName) > maxServerNameSize || h.ServerName != strings.ToLower(h.ServerName) {
			t.Fatalf("name %q", h.ServerName)
		}
		// Its own bytes are enough, and the same however they are cut into records.
		if again, ok, err := Parse(in[:h.Len]); !ok || err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("alone: %+v %v %v, with what follows %+v", again, ok, err, h)
		}
		msg, _, _, _ := reassemble(in)
		cut := fragment(append([]byte{recordHandshake, 3, 1, 0, 0, typeClientHello, 0, byte(len(msg) >> 8), byte(len(msg))}, msg...), 11)
		if len(cut) >= MaxHello {
			return
		}
		again, ok, err := Parse(cut)
		again.Len = h.Len
		if !ok || err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("in fragments: %+v %v %v, whole %+v", again, ok, err, h)
		}
	})
}
