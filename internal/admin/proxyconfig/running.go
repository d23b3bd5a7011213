package proxyconfig

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"

	"detour.dev/detour/internal/admin"
)

// Process is one running detour, as its admin API describes it.
type Process struct {
	PID   int
	Path  string // of its admin socket
	Args  []string
	State string
	Since time.Time
	Err   error // it answered nothing useful
}

// Running asks every detour of this user that has a socket in the socket directory, by process id.
func Running(ctx context.Context) ([]Process, error) {
	dir, err := admin.SocketDir()
	if err != nil {
		return nil, err
	}
	sockets, err := admin.Sockets(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	all := make([]Process, len(sockets))
	var wg sync.WaitGroup
	for i, s := range sockets {
		wg.Go(func() { all[i] = describe(ctx, s) })
	}
	wg.Wait()
	return all, nil
}

func describe(ctx context.Context, s admin.Socket) Process {
	p := Process{PID: s.PID, Path: s.Path}
	src, err := FromAdmin("unix:" + s.Path)
	if err != nil {
		p.Err = err
		return p
	}
	b, err := src.get(ctx, "/server_info")
	if err != nil {
		p.Err = err
		return p
	}
	info := &adminv3.ServerInfo{}
	if err := decode(b, info); err != nil {
		p.Err = err
		return p
	}
	for _, a := range info.GetNode().GetMetadata().GetFields()["DETOUR_ARGS"].GetListValue().GetValues() {
		p.Args = append(p.Args, a.GetStringValue())
	}
	p.State = info.GetState().String()
	started := info.GetNode().GetMetadata().GetFields()["DETOUR_STARTED"].GetStringValue()
	if at, err := time.Parse(time.RFC3339, started); err == nil {
		p.Since = at.Local()
	} else {
		p.Since = time.Now().Add(-info.GetUptimeCurrentEpoch().AsDuration())
	}
	return p
}

// Command gives the command line as one line, at most 80 characters.
func (p Process) Command() string {
	if len(p.Args) == 0 {
		return "?"
	}
	s := []rune(clean(strings.Join(p.Args, " ")))
	if len(s) > 80 {
		s = append(s[:79], '…')
	}
	return string(s)
}

// WriteProcesses prints the table of detour ps.
func WriteProcesses(w io.Writer, all []Process) error {
	rows := [][]string{{"PID", "STATE", "SINCE", "ADMIN", "COMMAND"}}
	for _, p := range all {
		since, state := "?", "?"
		if p.Err == nil {
			since, state = p.Since.Format(time.DateTime), p.State
		}
		rows = append(rows, []string{strconv.Itoa(p.PID), state, since, "unix:" + p.Path, p.Command()})
	}
	return table(w, 2, rows)
}

// DefaultAdmin is where an admin API is looked for when no detour runs.
const DefaultAdmin = "127.0.0.1:15000"

// Find gives the only running detour, the one with the process id pid if that is not 0, or DefaultAdmin if none runs.
func Find(ctx context.Context, pid int) (*Source, error) {
	all, err := Running(ctx)
	if err != nil && pid == 0 {
		return FromAdmin(DefaultAdmin)
	}
	if err != nil {
		return nil, err
	}
	if pid != 0 {
		for _, p := range all {
			if p.PID == pid {
				return FromAdmin("unix:" + p.Path)
			}
		}
		return nil, fmt.Errorf("no running detour has process id %d; 'detour ps' lists them", pid)
	}
	switch len(all) {
	case 0:
		return FromAdmin(DefaultAdmin)
	case 1:
		return FromAdmin("unix:" + all[0].Path)
	}
	var words []string
	for _, p := range all {
		words = append(words, fmt.Sprintf("%d (%s)", p.PID, p.Command()))
	}
	return nil, fmt.Errorf("%d detours are running, say which with --pid: %s", len(all), strings.Join(words, ", "))
}
