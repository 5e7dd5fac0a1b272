package litemamba

// #include "shim.h"
import "C"

import "unsafe"

// ForwardDLPack is [Layer.Forward] of tensors as other libraries have them, used where they lie: of any DType, whatever
// the layer's, of any strides and with an offset. Types that differ from the layer's arithmetic are converted on their
// way, outputs to the nearest value; the bits are otherwise those of Forward.
//
// dst and x each point to a DLTensor of DLPack (C.DLTensor where cgo includes lite_mamba.h or dlpack/dlpack.h) that
// describes a tensor (batch, seqlen, d_model): F32, F64, BF16 or F16, on the layer's device. Both may be the same
// elements, which are then overwritten; each element of dst must have a place of its own. A DLTensor in C's memory
// crosses as it is. One in Go's memory holds pointers, and what they point to in Go's memory, the values and the shape
// and the strides, must be pinned during the call with a [runtime.Pinner], by the rules of cgo. The race detector sees
// nothing of what they hold.
//
// cache is nil for sequences that begin here and are not continued. stream is the CUDA stream for a layer on a GPU, and
// nil or not looked at on the CPU.
//
// It fails with [ErrNullPointer] for a nil tensor, with [ErrShapeMismatch] for another number of sides, another d_model or
// tensors of different shapes, with [ErrUnsupported] for another type, with [ErrInvalidArgument] for another device, a
// negative side, misaligned values, elements of dst in one place or tensors that overlap in part, and as Forward.
func (l *Layer) ForwardDLPack(dst, x unsafe.Pointer, cache *Cache, stream unsafe.Pointer) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	var state *C.lm_cache
	if cache != nil {
		if err := cache.lock(); err != nil {
			return err
		}
		defer cache.unlock()
		state = cache.ptr
	}
	return check(C.lmgo_forward_dlpack(l.ptr, x, state, dst, stream))
}

// StepDLPack is [Layer.Step] of tensors as other libraries have them: [Layer.ForwardDLPack] with a seqlen of 1, to the
// bit, of tensors (batch, d_model) that do not have that side.
func (l *Layer) StepDLPack(dst, x unsafe.Pointer, cache *Cache, stream unsafe.Pointer) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	if err := cache.lock(); err != nil {
		return err
	}
	defer cache.unlock()
	return check(C.lmgo_step_dlpack(l.ptr, x, cache.ptr, dst, stream))
}
