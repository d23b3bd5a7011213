package analyze

import (
	"fmt"
	"slices"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// envoyConsecutive5xx is Envoy's consecutive_5xx where nobody sets it.
const envoyConsecutive5xx = 5

// application500 tells that a 500, which is the application's own error and would be the same elsewhere, counts towards an
// ejection that moves traffic to another region. consecutiveGatewayErrors counts 502, 503 and 504 only.
func (r *run) application500(p *translate.Plan) {
	if p.Protocol != "http" || p.Outlier == nil || len(localities(p)) < 2 || p.LocalityOff {
		return
	}
	if codes := p.Outlier.OutlierDetectionHttpErrorCodes; len(codes) > 0 && !slices.Contains(codes, 500) {
		return
	}
	n := uint32(envoyConsecutive5xx)
	place := p.At("outlierDetection")
	if v := p.Outlier.Consecutive_5XxErrors; v != nil {
		n = v.Value
		place.Field += ".consecutive5xxErrors"
	}
	gateway := p.Outlier.ConsecutiveGatewayErrors.GetValue()
	switch {
	case n == 0:
		return
	case gateway == 0:
		gateway = n
	}
	what := "one answer with status 500, an error of the application itself, ejects"
	if n > 1 {
		what = fmt.Sprintf("%d answers in a row with status 500, errors of the application itself, eject", n)
	}
	r.report(at(config.Warning, CodeApplication500, place,
		"%s an endpoint of %s and its requests go to another region; to count only 502, 503, 504 and failed connections, write consecutiveGatewayErrors: %d and consecutive5xxErrors: 0",
		what, p.Host, gateway))
}
