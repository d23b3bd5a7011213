package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// inside is what Run hands to the process it starts.
type inside struct {
	Options
	Work string
}

// Inside plays the demo in the namespaces that this process was started in, and gives the exit status. It belongs into
// a process that Run has started: Variable is set.
func Inside(w, errs io.Writer) int {
	// Ctrl-C goes to the whole group; what it ends is Run, which ends this.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	var in inside
	if err := json.Unmarshal([]byte(os.Getenv(Variable)), &in); err != nil {
		fmt.Fprintf(errs, "detour: %s is detour's own: %v\n", Variable, err)
		return 1
	}
	in.work = in.Work
	err := play(w, in.Options)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errs, "detour: demo: %v\n", err)
	if errors.Is(err, ErrUnavailable) {
		fmt.Fprintln(errs, hint())
	}
	return 1
}

// hint says what to do where there are no namespaces.
func hint() string {
	const knob = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	if b, err := os.ReadFile(knob); err == nil && strings.TrimSpace(string(b)) == "1" && os.Geteuid() != 0 {
		return "AppArmor forbids them to ordinary users here: `sudo detour demo` works, or `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
	}
	return "in a container it needs CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged)"
}

func play(out io.Writer, o Options) error {
	begin := time.Now()
	w, err := newWorld(o.work)
	if err != nil {
		return err
	}
	st := &stage{printer: &printer{w: out, color: o.Color}, o: o, w: w, seen: map[string]bool{}, told: map[string]bool{}}
	st.intro()
	for _, s := range steps {
		if slices.Contains(o.Steps, s.ID) {
			st.play(s)
		}
	}
	st.end()
	if st.err != nil {
		st.line("")
		return st.err
	}
	st.line("\n%s", st.paint(cyan, strings.Repeat("─", width)))
	for _, p := range st.played {
		st.line("%s", p)
	}
	st.line("\n%s", st.paint(bold, fmt.Sprintf("%s as it should be, in %.1f s.", plural(len(st.played)), time.Since(begin).Seconds())))
	return nil
}

func plural(n int) string {
	if n == 1 {
		return "1 step was"
	}
	return fmt.Sprintf("%d steps, each", n)
}

func (st *stage) intro() {
	st.line(`%s

  %s   %s   in us-east1, where it runs
  %s   %s    in us-west

The servers, the DNS and the network are stand-ins that live in this demo only.
The proxy, the configuration and the requests are real. The application is a
shell under %s; nothing about it ever changes.`,
		st.paint(bold, "An application asks for http://mydb.com. Two regions can serve it:"),
		st.regions(eastName), st.regions(eastAddr.String()), st.regions(westName), st.regions(westAddr.String()),
		st.paint(bold, "detour run"))
}
