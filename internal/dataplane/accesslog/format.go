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
	dst = i.Start.UTC().AppendFormat(dst, startTime)
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
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst)
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
	dst = i.Start.UTC().AppendFormat(dst, startTime)
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
