// Package accesslog owns the access log: one line for each request, in Envoy's default format or as JSON, written by a
// goroutine of its own so that a slow disk or a full pipe never holds up a request.
//
// What a peer sent stands in a line only escaped: no request can end a line, close a quote, or reach a terminal with a
// control character.
package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"detour.dev/detour/internal/dataplane/streaminfo"
)

// startTime is Envoy's %START_TIME%: UTC, milliseconds.
const startTime = "2006-01-02T15:04:05.000Z"

// AppendText appends one line in Envoy's default format (docs: configuration/observability/access_log/usage, "Default
// format string"), without X-Envoy-Original-Path, which detour never sets. It allocates nothing but what dst needs to
// grow.
func AppendText(dst []byte, i *streaminfo.Info) []byte {
	dst = append(dst, '[')
	dst = appendTime(dst, i.Start)
	dst = append(dst, `] "`...)
	dst = appendEscaped(dst, i.Method)
	dst = append(dst, ' ')
	dst = appendEscaped(dst, i.Path)
	dst = append(dst, ' ')
	dst = appendOr(dst, i.Protocol.String())
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, int64(i.Code), 10)
	dst = append(dst, ' ')
	dst = i.Flags.Append(dst)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, i.BytesReceived, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, i.BytesSent, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, i.Duration.Milliseconds(), 10)
	dst = append(dst, ' ')
	if i.UpstreamServiceTime > 0 {
		dst = strconv.AppendInt(dst, i.UpstreamServiceTime.Milliseconds(), 10)
	} else {
		dst = append(dst, '-')
	}
	for _, field := range [...][]byte{i.ForwardedFor, i.UserAgent, i.RequestID, i.Authority} {
		dst = append(dst, ` "`...)
		dst = appendEscaped(dst, field)
		dst = append(dst, '"')
	}
	dst = append(dst, ` "`...)
	dst = appendAddr(dst, i.UpstreamHost)
	return append(dst, "\"\n"...)
}

// appendOr appends s, "-" if it is empty.
func appendOr(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, '-')
	}
	return append(dst, s...)
}

func appendAddr(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(dst, '-')
	}
	ip := a.Addr().Unmap()
	if !ip.Is4() {
		return netip.AddrPortFrom(ip, a.Port()).AppendTo(dst)
	}
	for _, b := range ip.As4() {
		if b >= 100 {
			dst = append(dst, '0'+b/100)
		}
		if b >= 10 {
			dst = append(dst, '0'+b/10%10)
		}
		dst = append(dst, '0'+b%10, '.')
	}
	dst[len(dst)-1] = ':'
	return strconv.AppendUint(dst, uint64(a.Port()), 10)
}

// appendTime appends t as startTime does, at a fraction of the cost, which is much of a line's. The date comes from the days
// since 1970-01-01 in years that begin with March, which puts the leap day last and makes months a linear function.
func appendTime(dst []byte, t time.Time) []byte {
	seconds := t.Unix()
	if seconds < 0 || seconds >= endOfFourDigits {
		return t.UTC().AppendFormat(dst, startTime)
	}
	const toMarchOfYear0, era, day = 719468, 146097, 86400 // days, days in 400 years, seconds
	days, clock := uint(seconds/day)+toMarchOfYear0, uint(seconds%day)
	ofEra := days % era
	year := (ofEra - ofEra/1460 + ofEra/36524 - ofEra/(era-1)) / 365
	ofYear := ofEra - (365*year + year/4 - year/100)
	month := (5*ofYear + 2) / 153 // from March, 0 to 11
	date := ofYear - (153*month+2)/5 + 1
	year += 400 * (days / era)
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	ms := uint(t.Nanosecond() / int(time.Millisecond))
	dst = append(dst, '0'+byte(year/1000), '0'+byte(year/100%10))
	dst = appendTwo(appendTwo(appendTwo(dst, year%100, '-'), month, '-'), date, 'T')
	dst = appendTwo(appendTwo(appendTwo(dst, clock/3600, ':'), clock/60%60, ':'), clock%60, '.')
	return append(dst, '0'+byte(ms/100), '0'+byte(ms/10%10), '0'+byte(ms%10), 'Z')
}

// endOfFourDigits is 10000-01-01 in Unix time.
const endOfFourDigits = 253402300800

// appendTwo appends n, below 100, and what separates it from the next number.
func appendTwo(dst []byte, n uint, sep byte) []byte {
	return append(dst, '0'+byte(n/10), '0'+byte(n%10), sep)
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends what a peer sent, "-" if it is nothing. Quotes, backslashes, controls and everything beyond ASCII
// become \xHH, which keeps the line one line and a terminal safe.
func appendEscaped(dst, s []byte) []byte {
	if len(s) == 0 {
		return append(dst, '-')
	}
	done := 0
	for i, c := range s {
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[done:i]...)
		dst = append(dst, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		done = i + 1
	}
	return append(dst, s[done:]...)
}

// AppendJSON appends one line of JSON with the keys of Istio's default JSON format (MeshConfig.accessLogEncoding JSON) that
// detour has values for, and attempts, priority and upstream_host_name beside them. Unknown values are null. It allocates
// nothing but what dst needs to grow.
func AppendJSON(dst []byte, i *streaminfo.Info) []byte {
	dst = append(dst, `{"start_time":"`...)
	dst = appendTime(dst, i.Start)
	dst = append(dst, '"')
	dst = jsonBytes(dst, "method", i.Method)
	dst = jsonBytes(dst, "path", i.Path)
	dst = jsonString(dst, "protocol", i.Protocol.String())
	dst = jsonInt(dst, "response_code", int64(i.Code))
	dst = append(dst, `,"response_flags":"`...)
	dst = append(i.Flags.Append(dst), '"')
	dst = jsonString(dst, "response_code_details", i.CodeDetails)
	dst = jsonInt(dst, "bytes_received", int64(i.BytesReceived))
	dst = jsonInt(dst, "bytes_sent", int64(i.BytesSent))
	dst = jsonInt(dst, "duration", i.Duration.Milliseconds())
	dst = jsonMillis(dst, "upstream_service_time", i.UpstreamServiceTime)
	dst = jsonBytes(dst, "x_forwarded_for", i.ForwardedFor)
	dst = jsonBytes(dst, "user_agent", i.UserAgent)
	dst = jsonBytes(dst, "request_id", i.RequestID)
	dst = jsonBytes(dst, "authority", i.Authority)
	dst = jsonAddr(dst, "upstream_host", i.UpstreamHost)
	dst = jsonString(dst, "upstream_host_name", i.UpstreamHostname)
	dst = jsonString(dst, "upstream_cluster", i.Cluster)
	dst = jsonAddr(dst, "upstream_local_address", i.UpstreamLocal)
	dst = jsonString(dst, "upstream_transport_failure_reason", i.UpstreamFailure)
	dst = jsonInt(dst, "priority", int64(i.Priority))
	dst = jsonInt(dst, "attempts", int64(i.Attempts))
	dst = jsonString(dst, "route_name", i.Route)
	dst = jsonAddr(dst, "downstream_remote_address", i.DownstreamRemote)
	dst = jsonAddr(dst, "downstream_local_address", i.DownstreamLocal)
	dst = jsonAddr(dst, "original_destination", i.OriginalDst)
	dst = jsonBytes(dst, "requested_server_name", i.RequestedServerName)
	return append(dst, "}\n"...)
}

func jsonKey(dst []byte, key string) []byte {
	dst = append(dst, `,"`...)
	dst = append(dst, key...)
	return append(dst, `":`...)
}

func jsonInt(dst []byte, key string, n int64) []byte {
	return strconv.AppendInt(jsonKey(dst, key), n, 10)
}

func jsonMillis(dst []byte, key string, d time.Duration) []byte {
	if d <= 0 {
		return append(jsonKey(dst, key), "null"...)
	}
	return jsonInt(dst, key, d.Milliseconds())
}

func jsonAddr(dst []byte, key string, a netip.AddrPort) []byte {
	dst = jsonKey(dst, key)
	if !a.IsValid() {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	return append(appendAddr(dst, a), '"')
}

func jsonString(dst []byte, key, s string) []byte { return appendJSON(jsonKey(dst, key), s) }

func jsonBytes(dst []byte, key string, s []byte) []byte { return appendJSON(jsonKey(dst, key), s) }

// appendJSON appends a JSON string (RFC 8259 section 7), null for an empty one. Controls and quotes are escaped; bytes that are
// not UTF-8, and line separators and C1 controls, become \ufffd and \uXXXX.
func appendJSON[S string | []byte](dst []byte, s S) []byte {
	if len(s) == 0 {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c < ' ' || c == 0x7f:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				dst = append(dst, c)
			}
			continue
		}
		r, n := decodeRune(s, i)
		if r == utf8.RuneError && n == 1 || r < 0xa0 || r == '\u2028' || r == '\u2029' {
			dst = append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		} else {
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}

// decodeRune decodes the character at s[i:] of a string or a byte slice, without converting either.
func decodeRune[S string | []byte](s S, i int) (rune, int) {
	var b [utf8.UTFMax]byte
	n := copy(b[:], s[i:])
	return utf8.DecodeRune(b[:n])
}
