package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// width is how many columns the demo writes; every terminal has them.
const width = 80

// printer writes what the user sees; escape sequences only where color is set.
type printer struct {
	w     io.Writer
	color bool
	err   error // that of the first write that failed: nobody looks on any more
}

// Escape sequences of ECMA-48, section 8.3.117.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	purple = "35"
	cyan   = "1;36"
)

func (p *printer) paint(sgr, s string) string {
	if !p.color || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

func (p *printer) print(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format, args...); err != nil && p.err == nil {
		p.err = err
	}
}

func (p *printer) line(format string, args ...any) { p.print(format+"\n", args...) }

// title begins a step.
func (p *printer) title(id, title, text string) {
	head := fmt.Sprintf("── %s · %s ", id, title)
	p.line("\n%s\n%s\n", p.paint(cyan, head+strings.Repeat("─", max(0, width-utf8.RuneCountInString(head)))), text)
}

// command shows what is run.
func (p *printer) command(prompt, format string, args ...any) {
	p.line("%s %s", p.paint(dim, prompt), p.paint(bold, fmt.Sprintf(format, args...)))
}

// regions colours the names and addresses of the two regions wherever they stand.
func (p *printer) regions(s string) string {
	if !p.color {
		return s
	}
	for _, r := range []struct{ sgr, word string }{
		{blue, eastName}, {purple, westName}, {blue, eastAddr.String()}, {purple, westAddr.String()},
	} {
		s = strings.ReplaceAll(s, r.word, p.paint(r.sgr, r.word))
	}
	return s
}

// answer shows what came back of one request, and how long it took.
func (p *printer) answer(a answer) {
	took := fmt.Sprintf("%5d ms", a.took.Round(time.Millisecond).Milliseconds())
	if a.code == 200 {
		p.line("  %s%s", p.regions(a.body)+strings.Repeat(" ", max(1, 60-len(a.body))), p.paint(dim, took))
		return
	}
	what := fmt.Sprintf("exit %d", a.exit)
	if a.code != 0 {
		what = fmt.Sprintf("HTTP %d", a.code)
	}
	lines := wrap(a.body, 58)
	for i, l := range lines {
		if i == len(lines)-1 {
			l = p.paint(red, l) + strings.Repeat(" ", max(1, 60-utf8.RuneCountInString(l))) + p.paint(dim, took+"  ") + p.paint(red, what)
			p.line("  %s", l)
			break
		}
		p.line("  %s", p.paint(red, l))
	}
}

// table shows what `detour pc endpoints` printed.
func (p *printer) table(rows []string) {
	for i, r := range rows {
		if i == 0 {
			p.line("  %s", p.paint(dim, r))
			continue
		}
		r = p.regions(r)
		r = strings.Replace(r, " FAILED ", " "+p.paint(red, "FAILED")+" ", 1)
		r = strings.Replace(r, " OK ", " "+p.paint(green, "OK")+" ", 1)
		p.line("  %s", r)
	}
}

// said shows a line of detour's own.
func (p *printer) said(l string) {
	for i, part := range wrap(l, width-4) {
		if i > 0 {
			part = "  " + part
		}
		p.line("  %s", p.paint(yellow, part))
	}
}

// yaml shows a file, or what has changed in it.
func (p *printer) yaml(name, note string, lines []line) {
	p.line("%s %s", p.paint(bold, name), p.paint(dim, note))
	for _, l := range lines {
		switch l.mark {
		case '-':
			p.line("  %s", p.paint(red, "- "+l.text))
		case '+':
			p.line("  %s", p.paint(green, "+ "+l.text))
		default:
			p.line("    %s", p.regions(l.text))
		}
	}
	p.line("")
}

// verdict says whether the step shows what it should.
func (p *printer) verdict(ok bool, what string) {
	mark, sgr := "✓", green
	if !ok {
		mark, sgr = "✗", red
	}
	for i, l := range wrap(what, width-2) {
		if i == 0 {
			p.line("%s %s", p.paint(sgr, mark), l)
		} else {
			p.line("  %s", l)
		}
	}
}

// wrap breaks a text at spaces, so that no line is longer than n where there are spaces.
func wrap(s string, n int) []string {
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		for utf8.RuneCountInString(l) > n {
			at := strings.LastIndexByte(string([]rune(l)[:n+1]), ' ')
			if at <= 0 {
				if at = strings.IndexByte(l, ' '); at <= 0 {
					break
				}
			}
			out = append(out, l[:at])
			l = strings.TrimLeft(l[at:], " ")
		}
		out = append(out, l)
	}
	return out
}
