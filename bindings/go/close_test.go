package litemamba_test

import (
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"litemamba"
)

func TestClosed(t *testing.T) {
	config := litemamba.NewConfig(litemamba.PTCN, 8)
	config.LayerIdx = 0
	open, layer := must(litemamba.New(config)), must(litemamba.New(config))
	defer open.Close()
	live, cache := must(open.NewCache(1)), must(open.NewCache(1))
	defer live.Close()
	params := must(litemamba.NewInferenceParams(1))
	x := ramp(8)
	if err := open.ForwardInference(make([]float32, 8), x, 1, 1, params); err != nil {
		t.Fatal(err)
	}
	borrowed, detached := params.Cache(0), params.Cache(0)
	for range 2 {
		for _, err := range []error{layer.Close(), cache.Close(), params.Close(), detached.Close()} {
			if err != nil {
				t.Errorf("Close fails with %v", err)
			}
		}
	}

	_, parameters := layer.Parameters()
	_, newCache := layer.NewCache(1)
	_, states := cache.States()
	_, clone := cache.Clone()
	_, saved := cache.Save()
	_, written := cache.WriteTo(io.Discard)
	kept, appended := cache.AppendBinary([]byte{1})
	_, loaded := layer.LoadCache(must(live.Save()))
	_, found := layer.FindParameter("D")
	_, borrowedClone := borrowed.Clone()
	for what, err := range map[string]error{
		"Layer.Forward":             layer.Forward(x, x, 1, 1, nil),
		"Layer.Forward, cache":      open.Forward(x, x, 1, 1, cache),
		"Layer.Step":                layer.Step(x, x, live),
		"Layer.Step, cache":         open.Step(x, x, cache),
		"Layer.Step, borrowed":      open.Step(x, x, borrowed),
		"Layer.Step, detached":      open.Step(x, x, detached),
		"Layer.Step, made by hand":  open.Step(x, x, new(litemamba.Cache)),
		"Layer.StepLanes":           layer.StepLanes(x, x, []int{0}, live),
		"Layer.StepLanes, cache":    open.StepLanes(x, x, []int{0}, cache),
		"Layer.ForwardInference":    layer.ForwardInference(x, x, 1, 1, params),
		"Layer.ForwardInference, p": open.ForwardInference(x, x, 1, 1, params),
		"ForwardInference, by hand": open.ForwardInference(x, x, 1, 1, new(litemamba.InferenceParams)),
		"Layer.ForwardVarlen":       layer.ForwardVarlen(x, x, []int{0, 1}, live),
		"ForwardVarlen, cache":      open.ForwardVarlen(x, x, []int{0, 1}, cache),
		"Layer.LoadCache":           loaded,
		"Layer.FindParameter":       found,
		"Layer.GetParameterFloat64": layer.GetParameterFloat64("D", nil),
		"Layer.SetParameterFloat64": layer.SetParameterFloat64("D", nil),
		"Cache.Save":                saved,
		"Cache.WriteTo":             written,
		"Cache.AppendBinary":        appended,
		"Layer.Parameters":          parameters,
		"Layer.NewCache":            newCache,
		"Layer.GetParameter":        layer.GetParameter("D", x),
		"Layer.SetParameter":        layer.SetParameter("D", x),
		"Layer.GetParameterTyped":   layer.GetParameterTyped("D", litemamba.F32, nil),
		"Layer.SetParameterTyped":   layer.SetParameterTyped("D", litemamba.F32, nil),
		"Layer.Save":                layer.Save(t.TempDir() + "/x"),
		"Layer made by hand":        new(litemamba.Layer).Step(x, x, live),
		"Cache.Reset":               cache.Reset(),
		"Cache.ResetLane":           cache.ResetLane(0),
		"Cache.CopyLane":            cache.CopyLane(0, live, 0),
		"Cache.CopyLane, from":      live.CopyLane(0, cache, 0),
		"Cache.CopyLane, detached":  borrowed.CopyLane(0, detached, 0),
		"Cache.CopyLane, by hand":   live.CopyLane(0, new(litemamba.Cache), 0),
		"Cache.GetState":            cache.GetState("ssm_state", x),
		"Cache.SetState":            cache.SetState("ssm_state", x),
		"Cache.States":              states,
		"Cache.Clone":               clone,
		"Cache.Clone, borrowed":     borrowedClone,
		"InferenceParams.Reset":     params.Reset(),
	} {
		if !errors.Is(err, litemamba.ErrClosed) {
			t.Errorf("%s gives %v; it must give ErrClosed", what, err)
		}
	}
	if cache.SeqlenOffset() != 0 || cache.Bytes() != 0 || params.Cache(0) != nil || live.SeqlenOffset() != 0 {
		t.Error("what is closed must be empty, and failed calls must move nothing on")
	}
	if !slices.Equal(kept, []byte{1}) {
		t.Errorf("AppendBinary that fails gives %v", kept)
	}
	if layer.DModel() != 8 || layer.Config().DState != 16 || cache.Batch() != 1 {
		t.Error("what never changes must be known after Close too")
	}
}

// Goroutines that share a layer until it is closed under them: each call is done as a whole, or not at all.
func TestCloseDuringCalls(t *testing.T) {
	const goroutines, dModel, seqlen = 16, 32, 8
	for range 20 {
		layer := newLayer(litemamba.PTCN, dModel)
		shared := must(layer.NewCache(1))
		x := ramp(seqlen * dModel)
		expected := make([]float32, len(x))
		if err := layer.Forward(expected, x, 1, seqlen, nil); err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		var group sync.WaitGroup
		for range goroutines {
			group.Add(1)
			go func() {
				defer group.Done()
				y := make([]float32, len(x))
				for {
					clear(y)
					err := layer.Forward(y, x, 1, seqlen, nil)
					if errors.Is(err, litemamba.ErrClosed) {
						return
					}
					if err != nil || y[len(y)-1] != expected[len(y)-1] {
						t.Errorf("a call fails with %v, or gave %v", err, y)
						return
					}
					if err := layer.Step(y, x[:dModel], shared); err != nil && !errors.Is(err, litemamba.ErrClosed) {
						t.Errorf("a step fails with %v", err)
						return
					}
					calls.Add(1)
				}
			}()
		}
		for calls.Load() < 3*goroutines {
			runtime.Gosched()
		}
		group.Add(3)
		go func() { defer group.Done(); shared.Close() }()
		go func() { defer group.Done(); layer.Close() }()
		go func() { defer group.Done(); layer.Close() }()
		group.Wait()
	}
}

// Parameters change between calls, never within one.
func TestSetParameterDuringCalls(t *testing.T) {
	const seqlen = 500
	layer := newLayer(litemamba.Baseline, 16)
	defer layer.Close()
	d := make([]float32, layer.DInner())
	x := ramp(seqlen * 16)
	results := make([][]float32, 2)
	set := func(which int) {
		for i := range d {
			d[i] = float32(which)
		}
		if err := layer.SetParameter("D", d); err != nil {
			t.Error(err)
		}
	}
	for which := range results {
		set(which)
		results[which] = make([]float32, len(x))
		if err := layer.Forward(results[which], x, 1, seqlen, nil); err != nil {
			t.Fatal(err)
		}
	}
	var calls atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Add(1)
		go func() {
			defer group.Done()
			y := make([]float32, len(x))
			for calls.Add(1) < 400 {
				if err := layer.Forward(y, x, 1, seqlen, nil); err != nil {
					t.Error(err)
				}
				if !slices.Equal(y, results[0]) && !slices.Equal(y, results[1]) {
					t.Error("a result belongs to neither of the parameters")
				}
			}
		}()
	}
	for i := 0; calls.Load() < 400; i++ {
		set(i % 2)
	}
	group.Wait()
}

// Many goroutines with streams of their own on one layer: each gets what it would get alone.
func TestGoroutines(t *testing.T) {
	const goroutines, dModel, seqlen = 32, 16, 50
	layer := newLayer(litemamba.STCN, dModel)
	defer layer.Close()
	var group sync.WaitGroup
	for g := range goroutines {
		group.Add(1)
		go func() {
			defer group.Done()
			x := ramp(seqlen * dModel)
			for i := range x {
				x[i] += float32(g)
			}
			whole, y := make([]float32, len(x)), make([]float32, len(x))
			if err := layer.Forward(whole, x, 1, seqlen, nil); err != nil {
				t.Error(err)
			}
			cache := must(layer.NewCache(1))
			defer cache.Close()
			for i := 0; i < len(x); i += dModel {
				if err := layer.Step(y[i:], x[i:i+dModel], cache); err != nil {
					t.Error(err)
				}
				// A message belongs to its own call, whatever thread the goroutine is on.
				err := layer.GetParameter("no parameter of goroutine "+strconv.Itoa(g), nil)
				if err == nil || !strings.Contains(err.Error(), "goroutine "+strconv.Itoa(g)) {
					t.Errorf("goroutine %d is told %v", g, err)
				}
			}
			if !slices.Equal(y, whole) {
				t.Errorf("goroutine %d: steps and forward differ", g)
			}
		}()
	}
	group.Wait()
}

// Two caches, each copied into the other by many goroutines, and used meanwhile: no two wait for each other.
func TestCopyLaneBothWays(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	a, b := must(layer.NewCache(1)), must(layer.NewCache(1))
	defer a.Close()
	defer b.Close()
	var group sync.WaitGroup
	for g := range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			x := ramp(8)
			for range 500 {
				from, to := a, b
				if g%2 == 0 {
					from, to = b, a
				}
				if err := to.CopyLane(0, from, 0); err != nil {
					t.Error(err)
				}
				if err := layer.Step(x, x, to); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
}

// What is closed and what is forgotten is freed, and a call that fails leaves nothing behind.
func TestMemory(t *testing.T) {
	if sanitized {
		t.Skip("a sanitizer's own memory grows")
	}
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("the process's memory is read from /proc")
	}
	config := litemamba.NewConfig(litemamba.Baseline, 256)
	config.LayerIdx = 0
	layer := must(litemamba.New(config))
	defer layer.Close()
	const batch = 64
	x := make([]float32, batch*256)
	for what, use := range map[string]func(){
		"closed": func() {
			layer := must(litemamba.New(config))
			cache := must(layer.NewCache(batch))
			clone := must(cache.Clone())
			params := must(litemamba.NewInferenceParams(batch))
			if err := layer.ForwardInference(x, x, batch, 1, params); err != nil {
				t.Error(err)
			}
			for _, handle := range []io.Closer{layer, cache, clone, params} {
				handle.Close()
			}
		},
		"layers": func() { must(litemamba.New(config)) },
		"caches": func() { must(must(layer.NewCache(batch)).Clone()) },
		"params": func() {
			if err := layer.ForwardInference(x, x, batch, 1, must(litemamba.NewInferenceParams(batch))); err != nil {
				t.Error(err)
			}
		},
		"errors": func() {
			for range 20_000 {
				if layer.GetParameter(strings.Repeat("no such parameter ", 10), nil) == nil {
					t.Error("no error")
				}
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			settle := func() {
				for range 2 {
					cleaned := make(chan struct{})
					runtime.AddCleanup(new([64]int), func(c chan struct{}) { close(c) }, cleaned)
					runtime.GC()
					<-cleaned
				}
				time.Sleep(2 * time.Millisecond) // cleanups may run side by side
			}
			for range 4 {
				use()
				settle()
			}
			before := residentBytes(t)
			for range 50 {
				use()
				if what != "errors" && what != "closed" {
					settle()
				}
			}
			settle()
			if grown := residentBytes(t) - before; grown > 40<<20 {
				t.Errorf("the process has grown by %d MiB", grown>>20)
			}
		})
	}
}

func residentBytes(t *testing.T) int {
	t.Helper()
	fields := strings.Fields(string(must(os.ReadFile("/proc/self/statm"))))
	return must(strconv.Atoi(fields[1])) * os.Getpagesize()
}
