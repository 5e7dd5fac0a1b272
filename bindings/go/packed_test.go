package litemamba_test

import (
	"slices"
	"testing"

	"litemamba"
)

// Two rounds of four sequences: the second is empty in the first round, the third in the other.
var packed = [][]int{{0, 3, 3, 10, 11}, {0, 1, 3, 3, 12}}

func TestForwardVarlen(t *testing.T) {
	eachType(t, func(t *testing.T, layer *litemamba.Layer) {
		const dModel = 8
		cache := must(layer.NewCache(4))
		defer cache.Close()
		var alone [4]*litemamba.Cache
		for i := range alone {
			alone[i] = must(layer.NewCache(1))
			defer alone[i].Close()
		}
		for round, cuSeqlens := range packed {
			total := cuSeqlens[4]
			x := ramp(total * dModel)
			continued, fresh := make([]float32, len(x)), slices.Repeat([]float32{7}, len(x)+1)
			if err := layer.ForwardVarlen(continued, x, cuSeqlens, cache); err != nil {
				t.Fatal(err)
			}
			if err := layer.ForwardVarlen(fresh, x, cuSeqlens, nil); err != nil { // the output is longer
				t.Fatal(err)
			}
			if fresh[len(x)] != 7 {
				t.Error("what lies behind the output was written")
			}
			for i := range alone {
				from, to := cuSeqlens[i]*dModel, cuSeqlens[i+1]*dModel
				one := make([]float32, to-from)
				if err := layer.Forward(one, x[from:to], 1, (to-from)/dModel, nil); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(bits(fresh[from:to]), bits(one)) {
					t.Errorf("round %d: sequence %d differs from its own forward", round, i)
				}
				if err := layer.Forward(one, x[from:to], 1, (to-from)/dModel, alone[i]); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(bits(continued[from:to]), bits(one)) {
					t.Errorf("round %d: sequence %d goes on differently", round, i)
				}
			}
			if err := layer.ForwardVarlen(x, x, cuSeqlens, nil); err != nil || !slices.Equal(bits(x), bits(fresh[:len(x)])) {
				t.Errorf("round %d: in place it differs, or fails with %v", round, err)
			}
		}
		if offset := cache.SeqlenOffset(); offset != 10 {
			t.Errorf("the longest sequence has seen %d tokens; it must have seen 10", offset)
		}
	})
}

func TestNothingPacked(t *testing.T) {
	layer := newLayer(litemamba.PTCN, 8)
	defer layer.Close()
	cache := must(layer.NewCache(2))
	defer cache.Close()
	for what, err := range map[string]error{
		"nothing":         layer.ForwardVarlen(nil, nil, nil, nil),
		"no sequences":    layer.ForwardVarlen(nil, nil, []int{0}, nil),
		"empty sequences": layer.ForwardVarlen(nil, nil, []int{0, 0, 0}, cache),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if offset := cache.SeqlenOffset(); offset != 0 {
		t.Errorf("the cache has moved on by %d", offset)
	}
}
