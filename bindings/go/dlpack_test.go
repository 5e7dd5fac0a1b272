package litemamba_test

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"litemamba"
)

// dlTensor lies in memory as DLPack's DLTensor does wherever pointers have 64 bits.
type dlTensor struct {
	data                 unsafe.Pointer
	deviceType, deviceID int32
	ndim                 int32
	code, bits           uint8
	lanes                uint16
	shape, strides       *int64
	byteOffset           uint64
}

const dlCPU, dlFloat = 1, 2

// describe is a tensor within values, which begins at the offset. All that it points to is pinned.
func describe[T float32 | float64](pinner *runtime.Pinner, values []T, offset int, shape, strides []int64) *dlTensor {
	size := unsafe.Sizeof(values[0])
	tensor := &dlTensor{
		data: unsafe.Pointer(&values[0]), deviceType: dlCPU, ndim: int32(len(shape)),
		code: dlFloat, bits: uint8(8 * size), lanes: 1, shape: &shape[0], strides: &strides[0],
		byteOffset: uint64(offset) * uint64(size),
	}
	pinner.Pin(tensor.data)
	pinner.Pin(tensor.shape)
	pinner.Pin(tensor.strides)
	return tensor
}

// Every second column of a wider tensor goes in, backwards in time; doubles come out, channels first.
func TestDLPack(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("dlTensor is that of 64 bits")
	}
	const batch, seqlen, d = 2, 3, 8
	layer := newLayer(litemamba.PTCN, d)
	defer layer.Close()
	var pinner runtime.Pinner
	defer pinner.Unpin()

	wide := ramp(batch * seqlen * 2 * d)
	x, y := make([]float32, batch*seqlen*d), make([]float32, batch*seqlen*d)
	at := func(b, s, i int) int { return (b*seqlen+s)*d + i }
	for b := range batch {
		for s := range seqlen {
			for i := range d {
				x[at(b, s, i)] = wide[at(b, seqlen-1-s, i)/d*2*d+2*i]
			}
		}
	}
	doubles := make([]float64, len(y))
	forwardX := describe(&pinner, wide, (seqlen-1)*2*d, []int64{batch, seqlen, d}, []int64{seqlen * 2 * d, -2 * d, 2})
	forwardY := describe(&pinner, doubles, 0, []int64{batch, seqlen, d}, []int64{seqlen * d, 1, seqlen})
	check := func(what string, cache *litemamba.Cache) {
		t.Helper()
		clear(doubles)
		if err := layer.ForwardDLPack(unsafe.Pointer(forwardY), unsafe.Pointer(forwardX), cache, nil); err != nil {
			t.Fatal(err)
		}
		for b := range batch {
			for s := range seqlen {
				for i := range d {
					if v := doubles[(b*d+i)*seqlen+s]; v != float64(y[at(b, s, i)]) {
						t.Fatalf("%s: y[%d, %d, %d] is %v; it must be %v", what, b, s, i, v, y[at(b, s, i)])
					}
				}
			}
		}
	}
	if err := layer.Forward(y, x, batch, seqlen, nil); err != nil {
		t.Fatal(err)
	}
	check("forward", nil)

	cache, plain := must(layer.NewCache(batch)), must(layer.NewCache(batch))
	defer cache.Close()
	defer plain.Close()
	// A step, of the lanes in the other order, and what follows it.
	token, out := ramp(batch*d), make([]float32, batch*d)
	if err := layer.Step(out, slices.Concat(token[d:], token[:d]), plain); err != nil {
		t.Fatal(err)
	}
	stepX := describe(&pinner, token, d, []int64{batch, d}, []int64{-d, 1})
	if err := layer.StepDLPack(unsafe.Pointer(stepX), unsafe.Pointer(stepX), cache, nil); err != nil { // in place
		t.Fatal(err)
	}
	if !slices.Equal(bits(slices.Concat(token[d:], token[:d])), bits(out)) {
		t.Errorf("a step gives %v; it must give %v", token, out)
	}
	if err := layer.Forward(y, x, batch, seqlen, plain); err != nil {
		t.Fatal(err)
	}
	check("after a step", cache)
	if cache.SeqlenOffset() != 1+seqlen {
		t.Errorf("the cache has seen %d tokens", cache.SeqlenOffset())
	}

	with := func(change func(*dlTensor)) unsafe.Pointer {
		tensor := *forwardX
		change(&tensor)
		return unsafe.Pointer(&tensor)
	}
	to := unsafe.Pointer(forwardY)
	closed := must(layer.NewCache(batch))
	closed.Close()
	for _, test := range []struct {
		what  string
		err   error
		is    error
		words string
	}{
		{"x nil", layer.ForwardDLPack(to, nil, cache, nil), litemamba.ErrNullPointer, "x is NULL"},
		{"dst nil", layer.ForwardDLPack(nil, unsafe.Pointer(forwardX), cache, nil), litemamba.ErrNullPointer, "y is NULL"},
		{"sides", layer.StepDLPack(to, unsafe.Pointer(forwardX), cache, nil), litemamba.ErrShapeMismatch, "x"},
		{"type", layer.ForwardDLPack(to, with(func(t *dlTensor) { t.bits = 8 }), cache, nil), litemamba.ErrUnsupported, "x"},
		{"device", layer.ForwardDLPack(to, with(func(t *dlTensor) { t.deviceType = 2 }), cache, nil), litemamba.ErrInvalidArgument, "x"},
		{"step cache", layer.StepDLPack(unsafe.Pointer(stepX), unsafe.Pointer(stepX), nil, nil), litemamba.ErrNullPointer, "cache is nil"},
		{"step closed", layer.StepDLPack(unsafe.Pointer(stepX), unsafe.Pointer(stepX), closed, nil), litemamba.ErrClosed, "cache"},
		{"closed", layer.ForwardDLPack(to, unsafe.Pointer(forwardX), closed, nil), litemamba.ErrClosed, "cache"},
	} {
		if !errors.Is(test.err, test.is) || !strings.Contains(test.err.Error(), test.words) {
			t.Errorf("%s: the error is %v; it must be %v with %q", test.what, test.err, test.is, test.words)
		}
	}
	if cache.SeqlenOffset() != 1+seqlen {
		t.Errorf("calls that failed have moved the cache on")
	}
	layer.Close()
	for what, err := range map[string]error{
		"ForwardDLPack": layer.ForwardDLPack(to, unsafe.Pointer(forwardX), nil, nil),
		"StepDLPack":    layer.StepDLPack(unsafe.Pointer(stepX), unsafe.Pointer(stepX), cache, nil),
	} {
		if !errors.Is(err, litemamba.ErrClosed) {
			t.Errorf("%s gives %v; it must give ErrClosed", what, err)
		}
	}
}
