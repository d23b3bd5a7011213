package http1

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// with, host and line make requests that are right but for the part given.
func with(lines ...string) string {
	return "POST /p HTTP/1.1\r\nHost: a.test\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}
func host(h string) string { return "GET / HTTP/1.1\r\nHost:" + h + "\r\n\r\n" }
func line(l string) string { return l + "\r\nHost: a.test\r\n\r\n" }

// refusedRequests have one fault each, so that it alone decides.
var refusedRequests = []struct {
	in   string
	want error
}{
	{line("GET / HTTP/2.0"), errUnsupported},
	{line("GET / HTTP/1.2"), errUnsupported},
	{line("GET / HTTP/0.9"), errUnsupported},
	{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errUnsupported},
	{line("GET / http/1.1"), errVersion},
	{line("GET / HTTP/11"), errRequestLine},
	{line("GET / HTTP/1,1"), errVersion},
	{line("GET / HTTP/1.1 "), errVersion},
	{line("GET /\tHTTP/1.1"), errRequestLine},
	{line("GET /"), errRequestLine},
	{line("GET"), errRequestLine},
	{line("GET  HTTP/1.1"), errRequestLine},
	{line("GET  / HTTP/1.1"), errTarget},
	{line(" GET / HTTP/1.1"), errMethod},
	{line("GE(T / HTTP/1.1"), errMethod},
	{line("GET /a b HTTP/1.1"), errTarget},
	{line("GET /a\tb HTTP/1.1"), errTarget},
	{line("GET /a#b HTTP/1.1"), errTarget},
	{line("GET /a\x7f HTTP/1.1"), errControl},
	{line("GET /a\x00 HTTP/1.1"), errControl},
	{line("GET * HTTP/1.1"), errAsterisk},
	{line("OPTIONS ** HTTP/1.1"), errTargetForm},
	{line("GET admin HTTP/1.1"), errTargetForm},
	{line("GET ftp://a.test/ HTTP/1.1"), errTargetForm},
	{line("GET http:/a.test/ HTTP/1.1"), errTargetForm},
	{line("GET http: HTTP/1.1"), errTargetForm},
	{line("GET a.test:80 HTTP/1.1"), errTargetForm},
	{line("GET http:///x HTTP/1.1"), errHost},
	{line("GET http://u:p@a.test/ HTTP/1.1"), errHost},
	{line("GET http://a.test\\x/ HTTP/1.1"), errHost},
	{line("CONNECT / HTTP/1.1"), errConnectTarget},
	{line("CONNECT a.test HTTP/1.1"), errConnectTarget},
	{line("CONNECT a.test: HTTP/1.1"), errConnectTarget},
	{line("CONNECT http://a.test:80 HTTP/1.1"), errConnectTarget},
	{"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", errConnectBody},
	{"\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", errBareLF},
	{"\r\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", errBareCR},
	{strings.Repeat("\r\n", maxEmptyLines+1) + line("GET / HTTP/1.1"), errEmptyLines},

	{with("X: a\nb"), errBareLF},
	{with("X: a\rb"), errBareCR},
	{with("X: a\x00b"), errControl},
	{with("X: a\x7fb"), errControl},
	{with("X: a", " b"), errFold},
	{with("X: a", "\tb"), errFold},
	{with("X : a"), errName},
	{with("X\t: a"), errName},
	{with("X"), errNoColon},
	{with(": a"), errEmptyName},
	{with("\xe9: a"), errName},
	{with("X\x01: a"), errControl},
	{with("X\n: a"), errBareLF},
	{with("\rX: a"), errBareCR},
	{with("Content_Length: 5"), errUnderscore},
	{with("transfer_encoding: chunked"), errUnderscore},
	{with("Transfer-Encoding: chunked", "TRANSFER_encoding: x"), errUnderscore},
	{with("Proxy_Connection: x"), errUnderscore},
	{with("Retry_After: x"), errUnderscore},
	{with("Connection: " + strings.Repeat("x,", maxOptions+1)), errOptions},

	{with("Content-Length: 5", "Content-Length: 5"), errLengthTwice},
	{with("Content-Length: 5, 5"), errLength},
	{with("Content-Length:"), errLength},
	{with("Content-Length: -1"), errLength},
	{with("Content-Length: 0x5"), errLength},
	{with("Content-Length: 5 5"), errLength},
	{with("Content-Length: 9223372036854775808"), errLength},
	{with("Content-Length: 99999999999999999999"), errLength},
	{with("Content-Length: 5", "Transfer-Encoding: chunked"), errLengthAndTE},
	{with("Transfer-Encoding: chunked", "Content-Length: 5"), errLengthAndTE},
	{with("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), errTETwice},
	{with("Transfer-Encoding: chunked, chunked"), errTE},
	{with("Transfer-Encoding: chunked, identity"), errTE},
	{with("Transfer-Encoding: chunked,"), errTE},
	{with("Transfer-Encoding: ,chunked"), errTE},
	{with("Transfer-Encoding:"), errTE},
	{with("Transfer-Encoding: \"chunked\""), errTE},
	{with("Transfer-Encoding: chunked;q=1"), errTE},
	{with("Transfer-Encoding: gzip, chunked"), errCoding},
	{with("Transfer-Encoding: identity"), errCoding},
	{"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", errTE10},

	{"GET / HTTP/1.1\r\n\r\n", errHostMissing},
	{"GET http://a.test/ HTTP/1.1\r\n\r\n", errHostMissing},
	{with("Host: a.test"), errHostTwice},
	{"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", errHostTwice},
	{host(""), errHost}, {host("a b"), errHost}, {host("a/b"), errHost}, {host("u@a"), errHost}, {host("a:"), errHost},
	{host("a:0"), errHost}, {host("a:65536"), errHost}, {host("a:8o"), errHost}, {host("a:80:80"), errHost}, {host(":80"), errHost},
	{host("a,b:1/"), errHost}, {host("caf\xe9"), errHost}, {host("%4"), errHost}, {host("%zz"), errHost}, {host("[::1"), errHost},
	{host("[::1]x"), errHost}, {host("[]"), errHost}, {host("[fe80::1%eth0]"), errHost}, {host("::1"), errHost},
}

func TestParseRequestRefuses(t *testing.T) {
	for _, tt := range refusedRequests {
		var h Head
		n, err := ParseRequest([]byte(tt.in), &h)
		if n != 0 || err != tt.want {
			t.Errorf("%.80q: %d, %v, want %v", tt.in, n, err, tt.want)
		}
	}
}

func TestMethods(t *testing.T) {
	for m, want := range map[string]struct {
		id         MethodID
		idempotent bool
	}{
		"GET": {GET, true}, "HEAD": {HEAD, true}, "POST": {POST, false}, "PUT": {PUT, true}, "DELETE": {DELETE, true},
		"OPTIONS": {OPTIONS, true}, "TRACE": {TRACE, true}, "PATCH": {PATCH, false}, "get": {MethodOther, false}, "PURGE-x": {MethodOther, false},
	} {
		var h Head
		if _, err := ParseRequest([]byte(m+" / HTTP/1.1\r\nHost: a\r\n\r\n"), &h); err != nil || h.MethodID != want.id || h.Idempotent() != want.idempotent {
			t.Errorf("%s: %v, %d, %v", m, err, h.MethodID, h.Idempotent())
		}
	}
	if CONNECT.Idempotent() {
		t.Error("CONNECT")
	}
}

// describe renders what a proxy acts on.
func describe(h *Head) string {
	form := [...]string{"origin", "absolute", "authority", "asterisk"}[h.Form]
	framing := [...]string{"none", "length", "chunked", "close"}[h.Framing]
	s := []string{string(h.Method), form, string(h.Scheme), string(h.Authority), string(h.Path), framing}
	for _, flag := range []struct {
		on   bool
		name string
	}{{h.KeepAlive, "keep"}, {h.Clean, "clean"}, {h.ExpectContinue, "expect"}, {h.Upgrade != nil, "upgrade=" + string(h.Upgrade)}} {
		if flag.on {
			s = append(s, flag.name)
		}
	}
	for _, f := range h.Fields {
		if f.Drop {
			s = append(s, "-"+string(f.Name))
		}
	}
	return strings.Join(s, " ")
}

// acceptedRequests: what describe says of them, and how they go upstream ("": as they came).
var acceptedRequests = []struct{ in, want, out string }{
	{"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n", "GET origin  a.test /x none keep clean", ""},
	{"\r\n\r\nGET /x HTTP/1.1\r\nHost:a.test:8080 \t\r\n\r\n", "GET origin  a.test:8080 /x none keep clean",
		"GET /x HTTP/1.1\r\nHost:a.test:8080 \t\r\n\r\n"},
	{"GET / HTTP/1.0\r\n\r\n", "GET origin   / none", "GET / HTTP/1.1\r\nHost: \r\n\r\n"},
	{"GET / HTTP/1.0\r\nHost:\r\n\r\n", "GET origin   / none", "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
	{"GET / HTTP/1.0\r\nX: 1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", "GET origin  a / none keep -Connection",
		"GET / HTTP/1.1\r\nX: 1\r\nHost: a\r\n\r\n"},
	{"GET / HTTP/1.1\r\nhOST: [::1]:80\r\nConnection: close\r\n\r\n", "GET origin  [::1]:80 / none -Connection",
		"GET / HTTP/1.1\r\nhOST: [::1]:80\r\n\r\n"},
	{"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, , CLOSE\r\n\r\n", "GET origin  a / none -Connection",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n"},

	{"GET http://b.test/x?y HTTP/1.1\r\nX: 1\r\nHOST:  evil\r\nY: 2\r\n\r\n", "GET absolute http b.test /x?y none keep",
		"GET /x?y HTTP/1.1\r\nX: 1\r\nHOST: b.test\r\nY: 2\r\n\r\n"},
	{"GET HTTPS://b.test?y HTTP/1.1\r\nHost: b.test\r\n\r\n", "GET absolute HTTPS b.test /?y none keep",
		"GET /?y HTTP/1.1\r\nHost: b.test\r\n\r\n"},
	{"GET http://b.test:81 HTTP/1.0\r\n\r\n", "GET absolute http b.test:81 / none",
		"GET / HTTP/1.1\r\nHost: b.test:81\r\n\r\n"},
	{"OPTIONS http://b.test HTTP/1.1\r\nHost: b.test\r\n\r\n", "OPTIONS absolute http b.test * none keep",
		"OPTIONS * HTTP/1.1\r\nHost: b.test\r\n\r\n"},
	{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS asterisk  a * none keep clean", ""},
	{"CONNECT b.test:443 HTTP/1.1\r\nHost: other\r\n\r\n", "CONNECT authority  b.test:443  none keep",
		"CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n"},
	{"GET /\xc3\xa9?\xff HTTP/1.1\r\nHost: a\r\n\r\n", "GET origin  a /\xc3\xa9?\xff none keep",
		"GET /%C3%A9?%FF HTTP/1.1\r\nHost: a\r\n\r\n"},

	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\n", "POST origin  a / length keep clean", ""},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunkeD\r\n\r\n", "POST origin  a / chunked keep clean", ""},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n",
		"POST origin  a / length keep clean expect", ""},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n",
		"POST origin  a / length keep clean", ""},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: something\r\n\r\n", "POST origin  a / length keep clean", ""},
	{"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", "POST origin  a / length",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"},

	{"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one, Host,content-length\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\nContent-Length: 1\r\n\r\n",
		"GET origin  a / length keep -Connection -X-One -X-ONE",
		"GET / HTTP/1.1\r\nHost: a\r\nx-two: 2\r\nContent-Length: 1\r\n\r\n"},
	{"GET / HTTP/1.1\r\nX-A: 1\r\nHost: a\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n" +
		"Proxy-Authorization: Basic x\r\nTrailer: X\r\nConnection: x-a\r\n\r\n",
		"GET origin  a / none keep -X-A -Keep-Alive -Proxy-Connection -TE -Proxy-Authorization -Connection",
		"GET / HTTP/1.1\r\nHost: a\r\nTrailer: X\r\n\r\n"},
	{"GET /ws HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\nX: 1\r\nCONNECTION: Keep-Alive, Upgrade, x\r\n\r\n",
		"GET origin  a /ws none keep upgrade=websocket -upgrade -X -CONNECTION",
		"GET /ws HTTP/1.1\r\nHost: a\r\nupgrade: websocket\r\nCONNECTION: upgrade\r\n\r\n"},
	{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", "GET origin  a / none keep -Upgrade",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo, H2C\r\nConnection: upgrade\r\n\r\n",
		"GET origin  a / none keep -Upgrade -Connection", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"GET / HTTP/1.0\r\nHost: a\r\nUpgrade: w\r\nConnection: upgrade\r\n\r\n",
		"GET origin  a / none -Upgrade -Connection", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nUpgrade: b\r\nConnection: upgrade\r\n\r\n",
		"GET origin  a / none keep -Upgrade -Upgrade -Connection", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
}

func TestParseRequestAccepts(t *testing.T) {
	for _, tt := range acceptedRequests {
		var h Head
		n, err := ParseRequest([]byte(tt.in), &h)
		if n != len(tt.in) || err != nil {
			t.Errorf("%q: %d, %v", tt.in, n, err)
			continue
		}
		if got := describe(&h); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.in, got, tt.want)
		}
		want := tt.out
		if want == "" {
			want = tt.in
		}
		if got := string(AppendRequest(nil, &h, RequestRewrite{})); got != want {
			t.Errorf("%q:\n got %q\nwant %q", tt.in, got, want)
		}
	}
}

func TestAppendRequestRewrites(t *testing.T) {
	in := []byte("GET /x HTTP/1.1\r\nX: 1\r\nHost: a.test\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: w\r\n\r\n")
	tests := []struct {
		rw   RequestRewrite
		want string
	}{
		{RequestRewrite{Path: []byte("/a b\r\n#?\xff")},
			"GET /a%20b%0D%0A%23?%FF HTTP/1.1\r\nX: 1\r\nHost: a.test\r\nExpect: 100-continue\r\nConnection: upgrade\r\nUpgrade: w\r\n\r\n"},
		{RequestRewrite{Authority: []byte("b.test"), Drop: []string{"x", "expect"}, NoUpgrade: true},
			"GET /x HTTP/1.1\r\nHost: b.test\r\n\r\n"},
		{RequestRewrite{Method: []byte("HEAD"), Close: true, Add: []Pair{{[]byte("Y"), []byte("2")}}},
			"HEAD /x HTTP/1.1\r\nX: 1\r\nHost: a.test\r\nExpect: 100-continue\r\nY: 2\r\nConnection: close\r\n\r\n"},
	}
	var h Head
	if _, err := ParseRequest(in, &h); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		if got := string(AppendRequest([]byte("before "), &h, tt.rw)); got != "before "+tt.want {
			t.Errorf("got %q\nwant %q", got, tt.want)
		}
	}
}

func TestDropFieldUncleans(t *testing.T) {
	var h Head
	if _, err := ParseRequest([]byte("GET / HTTP/1.1\r\nX-a: 1\r\nHost: a\r\n\r\n"), &h); err != nil || !h.Clean {
		t.Fatal(err, h.Clean)
	}
	if h.Find("x-b") != -1 {
		t.Error("found what isn't there")
	}
	h.DropField(h.Find("x-a"))
	if got := string(AppendRequest(nil, &h, RequestRewrite{})); got != "GET / HTTP/1.1\r\nHost: a\r\n\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestLimits(t *testing.T) {
	head := func(total int) string {
		s := "GET / HTTP/1.1\r\nHost: a\r\nX: "
		return s + strings.Repeat("a", total-len(s)-4) + "\r\n\r\n"
	}
	longLine := func(n int) string {
		return "GET /" + strings.Repeat("a", n-len("GET / HTTP/1.1\r\n")) + " HTTP/1.1\r\n"
	}
	fields := func(n int) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", n-1) + "\r\n" }
	tests := []struct {
		name, in string
		want     error
	}{
		{"head", head(MaxHead), nil},
		{"head+1", head(MaxHead + 1), errHeadTooLarge},
		{"empty lines are not part", "\r\n\r\n" + head(MaxHead), nil},
		{"no end in sight", head(MaxHead + 1)[:MaxHead], errHeadTooLarge}, // without waiting for a byte more
		{"request line", longLine(MaxHead) + "Host: a\r\n\r\n", errHeadTooLarge},
		{"request line+1", longLine(MaxHead+1) + "Host: a\r\n\r\n", errURITooLong},
		{"fields", fields(MaxFields), nil},
		{"fields+1", fields(MaxFields + 1), errTooManyFields},
	}
	for _, tt := range tests {
		var h Head
		n, err := ParseRequest([]byte(tt.in), &h)
		if err != tt.want || err == nil && n != len(tt.in) {
			t.Errorf("%s: %d, %v, want %v", tt.name, n, err, tt.want)
		}
	}
	var h Head
	const begin, end = "HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n"
	long := begin + strings.Repeat("a", MaxResponseHead-len(begin)-len(end))
	if n, err := ParseResponse([]byte(long+end), Asked{}, &h); n != MaxResponseHead || err != nil {
		t.Errorf("response: %d %v", n, err)
	}
	var e *Error
	h.Reset()
	if _, err := ParseResponse([]byte(long+"a"+end), Asked{}, &h); !errors.As(err, &e) || e.Status != 502 {
		t.Errorf("response+1: %v", err)
	}
}

// TestHeadReuse: nothing of one message is left in the next.
func TestHeadReuse(t *testing.T) {
	var used, fresh Head
	first := []byte("POST http://h?q HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: 1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
	second := []byte("GET / HTTP/1.1\r\nHost: b\r\nX: 2\r\n\r\n")
	if _, err := ParseRequest(first, &used); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Head{&used, &fresh} {
		if _, err := ParseRequest(second, h); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := describe(&used), describe(&fresh); a != b || len(used.Fields) != 2 || !bytes.Equal(used.Raw, second) {
		t.Errorf("used %q, fresh %q", a, b)
	}
}
