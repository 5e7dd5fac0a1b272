// Command streaming is the smallest useful program: a PTCN layer reads six tokens at once, then the same six
// one by one.
package main

import (
	"fmt"
	"log"
	"math"
	"slices"

	"litemamba"
)

const (
	dModel = 32
	seqlen = 6
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	config := litemamba.NewConfig(litemamba.PTCN, dModel)
	config.ConvDilations = []int{1, 2, 4}
	config.Seed = 7 // the initial weights of torch.manual_seed(7)
	layer, err := litemamba.New(config)
	if err != nil {
		return err
	}
	defer layer.Close()

	x := make([]float32, seqlen*dModel)
	for i := range x {
		x[i] = float32(math.Sin(0.3*float64(i/dModel) + 0.7*float64(i%dModel)))
	}
	whole := make([]float32, len(x))
	if err := layer.Forward(whole, x, 1, seqlen, nil); err != nil {
		return err
	}

	cache, err := layer.NewCache(1)
	if err != nil {
		return err
	}
	defer cache.Close()
	streamed := make([]float32, len(x))
	for t := 0; t < len(x); t += dModel {
		if err := layer.Step(streamed[t:], x[t:t+dModel], cache); err != nil {
			return err
		}
	}

	if !slices.Equal(whole, streamed) {
		return fmt.Errorf("the streamed tokens are not those of the forward pass")
	}
	fmt.Printf("lite-mamba %s: %d streamed tokens, bit for bit the forward pass\n", litemamba.Version(), seqlen)
	return nil
}
