package intercept

import (
	"fmt"
	"strings"
)

// proxyVariables are the names that programs look for, in lower and upper case. Of HTTP_PROXY in upper case many take
// no notice, since a CGI server lets a client set it.
var proxyVariables = []string{"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy"}

// Environment sets the variables that make a program use a forward proxy at addr ("127.0.0.1:15080"). ALL_PROXY is set for
// programs that know only that; loopback is excepted, since there a program means its own machine.
func Environment(addr string) []string {
	proxy, except := "http://"+addr, "localhost,127.0.0.0/8,::1"
	var env []string
	for _, v := range [][2]string{{"http_proxy", proxy}, {"https_proxy", proxy}, {"all_proxy", proxy}, {"no_proxy", except}} {
		env = append(env, v[0]+"="+v[1], strings.ToUpper(v[0])+"="+v[1])
	}
	return env
}

// CleanEnvironment splits env into what COMMAND keeps and the settings of a proxy that it inherited. Those would send
// it past its captured route; detour's own dials can use them.
func CleanEnvironment(env []string) (clean, inherited []string) {
	clean = make([]string, 0, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if isProxyVariable(name) {
			inherited = append(inherited, e)
		} else {
			clean = append(clean, e)
		}
	}
	return clean, inherited
}

func isProxyVariable(name string) bool {
	for _, v := range proxyVariables {
		if name == v || name == strings.ToUpper(v) {
			return true
		}
	}
	return false
}

// InheritedLine is what the user is told about the settings that CleanEnvironment took away; values may hold
// passwords, so that only names are shown.
func InheritedLine(inherited []string) string {
	names := make([]string, len(inherited))
	for i, e := range inherited {
		names[i], _, _ = strings.Cut(e, "=")
	}
	return fmt.Sprintf("%s unset for the command; detour's own connections use the proxy set there", strings.Join(names, ", "))
}
