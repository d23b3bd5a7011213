//go:build linux

package feature

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	_ "detour.dev/detour/internal/cli" // so that a cached result is of this code: the binary is built from it
)

// Variables that tell the test binary what it is this time.
const (
	binaryVariable = "DETOUR_FEATURE_BINARY" // the suite, inside; the value is the detour binary
	launchVariable = "DETOUR_FEATURE_LAUNCH" // a launcher (launch_test.go)
)

// TestMain builds the binary and runs the suite in a user and network namespace of its own, where it may make more.
func TestMain(m *testing.M) {
	if how := os.Getenv(launchVariable); how != "" {
		launch(how)
	}
	if os.Getenv(toolVariable) != "" {
		os.Exit(runTool(os.Args[1:]))
	}
	if os.Getenv(binaryVariable) == "" {
		os.Exit(outside())
	}
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "4") // most of a test is waiting
	}
	status := m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

func outside() int {
	dir, err := os.MkdirTemp("", "detour-feature")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin := filepath.Join(dir, "detour")
	build := exec.Command("go", "build", "-race=false", "-o", bin, "detour.dev/detour/cmd/detour")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binary:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), binaryVariable+"="+bin, "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "user and network namespaces are needed:", err)
		return 1
	}
	return 0
}
