package config

// Codes of issues that decode, validate and the pipeline find. A code is stable for ever: scripts and suppressions rely
// on it. Ranges: DTR0001 to 0099 reading and the pipeline, DTR0100 to 0199 analysis, DTR0200 ServiceEntry, DTR0300
// DestinationRule, DTR0400 VirtualService, DTR0500 translation, DTR0600 Sidecar and MeshConfig, DTR0900 what the embedded engine
// does not serve yet.
const (
	CodeSyntax         = "DTR0001"
	CodeNotAnObject    = "DTR0002"
	CodeUnknownField   = "DTR0003"
	CodeWrongType      = "DTR0004"
	CodeBadEnum        = "DTR0005"
	CodeBadDuration    = "DTR0006"
	CodeDuplicateKey   = "DTR0007"
	CodeUnknownKind    = "DTR0008"
	CodeBadAPIVersion  = "DTR0009"
	CodeBadMetadata    = "DTR0010"
	CodeTooLarge       = "DTR0011"
	CodeOneofTwice     = "DTR0012"
	CodeKindIgnored    = "DTR0013"
	CodeUnreadable     = "DTR0020"
	CodeDuplicate      = "DTR0021"
	CodeAddressPool    = "DTR0022"
	CodeStateFile      = "DTR0023"
	CodeSinkRejected   = "DTR0024"
	CodeNothing        = "DTR0025"
	CodeExportTo       = "DTR0201"
	CodeNoHost         = "DTR0202"
	CodeBadHost        = "DTR0203"
	CodeBadPort        = "DTR0204"
	CodeBadPortName    = "DTR0205"
	CodeDuplicatePort  = "DTR0206"
	CodeBadProtocol    = "DTR0207"
	CodeBadAddress     = "DTR0208"
	CodeCIDR           = "DTR0209"
	CodeEndpoints      = "DTR0210"
	CodeEndpointPort   = "DTR0211"
	CodeBadEndpoint    = "DTR0212"
	CodeBadLabel       = "DTR0213"
	CodeManyHostsTCP   = "DTR0214"
	CodeDRHost         = "DTR0301"
	CodeOutlier        = "DTR0302"
	CodeLocalityLB     = "DTR0303"
	CodeLoadBalancer   = "DTR0304"
	CodeConnectionPool = "DTR0305"
	CodeTLS            = "DTR0306"
	CodeSubset         = "DTR0307"
	CodePortSettings   = "DTR0308"
	CodeTunnel         = "DTR0309"
	CodeVSHost         = "DTR0401"
	CodeNoRoute        = "DTR0402"
	CodeDestination    = "DTR0403"
	CodeWeight         = "DTR0404"
	CodeRetries        = "DTR0405"
	CodeMatch          = "DTR0406"
	CodeFault          = "DTR0407"
	CodeHeaders        = "DTR0408"
	CodeTimeout        = "DTR0409"
	CodeUnreachable    = "DTR0410"
	CodeRedirect       = "DTR0411"
	CodeRewrite        = "DTR0412"
	CodeMirror         = "DTR0413"
	CodeDelegate       = "DTR0414"
	CodeSidecar        = "DTR0601"
	CodeMesh           = "DTR0602"
	CodeUnsupported    = "DTR0901"
)

// Codes gives each code's title, for the documentation.
var Codes = map[string]string{
	CodeSyntax:         "The file is not valid YAML or JSON",
	CodeNotAnObject:    "A document is not a Kubernetes object",
	CodeUnknownField:   "A field does not exist",
	CodeWrongType:      "A value has the wrong type or is out of range",
	CodeBadEnum:        "A value is not one of those allowed",
	CodeBadDuration:    "A duration can't be read",
	CodeDuplicateKey:   "A key occurs twice in one mapping",
	CodeUnknownKind:    "The kind does not exist in its API group",
	CodeBadAPIVersion:  "The API version does not exist",
	CodeBadMetadata:    "The object's metadata can't be used",
	CodeTooLarge:       "A file or document is too large, too deep or expands too far",
	CodeOneofTwice:     "Two fields exclude each other",
	CodeKindIgnored:    "The kind has no business with outbound traffic outside a mesh",
	CodeUnreadable:     "A file can't be read",
	CodeDuplicate:      "Two objects have the same kind, namespace and name",
	CodeAddressPool:    "No address is left to allocate",
	CodeStateFile:      "The file of allocated addresses can't be used",
	CodeSinkRejected:   "The engine does not serve a resource",
	CodeNothing:        "There is no object to look at",
	CodeExportTo:       "exportTo is not valid",
	CodeNoHost:         "The ServiceEntry has no host",
	CodeBadHost:        "A host name is not valid",
	CodeBadPort:        "A port number is not valid",
	CodeBadPortName:    "A port name is not valid",
	CodeDuplicatePort:  "A port is declared twice",
	CodeBadProtocol:    "A port's protocol is not known",
	CodeBadAddress:     "An address is not valid",
	CodeCIDR:           "A CIDR address does not fit the resolution",
	CodeEndpoints:      "The endpoints do not fit the resolution",
	CodeEndpointPort:   "An endpoint maps a port that the service does not have",
	CodeBadEndpoint:    "An endpoint's address is not valid",
	CodeBadLabel:       "A label is not valid",
	CodeManyHostsTCP:   "Several hosts share ports that carry no host name",
	CodeDRHost:         "The DestinationRule's host is not valid",
	CodeOutlier:        "outlierDetection is not valid",
	CodeLocalityLB:     "localityLbSetting is not valid",
	CodeLoadBalancer:   "loadBalancer is not valid",
	CodeConnectionPool: "connectionPool is not valid",
	CodeTLS:            "tls is not valid",
	CodeSubset:         "A subset is not valid",
	CodePortSettings:   "portLevelSettings is not valid",
	CodeTunnel:         "tunnel is not valid",
	CodeVSHost:         "A VirtualService's host is not valid",
	CodeNoRoute:        "A VirtualService leads nowhere",
	CodeDestination:    "A destination is not valid",
	CodeWeight:         "A weight is not valid",
	CodeRetries:        "retries is not valid",
	CodeMatch:          "A match is not valid",
	CodeFault:          "fault is not valid",
	CodeHeaders:        "headers or corsPolicy is not valid",
	CodeTimeout:        "A timeout is not valid",
	CodeUnreachable:    "A rule can never be reached",
	CodeRedirect:       "redirect or directResponse is not valid",
	CodeRewrite:        "rewrite is not valid",
	CodeMirror:         "mirror is not valid",
	CodeDelegate:       "delegate is not valid",
	CodeSidecar:        "The Sidecar is not valid",
	CodeMesh:           "The MeshConfig is not valid",
	CodeUnsupported:    "The embedded engine does not serve it yet",
}
