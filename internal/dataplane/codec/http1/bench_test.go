package http1

import (
	"bytes"
	"testing"
)

var (
	smallRequest = []byte("GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n")

	browserRequest = []byte("GET /search/results?q=external+failover&lang=en&page=2 HTTP/1.1\r\n" +
		"Host: www.example.com\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
		"Accept-Language: en-US,en;q=0.5\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Referer: http://www.example.com/search\r\n" +
		"Connection: keep-alive\r\n" +
		"Cookie: session=4f1c7d5e9a0b4c6d8e2f; theme=dark; consent=yes\r\n" +
		"Upgrade-Insecure-Requests: 1\r\n" +
		"Sec-Fetch-Dest: document\r\n" +
		"Sec-Fetch-Mode: navigate\r\n" +
		"Cache-Control: max-age=0\r\n\r\n")

	response = []byte("HTTP/1.1 200 OK\r\n" +
		"Server: nginx/1.22.1\r\n" +
		"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" +
		"Content-Type: text/plain\r\n" +
		"Content-Length: 1024\r\n" +
		"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n" +
		"ETag: \"653a2f1c-400\"\r\n" +
		"Accept-Ranges: bytes\r\n\r\n")
)

func benchParseRequest(b *testing.B, in []byte) {
	var h Head
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := ParseRequest(in, &h); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseRequestSmall(b *testing.B)   { benchParseRequest(b, smallRequest) }
func BenchmarkParseRequestBrowser(b *testing.B) { benchParseRequest(b, browserRequest) }

func BenchmarkParseResponse(b *testing.B) {
	var h Head
	b.ReportAllocs()
	b.SetBytes(int64(len(response)))
	for b.Loop() {
		if n, err := ParseResponse(response, Asked{Method: GET}, &h); n != len(response) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkForwardLength(b *testing.B) {
	in := make([]byte, 1024)
	var body Body
	b.ReportAllocs()
	for b.Loop() {
		body.Start(ContentLength, int64(len(in)))
		if n, done, err := body.Forward(in); n != len(in) || !done || err != nil {
			b.Fatal(n, done, err)
		}
	}
}

func BenchmarkForwardChunked(b *testing.B) {
	var in []byte
	for range 4 {
		in = AppendChunk(in, bytes.Repeat([]byte("x"), 4000))
	}
	in = AppendLastChunk(in, nil)
	var body Body
	b.ReportAllocs()
	for b.Loop() {
		body.Start(Chunked, 0)
		if n, done, err := body.Forward(in); n != len(in) || !done || err != nil {
			b.Fatal(n, done, err)
		}
	}
}

func benchAppendRequest(b *testing.B, in []byte, rw RequestRewrite) {
	var h Head
	if _, err := ParseRequest(in, &h); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	want := len(AppendRequest(dst, &h, rw))
	b.ReportAllocs()
	for b.Loop() {
		if dst = AppendRequest(dst[:0], &h, rw); len(dst) != want {
			b.Fatalf("%d bytes, want %d", len(dst), want)
		}
	}
}

func BenchmarkAppendRequestClean(b *testing.B) { benchAppendRequest(b, smallRequest, RequestRewrite{}) }
func BenchmarkAppendRequestDrop(b *testing.B) {
	benchAppendRequest(b, browserRequest, RequestRewrite{})
}
func BenchmarkAppendRequestRewrite(b *testing.B) {
	benchAppendRequest(b, browserRequest, RequestRewrite{Path: []byte("/other"), Authority: []byte("endpoint.example.com")})
}

func BenchmarkAppendResponse(b *testing.B) {
	var h Head
	if _, err := ParseResponse(response, Asked{Method: GET}, &h); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	want := len(AppendResponse(dst, &h, ResponseRewrite{Minor: 1, Close: true}))
	b.ReportAllocs()
	for b.Loop() {
		if dst = AppendResponse(dst[:0], &h, ResponseRewrite{Minor: 1, Close: true}); len(dst) != want {
			b.Fatalf("%d bytes, want %d", len(dst), want)
		}
	}
}
