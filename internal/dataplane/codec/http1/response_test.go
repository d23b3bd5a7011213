package http1

import (
	"errors"
	"fmt"
	"testing"
)

func TestParseResponseRefuses(t *testing.T) {
	tests := []struct {
		in    string
		asked Asked
		want  *Error
	}{
		{in: "SSH-2.0-OpenSSH_9", want: errStatusLine}, // at once, without an end of line
		{in: "\r\nHTTP/1.1 200 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1  200 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 20 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 2000 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 2x0 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 200OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 099 OK\r\n\r\n", want: errStatus},
		{in: "HTTP/1.1 600 OK\r\n\r\n", want: errStatus},
		{in: "HTTP/2.0 200 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.2 200 OK\r\n\r\n", want: errUnsupported},
		{in: "HTTP/1.1 200 O\x00K\r\n\r\n", want: errControl},
		{in: "HTTP/1.1 200 OK\n\n", want: errBareLF},
		{in: "HTTP/1.1 200 OK\rX: y\r\n\r\n", want: errBareCR},
		{in: "HTTP/1.1 200-OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1\t200 OK\r\n\r\n", want: errStatusLine},
		{in: "HTTP/1.1 200 OK\r\nX: \x7f\r\n\r\n", want: errControl},
		{in: "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", want: errFold},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", want: errLengthTwice},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", want: errLengthAndTE},
		{in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", want: errCoding},
		{in: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", want: errTE10},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", asked: Asked{Method: HEAD}, want: errLength},
		{in: "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", want: errSwitch},
		{in: "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n", asked: Asked{Upgrade: true}, want: errSwitchFields},
		{in: "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n", asked: Asked{Upgrade: true}, want: errSwitchFields},
	}
	for _, tt := range tests {
		var h Head
		n, err := ParseResponse([]byte(tt.in), tt.asked, &h)
		var e *Error
		if n != 0 || !errors.As(err, &e) || e.Status != 502 || err.Error() != tt.want.Reason {
			t.Errorf("%q: %d, %v, want %v", tt.in, n, err, tt.want)
		}
	}
}

var get = Asked{Method: GET}

var acceptedResponses = []struct {
	in    string
	asked Asked
	want  string // framing, length, flags
	out11 string // how it goes to an HTTP/1.1 client; "": as received
	out10 string
}{
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", get, "1 5 keep clean", "",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n", get, "1 5 keep clean", "",
		"HTTP/1.1 200 \r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n", get, "1 5 keep",
		"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 200 d\xe9j\xe0 vu\r\ntransfer-encoding: chunked\r\nTrailer: X\r\n\r\n", get, "2 0 keep clean", "",
		"HTTP/1.1 200 d\xe9j\xe0 vu\r\nConnection: close\r\n\r\n"},
	{"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", get, "3 0",
		"HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\n"},
	{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", get, "1 5 keep",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", get, "1 5", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 200 OK\r\nConnection: close, x\r\nX: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2\r\nContent-Length: 5\r\n\r\n",
		get, "1 5", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},

	{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Asked{Method: HEAD}, "0 0 keep clean", "",
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Asked{Method: HEAD}, "0 0 keep clean", "",
		"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", get, "0 0 keep clean", "",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 204 No Content\r\n\r\n", get, "0 0 keep clean", "", "HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", get, "0 0 keep", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", get, "0 0", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", get, "0 0", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n"},
	{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", get, "0 0 keep clean", "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"},
	{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Asked{Method: CONNECT}, "0 0 tunnel", "HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n"},
	{"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", Asked{Method: CONNECT}, "1 5 keep clean", "",
		"HTTP/1.1 403 No\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"},

	{"HTTP/1.1 101 S\r\nConnection: x, Upgrade\r\nUPGRADE: websocket\r\nX: 1\r\n\r\n", Asked{Method: GET, Upgrade: true}, "0 0 keep tunnel",
		"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUPGRADE: websocket\r\n\r\n", "HTTP/1.1 101 S\r\n\r\n"},
	{"HTTP/1.1 426 U\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\nContent-Length: 0\r\n\r\n", get, "1 0 keep", "",
		"HTTP/1.1 426 U\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"},
}

func TestParseResponseAccepts(t *testing.T) {
	for _, tt := range acceptedResponses {
		var h Head
		n, err := ParseResponse([]byte(tt.in), tt.asked, &h)
		if n != len(tt.in) || err != nil {
			t.Errorf("%q: %d, %v", tt.in, n, err)
			continue
		}
		got := fmt.Sprint(h.Framing, h.Length)
		for _, flag := range []struct {
			on   bool
			name string
		}{{h.KeepAlive, " keep"}, {h.Clean, " clean"}, {h.Tunnel, " tunnel"}} {
			if flag.on {
				got += flag.name
			}
		}
		if got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.in, got, tt.want)
		}
		if tt.out11 == "" {
			tt.out11 = tt.in
		}
		if got := string(AppendResponse(nil, &h, ResponseRewrite{Minor: 1, Chunk: true})); got != tt.out11 {
			t.Errorf("to 1.1: got %q\nwant %q", got, tt.out11)
		}
		if got := string(AppendResponse(nil, &h, ResponseRewrite{Minor: 0})); got != tt.out10 {
			t.Errorf("to 1.0: got %q\nwant %q", got, tt.out10)
		}
	}
}

func TestAppendResponseRewrites(t *testing.T) {
	tests := []struct {
		in   string
		rw   ResponseRewrite
		want string
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ResponseRewrite{Minor: 1, Close: true},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		{"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", ResponseRewrite{Minor: 1},
			"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\n"},
		{"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 0\r\n\r\n",
			ResponseRewrite{Minor: 1, Drop: []string{"x"}, Add: []Pair{{[]byte("Y"), []byte("2")}}},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nY: 2\r\n\r\n"},
		{"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n", ResponseRewrite{Minor: 1, Close: true},
			"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n"},
	}
	for _, tt := range tests {
		var h Head
		if _, err := ParseResponse([]byte(tt.in), Asked{}, &h); err != nil {
			t.Fatal(err)
		}
		if got := string(AppendResponse(nil, &h, tt.rw)); got != tt.want {
			t.Errorf("got %q\nwant %q", got, tt.want)
		}
	}
}

// TestRelayToHTTP10 takes the chunk framing away from, and puts it around, whole bodies.
func TestRelayToHTTP10(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n"
	r := relayResponse([]byte(chunked), Asked{}, 0, false)
	if want := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!"; string(r.out) != want || !r.complete {
		t.Errorf("got %q (complete %v)\nwant %q", r.out, r.complete, want)
	}
	r = relayResponse([]byte("HTTP/1.0 200 OK\r\n\r\nhello"), Asked{}, 1, true)
	if want := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"; string(r.out) != want || !r.complete {
		t.Errorf("got %q (complete %v)\nwant %q", r.out, r.complete, want)
	}
	r = relayResponse([]byte("HTTP/1.0 200 OK\r\n\r\nhello"), Asked{}, 0, true)
	if want := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"; string(r.out) != want {
		t.Errorf("got %q\nwant %q", r.out, want)
	}
	r = relayResponse([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Asked{}, 1, false)
	if want := "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"; string(r.out) != want || !r.complete {
		t.Errorf("got %q (complete %v)\nwant %q", r.out, r.complete, want)
	}
}

func TestAppendLocalReply(t *testing.T) {
	tests := []struct {
		status      int
		body        string
		close, head bool
		want        string
	}{
		{503, "no healthy upstream", false, false,
			"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\ncontent-type: text/plain\r\n\r\nno healthy upstream"},
		{400, "", true, false, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"},
		{404, "x", false, true, "HTTP/1.1 404 Not Found\r\ncontent-length: 1\r\ncontent-type: text/plain\r\n\r\n"},
		{204, "x", false, false, "HTTP/1.1 204 No Content\r\n\r\n"},
		{100, "", false, false, "HTTP/1.1 100 Continue\r\n\r\n"},
		{599, "", false, false, "HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n"},
	}
	for _, tt := range tests {
		got := AppendLocalReply(nil, tt.status, tt.body, tt.close, tt.head)
		if string(got) != tt.want {
			t.Errorf("got %q\nwant %q", got, tt.want)
		}
		var h Head
		asked := Asked{Method: GET}
		if tt.head {
			asked.Method = HEAD
		}
		if _, err := ParseResponse(got, asked, &h); err != nil || h.Status != tt.status || h.KeepAlive == tt.close {
			t.Errorf("%q: %v", got, err)
		}
	}
}
