package http1

// SplitAuthority splits a valid authority into its host, brackets of an IPv6 literal included, and its port, nil if it
// has none.
func SplitAuthority(a []byte) (host, port []byte) {
	for i := len(a) - 1; i >= 0; i-- {
		switch a[i] {
		case ':':
			return a[:i], a[i+1:]
		case ']':
			return a, nil
		}
	}
	return a, nil
}

// validAuthority checks uri-host [":" port], RFC 9110 §7.2 and RFC 3986 §3.2.2: a registered name, an IPv4 address, or an
// IPv6 literal in brackets; no userinfo; a port from 1 to 65535.
func validAuthority(a []byte, needPort bool) bool {
	host := 0
	if len(a) > 0 && a[0] == '[' {
		for host = 1; host < len(a) && a[host] != ']'; host++ {
		}
		if host == len(a) || !validIPv6(a[1:host]) {
			return false
		}
		host++
	} else {
		for host < len(a) && a[host] != ':' {
			c := a[host]
			if c == '%' {
				if host+2 >= len(a) || class[a[host+1]]&class[a[host+2]]&isHex == 0 {
					return false
				}
				host += 2
			} else if class[c]&isRegName == 0 {
				return false
			}
			host++
		}
	}
	if host == 0 {
		return false
	}
	if host == len(a) {
		return !needPort
	}
	return a[host] == ':' && validPort(a[host+1:])
}

func validPort(p []byte) bool {
	if len(p) == 0 || len(p) > 5 {
		return false
	}
	n := 0
	for _, c := range p {
		if class[c]&isDigit == 0 {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n > 0 && n < 1<<16
}

// validIPv6 checks an IPv6 address without a zone, RFC 3986 §3.2.2.
func validIPv6(a []byte) bool {
	groups, double := 0, false
	for i := 0; i < len(a); {
		if a[i] == ':' {
			if i+1 < len(a) && a[i+1] == ':' {
				if double {
					return false
				}
				double = true
				i += 2
				continue
			}
			if i == 0 || i+1 == len(a) || a[i-1] == ':' {
				return false
			}
			i++
			continue
		}
		start := i
		for i < len(a) && i-start < 5 && class[a[i]]&isHex != 0 {
			i++
		}
		if i < len(a) && a[i] == '.' {
			if !validIPv4(a[start:]) {
				return false
			}
			groups += 2
			break
		}
		if i == start || i-start > 4 || i < len(a) && a[i] != ':' {
			return false
		}
		groups++
	}
	return groups == 8 && !double || groups < 8 && double
}

func validIPv4(a []byte) bool {
	for part := 0; part < 4; part++ {
		n, digits := 0, 0
		for len(a) > 0 && class[a[0]]&isDigit != 0 {
			n = n*10 + int(a[0]-'0')
			digits++
			a = a[1:]
			if digits > 3 {
				return false
			}
		}
		if digits == 0 || n > 255 || digits > 1 && n < 10 || digits > 2 && n < 100 {
			return false
		}
		if part < 3 {
			if len(a) == 0 || a[0] != '.' {
				return false
			}
			a = a[1:]
		}
	}
	return len(a) == 0
}
