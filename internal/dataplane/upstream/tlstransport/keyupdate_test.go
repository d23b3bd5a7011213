package tlstransport

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/testcert"
)

// direction is one direction of a TLS 1.3 connection with TLS_AES_128_GCM_SHA256, driven by hand (RFC 8446 §5.2,
// §7.1): crypto/tls has no call for a key update.
type direction struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func expand(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(6+len(label)))
	info = append(info, "tls13 "+label...)
	info = append(info, 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), n)
	if err != nil {
		panic(err)
	}
	return out
}

func newDirection(secret []byte) *direction {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &direction{secret: secret, aead: aead, iv: expand(secret, "iv", 12)}
}

func (d *direction) nonce() []byte {
	n := bytes.Clone(d.iv)
	for i := range 8 {
		n[4+i] ^= byte(d.seq >> (56 - 8*i))
	}
	d.seq++
	return n
}

func (d *direction) seal(typ byte, data []byte) []byte {
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(data)+1+16))
	return d.aead.Seal(head, d.nonce(), append(bytes.Clone(data), typ), head)
}

func (d *direction) open(t *testing.T, r io.Reader) (typ byte, data []byte) {
	t.Helper()
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Error(err)
		return
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(r, body); err != nil {
		t.Error(err)
		return
	}
	plain, err := d.aead.Open(nil, d.nonce(), body, head)
	if err != nil {
		t.Error(err)
		return
	}
	return plain[len(plain)-1], plain[:len(plain)-1]
}

func (d *direction) next() *direction { return newDirection(expand(d.secret, "traffic upd", 32)) }

// byHand gives a stream whose server side, after the handshake, is serve's: raw connection and both directions.
func byHand(t *testing.T, d *event.Dispatcher, tune func(fd int), serve func(c net.Conn, in, out *direction)) *Stream {
	t.Helper()
	ca := must(testcert.NewCA("test"))(t)
	config := serverConfig(t, must(ca.Server("a.test"))(t))
	var keys bytes.Buffer
	config.KeyLogWriter = &keys
	config.SessionTicketsDisabled = true // no record under the new keys before ours
	addr := tlsServer(t, config, func(c *tls.Conn) {
		if id := c.ConnectionState().CipherSuite; id != tls.TLS_AES_128_GCM_SHA256 {
			t.Errorf("suite %s", tls.CipherSuiteName(id)) // chosen with AES in hardware, on both sides
			return
		}
		secret := func(label string) *direction {
			for line := range strings.Lines(keys.String()) {
				if f := strings.Fields(line); f[0] == label {
					b, _ := hex.DecodeString(f[2])
					return newDirection(b)
				}
			}
			panic("no " + label)
		}
		serve(c.NetConn(), secret("CLIENT_TRAFFIC_SECRET_0"), secret("SERVER_TRAFFIC_SECRET_0"))
	})
	ctx := must(New(upstream(ca), Options{}))(t)
	r := dial(t, d, addr, ctx, Params{Hostname: "a.test"})
	if r.err != nil {
		t.Skip(r.err)
	}
	if r.state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("the machine has no AES instructions")
	}
	on(d, func() { tune(r.s.Socket().FD()) })
	return r.s
}

var keyUpdate = []byte{24, 0, 0, 1, 1} // update_requested

// A key update in pieces, among data: the client answers it, and both sides go on with the next keys.
func TestKeyUpdate(t *testing.T) {
	d := loop(t)
	s := byHand(t, d, func(int) {}, func(c net.Conn, in, out *direction) {
		r := bufio.NewReader(c)
		var wire []byte
		wire = append(wire, out.seal(23, []byte("before "))...)
		wire = append(wire, out.seal(22, keyUpdate[:2])...) // a handshake message may span records
		wire = append(wire, out.seal(22, keyUpdate[2:])...)
		for i := range wire {
			_, _ = c.Write(wire[i : i+1])
		}
		if typ, data := in.open(t, r); typ != 22 || !bytes.Equal(data, []byte{24, 0, 0, 1, 0}) {
			t.Errorf("the client answered %d %x, want a key update", typ, data)
		}
		in, out = in.next(), out.next()
		_, _ = c.Write(out.seal(23, []byte("after")))
		if typ, data := in.open(t, r); typ != 23 || string(data) != "new keys" {
			t.Errorf("the client sent %d %q", typ, data)
		}
		_, _ = c.Write(out.seal(21, []byte{1, 0})) // close_notify
		_, _ = io.Copy(io.Discard, r)
	})
	p := &pump{want: len("before after")}
	got, err := p.run(t, d, s)
	if string(got) != "before after" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	p.want, p.out = 0, []byte("new keys")
	if _, err := p.run(t, d, s); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
	on(d, s.Close)
}

// A peer that asks for key updates for ever and never reads the answers must not fill memory.
func TestKeyUpdateFlood(t *testing.T) {
	d := loop(t)
	s := byHand(t, d, func(fd int) { smallBuffer(t, fd) }, func(c net.Conn, _, out *direction) {
		for {
			var wire []byte
			for range 200 {
				wire = append(wire, out.seal(22, keyUpdate)...)
				out = out.next()
				wire = append(wire, out.seal(23, []byte("x"))...) // else crypto/tls stops after 16
			}
			if _, err := c.Write(wire); err != nil {
				return
			}
		}
	})
	most := 0
	p := &pump{}
	s.c.d.Post(func() {
		p.s, p.chunk, p.ended = s, make([]byte, 4096), make(chan struct{})
		s.SetHandler(handlerFunc(func(r, w bool) {
			p.OnEvent(r, w)
			p.out = []byte("x") // only writing shows that the connection is lost
			most = max(most, s.c.pending())
			if !p.fired {
				s.Again()
			}
		}))
		s.Again()
	})
	on(d, func() {})
	<-p.ended
	on(d, func() {
		if !errors.Is(p.err, errNotReading) || most > maxOut {
			t.Errorf("ended with %v, at most %d bytes kept", p.err, most)
		}
		s.Abort()
	})
}

type handlerFunc func(readable, writable bool)

func (h handlerFunc) OnEvent(readable, writable bool) { h(readable, writable) }
