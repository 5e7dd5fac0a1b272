package litemamba

// #include "shim.h"
import "C"

import "runtime"

// InferenceParams are the caches of all layers of one model, found by their LayerIdx and made at first use by
// [Layer.ForwardInference]. They are made by [NewInferenceParams] and must not be copied.
//
// Calls that use them, or a cache borrowed from them, take turns.
type InferenceParams struct {
	turn    turn
	ptr     *C.lm_inference_params // nil once closed
	batch   int
	cleanup runtime.Cleanup
}

// NewInferenceParams creates an empty collection of caches for batch sequences.
func NewInferenceParams(batch int) (*InferenceParams, error) {
	if err := notNegative("batch", batch); err != nil {
		return nil, err
	}
	var ptr *C.lm_inference_params
	if err := check(C.lmgo_inference_params_create(C.size_t(batch), &ptr)); err != nil {
		return nil, err
	}
	p := &InferenceParams{ptr: ptr, batch: batch}
	p.turn.number = turns.Add(1)
	p.cleanup = runtime.AddCleanup(p, func(ptr *C.lm_inference_params) { C.lm_inference_params_free(ptr) }, ptr)
	return p, nil
}

// Close frees the collection and its caches, after a call in progress on another goroutine. It returns nil,
// however often it is called.
func (p *InferenceParams) Close() error {
	if p.lock() != nil {
		return nil
	}
	defer p.unlock()
	p.cleanup.Stop()
	C.lm_inference_params_free(p.ptr)
	p.ptr = nil
	return nil
}

// lock is how every call begins.
func (p *InferenceParams) lock() error {
	if p == nil {
		return newError(ErrNullPointer, "params is nil; it must not be")
	}
	p.turn.Lock()
	if p.ptr == nil {
		p.turn.Unlock()
		return errParamsClosed
	}
	return nil
}

// unlock keeps p reachable, and thus its cleanup from running, until the call is over.
func (p *InferenceParams) unlock() {
	p.turn.Unlock()
	runtime.KeepAlive(p)
}

// Batch returns the number of sequences.
func (p *InferenceParams) Batch() int { return p.batch }

// Reset returns every sequence to its beginning, as [Cache.Reset] on each cache; borrowed caches stay valid.
func (p *InferenceParams) Reset() error {
	if err := p.lock(); err != nil {
		return err
	}
	defer p.unlock()
	return check(C.lmgo_inference_params_reset(p.ptr))
}

// Cache returns the cache of the layer numbered layerIdx, borrowed: it ends with p, and keeps p from being
// freed as forgotten. It is nil before that layer's first [Layer.ForwardInference], for a negative number and
// once p is closed.
func (p *InferenceParams) Cache(layerIdx int) *Cache {
	if p.lock() != nil {
		return nil
	}
	defer p.unlock()
	ptr := C.lm_inference_params_cache(p.ptr, C.int64_t(layerIdx))
	if ptr == nil {
		return nil
	}
	return &Cache{turn: &p.turn, ptr: ptr, batch: int(C.lm_cache_batch(ptr)), dtype: DType(C.lmgo_cache_dtype(ptr)), params: p}
}
