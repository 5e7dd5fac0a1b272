//! TYPES

use crate::cache::Cache;
use crate::error::ErrorKind;
use crate::inference::InferenceParams;
use crate::layer::{Device, DtInit, Layer, Math, Variant};
use crate::tensor::DType;

/// What a function returns: LM_OK or one of the LM_ERR_ codes of `enum lm_status_code`. An integer, so
/// that a code which a later version adds is an ordinary value too.
pub type lm_status = i32;

/// The values of lm_status.
#[repr(C)]
pub enum lm_status_code {
    /// Success.
    LM_OK = 0,
    /// A pointer is NULL that must not be.
    LM_ERR_NULL_POINTER = 1,
    /// A field of the configuration is out of its range, or contradicts another.
    LM_ERR_INVALID_CONFIG = 2,
    /// Another argument is out of its range.
    LM_ERR_INVALID_ARGUMENT = 3,
    /// Sizes do not fit together: a cache of another layer's shape or batch, a wrong number of values.
    LM_ERR_SHAPE_MISMATCH = 4,
    /// Valid, but not something this version or this build can do.
    LM_ERR_UNSUPPORTED = 5,
    /// No such parameter, state or tensor.
    LM_ERR_NOT_FOUND = 6,
    /// A file could not be opened, read or written.
    LM_ERR_IO = 7,
    /// A file's content is not what it must be.
    LM_ERR_FORMAT = 8,
    /// More memory was asked for than can be had.
    LM_ERR_OUT_OF_MEMORY = 9,
    /// The buffer given is too small for the result.
    LM_ERR_BUFFER_TOO_SMALL = 10,
    /// The GPU, its driver or its memory: missing, too old or out of it.
    LM_ERR_CUDA = 11,
    /// A bug of this library.
    LM_ERR_INTERNAL = 12,
}

/// lm_config.variant: how the dilated convolutions are combined into the input of the state space model.
#[repr(C)]
pub enum lm_variant {
    /// Parallel branches, mixed by softmax gates: the reference's `PTCNMamba` and `Mamba`. The default.
    LM_VARIANT_PTCN = 0,
    /// Stacked branches, each fed by the one before, no gates: `STCNMamba`.
    LM_VARIANT_STCN = 1,
    /// Parallel depthwise branches, each followed by a pointwise product, mixed by gates: `DPWCMamba`.
    LM_VARIANT_DPWC = 2,
    /// One convolution of dilation 1, the block of `state-spaces/mamba`: `BaselineMamba`.
    LM_VARIANT_BASELINE = 3,
}

/// Storage types. Arithmetic is in f32, for F64 in f64, whatever the type. A BF16 or F16 layer keeps its
/// matrices, convolutions and biases in that type, and `A_log`, `D` and `conv_gates` in F32, as the reference
/// does; an F64 layer keeps everything in F64.
#[repr(C)]
pub enum lm_dtype {
    /// Where a function allows it: the type that is natural there, as its description says.
    LM_DTYPE_DEFAULT = 0,
    /// IEEE 754 binary32.
    LM_DTYPE_F32 = 1,
    /// IEEE 754 binary64.
    LM_DTYPE_F64 = 2,
    /// The upper half of a binary32.
    LM_DTYPE_BF16 = 3,
    /// IEEE 754 binary16.
    LM_DTYPE_F16 = 4,
}

/// lm_config.device: where parameters, caches and arithmetic live.
#[repr(C)]
pub enum lm_device {
    /// The processor. The default.
    LM_DEVICE_CPU = 0,
    /// An NVIDIA GPU, number lm_config.device_index; see lm_cuda_available.
    LM_DEVICE_CUDA = 1,
}

/// lm_config.math: the arithmetic of matrix products on a GPU.
#[repr(C)]
pub enum lm_math {
    /// The storage type's own arithmetic: true f32 for F32. The default.
    LM_MATH_DEFAULT = 0,
    /// TF32 for F32 layers on CUDA; without effect elsewhere.
    LM_MATH_TF32 = 1,
}

/// lm_config.dt_init: how `dt_proj.weight` starts.
#[repr(C)]
pub enum lm_dt_init {
    /// Uniform between plus and minus dt_scale / sqrt(dt_rank). The default.
    LM_DT_INIT_RANDOM = 0,
    /// The constant dt_scale / sqrt(dt_rank).
    LM_DT_INIT_CONSTANT = 1,
}

/// A layer and its parameters. Made by lm_create, lm_load and lm_load_memory; freed by lm_destroy.
pub struct lm_layer {
    _opaque: [u8; 0],
}

/// The streaming state of a batch of sequences: what a layer remembers between calls. Made by
/// lm_alloc_cache and lm_cache_clone; freed by lm_free_cache.
pub struct lm_cache {
    _opaque: [u8; 0],
}

/// The caches of all layers of one model. Made by lm_inference_params_create; freed by
/// lm_inference_params_free.
pub struct lm_inference_params {
    _opaque: [u8; 0],
}

/// A layer's configuration: every argument of the reference's constructor under its name, and what this
/// library adds. Fill it with lm_config_init first, then set what differs from the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lm_config {
    /// sizeof(lm_config), set by lm_config_init.
    pub struct_size: usize,
    /// An LM_VARIANT_ value. Default: LM_VARIANT_PTCN.
    pub variant: u32,
    /// Storage type of the parameters, an LM_DTYPE_ value other than DEFAULT. Default: LM_DTYPE_F32.
    pub dtype: u32,
    /// Width of the input and the output, at least 1. There is no default: lm_config_init leaves 0.
    pub d_model: usize,
    /// States per channel, at least 1. Default: 16.
    pub d_state: usize,
    /// Taps of each convolution, at least 1. Default: 4.
    pub d_conv: usize,
    /// num_conv_dilations dilations, one for each branch, each at least 1. The array is read during the
    /// call only. LM_VARIANT_BASELINE takes one branch of dilation 1. Default: a static {1}.
    pub conv_dilations: *const usize,
    /// Number of branches, at least 1. Default: 1.
    pub num_conv_dilations: usize,
    /// The inner width d_inner is expand * d_model, truncated. Default: 2.
    pub expand: f64,
    /// Rank of the projection of the time step; 0 stands for ceil(d_model / 16). Default: 0.
    pub dt_rank: usize,
    /// Smallest initial time step, above 0. Default: 0.001.
    pub dt_min: f64,
    /// Largest initial time step, not below dt_min. Default: 0.1.
    pub dt_max: f64,
    /// Scale of the initial `dt_proj.weight`: finite, and not negative for LM_DT_INIT_RANDOM. Default: 1.
    pub dt_scale: f64,
    /// Lower bound of the initial time step, at least 0. Default: 0.0001.
    pub dt_init_floor: f64,
    /// An LM_DT_INIT_ value. Default: LM_DT_INIT_RANDOM.
    pub dt_init: u32,
    /// Whether the depthwise convolutions have a bias. Default: true.
    pub conv_bias: Flag,
    /// Whether `in_proj` and `out_proj` have a bias. Default: false.
    pub bias: Flag,
    /// Accepted for the reference's sake; without effect there and here. Default: false.
    pub use_fast_path: Flag,
    /// The layer's number in its model, for lm_forward_inference; -1 for none. Default: -1.
    pub layer_idx: i64,
    /// An LM_DEVICE_ value. Default: LM_DEVICE_CPU.
    pub device: u32,
    /// Which GPU. Default: 0.
    pub device_index: u32,
    /// An LM_MATH_ value. Default: LM_MATH_DEFAULT.
    pub math: u32,
    /// Seed of the initial values, as of `torch.manual_seed`: the low 32 bits count. Default: 0.
    pub seed: u64,
}

/// What there is to know of a parameter or a state. The caller sets nothing: struct_size is an argument of
/// the functions that fill it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lm_tensor_info {
    /// The size that the caller gave.
    pub struct_size: usize,
    /// The name, NUL-terminated.
    pub name: [std::ffi::c_char; 64],
    /// Type in which the values are held, an LM_DTYPE_ value other than DEFAULT.
    pub dtype: u32,
    /// Whether a training's weight decay applies; false for states.
    pub weight_decay: Flag,
    /// Number of dimensions, 1 to 4.
    pub ndim: usize,
    /// The ndim sizes, outermost first; 1 in the places behind them.
    pub shape: [usize; 4],
    /// Number of values: the product of shape.
    pub count: usize,
}

/// A C `bool`, of which only "0 or not" is believed: a Rust `bool` of any other value is undefined.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag(u8);

impl Flag {
    pub(super) fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Flag {
    fn from(value: bool) -> Self {
        Flag(value.into())
    }
}

/// An opaque C type, and the Rust object that a pointer to it points to.
pub(super) trait Handle {
    type Object;
}
impl Handle for lm_layer {
    type Object = Layer;
}
impl Handle for lm_cache {
    type Object = Cache;
}
impl Handle for lm_inference_params {
    type Object = InferenceParams;
}

/// A struct that begins with `struct_size` and may have grown since the caller was compiled.
///
/// # Safety
/// `Self` is `repr(C)`, begins with `struct_size: usize`, and any bytes make a valid value of it.
pub(super) unsafe trait Versioned: Copy {
    /// The sizes it has had, the present one included. A new field goes to the end and adds its size here;
    /// the struct must have no padding at its end, or that size would not change.
    const SIZES: &'static [usize];
}
// SAFETY: integers, floats, a pointer, and `Flag`s, each valid with any bytes.
unsafe impl Versioned for lm_config {
    const SIZES: &'static [usize] = &[size_of::<lm_config>()];
}
// SAFETY: as above.
unsafe impl Versioned for lm_tensor_info {
    const SIZES: &'static [usize] = &[size_of::<lm_tensor_info>()];
}

const _: () = {
    assert!(std::mem::offset_of!(lm_config, seed) + size_of::<u64>() == size_of::<lm_config>());
    assert!(std::mem::offset_of!(lm_tensor_info, count) + size_of::<usize>() == size_of::<lm_tensor_info>());
};

/// The constants of a C enum, from the numbers of the Rust one.
macro_rules! same_numbers {
    ($($c:ident::$name:ident = $rust:expr;)*) => {
        const _: () = { $(assert!($c::$name as u32 == $rust as u32);)* };
    };
}
same_numbers! {
    lm_status_code::LM_ERR_NULL_POINTER = ErrorKind::NullPointer;
    lm_status_code::LM_ERR_INVALID_CONFIG = ErrorKind::InvalidConfig;
    lm_status_code::LM_ERR_INVALID_ARGUMENT = ErrorKind::InvalidArgument;
    lm_status_code::LM_ERR_SHAPE_MISMATCH = ErrorKind::ShapeMismatch;
    lm_status_code::LM_ERR_UNSUPPORTED = ErrorKind::Unsupported;
    lm_status_code::LM_ERR_NOT_FOUND = ErrorKind::NotFound;
    lm_status_code::LM_ERR_IO = ErrorKind::Io;
    lm_status_code::LM_ERR_FORMAT = ErrorKind::Format;
    lm_status_code::LM_ERR_OUT_OF_MEMORY = ErrorKind::OutOfMemory;
    lm_status_code::LM_ERR_BUFFER_TOO_SMALL = ErrorKind::BufferTooSmall;
    lm_status_code::LM_ERR_CUDA = ErrorKind::Cuda;
    lm_status_code::LM_ERR_INTERNAL = ErrorKind::Internal;
    lm_variant::LM_VARIANT_PTCN = Variant::Ptcn;
    lm_variant::LM_VARIANT_STCN = Variant::Stcn;
    lm_variant::LM_VARIANT_DPWC = Variant::Dpwc;
    lm_variant::LM_VARIANT_BASELINE = Variant::Baseline;
    lm_dtype::LM_DTYPE_F32 = DType::F32;
    lm_dtype::LM_DTYPE_F64 = DType::F64;
    lm_dtype::LM_DTYPE_BF16 = DType::Bf16;
    lm_dtype::LM_DTYPE_F16 = DType::F16;
    lm_device::LM_DEVICE_CPU = Device::Cpu;
    lm_device::LM_DEVICE_CUDA = Device::Cuda;
    lm_math::LM_MATH_DEFAULT = Math::Default;
    lm_math::LM_MATH_TF32 = Math::Tf32;
    lm_dt_init::LM_DT_INIT_RANDOM = DtInit::Random;
    lm_dt_init::LM_DT_INIT_CONSTANT = DtInit::Constant;
}
