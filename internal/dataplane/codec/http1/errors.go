package http1

// Error says why a message is refused. All values are static: returning one allocates nothing.
type Error struct {
	Status int    // the status to answer: 400, 414, 431, 501 or 505 for a request, 502 for a response
	Reason string // one line, without the offending bytes
	twin   *Error // the same reason with Status 502, for a response; nil in that one itself
}

func (e *Error) Error() string { return e.Reason }

func refuse(status int, reason string) *Error {
	return &Error{Status: status, Reason: reason, twin: &Error{Status: 502, Reason: reason}}
}

// ErrTruncated is what Body.EOF returns when the peer closed before the body was complete: the message must not be
// passed on as a complete one.
var ErrTruncated error = refuse(400, "connection closed before the end of the body")

var (
	errRequestLine   = refuse(400, "malformed request line")
	errMethod        = refuse(400, "method is not a token")
	errTarget        = refuse(400, "request target has a forbidden byte")
	errTargetForm    = refuse(400, "request target is neither a path nor an http or https URI")
	errAsterisk      = refuse(400, "request target * with a method other than OPTIONS")
	errConnectTarget = refuse(400, "CONNECT without host:port as its target")
	errConnectBody   = refuse(400, "CONNECT with a body")
	errVersion       = refuse(400, "malformed HTTP version")
	errUnsupported   = refuse(505, "HTTP version not supported")
	errURITooLong    = refuse(414, "request line too long")
	errHeadTooLarge  = refuse(431, "header block too large")
	errTooManyFields = refuse(431, "too many header fields")
	errEmptyLines    = refuse(400, "too many empty lines before the request")

	errBareCR     = refuse(400, "CR without LF")
	errBareLF     = refuse(400, "LF without CR")
	errControl    = refuse(400, "control byte in header block")
	errFold       = refuse(400, "folded or indented header line")
	errEmptyName  = refuse(400, "header field without a name")
	errName       = refuse(400, "header field name is not a token")
	errNoColon    = refuse(400, "header line without a colon")
	errUnderscore = refuse(400, "header field name imitates a framing or hop-by-hop field")
	errOptions    = refuse(400, "too many Connection options")

	errHostMissing  = refuse(400, "Host missing")
	errHostTwice    = refuse(400, "more than one Host")
	errHost         = refuse(400, "invalid Host")
	errLength       = refuse(400, "invalid Content-Length")
	errLengthTwice  = refuse(400, "more than one Content-Length")
	errLengthAndTE  = refuse(400, "both Content-Length and Transfer-Encoding")
	errTE           = refuse(400, "invalid Transfer-Encoding")
	errTETwice      = refuse(400, "more than one Transfer-Encoding")
	errTE10         = refuse(400, "Transfer-Encoding in an HTTP/1.0 message")
	errCoding       = refuse(501, "transfer coding not supported")
	errStatusLine   = refuse(502, "malformed status line")
	errStatus       = refuse(502, "status code out of range")
	errSwitch       = refuse(502, "101 that was not asked for")
	errSwitchFields = refuse(502, "101 without Upgrade and Connection: upgrade")

	errChunkSize    = refuse(400, "invalid chunk size")
	errChunkExt     = refuse(400, "invalid chunk extension")
	errChunkExtLong = refuse(400, "chunk extensions too long")
	errChunkEnd     = refuse(400, "chunk data not followed by CRLF")
	errTrailers     = refuse(400, "trailer section too large")
)
