package litemamba_test

import "litemamba"

// must is for what cannot fail where it stands.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// newLayer is a small layer with three branches.
func newLayer(variant litemamba.Variant, dModel int) *litemamba.Layer {
	config := litemamba.NewConfig(variant, dModel)
	if variant != litemamba.Baseline {
		config.ConvDilations = []int{1, 2, 4}
	}
	config.Seed = 7
	return must(litemamba.New(config))
}
