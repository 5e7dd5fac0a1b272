package litemamba_test

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"litemamba"
)

var (
	variants = []litemamba.Variant{litemamba.PTCN, litemamba.STCN, litemamba.DPWC, litemamba.Baseline}
	dtypes   = []litemamba.DType{litemamba.F32, litemamba.F64, litemamba.BF16, litemamba.F16}
)

// newTypedLayer is newLayer with a type.
func newTypedLayer(variant litemamba.Variant, dModel int, dtype litemamba.DType) *litemamba.Layer {
	plain := newLayer(variant, dModel)
	defer plain.Close()
	config := plain.Config()
	config.DType = dtype
	return must(litemamba.New(config))
}

// eachType runs a test on a layer of every variant and type.
func eachType(t *testing.T, test func(t *testing.T, layer *litemamba.Layer)) {
	for _, variant := range variants {
		for _, dtype := range dtypes {
			t.Run(variant.String()+" "+dtype.String(), func(t *testing.T) {
				layer := newTypedLayer(variant, 8, dtype)
				defer layer.Close()
				test(t, layer)
			})
		}
	}
}

// arithmetic is the type in which a layer computes, and a cache holds its state by default.
func arithmetic(layer *litemamba.Layer) litemamba.DType {
	if layer.Config().DType == litemamba.F64 {
		return litemamba.F64
	}
	return litemamba.F32
}

// off is how far a type's rounding may move a result of the small layers here.
func off(dtype litemamba.DType) float64 {
	switch dtype {
	case litemamba.BF16:
		return 0.05
	case litemamba.F16:
		return 0.01
	}
	return 1e-5
}

func TestLayersOfEveryType(t *testing.T) {
	eachType(t, func(t *testing.T, layer *litemamba.Layer) {
		dtype := layer.Config().DType
		x := ramp(2 * 5 * 8)
		y := make([]float32, len(x))
		if err := layer.Forward(y, x, 2, 5, nil); err != nil {
			t.Fatal(err)
		}
		plain := newLayer(layer.Config().Variant, 8)
		defer plain.Close()
		expected := make([]float32, len(x))
		if err := plain.Forward(expected, x, 2, 5, nil); err != nil {
			t.Fatal(err)
		}
		if e := relativeError(y, expected); !(e <= off(dtype)) || (e == 0) != (dtype == litemamba.F32) {
			t.Errorf("it is off the F32 layer by %g; %g is allowed", e, off(dtype))
		}

		cache := must(layer.NewCache(2))
		defer cache.Close()
		if cache.DType() != arithmetic(layer) {
			t.Errorf("its state is held in %v", cache.DType())
		}
		token := make([]float32, 2*8)
		for s := range 5 {
			copy(token, x[s*8:][:8])
			copy(token[8:], x[(5+s)*8:][:8])
			if err := layer.Step(token, token, cache); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(bits(token), bits(slices.Concat(y[s*8:][:8], y[(5+s)*8:][:8]))) {
				t.Errorf("step %d differs from forward", s)
			}
		}

		// Types of the parameters, as the reference keeps them, in memory and in a file.
		path := filepath.Join(t.TempDir(), "layer.safetensors")
		if err := layer.Save(path); err != nil {
			t.Fatal(err)
		}
		loaded := must(litemamba.Load(path, "", nil))
		defer loaded.Close()
		if loaded.Config().DType != dtype {
			t.Errorf("it is loaded as %v", loaded.Config().DType)
		}
		for _, info := range slices.Concat(must(layer.Parameters()), must(loaded.Parameters())) {
			expected := dtype
			if slices.Contains([]string{"A_log", "D", "conv_gates"}, info.Name) {
				expected = arithmetic(layer)
			}
			if info.DType != expected {
				t.Errorf("%s is held in %v; it must be in %v", info.Name, info.DType, expected)
			}
		}
	})
}

func TestCachesOfEveryType(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	plain := must(layer.NewCache(2))
	defer plain.Close()
	x := ramp(2 * 5 * 8)
	expected, y := make([]float32, len(x)), make([]float32, len(x))
	run := func(cache *litemamba.Cache, y []float32) {
		t.Helper()
		for s := range 5 { // the state is rounded five times
			if err := layer.Step(y[s*16:][:16], x[s*16:][:16], cache); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(plain, expected)
	for _, dtype := range dtypes {
		cache := must(layer.NewCacheTyped(2, dtype))
		defer cache.Close()
		run(cache, y)
		e := relativeError(y, expected)
		if !(e <= off(dtype)) || dtype == litemamba.F32 && e != 0 || dtype.Size() < 4 && e == 0 {
			t.Errorf("%v: the state is off by %g; %g is allowed", dtype, e, off(dtype))
		}
		if cache.DType() != dtype || 4*cache.Bytes() > dtype.Size()*plain.Bytes()*11/10 {
			t.Errorf("%v: held in %v, it takes %d bytes; %d in F32", dtype, cache.DType(), cache.Bytes(), plain.Bytes())
		}
		for _, info := range must(cache.States()) {
			if info.DType != dtype {
				t.Errorf("%s is held in %v; it must be in %v", info.Name, info.DType, dtype)
			}
		}
		clone := must(cache.Clone())
		defer clone.Close()
		if clone.DType() != dtype {
			t.Errorf("the clone is held in %v; it must be in %v", clone.DType(), dtype)
		}
		if err := clone.CopyLane(0, plain, 0); err != nil { // from another type
			t.Error(err)
		}
		cache.Close()
		if cache.DType() != dtype {
			t.Error("a type never changes, and must be known after Close too")
		}
	}
}

func TestSizesOfTypes(t *testing.T) {
	for dtype, size := range map[litemamba.DType]int{
		litemamba.DTypeDefault: 0, litemamba.F32: 4, litemamba.F64: 8, litemamba.BF16: 2, litemamba.F16: 2, 9: 0,
	} {
		if dtype.Size() != size {
			t.Errorf("%v has %d bytes; it must have %d", dtype, dtype.Size(), size)
		}
	}
}

func TestFindParameter(t *testing.T) {
	layer := newTypedLayer(litemamba.PTCN, 8, litemamba.BF16)
	defer layer.Close()
	for _, info := range must(layer.Parameters()) {
		if found := must(layer.FindParameter(info.Name)); !slices.Equal(found.Shape, info.Shape) ||
			found.Name != info.Name || found.DType != info.DType || found.Count != info.Count || found.WeightDecay != info.WeightDecay {
			t.Errorf("%+v is found as %+v", info, found)
		}
	}
	one, other := must(layer.FindParameter("conv1d.weight")), must(layer.FindParameter("conv1d_layers.0.weight"))
	if one.Name != other.Name || !slices.Equal(one.Shape, []int{16, 1, 4}) {
		t.Errorf("one tensor by two names: %+v and %+v", one, other)
	}
}

func TestParametersAsFloat64(t *testing.T) {
	for _, dtype := range dtypes {
		layer := newTypedLayer(litemamba.PTCN, 8, dtype)
		defer layer.Close()
		info := must(layer.FindParameter("dt_proj.bias"))
		values, read := make([]float64, info.Count), make([]float64, info.Count)
		for i := range values {
			values[i] = 1 / float64(i+3)
		}
		if err := layer.SetParameterFloat64(info.Name, values); err != nil {
			t.Fatal(err)
		}
		if err := layer.GetParameterFloat64(info.Name, read); err != nil {
			t.Fatal(err)
		}
		rounding := map[litemamba.DType]float64{litemamba.F32: 0x1p-24, litemamba.F16: 0x1p-11, litemamba.BF16: 0x1p-8}[dtype]
		for i, v := range read {
			if e := math.Abs(v-values[i]) / values[i]; e > rounding || math.IsNaN(v) {
				t.Errorf("%v: %v reads %v", dtype, values[i], v)
			}
		}
		if (dtype == litemamba.F64) != slices.Equal(read, values) {
			t.Errorf("%v: thirds read %v", dtype, read)
		}
		for what, err := range map[string]error{
			"get": layer.GetParameterFloat64(info.Name, read[1:]), "set": layer.SetParameterFloat64(info.Name, nil),
		} {
			if !errors.Is(err, litemamba.ErrShapeMismatch) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}
