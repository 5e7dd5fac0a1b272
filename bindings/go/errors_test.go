package litemamba_test

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"litemamba"
)

// Every way to fail: its code, and words of its message. Those that end in "!" in the first column never
// reach C.
func TestErrors(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	wide := newLayer(litemamba.PTCN, 16)
	defer wide.Close()
	numbered := func(seed uint64) *litemamba.Layer {
		config := litemamba.NewConfig(litemamba.PTCN, 8)
		config.LayerIdx, config.Seed = 3, seed
		return must(litemamba.New(config))
	}
	third, otherThird := numbered(1), numbered(2)
	defer third.Close()
	defer otherThird.Close()
	cache := must(layer.NewCache(2))
	defer cache.Close()
	wideCache := must(wide.NewCache(2))
	defer wideCache.Close()
	params := must(litemamba.NewInferenceParams(2))
	defer params.Close()
	x, y := ramp(2*3*8), make([]float32, 2*3*8)
	if err := third.ForwardInference(y, x, 2, 3, params); err != nil {
		t.Fatal(err)
	}

	directory := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	saved := filepath.Join(directory, "saved.safetensors")
	if err := layer.Save(saved); err != nil {
		t.Fatal(err)
	}
	content := must(os.ReadFile(saved))
	otherShape := layer.Config()
	otherShape.DState = 7
	with := func(change func(*litemamba.Config)) error {
		config := litemamba.NewConfig(litemamba.PTCN, 8)
		change(&config)
		layer, err := litemamba.New(config)
		if err == nil {
			layer.Close()
		}
		return err
	}
	failed := func(layer *litemamba.Layer, err error) error {
		if err == nil {
			layer.Close()
		}
		return err
	}
	noCache := func(cache *litemamba.Cache, err error) error {
		if err == nil {
			cache.Close()
		}
		return err
	}

	for _, test := range []struct {
		what  string
		err   error
		code  litemamba.Status
		words string
	}{
		{"the zero Config", failed(litemamba.New(litemamba.Config{})), litemamba.ErrInvalidConfig, "is 0"},
		{"a Config begun otherwise", failed(litemamba.New(litemamba.Config{DModel: 64})), litemamba.ErrInvalidConfig, "must"},
		{"d_model", with(func(c *litemamba.Config) { c.DModel = 0 }), litemamba.ErrInvalidConfig, "d_model is 0"},
		{"d_model!", with(func(c *litemamba.Config) { c.DModel = -1 }), litemamba.ErrInvalidConfig, "d_model is -1"},
		{"d_state!", with(func(c *litemamba.Config) { c.DState = -2 }), litemamba.ErrInvalidConfig, "d_state is -2"},
		{"d_conv!", with(func(c *litemamba.Config) { c.DConv = -3 }), litemamba.ErrInvalidConfig, "d_conv is -3"},
		{"dt_rank!", with(func(c *litemamba.Config) { c.DtRank = -4 }), litemamba.ErrInvalidConfig, "dt_rank is -4"},
		{"device_index!", with(func(c *litemamba.Config) { c.DeviceIndex = -5 }), litemamba.ErrInvalidConfig, "device_index is -5"},
		{"dilations!", with(func(c *litemamba.Config) { c.ConvDilations = []int{1, -6} }), litemamba.ErrInvalidConfig, "conv_dilations[1] is -6"},
		{"no dilations", with(func(c *litemamba.Config) { c.ConvDilations = nil }), litemamba.ErrInvalidConfig, "conv_dilations"},
		{"expand", with(func(c *litemamba.Config) { c.Expand = math.NaN() }), litemamba.ErrInvalidConfig, "expand is NaN"},
		{"variant", with(func(c *litemamba.Config) { c.Variant = 9 }), litemamba.ErrInvalidConfig, "variant is 9"},
		{"layer_idx", with(func(c *litemamba.Config) { c.LayerIdx = -7 }), litemamba.ErrInvalidConfig, "layer_idx is -7"},
		{"dtype", with(func(c *litemamba.Config) { c.DType = 9 }), litemamba.ErrInvalidConfig, "dtype is 9"},
		{"no dtype", with(func(c *litemamba.Config) { c.DType = litemamba.DTypeDefault }), litemamba.ErrInvalidConfig, "dtype is 0"},
		{"memory", with(func(c *litemamba.Config) { c.DModel = 1 << 40 }), litemamba.ErrOutOfMemory, "memory"},

		{"x short!", layer.Forward(y, x[:47], 2, 3, nil), litemamba.ErrShapeMismatch, "x has 47 values; it must have batch * seqlen * d_model: 2 * 3 * 8"},
		{"x long!", layer.Forward(y, x, 2, 2, nil), litemamba.ErrShapeMismatch, "x has 48 values"},
		{"x empty!", layer.Forward(y, nil, 2, 3, nil), litemamba.ErrShapeMismatch, "x has 0 values"},
		{"dst short!", layer.Forward(y[:47], x, 2, 3, nil), litemamba.ErrShapeMismatch, "dst has room for 47 values; it must have room for 48"},
		{"dst nil!", layer.Forward(nil, x, 2, 3, nil), litemamba.ErrShapeMismatch, "dst has room for 0 values"},
		{"batch!", layer.Forward(y, x, -1, 3, nil), litemamba.ErrInvalidArgument, "batch is -1"},
		{"seqlen!", layer.Forward(y, x, 2, -3, nil), litemamba.ErrInvalidArgument, "seqlen is -3"},
		{"overflow!", layer.Forward(y, nil, math.MaxInt, math.MaxInt, nil), litemamba.ErrShapeMismatch, "x has 0 values"},
		{"wrap!", layer.Forward(y, nil, 1<<62, 4, nil), litemamba.ErrShapeMismatch, "x has 0 values"},
		{"overlap", layer.Forward(x[1:41], x[:40], 1, 5, nil), litemamba.ErrInvalidArgument, "overlaps"},
		{"batch of the cache", layer.Forward(y, x, 1, 6, cache), litemamba.ErrShapeMismatch, "batch"},
		{"shape of the cache", layer.Forward(y, x, 2, 3, wideCache), litemamba.ErrShapeMismatch, "cache"},

		{"step x!", layer.Step(y, x[:15], cache), litemamba.ErrShapeMismatch, "x has 15 values; it must have batch * seqlen * d_model: 2 * 1 * 8"},
		{"step dst!", layer.Step(y[:15], x[:16], cache), litemamba.ErrShapeMismatch, "dst has room for 15"},
		{"step cache!", layer.Step(y, x[:16], nil), litemamba.ErrNullPointer, "cache is nil"},
		{"step shape", layer.Step(y, x[:16], wideCache), litemamba.ErrShapeMismatch, "cache"},
		{"lanes x!", layer.StepLanes(y, x[:9], []int{0}, cache), litemamba.ErrShapeMismatch, "x has 9 values; it must have len(lanes) * d_model: 1 * 8"},
		{"lanes dst!", layer.StepLanes(y[:7], x[:8], []int{0}, cache), litemamba.ErrShapeMismatch, "dst has room for 7"},
		{"lanes negative!", layer.StepLanes(y, x[:8], []int{-1}, cache), litemamba.ErrInvalidArgument, "lanes[0] is -1"},
		{"lanes range", layer.StepLanes(y, x[:8], []int{2}, cache), litemamba.ErrInvalidArgument, "2"},
		{"lanes twice", layer.StepLanes(y, x[:16], []int{1, 1}, cache), litemamba.ErrInvalidArgument, "lanes[1] is 1"},
		{"lanes cache!", layer.StepLanes(y, x[:8], []int{0}, nil), litemamba.ErrNullPointer, "cache is nil"},

		{"varlen x!", layer.ForwardVarlen(y, x[:47], []int{0, 2, 6}, nil), litemamba.ErrShapeMismatch, "x has 47 values; it must have cuSeqlens[2] * d_model: 6 * 8"},
		{"varlen x long!", layer.ForwardVarlen(y, x, []int{0, 2, 5}, nil), litemamba.ErrShapeMismatch, "x has 48 values"},
		{"varlen nothing!", layer.ForwardVarlen(y, x, nil, nil), litemamba.ErrShapeMismatch, "x has 48 values; it must have cuSeqlens[0] * d_model: 0 * 8"},
		{"varlen overflow!", layer.ForwardVarlen(y, x, []int{0, math.MaxInt}, nil), litemamba.ErrShapeMismatch, "x has 48 values"},
		{"varlen dst!", layer.ForwardVarlen(y[:47], x, []int{0, 6}, nil), litemamba.ErrShapeMismatch, "dst has room for 47"},
		{"varlen first!", layer.ForwardVarlen(y, x, []int{6}, nil), litemamba.ErrInvalidArgument, "cuSeqlens[0] is 6; it must be 0"},
		{"varlen negative!", layer.ForwardVarlen(y, x, []int{0, -1, 6}, nil), litemamba.ErrInvalidArgument, "cuSeqlens[1] is -1"},
		{"varlen back", layer.ForwardVarlen(y, x, []int{0, 7, 6}, nil), litemamba.ErrInvalidArgument, "cu_seqlens[2] is 6"},
		{"varlen batch", layer.ForwardVarlen(y, x, []int{0, 6}, cache), litemamba.ErrShapeMismatch, "batch"},
		{"varlen shape", layer.ForwardVarlen(y, x, []int{0, 2, 6}, wideCache), litemamba.ErrShapeMismatch, "cache"},
		{"varlen overlap", layer.ForwardVarlen(x[1:41], x[:40], []int{0, 5}, nil), litemamba.ErrInvalidArgument, "overlaps"},

		{"cache batch!", noCache(layer.NewCache(-1)), litemamba.ErrInvalidArgument, "batch is -1"},
		{"cache memory", noCache(layer.NewCache(math.MaxInt)), litemamba.ErrOutOfMemory, ""},
		{"cache no dtype", noCache(layer.NewCacheTyped(1, 9)), litemamba.ErrInvalidArgument, "dtype is 9"},
		{"reset lane", cache.ResetLane(2), litemamba.ErrInvalidArgument, "lane"},
		{"reset lane!", cache.ResetLane(-1), litemamba.ErrInvalidArgument, "lane is -1"},
		{"copy lane", cache.CopyLane(2, cache, 0), litemamba.ErrInvalidArgument, "lane"},
		{"copy lane!", cache.CopyLane(-1, cache, 0), litemamba.ErrInvalidArgument, "lane is -1"},
		{"copy from lane!", cache.CopyLane(0, cache, -1), litemamba.ErrInvalidArgument, "srcLane is -1"},
		{"copy shape", cache.CopyLane(0, wideCache, 0), litemamba.ErrShapeMismatch, ""},
		{"copy from nothing!", cache.CopyLane(0, nil, 0), litemamba.ErrNullPointer, "cache is nil"},
		{"state name", cache.GetState("conv_state.9", y), litemamba.ErrNotFound, "conv_state.9"},
		{"state NUL!", cache.GetState("a\x00b", y), litemamba.ErrInvalidArgument, `name is "a\x00b"`},
		{"state count", cache.GetState("ssm_state", y), litemamba.ErrShapeMismatch, "48"},
		{"set state name", cache.SetState("", x), litemamba.ErrNotFound, ""},
		{"set state NUL!", cache.SetState("\x00", x), litemamba.ErrInvalidArgument, "NUL"},
		{"set state count", cache.SetState("ssm_state", nil), litemamba.ErrShapeMismatch, "0"},

		{"params batch!", func() error { _, err := litemamba.NewInferenceParams(-1); return err }(), litemamba.ErrInvalidArgument, "batch is -1"},
		{"params nil!", third.ForwardInference(y, x, 2, 3, nil), litemamba.ErrNullPointer, "params is nil"},
		{"params x!", third.ForwardInference(y, x[:40], 2, 3, params), litemamba.ErrShapeMismatch, "x has 40 values"},
		{"params other batch", third.ForwardInference(y, x, 1, 6, params), litemamba.ErrShapeMismatch, "batch"},
		{"no layer_idx", layer.ForwardInference(y, x, 2, 3, params), litemamba.ErrInvalidArgument, "layer_idx"},
		{"layer_idx taken", otherThird.ForwardInference(y, x, 2, 3, params), litemamba.ErrInvalidArgument, "layer_idx"},

		{"find", func() error { _, err := layer.FindParameter("none"); return err }(), litemamba.ErrNotFound, "none"},
		{"find NUL!", func() error { _, err := layer.FindParameter("D\x00"); return err }(), litemamba.ErrInvalidArgument, "NUL"},
		{"parameter", layer.GetParameter("none", y), litemamba.ErrNotFound, "none"},
		{"parameter NUL!", layer.GetParameter("D\x00", y), litemamba.ErrInvalidArgument, "NUL"},
		{"parameter UTF-8", layer.GetParameter("\xff", y), litemamba.ErrInvalidArgument, "UTF-8"},
		{"parameter count", layer.GetParameter("D", y), litemamba.ErrShapeMismatch, "48"},
		{"parameter none", layer.GetParameter("D", nil), litemamba.ErrShapeMismatch, "0"},
		{"set parameter", layer.SetParameter("none", y), litemamba.ErrNotFound, "none"},
		{"set parameter NUL!", layer.SetParameter("D\x00", y), litemamba.ErrInvalidArgument, "NUL"},
		{"set parameter count", layer.SetParameter("D", y), litemamba.ErrShapeMismatch, "48"},
		{"typed", layer.GetParameterTyped("D", 9, make([]byte, 64)), litemamba.ErrInvalidArgument, "dtype is 9"},
		{"typed NUL!", layer.GetParameterTyped("D\x00", 1, nil), litemamba.ErrInvalidArgument, "NUL"},
		{"typed size", layer.GetParameterTyped("D", litemamba.F64, make([]byte, 64)), litemamba.ErrShapeMismatch, "D has shape"},
		{"set typed size", layer.SetParameterTyped("D", litemamba.F16, nil), litemamba.ErrShapeMismatch, "0"},
		{"set typed NUL!", layer.SetParameterTyped("D\x00", 1, nil), litemamba.ErrInvalidArgument, "NUL"},

		{"no file", failed(litemamba.Load(filepath.Join(directory, "none"), "", nil)), litemamba.ErrIO, "none"},
		{"path NUL!", failed(litemamba.Load("a\x00b", "", nil)), litemamba.ErrInvalidArgument, "path is"},
		{"prefix NUL!", failed(litemamba.Load(saved, "a\x00b", nil)), litemamba.ErrInvalidArgument, "prefix is"},
		{"prefix", failed(litemamba.Load(saved, "layers.7", nil)), litemamba.ErrNotFound, "layers.7"},
		{"no safetensors", failed(litemamba.Load(file("junk", "junk"), "", nil)), litemamba.ErrFormat, ""},
		{"cut short", failed(litemamba.LoadBytes(content[:len(content)-1], "", nil)), litemamba.ErrFormat, ""},
		{"nothing", failed(litemamba.LoadBytes(nil, "", nil)), litemamba.ErrFormat, ""},
		{"another shape", failed(litemamba.LoadBytes(content, "", &otherShape)), litemamba.ErrShapeMismatch, "A_log"},
		{"a bad Config", failed(litemamba.LoadBytes(content, "", &litemamba.Config{})), litemamba.ErrInvalidConfig, ""},
		{"a negative Config!", failed(litemamba.Load(saved, "", &litemamba.Config{DModel: -1})), litemamba.ErrInvalidConfig, "-1"},
		{"save", layer.Save(filepath.Join(directory, "none", "layer")), litemamba.ErrIO, "none"},
		{"save NUL!", layer.Save("\x00"), litemamba.ErrInvalidArgument, "path is"},

		{"threads", litemamba.SetNumThreads(5000), litemamba.ErrInvalidArgument, "5000"},
		{"threads!", litemamba.SetNumThreads(-1), litemamba.ErrInvalidArgument, "n is -1"},
	} {
		var e *litemamba.Error
		var status litemamba.Status
		switch {
		case !errors.As(test.err, &e):
			t.Errorf("%s: the error is %v; it must be an *Error", test.what, test.err)
		case e.Code != test.code || !errors.Is(test.err, test.code) || !errors.As(test.err, &status) || status != test.code:
			t.Errorf("%s: the code is %v; it must be %v (%s)", test.what, e.Code, test.code, e.Message)
		case !strings.Contains(e.Message, test.words) || e.Message == "":
			t.Errorf("%s: the message is %q; it must contain %q", test.what, e.Message, test.words)
		case test.err.Error() != "litemamba: "+e.Message:
			t.Errorf("%s: the error reads %q", test.what, test.err)
		}
	}
	if offset := cache.SeqlenOffset(); offset != 0 {
		t.Errorf("calls that failed have moved the cache on by %d", offset)
	}
}

func TestErrorsOfTheStandardLibrary(t *testing.T) {
	unsupported := error(&litemamba.Error{Code: litemamba.ErrUnsupported, Message: "not here"})
	if !errors.Is(unsupported, errors.ErrUnsupported) {
		t.Error("ErrUnsupported must be an errors.ErrUnsupported")
	}
	if errors.Is(litemamba.ErrIO, errors.ErrUnsupported) || errors.Is(unsupported, litemamba.ErrIO) {
		t.Error("codes must differ")
	}
	if message := litemamba.ErrIO.Error(); message != "litemamba: LM_ERR_IO" {
		t.Errorf("ErrIO reads %q", message)
	}
}

// A library of another binary interface makes no handles.
func TestAnotherABI(t *testing.T) {
	if runtime.GOOS != "linux" || sanitized {
		t.Skip("needs LD_PRELOAD to itself")
	}
	if os.Getenv("LD_PRELOAD") != "" {
		_, create := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 8))
		_, load := litemamba.Load("none", "", nil)
		_, loadBytes := litemamba.LoadBytes(nil, "", nil)
		_, params := litemamba.NewInferenceParams(1)
		for _, err := range []error{create, load, loadBytes, params} {
			if !errors.Is(err, litemamba.ErrUnsupported) || !strings.Contains(err.Error(), "ABI version is 4711") {
				t.Errorf("the error is %v", err)
			}
		}
		return
	}
	library := filepath.Join(t.TempDir(), "other_abi.so")
	compiler := exec.Command("cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library)
	compiler.Stdin = strings.NewReader("unsigned lm_abi_version(void) { return 4711; }")
	if output, err := compiler.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	command := exec.Command(os.Args[0], "-test.run=^TestAnotherABI$")
	command.Env = append(os.Environ(), "LD_PRELOAD="+library)
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
