// Command load runs the layers of a model that was trained in PyTorch, from the safetensors file that
// bindings/python/export.py has written:
//
//	load [model.safetensors [prefix ...]]
//
// Without arguments these are the three layers of examples/co2/co2.safetensors. A long sequence goes through
// them in one pass, which leaves their states in caches; from there on they are streamed.
package main

import (
	"fmt"
	"log"
	"math"
	"os"

	"litemamba"
)

func main() {
	path, prefixes := "../../examples/co2/co2.safetensors", []string{"layers.0", "layers.1", "layers.2"}
	if len(os.Args) > 1 {
		path, prefixes = os.Args[1], os.Args[2:]
	}
	if len(prefixes) == 0 {
		prefixes = []string{""} // a file that is one layer
	}
	if err := run(path, prefixes); err != nil {
		log.Fatal(err)
	}
}

func run(path string, prefixes []string) error {
	var model stack
	defer model.close()
	for _, prefix := range prefixes {
		layer, err := litemamba.Load(path, prefix, nil) // the file's metadata holds the configuration
		if err != nil {
			return err
		}
		model.layers = append(model.layers, layer)
		cache, err := layer.NewCache(1)
		if err != nil {
			return err
		}
		model.caches = append(model.caches, cache)

		config := layer.Config()
		parameters, err := layer.Parameters()
		if err != nil {
			return err
		}
		fmt.Printf("%s: %v, d_model %d, d_inner %d, dilations %v, %d parameters in %d tensors, a state of %d bytes\n",
			prefix, config.Variant, config.DModel, layer.DInner(), config.ConvDilations,
			count(parameters), len(parameters), cache.Bytes())
	}

	const prompt, streamed = 1000, 200
	dModel := model.layers[0].DModel()
	h := make([]float32, (prompt+streamed)*dModel)
	for i := range h {
		h[i] = float32(math.Sin(0.1 * float64(i/dModel) * float64(i%dModel+1)))
	}
	if err := model.forward(h[:prompt*dModel], prompt); err != nil {
		return err
	}
	for t := prompt; t < prompt+streamed; t++ {
		if err := model.forward(h[t*dModel:(t+1)*dModel], 1); err != nil {
			return err
		}
	}
	fmt.Printf("%d tokens at once, then %d one by one; the last one is %.4f ...\n",
		prompt, streamed, h[len(h)-dModel:][:min(dModel, 4)])
	return nil
}

// A stack is layers with residual connections, and one stream through them.
type stack struct {
	layers []*litemamba.Layer
	caches []*litemamba.Cache
	y      []float32
}

// forward replaces h, (seqlen, d_model), with what the layers make of it.
func (s *stack) forward(h []float32, seqlen int) error {
	if len(s.y) < len(h) {
		s.y = make([]float32, len(h))
	}
	for i, layer := range s.layers {
		if err := layer.Forward(s.y, h, 1, seqlen, s.caches[i]); err != nil {
			return err
		}
		for j := range h {
			h[j] += s.y[j]
		}
	}
	return nil
}

func (s *stack) close() {
	for _, cache := range s.caches {
		cache.Close()
	}
	for _, layer := range s.layers {
		layer.Close()
	}
}

func count(tensors []litemamba.TensorInfo) (n int) {
	for _, tensor := range tensors {
		n += tensor.Count
	}
	return n
}
