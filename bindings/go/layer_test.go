package litemamba_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"litemamba"
)

func TestLibrary(t *testing.T) {
	if v := litemamba.Version(); strings.Count(v, ".") != 2 {
		t.Errorf("the version is %q", v)
	}
	if v := litemamba.ABIVersion(); v < 1 {
		t.Errorf("the ABI version is %d", v)
	}
	if info := litemamba.BuildInfo(); !strings.Contains(info, litemamba.Version()) {
		t.Errorf("the build info is %q", info)
	}
	if err := litemamba.SetNumThreads(2); err != nil {
		t.Error(err)
	}
	if info := litemamba.BuildInfo(); !strings.Contains(info, "threads 2") {
		t.Errorf("with two threads the build info is %q", info)
	}
	if err := litemamba.SetNumThreads(0); err != nil {
		t.Error(err)
	}
	litemamba.CUDAAvailable()
}

func TestDefaults(t *testing.T) {
	expected := litemamba.Config{
		Variant: litemamba.STCN, DModel: 48, DState: 16, DConv: 4, ConvDilations: []int{1}, Expand: 2,
		DtMin: 0.001, DtMax: 0.1, DtScale: 1, DtInitFloor: 0.0001, ConvBias: true, LayerIdx: -1, DType: litemamba.F32,
	}
	if config := litemamba.NewConfig(litemamba.STCN, 48); !reflect.DeepEqual(config, expected) {
		t.Errorf("NewConfig gives %+v; it must give %+v", config, expected)
	}
}

// Every field crosses to C and back, under its own name.
func TestConfig(t *testing.T) {
	config := litemamba.Config{
		Variant: litemamba.DPWC, DModel: 12, DState: 5, DConv: 3, ConvDilations: []int{1, 4, 2}, Expand: 1.5, DtRank: 3,
		DtMin: 0.002, DtMax: 0.2, DtInit: litemamba.DtInitConstant, DtScale: 0.5, DtInitFloor: 0.003,
		ConvBias: false, Bias: true, UseFastPath: true, LayerIdx: 4, DType: litemamba.F32, DeviceIndex: 0,
		Math: litemamba.MathTF32, Seed: 99,
	}
	layer := must(litemamba.New(config))
	defer layer.Close()
	if actual := layer.Config(); !reflect.DeepEqual(actual, config) {
		t.Errorf("%+v became %+v", config, actual)
	}
	if layer.DModel() != 12 || layer.DInner() != 18 {
		t.Errorf("d_model %d and d_inner %d; they must be 12 and 18", layer.DModel(), layer.DInner())
	}
	layer.Config().ConvDilations[0] = 77
	if layer.Config().ConvDilations[0] != 1 {
		t.Error("the layer's dilations can be changed from outside")
	}

	automatic := must(litemamba.New(litemamba.NewConfig(litemamba.PTCN, 40)))
	defer automatic.Close()
	if rank := automatic.Config().DtRank; rank != 3 {
		t.Errorf("dt_rank is resolved to %d; it must be ceil(40 / 16)", rank)
	}
}

func TestChunksInPlaceAndLongerOutputs(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	const batch, seqlen = 1, 7
	x := ramp(batch * seqlen * 8)
	whole := make([]float32, len(x))
	if err := layer.Forward(whole, x, batch, seqlen, nil); err != nil {
		t.Fatal(err)
	}

	cache := must(layer.NewCache(batch))
	defer cache.Close()
	y := slices.Clone(x)
	if err := layer.Forward(y[:3*8], y[:3*8], batch, 3, cache); err != nil {
		t.Fatal(err)
	}
	if err := layer.Forward(y[3*8:], y[3*8:5*8], batch, 2, cache); err != nil { // the output is longer
		t.Fatal(err)
	}
	if !slices.Equal(y[5*8:], x[5*8:]) {
		t.Error("what lies behind the output was written")
	}
	if err := layer.Forward(y[5*8:], y[5*8:], batch, 2, cache); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(bits(y), bits(whole)) {
		t.Error("chunks in place differ from one pass")
	}
}

func TestNothingToDo(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	cache := must(layer.NewCache(2))
	defer cache.Close()
	none := must(layer.NewCache(0))
	defer none.Close()
	for what, err := range map[string]error{
		"no tokens":     layer.Forward(nil, nil, 2, 0, cache),
		"no batch":      layer.Forward(nil, []float32{}, 0, 5, nil),
		"no sequences":  layer.Step(nil, nil, none),
		"no lanes":      layer.StepLanes(nil, nil, nil, cache),
		"an empty tail": layer.Forward(make([]float32, 8)[8:], make([]float32, 8)[8:], 2, 0, nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if offset := cache.SeqlenOffset(); offset != 0 {
		t.Errorf("the cache has moved on by %d", offset)
	}
}

func TestCache(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	cache := must(layer.NewCache(2))
	defer cache.Close()
	x, y := ramp(2*8), make([]float32, 2*8)
	step := func(c *litemamba.Cache) []float32 {
		t.Helper()
		if err := layer.Step(y, x, c); err != nil {
			t.Fatal(err)
		}
		return slices.Clone(y)
	}
	first := step(cache)
	if cache.Batch() != 2 || cache.SeqlenOffset() != 1 || cache.Bytes() == 0 {
		t.Errorf("batch %d, offset %d, %d bytes", cache.Batch(), cache.SeqlenOffset(), cache.Bytes())
	}

	fork := must(cache.Clone())
	defer fork.Close()
	second := step(cache)
	if !slices.Equal(step(fork), second) {
		t.Error("a clone goes on differently")
	}

	// A state that is moved by hand.
	moved := must(layer.NewCacheTyped(2, litemamba.F32))
	defer moved.Close()
	step(fork)
	for _, info := range slices.Backward(must(fork.States())) { // the longest history last
		state := make([]float32, info.Count)
		if err := fork.GetState(info.Name, state); err != nil {
			t.Fatal(err)
		}
		if err := moved.SetState(info.Name, state); err != nil {
			t.Fatal(err)
		}
	}
	longest := make([]float32, 2*layer.DInner()*13)
	if err := fork.GetState("conv_state.2", longest); err != nil {
		t.Fatal(err)
	}
	if err := moved.SetState("conv_state.2", longest); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(step(moved), step(fork)) {
		t.Error("a moved state goes on differently")
	}

	if err := cache.ResetLane(1); err != nil {
		t.Fatal(err)
	}
	if again := step(cache); !slices.Equal(again[8:], first[8:]) || slices.Equal(again[:8], first[:8]) {
		t.Error("ResetLane(1) must begin lane 1 anew and no other")
	}
	if err := cache.Reset(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(step(cache), first) {
		t.Error("Reset must begin anew")
	}
}

func TestLanes(t *testing.T) {
	layer := newLayer(litemamba.STCN, 8)
	defer layer.Close()
	all, some := must(layer.NewCache(3)), must(layer.NewCache(3))
	defer all.Close()
	defer some.Close()
	x, y := ramp(3*8), make([]float32, 3*8)
	if err := layer.Step(y, x, all); err != nil {
		t.Fatal(err)
	}
	lanes := slices.Concat(x[2*8:], x[:8])
	if err := layer.StepLanes(lanes, lanes, []int{2, 0}, some); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lanes, slices.Concat(y[2*8:], y[:8])) {
		t.Error("the lanes' tokens are not those of a whole step")
	}

	// From another cache, which is older or newer, and from the cache itself.
	for _, copies := range []error{
		some.CopyLane(1, all, 1), all.CopyLane(0, some, 2), some.CopyLane(0, some, 1),
	} {
		if copies != nil {
			t.Error(copies)
		}
	}
	expected := must(all.Clone())
	defer expected.Close()
	if err := expected.CopyLane(0, all, 1); err != nil {
		t.Fatal(err)
	}
	if err := expected.CopyLane(2, all, 2); err != nil {
		t.Fatal(err)
	}
	y2 := make([]float32, 3*8)
	if err := layer.Step(y, x, some); err != nil {
		t.Fatal(err)
	}
	if err := layer.Step(y2, x, expected); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(y, y2) {
		t.Error("copied lanes go on differently")
	}
}

func TestParametersAndFiles(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	parameters := must(layer.Parameters())
	names := make(map[string]litemamba.TensorInfo)
	for _, info := range parameters {
		names[info.Name] = info
	}
	aLog := names["A_log"]
	if !reflect.DeepEqual(aLog, litemamba.TensorInfo{
		Name: "A_log", DType: litemamba.F32, WeightDecay: false, Shape: []int{16, 16}, Count: 256,
	}) {
		t.Errorf("A_log is %+v", aLog)
	}
	if !names["in_proj.weight"].WeightDecay {
		t.Error("in_proj.weight must have weight decay")
	}

	values := ramp(aLog.Count)
	if err := layer.SetParameter("A_log", values); err != nil {
		t.Fatal(err)
	}
	read := make([]float32, aLog.Count)
	if err := layer.GetParameter("A_log", read); err != nil || !slices.Equal(read, values) {
		t.Errorf("A_log reads %v, %v; it must read %v", read, err, values)
	}

	doubles := make([]byte, 8*aLog.Count)
	if err := layer.GetParameterTyped("A_log", litemamba.F64, doubles); err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		if d := math.Float64frombits(binary.NativeEndian.Uint64(doubles[8*i:])); d != float64(v) {
			t.Fatalf("value %d is %v as F64; it must be %v", i, d, v)
		}
	}
	halves := bytes.Repeat([]byte{0x80, 0x3f}, aLog.Count) // 1.0 in BF16, as nearly every machine orders bytes
	if err := layer.SetParameterTyped("A_log", litemamba.BF16, halves); err != nil {
		t.Fatal(err)
	}
	if err := layer.GetParameter("A_log", read); err != nil || read[0] != 1 || read[255] != 1 {
		t.Errorf("A_log reads %v, %v; it must read 1", read, err)
	}

	// A file, its content, and a configuration of one's own.
	path := filepath.Join(t.TempDir(), "layer ü.safetensors")
	if err := layer.Save(path); err != nil {
		t.Fatal(err)
	}
	config := layer.Config()
	x := ramp(3 * 8)
	y, loaded := make([]float32, len(x)), make([]float32, len(x))
	if err := layer.Forward(y, x, 1, 3, nil); err != nil {
		t.Fatal(err)
	}
	for what, load := range map[string]func() (*litemamba.Layer, error){
		"Load":                    func() (*litemamba.Layer, error) { return litemamba.Load(path, "", nil) },
		"Load with a Config":      func() (*litemamba.Layer, error) { return litemamba.Load(path, "", &config) },
		"LoadBytes":               func() (*litemamba.Layer, error) { return litemamba.LoadBytes(must(os.ReadFile(path)), "", nil) },
		"LoadBytes with a Config": func() (*litemamba.Layer, error) { return litemamba.LoadBytes(must(os.ReadFile(path)), "", &config) },
	} {
		other, err := load()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := other.Forward(loaded, x, 1, 3, nil); err != nil || !slices.Equal(loaded, y) {
			t.Errorf("%s: the loaded layer computes %v, %v; it must compute %v", what, loaded, err, y)
		}
		other.Close()
	}
}

func TestInferenceParams(t *testing.T) {
	var layers []*litemamba.Layer
	for i, variant := range []litemamba.Variant{litemamba.PTCN, litemamba.Baseline} {
		config := litemamba.NewConfig(variant, 8)
		config.LayerIdx = i
		layers = append(layers, must(litemamba.New(config)))
		defer layers[i].Close()
	}
	params := must(litemamba.NewInferenceParams(2))
	defer params.Close()
	if params.Batch() != 2 || params.Cache(0) != nil || params.Cache(-1) != nil {
		t.Error("new params must have a batch of 2 and no caches")
	}
	h := ramp(2 * 3 * 8)
	forward := func() []float32 {
		t.Helper()
		y := slices.Clone(h)
		for _, layer := range layers {
			if err := layer.ForwardInference(y, y, 2, 3, params); err != nil {
				t.Fatal(err)
			}
		}
		return y
	}
	first := forward()
	if slices.Equal(forward(), first) {
		t.Error("the sequences must continue")
	}

	cache := params.Cache(1)
	if cache.Batch() != 2 || cache.SeqlenOffset() != 6 {
		t.Errorf("the borrowed cache has batch %d and offset %d", cache.Batch(), cache.SeqlenOffset())
	}
	own := must(cache.Clone())
	defer own.Close()
	// Lanes between caches that share a lock, and that do not.
	for _, err := range []error{
		cache.CopyLane(0, params.Cache(1), 1), cache.CopyLane(0, own, 0), own.CopyLane(1, cache, 1),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := params.Reset(); err != nil {
		t.Fatal(err)
	}
	if cache.SeqlenOffset() != 0 {
		t.Error("Reset must begin anew, and leave borrowed caches valid")
	}
	if !slices.Equal(forward(), first) {
		t.Error("after Reset the sequences must be at their beginning")
	}
	if err := cache.Close(); err != nil {
		t.Error(err)
	}
	if params.Cache(1).SeqlenOffset() != 3 {
		t.Error("closing a borrowed cache must leave the params' own")
	}
}

// A borrowed cache alone keeps its params from being freed.
func TestBorrowedCacheKeepsParams(t *testing.T) {
	config := litemamba.NewConfig(litemamba.PTCN, 8)
	config.LayerIdx = 0
	layer := must(litemamba.New(config))
	defer layer.Close()
	x := ramp(8)
	cache := func() *litemamba.Cache {
		params := must(litemamba.NewInferenceParams(1))
		if err := layer.ForwardInference(make([]float32, 8), x, 1, 1, params); err != nil {
			t.Fatal(err)
		}
		return params.Cache(0)
	}()
	for range 3 {
		runtime.GC()
	}
	if err := layer.Step(make([]float32, 8), x, cache); err != nil || cache.SeqlenOffset() != 2 {
		t.Errorf("a step fails with %v, at offset %d", err, cache.SeqlenOffset())
	}
}

func TestStepsAllocateNothing(t *testing.T) {
	config := litemamba.NewConfig(litemamba.PTCN, 16)
	config.LayerIdx = 0
	layer := must(litemamba.New(config))
	defer layer.Close()
	cache := must(layer.NewCache(2))
	defer cache.Close()
	params := must(litemamba.NewInferenceParams(2))
	defer params.Close()
	x, y := ramp(2*16), make([]float32, 2*16)
	lanes, cuSeqlens := []int{1}, []int{0, 1, 2}
	for what, call := range map[string]func() error{
		"Step":            func() error { return layer.Step(y, x, cache) },
		"Step on a stack": func() error { var x, y [2 * 16]float32; return layer.Step(y[:], x[:], cache) },
		"Varlen on a stack": func() error {
			var x, y [2 * 16]float32
			return layer.ForwardVarlen(y[:], x[:], []int{0, 1, 2}, cache)
		},
		"StepLanes":        func() error { return layer.StepLanes(y, x[:16], lanes, cache) },
		"Forward":          func() error { return layer.Forward(y, x, 2, 1, cache) },
		"ForwardVarlen":    func() error { return layer.ForwardVarlen(y, x, cuSeqlens, cache) },
		"ForwardInference": func() error { return layer.ForwardInference(y, x, 2, 1, params) },
		"SeqlenOffset":     func() error { cache.SeqlenOffset(); return nil },
		"ResetLane":        func() error { return cache.ResetLane(1) },
	} {
		allocations := testing.AllocsPerRun(100, func() {
			if err := call(); err != nil {
				t.Fatal(err)
			}
		})
		if allocations != 0 && !(sanitized && strings.HasSuffix(what, "on a stack")) {
			t.Errorf("%s allocates %v times", what, allocations)
		}
	}
}

// ramp is n values that are all different.
func ramp(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i%19)/10 - 0.9 + float32(i)/1000
	}
	return x
}
