package outlier

import (
	"errors"
	"strconv"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
)

// SetErrorMatcher reads HttpProtocolOptions.outlier_detection.error_matcher, in the one form that Istio's
// outlierDetectionHttpErrorCodes gives: any of exact :status values. With it, these statuses are errors and no others.
func (c *Config) SetErrorMatcher(m *matcherv3.MatchPredicate) error {
	if m == nil {
		return nil
	}
	rules := []*matcherv3.MatchPredicate{m}
	if or := m.GetOrMatch(); or != nil {
		rules = or.GetRules()
	}
	codes := map[int]bool{}
	for _, r := range rules {
		hs := r.GetHttpResponseHeadersMatch().GetHeaders()
		if len(hs) != 1 || hs[0].GetName() != ":status" || hs[0].GetInvertMatch() {
			return errors.New("outlier_detection.error_matcher: only exact :status matches are supported")
		}
		code, err := strconv.Atoi(hs[0].GetStringMatch().GetExact())
		if err != nil || code < 100 || code > 599 {
			return errors.New("outlier_detection.error_matcher: only exact :status matches are supported")
		}
		codes[code] = true
	}
	c.errors = codes
	return nil
}

// status gives what a response counts as: Envoy takes 500 for a matched one and 200 for the rest.
func (c *Config) status(s int) int {
	switch {
	case c.errors == nil:
		return s
	case c.errors[s]:
		return 500
	}
	return 200
}
