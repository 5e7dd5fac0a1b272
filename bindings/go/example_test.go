package litemamba_test

import (
	"errors"
	"fmt"
	"log"
	"slices"

	"litemamba"
)

// A prompt of four tokens is read at once, then one token at a time follows.
func Example() {
	config := litemamba.NewConfig(litemamba.PTCN, 8)
	config.ConvDilations = []int{1, 2, 4}
	layer, err := litemamba.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(1)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	prompt := make([]float32, 4*8)
	y := make([]float32, len(prompt))
	if err := layer.Forward(y, prompt, 1, 4, cache); err != nil {
		log.Fatal(err)
	}
	token := y[3*8:]
	for range 3 {
		if err := layer.Step(token, token, cache); err != nil { // in place
			log.Fatal(err)
		}
	}
	fmt.Println(cache.SeqlenOffset(), "tokens")
	// Output: 7 tokens
}

func ExampleNewConfig() {
	config := litemamba.NewConfig(litemamba.STCN, 64)
	config.ConvDilations = []int{1, 2, 4, 8}
	config.Seed = 7 // the initial weights of torch.manual_seed(7)
	fmt.Println(config.Variant, config.DState, config.DConv, config.Expand, config.ConvBias)
	// Output: STCN 16 4 2 true
}

func ExampleNew_error() {
	_, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 0))
	fmt.Println(err)
	fmt.Println(errors.Is(err, litemamba.ErrInvalidConfig))

	var e *litemamba.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code.String(), e.Message)
	}
	// Output:
	// litemamba: d_model is 0; it must be at least 1
	// true
	// LM_ERR_INVALID_CONFIG d_model is 0; it must be at least 1
}

func ExampleLoad() {
	layer, err := litemamba.Load("../../examples/co2/co2.safetensors", "layers.0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	config := layer.Config()
	fmt.Println(config.Variant, config.DModel, config.ConvDilations)
	// Output: PTCN 16 [1 4 13]
}

func ExampleLayer_Forward() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.Baseline, 4))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()

	const batch, seqlen = 2, 3
	x := make([]float32, batch*seqlen*4)
	y := make([]float32, len(x))
	fmt.Println(layer.Forward(y, x, batch, seqlen, nil))
	fmt.Println(layer.Forward(y, x[:23], batch, seqlen, nil))
	// Output:
	// <nil>
	// litemamba: x has 23 values; it must have batch * seqlen * d_model: 2 * 3 * 4
}

// Of three streams, two have a token due.
func ExampleLayer_StepLanes() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 4))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(3)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	tokens := make([]float32, 2*4)
	if err := layer.StepLanes(tokens, tokens, []int{2, 0}, cache); err != nil {
		log.Fatal(err)
	}
	// Stream 1 is over; the next one takes its place.
	if err := cache.ResetLane(1); err != nil {
		log.Fatal(err)
	}
	// Output:
}

// The caches of a model's layers are found by LayerIdx.
func ExampleInferenceParams() {
	var layers []*litemamba.Layer
	for i, variant := range []litemamba.Variant{litemamba.PTCN, litemamba.STCN} {
		config := litemamba.NewConfig(variant, 8)
		config.LayerIdx = i
		layer, err := litemamba.New(config)
		if err != nil {
			log.Fatal(err)
		}
		defer layer.Close()
		layers = append(layers, layer)
	}
	params, err := litemamba.NewInferenceParams(1)
	if err != nil {
		log.Fatal(err)
	}
	defer params.Close()

	for _, seqlen := range []int{5, 1, 1} {
		h := make([]float32, seqlen*8)
		for _, layer := range layers {
			if err := layer.ForwardInference(h, h, 1, seqlen, params); err != nil {
				log.Fatal(err)
			}
		}
	}
	fmt.Println(params.Cache(1).SeqlenOffset(), "tokens")
	// Output: 7 tokens
}

// Two futures of one past.
func ExampleCache_Clone() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 2))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(1)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	y := make([]float32, 2)
	if err := layer.Step(y, []float32{1, 2}, cache); err != nil {
		log.Fatal(err)
	}

	fork, err := cache.Clone()
	if err != nil {
		log.Fatal(err)
	}
	defer fork.Close()
	other := make([]float32, 2)
	if err := errors.Join(
		layer.Step(y, []float32{3, 4}, cache),
		layer.Step(other, []float32{3, 4}, fork),
	); err != nil {
		log.Fatal(err)
	}
	fmt.Println(slices.Equal(y, other))
	// Output: true
}

// Three sequences of different lengths, packed one after the other.
func ExampleLayer_ForwardVarlen() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 4))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(3)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	cuSeqlens := []int{0, 2, 7, 8} // 2, 5 and 1 tokens
	tokens := make([]float32, 8*4)
	if err := layer.ForwardVarlen(tokens, tokens, cuSeqlens, cache); err != nil { // in place
		log.Fatal(err)
	}
	fmt.Println(cache.SeqlenOffset(), "tokens in the longest")
	// Output: 5 tokens in the longest
}

// A stream goes on where it was saved.
func ExampleLayer_LoadCache() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 2))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(1)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	y := make([]float32, 2)
	if err := layer.Step(y, []float32{1, 2}, cache); err != nil {
		log.Fatal(err)
	}

	saved, err := cache.Save()
	if err != nil {
		log.Fatal(err)
	}
	again, err := layer.LoadCache(saved)
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close()
	fmt.Println(again.SeqlenOffset(), "token")

	saved[20] ^= 1
	_, err = layer.LoadCache(saved)
	fmt.Println(errors.Is(err, litemamba.ErrFormat))
	// Output:
	// 1 token
	// true
}

func ExampleLayer_NewCacheTyped() {
	config := litemamba.NewConfig(litemamba.PTCN, 64)
	config.DType = litemamba.BF16 // half the memory for the weights
	layer, err := litemamba.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	for _, dtype := range []litemamba.DType{litemamba.DTypeDefault, litemamba.BF16} {
		cache, err := layer.NewCacheTyped(1, dtype)
		if err != nil {
			log.Fatal(err)
		}
		defer cache.Close()
		fmt.Println(cache.DType())
	}
	// Output:
	// F32
	// BF16
}

func ExampleCache_States() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.PTCN, 8))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	cache, err := layer.NewCache(2)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	states, err := cache.States()
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range states {
		values := make([]float32, info.Count)
		if err := cache.GetState(info.Name, values); err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Name, info.Shape)
	}
	// Output:
	// conv_state.0 [2 16 4]
	// ssm_state [2 16 16]
}

func ExampleLayer_Parameters() {
	layer, err := litemamba.New(litemamba.NewConfig(litemamba.Baseline, 8))
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()
	parameters, err := layer.Parameters()
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range parameters {
		fmt.Println(info.Name, info.Shape)
	}
	// Unordered output:
	// A_log [16 16]
	// D [16]
	// in_proj.weight [32 8]
	// conv1d.weight [16 1 4]
	// conv1d.bias [16]
	// x_proj.weight [33 16]
	// dt_proj.weight [16 1]
	// dt_proj.bias [16]
	// out_proj.weight [8 16]
}

// A server that runs many calls at a time has its parallelism already.
func ExampleSetNumThreads() {
	if err := litemamba.SetNumThreads(1); err != nil {
		log.Fatal(err)
	}
	// Output:
}
