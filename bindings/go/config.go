package litemamba

// #include "shim.h"
import "C"

import (
	"fmt"
	"math"
	"slices"
	"unsafe"
)

// A Variant says how the dilated convolutions are combined into the input of the state space model.
type Variant uint32

// The variants, each the name of a class of the reference, the Python package lite-mamba.
const (
	PTCN     Variant = 0 // Parallel branches, mixed by softmax gates: PTCNMamba and Mamba.
	STCN     Variant = 1 // Stacked branches, each fed by the one before, no gates: STCNMamba.
	DPWC     Variant = 2 // Parallel depthwise branches, each followed by a pointwise product, mixed by gates: DPWCMamba.
	Baseline Variant = 3 // One convolution of dilation 1, the block of state-spaces/mamba: BaselineMamba.
)

// String returns the variant's name, such as "PTCN".
func (v Variant) String() string { return enumName("Variant", v, "PTCN", "STCN", "DPWC", "Baseline") }

// A DType is a storage type. Arithmetic is in float32, for F64 in float64, whatever the type. A BF16 or F16 layer keeps
// its matrices, convolutions and biases in that type, and A_log, D and conv_gates in F32, as the reference does; an F64
// layer keeps everything in F64.
type DType uint32

// The storage types.
const (
	DTypeDefault DType = 0 // Where a function allows it: the type that is natural there, as its description says.
	F32          DType = 1 // IEEE 754 binary32.
	F64          DType = 2 // IEEE 754 binary64.
	BF16         DType = 3 // The upper half of a binary32.
	F16          DType = 4 // IEEE 754 binary16.
)

// String returns the type's name, such as "F32".
func (t DType) String() string { return enumName("DType", t, "Default", "F32", "F64", "BF16", "F16") }

// Size returns how many bytes a value of the type takes, 0 for [DTypeDefault] and for no DType.
func (t DType) Size() int {
	switch t {
	case F32:
		return 4
	case F64:
		return 8
	case BF16, F16:
		return 2
	}
	return 0
}

// A Device is where parameters, caches and arithmetic live.
type Device uint32

// The devices.
const (
	CPU  Device = 0 // The processor.
	CUDA Device = 1 // An NVIDIA GPU, number Config.DeviceIndex; see [CUDAAvailable].
)

// String returns the device's name, such as "CPU".
func (d Device) String() string { return enumName("Device", d, "CPU", "CUDA") }

// A Math is the arithmetic of matrix products on a GPU.
type Math uint32

// The kinds of arithmetic.
const (
	MathDefault Math = 0 // The storage type's own arithmetic: true f32 for F32.
	MathTF32    Math = 1 // TF32 for F32 layers on CUDA; without effect elsewhere.
)

// String returns the arithmetic's name, such as "TF32".
func (m Math) String() string { return enumName("Math", m, "Default", "TF32") }

// A DtInit says how dt_proj.weight starts.
type DtInit uint32

// The ways to start.
const (
	DtInitRandom   DtInit = 0 // Uniform between plus and minus dt_scale / sqrt(dt_rank).
	DtInitConstant DtInit = 1 // The constant dt_scale / sqrt(dt_rank).
)

// String returns the way's name, such as "Random".
func (d DtInit) String() string { return enumName("DtInit", d, "Random", "Constant") }

func enumName[T ~uint32](kind string, value T, names ...string) string {
	if int64(value) < int64(len(names)) {
		return names[value]
	}
	return fmt.Sprintf("%s(%d)", kind, uint32(value))
}

// A Config is a layer's configuration: every argument of the reference's constructor under its name, and
// what this library adds. Begin with [NewConfig] and set what differs from the defaults. A Config that was
// begun otherwise is refused rather than completed, since for some fields the zero value means something.
type Config struct {
	Variant       Variant // Default: PTCN.
	DModel        int     // Width of the input and the output, at least 1. There is no default.
	DState        int     // States per channel, at least 1. Default: 16.
	DConv         int     // Taps of each convolution, at least 1. Default: 4.
	ConvDilations []int   // One dilation for each branch, each at least 1; Baseline takes {1} only. Default: {1}.
	Expand        float64 // The inner width d_inner is Expand * DModel, truncated. Default: 2.
	DtRank        int     // Rank of the projection of the time step; 0 stands for ceil(DModel / 16). Default: 0.
	DtMin         float64 // Smallest initial time step, above 0. Default: 0.001.
	DtMax         float64 // Largest initial time step, not below DtMin. Default: 0.1.
	DtInit        DtInit  // How dt_proj.weight starts. Default: DtInitRandom.
	DtScale       float64 // Scale of the initial dt_proj.weight: finite, and not negative for DtInitRandom. Default: 1.
	DtInitFloor   float64 // Lower bound of the initial time step, at least 0. Default: 0.0001.
	ConvBias      bool    // Whether the depthwise convolutions have a bias. Default: true.
	Bias          bool    // Whether in_proj and out_proj have a bias. Default: false.
	UseFastPath   bool    // Accepted for the reference's sake; without effect there and here. Default: false.
	LayerIdx      int     // The layer's number in its model, for [Layer.ForwardInference]; -1 for none. Default: -1.
	DType         DType   // Storage type of the parameters, other than DTypeDefault. Default: F32.
	Device        Device  // Default: CPU.
	DeviceIndex   int     // Which GPU. Default: 0.
	Math          Math    // Arithmetic on a GPU. Default: MathDefault.
	Seed          uint64  // Seed of the initial values, as of torch.manual_seed: the low 32 bits count. Default: 0.
}

// NewConfig returns the reference's defaults for a layer of that variant and width.
func NewConfig(variant Variant, dModel int) Config {
	var c C.lm_config
	// This fails only for a library that does not know this struct; then so does New, with the same words.
	var config Config
	if check(C.lmgo_config_init(&c)) == nil {
		config = configFromC(&c)
	}
	config.Variant = variant
	config.DModel = dModel
	return config
}

// configFromC copies everything, the dilations included, which are borrowed.
func configFromC(c *C.lm_config) Config {
	var dilations []int
	for _, dilation := range unsafe.Slice(c.conv_dilations, c.num_conv_dilations) {
		dilations = append(dilations, int(dilation))
	}
	return Config{
		Variant:       Variant(c.variant),
		DModel:        int(c.d_model),
		DState:        int(c.d_state),
		DConv:         int(c.d_conv),
		ConvDilations: dilations,
		Expand:        float64(c.expand),
		DtRank:        int(c.dt_rank),
		DtMin:         float64(c.dt_min),
		DtMax:         float64(c.dt_max),
		DtInit:        DtInit(c.dt_init),
		DtScale:       float64(c.dt_scale),
		DtInitFloor:   float64(c.dt_init_floor),
		ConvBias:      bool(c.conv_bias),
		Bias:          bool(c.bias),
		UseFastPath:   bool(c.use_fast_path),
		LayerIdx:      int(c.layer_idx),
		DType:         DType(c.dtype),
		Device:        Device(c.device),
		DeviceIndex:   int(c.device_index),
		Math:          Math(c.math),
		Seed:          uint64(c.seed),
	}
}

// toC gives everything but the dilations, which cross as an argument of their own.
func (config *Config) toC() (C.lm_config, error) {
	var c C.lm_config
	if err := check(C.lmgo_config_init(&c)); err != nil {
		return c, err
	}
	for _, size := range []struct {
		name  string
		value int
	}{
		{"d_model", config.DModel},
		{"d_state", config.DState},
		{"d_conv", config.DConv},
		{"dt_rank", config.DtRank},
		{"device_index", config.DeviceIndex},
	} {
		if size.value < 0 {
			return c, newError(ErrInvalidConfig, "%s is %d; it must not be negative", size.name, size.value)
		}
	}
	for i, dilation := range config.ConvDilations {
		if dilation < 0 {
			return c, newError(ErrInvalidConfig, "conv_dilations[%d] is %d; every dilation must be at least 1", i, dilation)
		}
	}
	if uint64(config.DeviceIndex) > math.MaxUint32 {
		return c, newError(ErrInvalidConfig, "device_index is %d; it must fit 32 bits", config.DeviceIndex)
	}
	c.variant = C.uint32_t(config.Variant)
	c.dtype = C.uint32_t(config.DType)
	c.d_model = C.size_t(config.DModel)
	c.d_state = C.size_t(config.DState)
	c.d_conv = C.size_t(config.DConv)
	c.expand = C.double(config.Expand)
	c.dt_rank = C.size_t(config.DtRank)
	c.dt_min = C.double(config.DtMin)
	c.dt_max = C.double(config.DtMax)
	c.dt_scale = C.double(config.DtScale)
	c.dt_init_floor = C.double(config.DtInitFloor)
	c.dt_init = C.uint32_t(config.DtInit)
	c.conv_bias = C.bool(config.ConvBias)
	c.bias = C.bool(config.Bias)
	c.use_fast_path = C.bool(config.UseFastPath)
	c.layer_idx = C.int64_t(config.LayerIdx)
	c.device = C.uint32_t(config.Device)
	c.device_index = C.uint32_t(config.DeviceIndex)
	c.math = C.uint32_t(config.Math)
	c.seed = C.uint64_t(config.Seed)
	return c, nil
}

func (config Config) clone() Config {
	config.ConvDilations = slices.Clone(config.ConvDilations)
	return config
}
