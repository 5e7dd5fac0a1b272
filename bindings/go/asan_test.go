//go:build asan && go1.25

package litemamba_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"litemamba/internal/cloop"
)

// With the address sanitizer (and Go 1.25) memory that is lost is reported when the tests end. Some is lost on purpose in a
// process of its own, which must fail for it.
func TestLeaksAreSeen(t *testing.T) {
	const planted = "LITEMAMBA_TEST_PLANT_LEAK"
	if os.Getenv(planted) != "" {
		for range 10 {
			cloop.New(64)
		}
		return
	}
	command := exec.Command(os.Args[0], "-test.run=^TestLeaksAreSeen$")
	command.Env = append(os.Environ(), planted+"=1")
	if output, err := command.CombinedOutput(); err == nil || !strings.Contains(string(output), "LeakSanitizer") {
		t.Errorf("the leak is not seen: %v\n%s", err, output)
	}
}
