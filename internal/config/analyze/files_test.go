package analyze

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCertificateFiles: each file of tls that is not there is told of at its line, and only where files are looked at.
func TestCertificateFiles(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "ca.pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
	for _, tc := range []struct {
		tls  string
		want []string // begin of each message
	}{
		{"mode: SIMPLE, caCertificates: ca.pem", nil},
		{"mode: SIMPLE, caCertificates: " + folder + "/ca.pem", nil},
		{"mode: SIMPLE, caCertificates: .", []string{`caCertificates: "." can't be read on this machine: is no regular file; `}},
		{"mode: SIMPLE, caCertificates: gone, insecureSkipVerify: true", nil},
		{"mode: MUTUAL, clientCertificate: ca.pem, privateKey: gone.key, caCertificates: gone.pem", []string{
			`privateKey: "gone.key" can't be read`, `caCertificates: "gone.pem" can't be read on this machine: no such file or directory; `}},
	} {
		yaml := exampleHTTPS + strings.Replace(exampleOriginate, "mode: SIMPLE", tc.tls+"}\n", 1)
		for _, files := range []bool{true, false} {
			var got []string
			for _, i := range analyse(t, yaml, Options{Group: caller(""), Files: files}).Issues {
				if i.Code == CodeNoCertFile {
					got = append(got, strings.TrimPrefix(i.Field, "spec.trafficPolicy.tls.")+": "+i.Message)
				}
			}
			want := tc.want
			if !files {
				want = nil
			}
			if len(got) != len(want) {
				t.Errorf("%s: %q, want %q", tc.tls, got, want)
				continue
			}
			for n, w := range want {
				if !strings.HasPrefix(got[n], w) {
					t.Errorf("%s: %q, want %q", tc.tls, got[n], w)
				}
			}
		}
	}
}
