package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Exit statuses of curl.
const (
	curlConnect = 7
	curlVerify  = 60
)

// Get stands in for curl where there is none: it prints the body, then a line with the HTTP status and the seconds it
// took, and gives the exit status that curl would give.
func Get(ctx context.Context, w io.Writer, url string) int {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	var resp *http.Response
	if err == nil {
		resp, err = http.DefaultClient.Do(req)
	}
	var body []byte
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	}
	if err != nil {
		fmt.Fprintf(w, "get: %v\n0 %f\n", err, time.Since(begin).Seconds())
		var verify *tls.CertificateVerificationError
		if errors.As(err, &verify) {
			return curlVerify
		}
		return curlConnect
	}
	fmt.Fprintf(w, "%s\n%d %f\n", body, resp.StatusCode, time.Since(begin).Seconds())
	return 0
}
