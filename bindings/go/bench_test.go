package litemamba_test

import (
	"fmt"
	"testing"

	"litemamba"
	"litemamba/internal/cloop"
)

// What a call across cgo costs: each pair is the same call from Go and from a loop in C.

func BenchmarkABIVersion(b *testing.B) {
	b.Run("go", func(b *testing.B) {
		for b.Loop() {
			litemamba.ABIVersion()
		}
	})
	b.Run("c", func(b *testing.B) { cloop.ABIVersions(b.N) })
}

// A forward pass without tokens takes the whole way to C and back, and computes nothing there.
func BenchmarkForwardOfNothing(b *testing.B) {
	both(b, 4,
		func(layer *litemamba.Layer, cache *litemamba.Cache, _, _ []float32) error {
			return layer.Forward(nil, nil, 1, 0, cache)
		},
		(*cloop.Stream).Nothings)
}

func BenchmarkStep(b *testing.B) {
	for _, dModel := range []int{4, 32, 256} {
		b.Run(fmt.Sprintf("d_model=%d", dModel), func(b *testing.B) {
			both(b, dModel,
				func(layer *litemamba.Layer, cache *litemamba.Cache, y, x []float32) error {
					return layer.Step(y, x, cache)
				},
				(*cloop.Stream).Steps)
		})
	}
}

func both(
	b *testing.B, dModel int,
	inGo func(layer *litemamba.Layer, cache *litemamba.Cache, y, x []float32) error,
	inC func(stream *cloop.Stream, n int) bool,
) {
	b.Run("go", func(b *testing.B) {
		layer := must(litemamba.New(litemamba.NewConfig(litemamba.PTCN, dModel)))
		defer layer.Close()
		cache := must(layer.NewCache(1))
		defer cache.Close()
		x, y := make([]float32, dModel), make([]float32, dModel)
		b.ReportAllocs()
		for b.Loop() {
			if err := inGo(layer, cache, y, x); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("c", func(b *testing.B) {
		stream := cloop.New(dModel)
		if stream == nil {
			b.Fatal("no stream")
		}
		defer stream.Close()
		b.ResetTimer()
		if !inC(stream, b.N) {
			b.Fatal("a call failed")
		}
	})
}

// Streams of their own on one layer, which they share without waiting for each other.
func BenchmarkStepParallel(b *testing.B) {
	layer := must(litemamba.New(litemamba.NewConfig(litemamba.PTCN, 32)))
	defer layer.Close()
	b.RunParallel(func(pb *testing.PB) {
		cache := must(layer.NewCache(1))
		defer cache.Close()
		x, y := make([]float32, 32), make([]float32, 32)
		for pb.Next() {
			if err := layer.Step(y, x, cache); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
