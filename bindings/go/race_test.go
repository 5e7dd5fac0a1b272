//go:build race

package litemamba_test

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"litemamba"
)

// Races on the slices that C reads and writes are seen by the race detector. They are planted in a process of
// their own, which must fail for it.
func TestRacesAreSeen(t *testing.T) {
	const planted = "LITEMAMBA_TEST_PLANT_RACE"
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	x, y := ramp(8), make([]float32, 8)
	races := map[string]func(){
		"output": func() { y[3] = 1 },
		"input":  func() { x[3] = 1 },
		"none":   func() { _ = x[3] },
	}
	if race := races[os.Getenv(planted)]; race != nil {
		var group sync.WaitGroup
		group.Add(1)
		go func() { defer group.Done(); race() }()
		if err := layer.Forward(y, x, 1, 1, nil); err != nil {
			t.Error(err)
		}
		group.Wait()
		return
	}
	for name := range races {
		command := exec.Command(os.Args[0], "-test.run=^TestRacesAreSeen$")
		command.Env = append(os.Environ(), planted+"="+name)
		output, _ := command.CombinedOutput()
		if seen := strings.Contains(string(output), "DATA RACE"); seen != (name != "none") {
			t.Errorf("%s: a race is seen: %v\n%s", name, seen, output)
		}
	}
}
