package analyze

import (
	"errors"
	"io/fs"
	"os"

	"detour.dev/detour/internal/config"
)

// certificateFiles warns of the files of tls that this machine does not have or does not let us read.
func (r *run) certificateFiles() {
	for _, p := range r.plans {
		if p.Blocked != "" || p.TLS == nil {
			continue
		}
		for _, f := range []struct{ field, path string }{
			{"caCertificates", p.TLS.CaCertificates}, {"clientCertificate", p.TLS.ClientCertificate}, {"privateKey", p.TLS.PrivateKey},
		} {
			if f.path == "" || f.path == "system" || f.field == "caCertificates" && p.TLS.InsecureSkipVerify.GetValue() {
				continue
			}
			if err := readable(f.path); err != nil {
				place := p.At("tls")
				place.Field += "." + f.field
				r.report(at(config.Warning, CodeNoCertFile, place,
					"%q can't be read on this machine: %v; without it every request to %s gets 503 (a relative path begins at the working directory)", f.path, err, p.Host))
			}
		}
	}
}

// readable tells why a file can't be read. What is no regular file is not opened: that could wait forever.
func readable(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return errors.New("is no regular file")
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(path); err == nil {
			return f.Close()
		}
	}
	var why *fs.PathError
	if errors.As(err, &why) {
		return why.Err
	}
	return err
}
