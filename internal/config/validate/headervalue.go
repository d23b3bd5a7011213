package validate

import (
	"errors"
	"strings"
)

var (
	errLoneSign     = errors.New("has a single %; write %% for one, or a command as in %REQ(x)%")
	errUnterminated = errors.New("has a command that does not end; commands are %NAME% or %NAME(arguments)%, and %% is a single %")
	errArguments    = errors.New("has a command whose list of arguments is not [\"...\", \"...\"]")
)

// checkHeaderValue wants what Envoy takes as a header's value in a configuration (its header_parser): text without control
// characters, in which %% stands for % and %NAME% or %NAME(arguments)% for a command. Which commands there are it does not say.
func checkHeaderValue(v string) error {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return errors.New("has a line break or another control character in it")
		}
	}
	for {
		i := strings.IndexByte(v, '%')
		if i < 0 {
			return nil
		}
		v = v[i+1:]
		if v == "" {
			return errLoneSign
		}
		if v[0] == '%' {
			v = v[1:]
			continue
		}
		end := strings.IndexAny(v, "%(")
		if end < 0 {
			return errUnterminated
		}
		rest := v[end+1:]
		if v[end] == '(' {
			var err error
			if rest, err = skipArguments(rest); err != nil {
				return err
			}
		}
		v = rest
	}
}

// skipArguments gives what follows a command's arguments, its closing parenthesis and percent sign.
func skipArguments(v string) (string, error) {
	list, isList := strings.CutPrefix(strings.TrimLeft(v, " "), "[")
	var err error
	if isList {
		v, err = skipList(list)
	} else {
		v, err = skipText(v)
	}
	if err != nil {
		return "", err
	}
	rest, ok := strings.CutPrefix(strings.TrimLeft(v, " "), "%")
	if !ok {
		return "", errUnterminated
	}
	return rest, nil
}

// skipText gives what follows the parenthesis that ends plain arguments; a backslash escapes, a quote may begin them only.
func skipText(v string) (string, error) {
	v = strings.TrimLeft(v, " ")
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return "", errArguments
		case ')':
			return v[i+1:], nil
		}
	}
	return "", errUnterminated
}

// skipList gives what follows the parenthesis after a list of strings, whose opening bracket is behind us.
func skipList(v string) (string, error) {
	for {
		rest, ok := strings.CutPrefix(strings.TrimLeft(v, " "), `"`)
		if !ok {
			return "", errArguments
		}
		end := 0
		for end < len(rest) && rest[end] != '"' {
			if rest[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(rest) {
			return "", errUnterminated
		}
		v = strings.TrimLeft(rest[end+1:], " ")
		if next, more := strings.CutPrefix(v, ","); more {
			v = next
			continue
		}
		if v, ok = strings.CutPrefix(v, "]"); !ok {
			return "", errArguments
		}
		if v, ok = strings.CutPrefix(strings.TrimLeft(v, " "), ")"); !ok {
			return "", errUnterminated
		}
		return v, nil
	}
}
