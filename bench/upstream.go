//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"detour.dev/detour/bench/load"
)

// host is the name that all requests ask for, and that the certificate carries.
const host = "bench.test"

// upstreamPorts are where the upstream listens, on loopback.
type upstreamPorts struct {
	Primary, Backup, TLSPrimary, TLSBackup, TLSFull, TLSResumed int
}

// answer is what a path must give.
type answer struct {
	length int64
	hash   [sha256.Size]byte
}

// startUpstream starts the upstream of all contenders, on the load's CPU.
func (h *harness) startUpstream(ctx context.Context) error {
	dir := filepath.Join(h.dir, "upstream")
	if err := os.MkdirAll(filepath.Join(dir, "www"), 0o755); err != nil {
		return err
	}
	body1k, err := h.bodies(filepath.Join(dir, "www"))
	if err != nil {
		return err
	}
	if err := certificate(dir); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	h.ca = filepath.Join(dir, "cert.pem")
	p, err := freePorts(6)
	if err != nil {
		return err
	}
	h.up = upstreamPorts{p[0], p[1], p[2], p[3], p[4], p[5]}
	data := struct {
		upstreamPorts
		Dir, Body1k    string
		Files, MaxConn int
	}{h.up, dir, body1k, h.files, h.files - 200}
	if _, err := h.render("answers.conf", dir, data); err != nil {
		return err
	}
	conf, err := h.render("upstream.conf", dir, data)
	if err != nil {
		return err
	}
	h.upstream, err = h.start(h.loadCPU, "", h.tool(nginx), "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if err != nil {
		return err
	}
	load.ShortSlice(h.upstream.pid())
	return h.upstream.ready(ctx, 10*time.Second, addr(h.up.Primary), addr(h.up.TLSResumed))
}

func addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// bodies writes the files that are served. Their content is the same in every run, and text: one is part of a configuration.
func (h *harness) bodies(www string) (body1k string, err error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	r := mathrand.New(mathrand.NewPCG(1, 2))
	h.answers = map[string]answer{}
	for path, size := range map[string]int{"/1k": 1 << 10, "/16k": 16 << 10, "/1m": 1 << 20, "/16m": 16 << 20} {
		b := make([]byte, size)
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		h.answers[path] = answer{int64(size), sha256.Sum256(b)}
		if path == "/1k" {
			body1k = string(b)
		}
		if err := os.WriteFile(filepath.Join(www, path), b, 0o644); err != nil {
			return "", err
		}
	}
	return body1k, nil
}

// certificate makes an ECDSA P-256 certificate that vouches for itself.
func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), 0o600)
}
