// Package litemamba runs lite-mamba layers: a Mamba (selective state space) block whose causal
// convolution is replaced by several dilated ones. It computes what the PyTorch layers of the Python
// package lite-mamba 0.2.6 compute, loads their weights, and runs whole sequences or streams, token by
// token, with the same bits. It calls the C library lite_mamba through cgo and needs no Python.
//
// # Layers and caches
//
// A [Layer] holds parameters, a [Cache] the state of a batch of streams. Tensors are []float32,
// contiguous and row-major: (batch, seqlen, d_model) means that the last index varies fastest. Functions
// that compute write into a slice of the caller, which comes first, and check its length before anything
// crosses to C. Input and output may be the same slice, which is then overwritten with the result; slices
// that overlap in part are an error.
//
// Sequences of different lengths go through [Layer.ForwardVarlen], packed without padding. [Cache.Save] gives the
// state of streams as bytes, from which [Layer.LoadCache] goes on with the same bits: after a restart, or on another
// machine.
//
// # Types
//
// Slices are float32 whatever the type of the layer, Config.DType. [BF16] and [F16] store its matrices in half the
// memory and compute in float32; [F64] stores everything in float64 and computes in it. A cache holds its state in the
// type of this arithmetic, unless [Layer.NewCacheTyped] says otherwise. [Layer.ForwardDLPack] takes tensors of any of
// these types, and of any strides.
//
// # Closing
//
// A [Layer], a [Cache] and [InferenceParams] own memory that Go's garbage collector does not see. Close
// frees it at once. What is forgotten is freed some time after the last reference to it is gone, but the
// collector knows nothing of its size and is in no hurry, so Close what is large or made often.
//
// Close may be called twice, and at any time: it waits for the calls in progress on other goroutines.
// Every later use fails with [ErrClosed]. A cache does not need its layer to stay open.
//
// # Errors
//
// A failed call returns an [*Error]: a [Status] for the program and a sentence for the reader, which names
// the argument, what it was and what it must be. A call that fails changes nothing, unless its status is
// [ErrInternal], a bug of the library.
//
//	if errors.Is(err, litemamba.ErrNotFound) { ... }
//
// # Goroutines and threads
//
// Any number of goroutines may use one layer at the same time; [Layer.SetParameter] waits for them to
// finish and they for it. A cache is one stream of calls: calls on it that meet take turns, which is safe,
// but leaves the order of their tokens to chance.
//
// Small calls, the steps of one stream through a layer a few hundred wide among them, compute on the
// goroutine's own thread. Large ones share their work among the library's threads, whose number is that of the cores unless
// [SetNumThreads] or the environment variable LITE_MAMBA_NUM_THREADS says otherwise. These threads are not
// goroutines, and GOMAXPROCS neither counts nor limits them:
//
//   - A program that runs few large calls at a time needs to set nothing, or SetNumThreads(runtime.GOMAXPROCS(0))
//     to hold to the same limit as Go.
//   - A program that runs many calls at a time, such as a server, has its parallelism already. Only one call
//     has the library's threads at any time, and others compute on their own; with SetNumThreads(1) none
//     takes more than one core.
//
// A goroutine in a call occupies an operating system thread, beyond GOMAXPROCS if need be: bound the number
// of concurrent calls, for instance with a semaphore, where thousands of goroutines might call at once.
// A call cannot be interrupted; for a context to be heeded, forward a long sequence in chunks, which gives
// the same bits.
//
// None of this changes a bit of any result.
package litemamba

/*
// What a call is given stays where it is, on the stack too, and the library never calls back into Go.
#cgo noescape lmgo_forward
#cgo noescape lmgo_forward_dlpack
#cgo noescape lmgo_forward_inference
#cgo noescape lmgo_forward_varlen
#cgo noescape lmgo_step
#cgo noescape lmgo_step_dlpack
#cgo noescape lmgo_step_lanes
#cgo nocallback lmgo_forward
#cgo nocallback lmgo_forward_dlpack
#cgo nocallback lmgo_forward_inference
#cgo nocallback lmgo_forward_varlen
#cgo nocallback lmgo_step
#cgo nocallback lmgo_step_dlpack
#cgo nocallback lmgo_step_lanes
#cgo nocallback lm_abi_version
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// Version returns the version of the library that is loaded: "major.minor.patch".
func Version() string { return C.GoString(C.lm_version()) }

// ABIVersion returns the version of the library's binary interface. A library with another one than that
// which the program was compiled with makes no handles: every constructor returns [ErrUnsupported].
func ABIVersion() int { return int(C.lm_abi_version()) }

// BuildInfo returns one line for a log or a bug report: the version, the instruction set in use, the number
// of threads, and whether CUDA was built and can be used, or why not.
func BuildInfo() string {
	info := C.lmgo_build_info()
	defer C.free(unsafe.Pointer(info))
	return C.GoString(info)
}

// CUDAAvailable reports whether layers on the [CUDA] device can be created here. If not, [BuildInfo] says why.
func CUDAAvailable() bool { return bool(C.lm_cuda_available()) }

// SetNumThreads sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core.
// It changes no bit of any result, and holds for calls that start afterwards. The package documentation
// says how these threads relate to goroutines.
func SetNumThreads(n int) error {
	if err := notNegative("n", n); err != nil {
		return err
	}
	return check(C.lmgo_set_num_threads(C.size_t(n)))
}

// A TensorInfo says what there is to know of a parameter or a state.
type TensorInfo struct {
	Name        string
	DType       DType // the type in which the values are held
	WeightDecay bool  // whether a training's weight decay applies; false for states
	Shape       []int // outermost first
	Count       int   // number of values: the product of Shape
}

func tensorInfo(info *C.lm_tensor_info) TensorInfo {
	shape := make([]int, info.ndim)
	for i := range shape {
		shape[i] = int(info.shape[i])
	}
	return TensorInfo{
		Name:        C.GoString(&info.name[0]),
		DType:       DType(info.dtype),
		WeightDecay: bool(info.weight_decay),
		Shape:       shape,
		Count:       int(info.count),
	}
}

// checkTokens holds the slices of a forward pass or a step against what the library will read and write.
// The product is formed by division, so that it cannot overflow.
func checkTokens(dst, x []float32, batch, seqlen, dModel int) error {
	if err := notNegative("batch", batch); err != nil {
		return err
	}
	if err := notNegative("seqlen", seqlen); err != nil {
		return err
	}
	if tokens := len(x) / dModel; len(x)%dModel != 0 || !isProduct(tokens, batch, seqlen) {
		return newError(ErrShapeMismatch,
			"x has %d values; it must have batch * seqlen * d_model: %d * %d * %d", len(x), batch, seqlen, dModel)
	}
	return checkOutput(dst, x)
}

// checkOutput lets dst be longer than x: what lies behind stays as it is.
func checkOutput(dst, x []float32) error {
	if len(dst) < len(x) {
		return newError(ErrShapeMismatch, "dst has room for %d values; it must have room for %d, as many as x has",
			len(dst), len(x))
	}
	raceRead(x)
	raceWrite(dst[:len(x)])
	return nil
}

// isProduct reports whether n is a * b, none of them negative.
func isProduct(n, a, b int) bool {
	if a == 0 || b == 0 {
		return n == 0
	}
	return n%a == 0 && n/a == b
}

func notNegative(name string, value int) error {
	if value < 0 {
		return newError(ErrInvalidArgument, "%s is %d; it must not be negative", name, value)
	}
	return nil
}

// floats is where C finds the values of a slice. It is valid as an argument of a C call only.
func floats(s []float32) *C.float { return (*C.float)(unsafe.SliceData(s)) }

// sizes is where C finds ints that are known not to be negative; size_t is as wide as int wherever cgo is.
func sizes(s []int) *C.size_t { return (*C.size_t)(unsafe.Pointer(unsafe.SliceData(s))) }

// cString is a NUL-terminated copy of text in Go's memory, nothing to be freed.
func cString(name, text string) (*C.char, error) {
	b := make([]byte, len(text)+1)
	copy(b, text)
	for _, c := range b[:len(text)] {
		if c == 0 {
			return nil, newError(ErrInvalidArgument, "%s is %q; it must not contain a NUL", name, text)
		}
	}
	return (*C.char)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

func newError(code Status, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
