package litemamba

// #include "shim.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// A Layer is a lite-mamba layer with its parameters, made by [New], [Load] or [LoadBytes]. Any number of
// goroutines may use it at the same time. It must not be copied.
type Layer struct {
	// Calls hold mu for reading, what changes or frees the layer for writing.
	mu      sync.RWMutex
	ptr     *C.lm_layer // nil once closed
	cleanup runtime.Cleanup
	config  Config
	dInner  int
}

// New creates a layer with the initial values that config.Seed gives: those of PyTorch after
// torch.manual_seed.
//
// It fails with [ErrInvalidConfig], naming the field, with [ErrUnsupported] or [ErrCUDA] for a type or
// device that cannot be had here, or with [ErrOutOfMemory].
func New(config Config) (*Layer, error) {
	c, err := config.toC()
	if err != nil {
		return nil, err
	}
	var ptr *C.lm_layer
	if err := check(C.lmgo_create(c, sizes(config.ConvDilations), C.size_t(len(config.ConvDilations)), &ptr)); err != nil {
		return nil, err
	}
	return newLayer(ptr)
}

// Load creates a layer from a safetensors file.
//
// Tensors are named as in the reference's state dict, each after prefix, which may end in a dot or not and
// may be empty: "layers.0.mixer". The configuration is config if it is not nil, and is then checked
// against the shapes; else the file's metadata lite_mamba.config, which [Layer.Save] and the exporter for
// PyTorch write; with neither, only a [Baseline] layer loads, all its sizes taken from the shapes.
//
// It fails with [ErrIO] for a file that cannot be read, [ErrFormat] for one that is damaged, has an unknown
// tensor or two that contradict each other, [ErrNotFound] for a missing tensor or a prefix that no name
// begins with, [ErrShapeMismatch] for a tensor of another shape, [ErrUnsupported] for one of a type that
// cannot be converted, [ErrInvalidConfig] or [ErrOutOfMemory]. The message names the tensor.
func Load(path, prefix string, config *Config) (*Layer, error) {
	cPath, err := cString("path", path)
	if err != nil {
		return nil, err
	}
	return load(prefix, config, func(prefix *C.char, given C.bool, c C.lm_config, dilations []int, ptr **C.lm_layer) C.lmgo_result {
		return C.lmgo_load(cPath, prefix, given, c, sizes(dilations), C.size_t(len(dilations)), ptr)
	})
}

// LoadBytes is [Load] from a file's content, such as that of an embedded file. It is not kept.
func LoadBytes(data []byte, prefix string, config *Config) (*Layer, error) {
	raceRead(data)
	return load(prefix, config, func(prefix *C.char, given C.bool, c C.lm_config, dilations []int, ptr **C.lm_layer) C.lmgo_result {
		return C.lmgo_load_memory(unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data)),
			prefix, given, c, sizes(dilations), C.size_t(len(dilations)), ptr)
	})
}

func load(
	prefix string, config *Config,
	call func(prefix *C.char, given C.bool, c C.lm_config, dilations []int, ptr **C.lm_layer) C.lmgo_result,
) (*Layer, error) {
	var cPrefix *C.char // NULL is no prefix
	var c C.lm_config
	var dilations []int
	var err error
	if prefix != "" {
		if cPrefix, err = cString("prefix", prefix); err != nil {
			return nil, err
		}
	}
	if config != nil {
		if c, err = config.toC(); err != nil {
			return nil, err
		}
		dilations = config.ConvDilations
	}
	var ptr *C.lm_layer
	if err := check(call(cPrefix, config != nil, c, dilations, &ptr)); err != nil {
		return nil, err
	}
	return newLayer(ptr)
}

// newLayer takes ownership of ptr. What never changes is asked for once.
func newLayer(ptr *C.lm_layer) (*Layer, error) {
	var c C.lm_config
	if err := check(C.lmgo_get_config(ptr, &c)); err != nil {
		C.lm_destroy(ptr)
		return nil, err
	}
	l := &Layer{ptr: ptr, config: configFromC(&c), dInner: int(C.lm_d_inner(ptr))}
	l.cleanup = runtime.AddCleanup(l, func(ptr *C.lm_layer) { C.lm_destroy(ptr) }, ptr)
	return l, nil
}

// Close frees the layer, after the calls in progress on other goroutines. Its caches stay valid, for other
// layers of the same kind. It returns nil, however often it is called.
func (l *Layer) Close() error {
	l.mu.Lock()
	defer l.unlock()
	if l.ptr != nil {
		l.cleanup.Stop()
		C.lm_destroy(l.ptr)
		l.ptr = nil
	}
	return nil
}

// rlock is how every call begins that only reads the layer.
func (l *Layer) rlock() error {
	l.mu.RLock()
	if l.ptr == nil {
		l.mu.RUnlock()
		return errLayerClosed
	}
	return nil
}

// runlock keeps l reachable, and thus its cleanup from running, until the call is over.
func (l *Layer) runlock() {
	l.mu.RUnlock()
	runtime.KeepAlive(l)
}

// lock is how every call begins that changes the layer.
func (l *Layer) lock() error {
	l.mu.Lock()
	if l.ptr == nil {
		l.mu.Unlock()
		return errLayerClosed
	}
	return nil
}

func (l *Layer) unlock() {
	l.mu.Unlock()
	runtime.KeepAlive(l)
}

// Config returns what the layer was created with, resolved: DtRank is a number, never 0.
func (l *Layer) Config() Config { return l.config.clone() }

// DModel returns the width of the input and the output.
func (l *Layer) DModel() int { return l.config.DModel }

// DInner returns the layer's inner width: Expand * DModel, truncated.
func (l *Layer) DInner() int { return l.dInner }

// Forward computes the layer's output for every token of x.
//
// x and dst are (batch, seqlen, d_model). dst may be x itself; it may be longer, and what lies behind stays
// as it is. A batch or a seqlen of 0 is no error.
//
// cache is nil for sequences that begin here and are not continued. With a cache of this batch the sequences
// continue from its state, whatever seqlen is, and the state moves on by seqlen tokens.
//
// It fails with [ErrShapeMismatch] for a slice of the wrong length or a cache of another layer's shape, batch
// or device, with [ErrInvalidArgument] for a negative size or slices that overlap in part, or with
// [ErrOutOfMemory].
func (l *Layer) Forward(dst, x []float32, batch, seqlen int, cache *Cache) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	if err := checkTokens(dst, x, batch, seqlen, l.config.DModel); err != nil {
		return err
	}
	var state *C.lm_cache
	if cache != nil {
		if err := cache.lock(); err != nil {
			return err
		}
		defer cache.unlock()
		state = cache.ptr
	}
	return check(C.lmgo_forward(l.ptr, floats(x), C.size_t(batch), C.size_t(seqlen), state, floats(dst)))
}

// Step computes the next token of every sequence of the cache: [Layer.Forward] with the cache's batch and a
// seqlen of 1, to the bit. It allocates nothing, neither here nor, after the cache's first step, in C.
//
// x and dst are (batch, d_model), one token for each sequence. dst may be x itself, or longer.
func (l *Layer) Step(dst, x []float32, cache *Cache) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	if err := cache.lock(); err != nil {
		return err
	}
	defer cache.unlock()
	if err := checkTokens(dst, x, cache.batch, 1, l.config.DModel); err != nil {
		return err
	}
	return check(C.lmgo_step(l.ptr, floats(x), cache.ptr, floats(dst)))
}

// StepLanes computes the next token of those sequences of a cache that are due. The bits are those that
// [Layer.Step] gives these sequences; the others stay where they are.
//
// lanes are different numbers below the cache's batch, in any order. x and dst are (len(lanes), d_model), one
// token for each of them. dst may be x itself, or longer.
//
// It fails with [ErrInvalidArgument] for a lane that the cache does not have or that is there twice, and
// otherwise as Forward.
func (l *Layer) StepLanes(dst, x []float32, lanes []int, cache *Cache) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	if err := cache.lock(); err != nil {
		return err
	}
	defer cache.unlock()
	for i, lane := range lanes {
		if lane < 0 {
			return newError(ErrInvalidArgument, "lanes[%d] is %d; it must not be negative", i, lane)
		}
	}
	if n := len(lanes); len(x)%l.config.DModel != 0 || len(x)/l.config.DModel != n {
		return newError(ErrShapeMismatch, "x has %d values; it must have len(lanes) * d_model: %d * %d",
			len(x), n, l.config.DModel)
	}
	if err := checkOutput(dst, x); err != nil {
		return err
	}
	raceRead(lanes)
	return check(C.lmgo_step_lanes(l.ptr, floats(x), sizes(lanes), C.size_t(len(lanes)), cache.ptr, floats(dst)))
}

// ForwardInference is [Layer.Forward] with the cache that params holds for the layer's LayerIdx, made by its
// first call.
//
// The layer must have a LayerIdx of its own in the model, and batch must be that of params. It fails with
// [ErrInvalidArgument] for a layer without one, or with one that another layer has used here, with
// [ErrShapeMismatch] for another batch, and otherwise as Forward.
func (l *Layer) ForwardInference(dst, x []float32, batch, seqlen int, params *InferenceParams) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	if err := params.lock(); err != nil {
		return err
	}
	defer params.unlock()
	if err := checkTokens(dst, x, batch, seqlen, l.config.DModel); err != nil {
		return err
	}
	return check(C.lmgo_forward_inference(l.ptr, floats(x), C.size_t(batch), C.size_t(seqlen), params.ptr, floats(dst)))
}

// ForwardVarlen computes sequences of different lengths, packed one after the other without padding: [Layer.Forward]
// of each, to the bit, in one call.
//
// x and dst are (total, d_model), where total is the last of cuSeqlens; dst may be x itself, and may be longer.
// cuSeqlens has one number more than there are sequences, the first 0 and none less than the one before: sequence
// i has the tokens cuSeqlens[i] to cuSeqlens[i+1], that one excluded. A sequence may be empty. No numbers at all are no
// sequences.
//
// cache is nil for sequences that begin here and are not continued. With a cache whose batch is the number of
// sequences, sequence i continues its sequence i, which moves on by as many tokens.
//
// It fails with [ErrInvalidArgument] for other numbers in cuSeqlens, and as [Layer.Forward].
func (l *Layer) ForwardVarlen(dst, x []float32, cuSeqlens []int, cache *Cache) error {
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	total, err := packedTotal(cuSeqlens)
	if err != nil {
		return err
	}
	if dModel := l.config.DModel; len(x)%dModel != 0 || len(x)/dModel != total {
		return newError(ErrShapeMismatch, "x has %d values; it must have cuSeqlens[%d] * d_model: %d * %d",
			len(x), max(len(cuSeqlens), 1)-1, total, dModel)
	}
	if err := checkOutput(dst, x); err != nil {
		return err
	}
	raceRead(cuSeqlens)
	var state *C.lm_cache
	if cache != nil {
		if err := cache.lock(); err != nil {
			return err
		}
		defer cache.unlock()
		state = cache.ptr
	}
	return check(C.lmgo_forward_varlen(l.ptr, floats(x), sizes(cuSeqlens), C.size_t(max(len(cuSeqlens), 1)-1),
		state, floats(dst)))
}

// packedTotal is the last of cuSeqlens. That none is less than the one before is left to the library, which looks at
// nothing where there are no sequences.
func packedTotal(cuSeqlens []int) (int, error) {
	if len(cuSeqlens) == 0 {
		return 0, nil
	}
	if cuSeqlens[0] != 0 {
		return 0, newError(ErrInvalidArgument, "cuSeqlens[0] is %d; it must be 0", cuSeqlens[0])
	}
	for i, n := range cuSeqlens {
		if n < 0 {
			return 0, newError(ErrInvalidArgument, "cuSeqlens[%d] is %d; it must not be negative", i, n)
		}
	}
	return cuSeqlens[len(cuSeqlens)-1], nil
}

// Parameters describes every parameter. Names, shapes and order are those of the reference's state dict; of
// two names for one tensor (conv1d.weight is branch 0's) only one is listed, and every method accepts both.
func (l *Layer) Parameters() ([]TensorInfo, error) {
	if err := l.rlock(); err != nil {
		return nil, err
	}
	defer l.runlock()
	infos := make([]TensorInfo, C.lm_num_parameters(l.ptr))
	for i := range infos {
		var info C.lm_tensor_info
		if err := check(C.lmgo_parameter_info(l.ptr, C.size_t(i), &info)); err != nil {
			return nil, err
		}
		infos[i] = tensorInfo(&info)
	}
	return infos, nil
}

// FindParameter describes the parameter of that name, or that other name.
//
// It fails with [ErrNotFound] for another one.
func (l *Layer) FindParameter(name string) (TensorInfo, error) {
	cName, err := cString("name", name)
	if err != nil {
		return TensorInfo{}, err
	}
	if err := l.rlock(); err != nil {
		return TensorInfo{}, err
	}
	defer l.runlock()
	var info C.lm_tensor_info
	if err := check(C.lmgo_find_parameter(l.ptr, cName, &info)); err != nil {
		return TensorInfo{}, err
	}
	return tensorInfo(&info), nil
}

// GetParameter copies a parameter into dst, whose length must be the parameter's number of values.
//
// It fails with [ErrNotFound] for another name and [ErrShapeMismatch] for another length.
func (l *Layer) GetParameter(name string, dst []float32) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	raceWrite(dst)
	return check(C.lmgo_get_parameter(l.ptr, cName, floats(dst), C.size_t(len(dst))))
}

// SetParameter replaces a parameter. It waits for the calls in progress on other goroutines; caches stay as
// they are.
//
// It fails with [ErrNotFound] for another name, [ErrShapeMismatch] for another number of values and
// [ErrOutOfMemory].
func (l *Layer) SetParameter(name string, values []float32) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := l.lock(); err != nil {
		return err
	}
	defer l.unlock()
	raceRead(values)
	return check(C.lmgo_set_parameter(l.ptr, cName, floats(values), C.size_t(len(values))))
}

// GetParameterTyped copies a parameter into dst in a type of the caller's choice and in the machine's byte
// order: every value exactly where the type can hold it, as F64 always can, else rounded to nearest.
// [DTypeDefault] is the parameter's own type. The length of dst must be the size of the values in that type.
//
// It fails with [ErrNotFound] for another name, [ErrShapeMismatch] for another length, [ErrInvalidArgument]
// for no DType and [ErrOutOfMemory].
func (l *Layer) GetParameterTyped(name string, dtype DType, dst []byte) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	raceWrite(dst)
	return check(C.lmgo_get_parameter_typed(l.ptr, cName, C.uint32_t(dtype),
		unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst))))
}

// SetParameterTyped replaces a parameter with values of a type of the caller's choice, in the machine's byte
// order: every value exactly where the layer's type can hold it, else rounded to nearest. It waits and fails
// as [Layer.SetParameter], and with [ErrInvalidArgument] for no DType.
func (l *Layer) SetParameterTyped(name string, dtype DType, values []byte) error {
	cName, err := cString("name", name)
	if err != nil {
		return err
	}
	if err := l.lock(); err != nil {
		return err
	}
	defer l.unlock()
	raceRead(values)
	return check(C.lmgo_set_parameter_typed(l.ptr, cName, C.uint32_t(dtype),
		unsafe.Pointer(unsafe.SliceData(values)), C.size_t(len(values))))
}

// GetParameterFloat64 is [Layer.GetParameter] of every value exactly, whatever the parameter's type. It fails with
// [ErrOutOfMemory] too.
func (l *Layer) GetParameterFloat64(name string, dst []float64) error {
	return l.GetParameterTyped(name, F64, bytesOf(dst))
}

// SetParameterFloat64 is [Layer.SetParameter] with values that are exact where the parameter's type can hold them,
// else rounded to nearest.
func (l *Layer) SetParameterFloat64(name string, values []float64) error {
	return l.SetParameterTyped(name, F64, bytesOf(values))
}

// bytesOf is the memory of a slice.
func bytesOf(s []float64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), 8*len(s))
}

// Save writes the layer to a safetensors file that [Load] and the reference's load_state_dict read, its
// configuration in the metadata lite_mamba.config. An existing file is replaced.
//
// It fails with [ErrIO] when the file cannot be written.
func (l *Layer) Save(path string) error {
	cPath, err := cString("path", path)
	if err != nil {
		return err
	}
	if err := l.rlock(); err != nil {
		return err
	}
	defer l.runlock()
	return check(C.lmgo_save(l.ptr, cPath))
}
