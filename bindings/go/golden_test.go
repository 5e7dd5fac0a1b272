package litemamba_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"litemamba"
)

// What the reference computed, by the project's metric (tests/golden/README.md). The library's own tests hold
// it to less, against a float64 oracle; this is room for the reference's rounding, and a wrong binding is
// off by far more.
const allowed = 1e-5

type tensor struct {
	shape  []int
	values []float32
}

func TestGolden(t *testing.T) {
	paths := must(filepath.Glob("../../tests/golden/*.safetensors"))
	if len(paths) < 30 {
		t.Fatalf("%d golden files in tests/golden; there must be at least 30", len(paths))
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".safetensors"), func(t *testing.T) {
			tensors := readSafetensors(t, path)
			x, reference := tensors["x"], tensors["y"]
			batch, seqlen, dModel := x.shape[0], x.shape[1], x.shape[2]

			layer := must(litemamba.Load(path, "layer", nil))
			defer layer.Close()
			y := make([]float32, len(x.values))
			if err := layer.Forward(y, x.values, batch, seqlen, nil); err != nil {
				t.Fatal(err)
			}
			compare(t, "forward", y, reference.values)

			cache := must(layer.NewCache(batch))
			defer cache.Close()
			stepped := make([]float32, len(x.values))
			token := make([]float32, batch*dModel)
			for s := range seqlen {
				for b := range batch {
					copy(token[b*dModel:][:dModel], x.values[(b*seqlen+s)*dModel:])
				}
				if err := layer.Step(token, token, cache); err != nil {
					t.Fatal(err)
				}
				for b := range batch {
					copy(stepped[(b*seqlen+s)*dModel:], token[b*dModel:][:dModel])
				}
			}
			if !slices.Equal(bits(stepped), bits(y)) {
				t.Error("steps and forward differ")
			}
			if reference, ok := tensors["y_step"]; ok {
				compare(t, "step", stepped, reference.values)
			} else if seqlen <= 131 {
				t.Error("the file has no y_step")
			}
			if offset := cache.SeqlenOffset(); offset != uint64(seqlen) {
				t.Errorf("the cache has seen %d tokens; it must have seen %d", offset, seqlen)
			}

			states := must(cache.States())
			if len(states) != len(layer.Config().ConvDilations)+1 {
				t.Errorf("%d states for the dilations %v", len(states), layer.Config().ConvDilations)
			}
			for _, info := range states {
				reference, ok := tensors[info.Name]
				if !ok || !slices.Equal(info.Shape, reference.shape) {
					t.Fatalf("%s has shape %v; the file has %v", info.Name, info.Shape, reference.shape)
				}
				state := make([]float32, info.Count)
				if err := cache.GetState(info.Name, state); err != nil {
					t.Fatal(err)
				}
				compare(t, info.Name, state, reference.values)
			}
		})
	}
}

func compare(t *testing.T, what string, actual, expected []float32) {
	t.Helper()
	if e := relativeError(actual, expected); !(e <= allowed) {
		t.Errorf("%s is off by %.3g; %.3g is allowed", what, e, allowed)
	}
}

// relativeError is max|a - b| / max|b|, and infinite where anything is not finite on one side only.
func relativeError(actual, expected []float32) float64 {
	if len(actual) != len(expected) {
		return math.Inf(1)
	}
	var difference, scale float64
	for i, b := range expected {
		a, b := float64(actual[i]), float64(b)
		if a == b && math.IsInf(b, 0) {
			continue
		}
		if math.IsNaN(a-b) || math.IsInf(a-b, 0) {
			return math.Inf(1)
		}
		difference = max(difference, math.Abs(a-b))
		scale = max(scale, math.Abs(b))
	}
	if scale == 0 {
		return difference
	}
	return difference / scale
}

func bits(values []float32) []uint32 {
	bits := make([]uint32, len(values))
	for i, v := range values {
		bits[i] = math.Float32bits(v)
	}
	return bits
}

func readSafetensors(t *testing.T, path string) map[string]tensor {
	t.Helper()
	data := must(os.ReadFile(path))
	size := binary.LittleEndian.Uint64(data)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(data[8:8+size], &header); err != nil {
		t.Fatal(err)
	}
	data = data[8+size:]
	tensors := make(map[string]tensor)
	for name, raw := range header {
		if name == "__metadata__" {
			continue
		}
		var entry struct {
			Dtype   string
			Shape   []int
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &entry); err != nil || entry.Dtype != "F32" {
			t.Fatalf("%s: %s of type %q: %v", path, name, entry.Dtype, err)
		}
		values := make([]float32, (entry.Offsets[1]-entry.Offsets[0])/4)
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[entry.Offsets[0]+4*i:]))
		}
		tensors[name] = tensor{entry.Shape, values}
	}
	return tensors
}
