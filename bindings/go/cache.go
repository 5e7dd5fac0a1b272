package litemamba

// #include "shim.h"
import "C"

import (
	"cmp"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A Cache is the streaming state of a batch of sequences: what a layer remembers between calls. Its size does
// not depend on how long the sequences are. It is made by [Layer.NewCache], [Cache.Clone] or [Layer.LoadCache], or
// borrowed from [InferenceParams.Cache]. It must not be copied.
//
// Calls on one cache that meet take turns.
type Cache struct {
	turn   *turn       // own, or that of params
	ptr    *C.lm_cache // nil once closed
	batch  int
	dtype  DType
	params *InferenceParams // whom a borrowed cache belongs to, else nil
	// Only of a cache that is not borrowed.
	own     turn
	cleanup runtime.Cleanup
}

// A turn is the lock of what belongs to one call at a time. Two are taken in the order of their numbers.
type turn struct {
	sync.Mutex
	number uint64
}

var turns atomic.Uint64

// NewCache creates a cache for batch sequences, all at their beginning. Any other layer of the same variant,
// shape and type can use it as well.
//
// It fails with [ErrOutOfMemory].
func (l *Layer) NewCache(batch int) (*Cache, error) { return l.NewCacheTyped(batch, DTypeDefault) }

// NewCacheTyped is [Layer.NewCache] with the type in which the state is held. [DTypeDefault] is the type of the
// layer's arithmetic: F64 for an F64 layer, F32 for every other one. BF16 and F16 take half the memory of F32; each call
// then rounds the states that it leaves, so that how a sequence is cut into calls changes its results.
//
// It fails with [ErrInvalidArgument] for no DType and with [ErrOutOfMemory].
func (l *Layer) NewCacheTyped(batch int, dtype DType) (*Cache, error) {
	if err := notNegative("batch", batch); err != nil {
		return nil, err
	}
	if err := l.rlock(); err != nil {
		return nil, err
	}
	defer l.runlock()
	var ptr *C.lm_cache
	if err := check(C.lmgo_alloc_cache(l.ptr, C.size_t(batch), C.uint32_t(dtype), &ptr)); err != nil {
		return nil, err
	}
	return newCache(ptr), nil
}

// newCache takes ownership of ptr.
func newCache(ptr *C.lm_cache) *Cache {
	c := &Cache{ptr: ptr, batch: int(C.lm_cache_batch(ptr)), dtype: DType(C.lmgo_cache_dtype(ptr))}
	c.turn = &c.own
	c.turn.number = turns.Add(1)
	c.cleanup = runtime.AddCleanup(c, func(ptr *C.lm_cache) { C.lm_free_cache(ptr) }, ptr)
	return c
}

// Close frees the cache, after a call in progress on another goroutine. It returns nil, however often it is
// called. A borrowed cache stays with its [InferenceParams]; only this way to it is closed.
func (c *Cache) Close() error {
	if c.lock() != nil {
		return nil
	}
	defer c.unlock()
	if c.params == nil {
		c.cleanup.Stop()
		C.lm_free_cache(c.ptr)
	}
	c.ptr = nil
	return nil
}

// lock is how every call begins.
func (c *Cache) lock() error {
	if err := c.made(); err != nil {
		return err
	}
	c.turn.Lock()
	if err := c.closed(); err != nil {
		c.turn.Unlock()
		return err
	}
	return nil
}

func (c *Cache) made() error {
	if c == nil {
		return newError(ErrNullPointer, "cache is nil; it must not be")
	}
	if c.turn == nil {
		return errCacheClosed
	}
	return nil
}

func (c *Cache) closed() error {
	if c.ptr == nil {
		return errCacheClosed
	}
	if c.params != nil && c.params.ptr == nil {
		return errParamsClosed
	}
	return nil
}

// unlock keeps c reachable, and thus its cleanup from running, until the call is over.
func (c *Cache) unlock() {
	c.turn.Unlock()
	runtime.KeepAlive(c)
}

// Reset returns every sequence to its beginning, and makes a cache that [ErrInternal] left unusable usable
// again.
func (c *Cache) Reset() error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	return check(C.lmgo_cache_reset(c.ptr))
}

// ResetLane returns one sequence to its beginning; the others go on. It fails with [ErrInvalidArgument] for a
// lane that is not below the cache's batch.
func (c *Cache) ResetLane(lane int) error {
	if err := notNegative("lane", lane); err != nil {
		return err
	}
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	return check(C.lmgo_cache_reset_lane(c.ptr, C.size_t(lane)))
}

// CopyLane makes the sequence lane of c go on from where the sequence srcLane of src is; that one goes on by
// itself. src may be c. The caches may differ in batch and in type, but must be of layers of the same variant, shape and
// type.
//
// It fails with [ErrInvalidArgument] for a lane that a cache does not have, and with [ErrShapeMismatch] for
// caches of layers that differ.
func (c *Cache) CopyLane(lane int, src *Cache, srcLane int) error {
	if err := notNegative("lane", lane); err != nil {
		return err
	}
	if err := notNegative("srcLane", srcLane); err != nil {
		return err
	}
	unlock, err := lockBoth(c, src)
	if err != nil {
		return err
	}
	defer unlock()
	return check(C.lmgo_cache_copy_lane(c.ptr, C.size_t(lane), src.ptr, C.size_t(srcLane)))
}

// lockBoth locks two caches, which may be one or share a lock, always in the same order.
func lockBoth(a, b *Cache) (unlock func(), err error) {
	if err := cmp.Or(a.made(), b.made()); err != nil {
		return nil, err
	}
	if b.turn.number < a.turn.number {
		a, b = b, a
	}
	if err := a.lock(); err != nil {
		return nil, err
	}
	if a.turn == b.turn {
		if err := b.closed(); err != nil {
			a.unlock()
			return nil, err
		}
		return func() { a.unlock(); runtime.KeepAlive(b) }, nil
	}
	if err := b.lock(); err != nil {
		a.unlock()
		return nil, err
	}
	return func() { b.unlock(); a.unlock() }, nil
}

// Clone creates a copy of the cache that continues from the same state on its own. A copy of a borrowed cache
// is not borrowed.
//
// It fails with [ErrOutOfMemory].
func (c *Cache) Clone() (*Cache, error) {
	if err := c.lock(); err != nil {
		return nil, err
	}
	defer c.unlock()
	var ptr *C.lm_cache
	if err := check(C.lmgo_cache_clone(c.ptr, &ptr)); err != nil {
		return nil, err
	}
	return newCache(ptr), nil
}

// Batch returns the number of sequences.
func (c *Cache) Batch() int { return c.batch }

// DType returns the type in which the state is held, never DTypeDefault.
func (c *Cache) DType() DType { return c.dtype }

// SeqlenOffset returns the number of tokens since the beginning, of the sequence that has had most, and 0 once
// the cache is closed.
func (c *Cache) SeqlenOffset() uint64 {
	if c.lock() != nil {
		return 0
	}
	defer c.unlock()
	return uint64(C.lm_cache_seqlen_offset(c.ptr))
}

// Bytes returns the memory that the state takes, in bytes, and 0 once the cache is closed.
func (c *Cache) Bytes() int {
	if c.lock() != nil {
		return 0
	}
	defer c.unlock()
	return int(C.lm_cache_bytes(c.ptr))
}

// States describes every state: one for each branch, and "ssm_state".
func (c *Cache) States() ([]TensorInfo, error) {
	if err := c.lock(); err != nil {
		return nil, err
	}
	defer c.unlock()
	infos := make([]TensorInfo, C.lm_cache_num_states(c.ptr))
	for i := range infos {
		var info C.lm_tensor_info
		if err := check(C.lmgo_cache_state_info(c.ptr, C.size_t(i), &info)); err != nil {
			return nil, err
		}
		infos[i] = tensorInfo(&info)
	}
	return infos, nil
}

// GetState copies a state into dst, in the reference's layout: "ssm_state" of shape
// (batch, d_inner, d_state), or "conv_state.0", "conv_state.1", ... of shape
// (batch, d_inner, (d_conv - 1) * dilation + 1), oldest input first. The length of dst must be the state's
// number of values, the Count of [Cache.States].
//
// It fails with [ErrNotFound] for another name and [ErrShapeMismatch] for another length.
func (c *Cache) GetState(name string, dst []float32) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	raceWrite(dst)
	return check(C.lmgo_cache_get_state(c.ptr, cName, floats(dst), C.size_t(len(dst))))
}

// SetState replaces a state, in the layout of [Cache.GetState]. The number of tokens seen stays as it is.
// Branches that share one history (those of PTCN and DPWC all see the same input) share what is written:
// writing "conv_state.i" sets the last (d_conv - 1) * dilation + 1 inputs of that history, so write the
// longest one.
//
// It fails with [ErrNotFound] for another name and [ErrShapeMismatch] for another number of values.
func (c *Cache) SetState(name string, values []float32) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	raceRead(values)
	return check(C.lmgo_cache_set_state(c.ptr, cName, floats(values), C.size_t(len(values))))
}

// Save returns the state as bytes, from which [Layer.LoadCache] makes it again, in this process or another, on
// this machine or another, with this version of the library or a later one. The same state gives the same bytes.
func (c *Cache) Save() ([]byte, error) { return c.AppendBinary(nil) }

// AppendBinary is [Cache.Save] to the end of b, which grows only where it is too small: an [encoding.BinaryAppender].
func (c *Cache) AppendBinary(b []byte) ([]byte, error) {
	if err := c.lock(); err != nil {
		return b, err
	}
	defer c.unlock()
	var size C.size_t
	if err := check(C.lmgo_cache_save(c.ptr, nil, 0, &size)); err != nil {
		return b, err
	}
	grown := slices.Grow(b, int(size))
	saved := grown[len(b) : len(b)+int(size)]
	raceWrite(saved)
	if err := check(C.lmgo_cache_save(c.ptr, unsafe.Pointer(unsafe.SliceData(saved)), size, &size)); err != nil {
		return b, err
	}
	return grown[:len(b)+int(size)], nil
}

// WriteTo writes what [Cache.Save] returns to w, and returns its number of bytes: an [io.WriterTo]. The cache is free
// again before w is written to.
func (c *Cache) WriteTo(w io.Writer) (int64, error) {
	saved, err := c.Save()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(saved)
	return int64(n), err
}

// LoadCache creates a cache from what [Cache.Save] returned, exactly that, for a layer of the variant, shape and type
// that the cache was of. The data is not kept.
//
// It fails with [ErrFormat] for bytes that Save did not return, cut short or altered, with [ErrUnsupported] for
// those of a later version that this one cannot read, with [ErrShapeMismatch] for a layer of another variant, shape or
// type, or with [ErrOutOfMemory].
func (l *Layer) LoadCache(data []byte) (*Cache, error) {
	if err := l.rlock(); err != nil {
		return nil, err
	}
	defer l.runlock()
	raceRead(data)
	var ptr *C.lm_cache
	if err := check(C.lmgo_cache_load(l.ptr, unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data)), &ptr)); err != nil {
		return nil, err
	}
	return newCache(ptr), nil
}
