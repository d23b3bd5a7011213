package demo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// event says what happens to the world.
func (st *stage) event(what string) {
	if st.err == nil {
		st.open = false
		st.line("\n%s\n", st.paint(bold, "▸ "+what))
	}
}

// sabotage kills the near stand-in if a test has asked for it.
func (st *stage) sabotage() {
	if st.o.KillBefore == st.id && st.err == nil {
		st.w.east.stop()
	}
}

// analyze gives what `detour analyze --connect` says, and shows the warnings.
func (st *stage) analyze() (out string) {
	st.do(func() error {
		args := []string{"analyze", "-f", "config", "--locality", inEast, "--connect"}
		st.gap()
		st.command("$", "detour %s | grep warning", strings.Join(args, " "))
		lines, _, err := st.w.detour(st.o.Binary, args...)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if strings.Contains(l, " warning: ") {
				st.said(l)
				out += l + "\n"
			}
		}
		return nil
	})
	return out
}

// awaitLog waits for a line of detour's log with all the words, and gives it.
func (st *stage) awaitLog(words ...string) (found string) {
	st.do(func() error {
		for begin := time.Now(); found == "" && time.Since(begin) < patience; time.Sleep(10 * time.Millisecond) {
			st.logs()
			for _, l := range st.log {
				if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) }) {
					found = l
				}
			}
		}
		return nil
	})
	return found
}

// The walkthrough's own times (2-destination-rule.yaml), and what may be lost on a busy machine.
const (
	baseEjection = time.Minute
	sweep        = 15 * time.Second
	tolerance    = 4 * time.Second
	between      = 2 * time.Second // requests, as a person would
	outage       = 10 * time.Second
)

func stepComesBack(st *stage) {
	st.run(inEast, preferNear)
	first := st.curl(1, app)
	st.event("us-east-1: its server stops")
	st.do(func() error { st.w.east.stop(); return nil })
	ejected := time.Now()
	down := st.curl(3, app)
	st.endpoints(east(80, "FAILED"), west(80, "OK"))
	st.all(first, eastName)
	st.all(down, westName)
	st.line("")
	back, away, wrong := st.waitForReturn(ejected)
	st.endpoints(east(80, "OK"), west(80, "OK"))
	st.expect(len(wrong) == 0, fmt.Sprintf("meanwhile all %d answers are from us-west-1", away), strings.Join(wrong, ", "))
	st.expect(back >= baseEjection-time.Second && back <= baseEjection+sweep+tolerance,
		"traffic returns at the first sweep after 60 s"+fmt.Sprintf(": it took %.0f s", back.Seconds()), "another time")
}

// waitForReturn asks every two seconds until us-east-1 answers, which starts again after a while. It gives when that was,
// how often us-west-1 answered until then, and what else came.
func (st *stage) waitForReturn(ejected time.Time) (back time.Duration, away int, wrong []string) {
	st.do(func() error {
		st.command("sh$", "curl %s%s", app, st.paint(dim, "   # every 2 s"))
		running, shown := false, time.Duration(0)
		for {
			since := time.Since(ejected)
			if !running && since > outage {
				running = true
				if err := st.w.east.start(); err != nil {
					return err
				}
				st.wipe()
				st.event("us-east-1: its server runs again; it stays ejected for now")
			}
			a, err := st.ask(app)
			if err = errors.Join(err, st.printer.err); err != nil {
				return err
			}
			switch {
			case a.body == from(eastName) || since > baseEjection+sweep+2*tolerance:
				st.wipe()
				st.answer(a)
				st.logs()
				back = since
				return nil
			case a.body == from(westName):
				away++
			default:
				wrong = append(wrong, a.what())
			}
			if st.o.Live || since-shown >= 10*time.Second {
				shown = since
				st.progress(since, away, a)
			}
			time.Sleep(between)
		}
	})
	return back, away, wrong
}

// progress is a line that counts on a terminal, and one of many in a pipe.
func (st *stage) progress(since time.Duration, n int, a answer) {
	text := fmt.Sprintf("  %2.0f s  %2d requests, the last: %s", since.Seconds(), n, a.body)
	if st.o.Live {
		st.print("\r\x1b[K%s", st.regions(text))
		return
	}
	st.line("%s", text)
}

// wipe takes the counting line away.
func (st *stage) wipe() {
	if st.o.Live {
		st.print("\r\x1b[K")
	}
}
