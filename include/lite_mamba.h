/*
 * lite-mamba: the lite-mamba layer, a selective state space (Mamba) block whose causal convolution is
 * replaced by several dilated ones. "The reference" below is the Python package lite-mamba 0.2.6, whose
 * PyTorch layers this library computes and whose weights it reads.
 *
 * SPDX-License-Identifier: Apache-2.0
 * Generated from src/ffi by cbindgen: `make header`. Do not edit.
 *
 * EXAMPLE
 *
 *     lm_config config;
 *     lm_config_init(&config, sizeof config);         // the reference's defaults
 *     config.d_model = 64;
 *
 *     lm_layer *layer = NULL;
 *     if (lm_create(&config, &layer) != LM_OK) {
 *         fprintf(stderr, "%s\n", lm_last_error());
 *         return 1;
 *     }
 *     lm_forward(layer, x, batch, seqlen, NULL, y);   // x and y: batch * seqlen * 64 floats
 *     lm_destroy(layer);
 *
 * ERRORS
 *
 * Every function that can fail returns an lm_status: LM_OK, which is 0, or an LM_ERR_ code. Outputs come
 * last, through pointers. A call that fails for its arguments or for want of a resource, all of which are
 * checked before work starts, changes nothing that the caller can see: no output is half-written, no
 * cache advanced, no handle stored. The one exception is LM_ERR_INTERNAL, a bug of this library: what the
 * call was to write is then undefined, and the cache it used refuses all further use until
 * lm_cache_reset.
 *
 * lm_last_error() is the calling thread's last message: one sentence that names the argument, what it was
 * and what it must be. It stays valid until that thread's next call into this library. Functions that
 * return a value instead of a status return 0 or NULL on failure and leave a message too. A call that
 * succeeds leaves the message as it was, so look at it only after a failure.
 *
 * ARGUMENTS
 *
 * A pointer must not be NULL unless its description says so or the number of elements behind it is 0;
 * every other NULL is LM_ERR_NULL_POINTER. Sizes are checked for overflow, enumerated values (which cross
 * as uint32_t) for their range, pointers to numbers for their alignment. The functions that free do
 * nothing with NULL. A handle must be one that this library gave and that has not been freed; this cannot
 * be checked. Text, paths included, is NUL-terminated UTF-8.
 *
 * Tensors are contiguous and row-major: (batch, seqlen, d_model) means that the last index varies
 * fastest. (Those of the functions in _dlpack say themselves how they lie.) A batch or a seqlen of 0 is no
 * error: the call returns LM_OK, reads and writes nothing, and leaves the state as it was. NaN and infinity
 * in an input are no error either; they flow through as IEEE 754 says, in the lane of the batch that they
 * belong to and in no other.
 *
 * x and y of one call may be the same buffer, which is then overwritten with the result. Buffers that
 * overlap in part are LM_ERR_INVALID_ARGUMENT. No other two pointers of a call may overlap.
 *
 * A size that needs more memory than the machine has is LM_ERR_OUT_OF_MEMORY.
 *
 * STRUCTS AND VERSIONS
 *
 * Structs that cross begin with struct_size, the sizeof the caller compiled with. A later version may add
 * fields at their end: this library accepts the sizes of earlier versions, taking the defaults for what
 * they lack, and writes no more bytes than the caller has. Any other size, 0 included, is an error.
 * Status codes and enumerated values are never renumbered; later versions may add to them.
 * lm_abi_version() is LM_ABI_VERSION of the library that was loaded: compare them when in doubt.
 *
 * OWNERSHIP
 *
 * Whoever asks for a handle frees it, with the function that its creator names. Handles may be freed in
 * any order: a cache does not need its layer to live. Every handle may be freed from any thread. What is
 * called borrowed belongs to the handle that it came from, and ends with it.
 *
 * THREADS
 *
 * A `const` handle is only read: any number of threads may use one lm_layer through functions that take
 * `const lm_layer *` at the same time. A handle that is not `const` must be used by one thread at a time,
 * with no other use of it meanwhile, `const` or not; so a cache belongs to one thread at a time. Which
 * thread it is does not matter: nothing but lm_last_error and lm_build_info is tied to a thread. Different
 * handles are independent.
 *
 * BITS
 *
 * On one instruction set, a token gives the same bits in a step, in a chunk, in a prefill, among sequences of
 * other lengths, in any lane of a batch and with any number of threads, given the same history: this holds
 * for layers of every storage type whose state is held in the type of their arithmetic, LM_DTYPE_DEFAULT.
 * Different instruction sets differ in rounding; lm_build_info says which one is in use.
 *
 * FLOATING-POINT ENVIRONMENT
 *
 * The library computes in the default environment (round to nearest, denormals kept, exceptions masked)
 * whatever the caller's is, and restores the caller's before it returns: an audio host's flush-to-zero
 * neither changes a result nor gets lost.
 *
 * PROCESSES
 *
 * fork: a child computes on threads of its own, started at need, and may use the handles it inherits. As
 * always after fork, this holds only if no other thread of the parent was inside a call at that moment.
 *
 * dlclose: the library stays mapped (on Linux it is linked with -z nodelete), because its threads live on;
 * loading it again finds it as it was.
 *
 * Environment variables, read at first need: LITE_MAMBA_NUM_THREADS is the number of threads until
 * lm_set_num_threads is called; LITE_MAMBA_ISA names an instruction set to use instead of the fastest one
 * (portable, avx2, avx512, avx512bf16, amx, neon), and is ignored if the processor lacks it.
 *
 * Nothing is printed, no signal handler is installed and no C++ exception or Rust panic leaves a
 * function. (A bug of this library, LM_ERR_INTERNAL, does print its place in the source to stderr.)
 */
#ifndef LITE_MAMBA_H
#define LITE_MAMBA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * DLPACK'S STRUCTS
 *
 * Where <dlpack/dlpack.h> was included before this header, or the compiler finds it, DLTensor is the standard's.
 * Else it is declared here, from the specification of DLPack 1.1 and with all its names; a copy of the
 * standard's header that is included later (from another place, such as <ATen/dlpack.h>) is then passed over.
 * A program that needs what later versions have added includes that copy before this header.
 */
#if !defined(DLPACK_DLPACK_H_) && defined(__has_include)
#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#endif
#endif

#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_

#define DLPACK_MAJOR_VERSION 1
#define DLPACK_MINOR_VERSION 1

#ifdef __cplusplus
#define DLPACK_EXTERN_C extern "C"
#else
#define DLPACK_EXTERN_C
#endif

#if !defined(_WIN32)
#define DLPACK_DLL
#elif defined(DLPACK_EXPORTS)
#define DLPACK_DLL __declspec(dllexport)
#else
#define DLPACK_DLL __declspec(dllimport)
#endif

/* DLManagedTensorVersioned.flags: the memory must not be written; it is a copy, the receiver's alone; each number
 * of fewer than 8 bits has bytes of its own. */
#define DLPACK_FLAG_BITMASK_READ_ONLY (1UL << 0UL)
#define DLPACK_FLAG_BITMASK_IS_COPIED (1UL << 1UL)
#define DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED (1UL << 2UL)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint32_t major;
  uint32_t minor;
} DLPackVersion;

/* Whose memory it is. */
#ifdef __cplusplus
typedef enum : int32_t {
#else
typedef enum {
#endif
  kDLCPU = 1,
  kDLCUDA = 2,
  kDLCUDAHost = 3, /* page-locked memory of the CPU */
  kDLOpenCL = 4,
  kDLVulkan = 7,
  kDLMetal = 8,
  kDLVPI = 9,
  kDLROCM = 10,
  kDLROCMHost = 11,
  kDLExtDev = 12,
  kDLCUDAManaged = 13,
  kDLOneAPI = 14,
  kDLWebGPU = 15,
  kDLHexagon = 16,
  kDLMAIA = 17,
  kDLTrn = 18
} DLDeviceType;

typedef struct {
  DLDeviceType device_type;
  int32_t device_id; /* which of them; 0 for the CPU */
} DLDevice;

/* DLDataType.code. */
typedef enum {
  kDLInt = 0U,
  kDLUInt = 1U,
  kDLFloat = 2U, /* of IEEE 754: with 16 bits F16, with 32 F32, with 64 F64 */
  kDLOpaqueHandle = 3U,
  kDLBfloat = 4U, /* with 16 bits BF16 */
  kDLComplex = 5U,
  kDLBool = 6U,
  kDLFloat8_e3m4 = 7U,
  kDLFloat8_e4m3 = 8U,
  kDLFloat8_e4m3b11fnuz = 9U,
  kDLFloat8_e4m3fn = 10U,
  kDLFloat8_e4m3fnuz = 11U,
  kDLFloat8_e5m2 = 12U,
  kDLFloat8_e5m2fnuz = 13U,
  kDLFloat8_e8m0fnu = 14U,
  kDLFloat6_e2m3fn = 15U,
  kDLFloat6_e3m2fn = 16U,
  kDLFloat4_e2m1fn = 17U
} DLDataTypeCode;

typedef struct {
  uint8_t code;   /* a DLDataTypeCode */
  uint8_t bits;   /* of one number */
  uint16_t lanes; /* numbers in an element: 1 where it is no vector */
} DLDataType;

/* A tensor in somebody's memory. */
typedef struct {
  void *data; /* the first element lies byte_offset behind it */
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;   /* ndim sides */
  int64_t *strides; /* elements, not bytes, from one to the next along each side; NULL: row-major without gaps */
  uint64_t byte_offset;
} DLTensor;

/* How libraries hand tensors to each other: whoever receives one calls the deleter, unless it is NULL, when done
 * with it. lm_ functions take the DLTensor inside, and leave the rest to the caller. */
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx; /* the deleter's own */
  void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

/* The same since DLPack 1.0. Of another major version only the deleter may be used. */
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags; /* DLPACK_FLAG_BITMASK_ */
  DLTensor dl_tensor;
};
typedef struct DLManagedTensorVersioned DLManagedTensorVersioned;

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* DLPACK_DLPACK_H_ */

/* The version of this header. */
#define LM_VERSION_MAJOR 0
#define LM_VERSION_MINOR 1
#define LM_VERSION_PATCH 0
#define LM_VERSION "0.1.0"

/* Marks every function. Define LM_STATIC to link the static library on Windows. */
#ifndef LM_API
#if defined(_WIN32) && !defined(LM_STATIC)
#define LM_API __declspec(dllimport)
#elif defined(__GNUC__)
#define LM_API __attribute__((visibility("default")))
#else
#define LM_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif


/*
 * TYPES
 */

/// The values of lm_status.
typedef enum lm_status_code {
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
} lm_status_code;

/// lm_config.variant: how the dilated convolutions are combined into the input of the state space model.
typedef enum lm_variant {
  /// Parallel branches, mixed by softmax gates: the reference's `PTCNMamba` and `Mamba`. The default.
  LM_VARIANT_PTCN = 0,
  /// Stacked branches, each fed by the one before, no gates: `STCNMamba`.
  LM_VARIANT_STCN = 1,
  /// Parallel depthwise branches, each followed by a pointwise product, mixed by gates: `DPWCMamba`.
  LM_VARIANT_DPWC = 2,
  /// One convolution of dilation 1, the block of `state-spaces/mamba`: `BaselineMamba`.
  LM_VARIANT_BASELINE = 3,
} lm_variant;

/// Storage types. Arithmetic is in f32, for F64 in f64, whatever the type. A BF16 or F16 layer keeps its
/// matrices, convolutions and biases in that type, and `A_log`, `D` and `conv_gates` in F32, as the reference
/// does; an F64 layer keeps everything in F64.
typedef enum lm_dtype {
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
} lm_dtype;

/// lm_config.device: where parameters, caches and arithmetic live.
typedef enum lm_device {
  /// The processor. The default.
  LM_DEVICE_CPU = 0,
  /// An NVIDIA GPU, number lm_config.device_index; see lm_cuda_available.
  LM_DEVICE_CUDA = 1,
} lm_device;

/// lm_config.math: the arithmetic of matrix products on a GPU.
typedef enum lm_math {
  /// The storage type's own arithmetic: true f32 for F32. The default.
  LM_MATH_DEFAULT = 0,
  /// TF32 for F32 layers on CUDA; without effect elsewhere.
  LM_MATH_TF32 = 1,
} lm_math;

/// lm_config.dt_init: how `dt_proj.weight` starts.
typedef enum lm_dt_init {
  /// Uniform between plus and minus dt_scale / sqrt(dt_rank). The default.
  LM_DT_INIT_RANDOM = 0,
  /// The constant dt_scale / sqrt(dt_rank).
  LM_DT_INIT_CONSTANT = 1,
} lm_dt_init;

/// The streaming state of a batch of sequences: what a layer remembers between calls. Made by
/// lm_alloc_cache and lm_cache_clone; freed by lm_free_cache.
typedef struct lm_cache lm_cache;

/// The caches of all layers of one model. Made by lm_inference_params_create; freed by
/// lm_inference_params_free.
typedef struct lm_inference_params lm_inference_params;

/// A layer and its parameters. Made by lm_create, lm_load and lm_load_memory; freed by lm_destroy.
typedef struct lm_layer lm_layer;

/// What a function returns: LM_OK or one of the LM_ERR_ codes of `enum lm_status_code`. An integer, so
/// that a code which a later version adds is an ordinary value too.
typedef int32_t lm_status;

/// A layer's configuration: every argument of the reference's constructor under its name, and what this
/// library adds. Fill it with lm_config_init first, then set what differs from the defaults.
typedef struct lm_config {
  /// sizeof(lm_config), set by lm_config_init.
  size_t struct_size;
  /// An LM_VARIANT_ value. Default: LM_VARIANT_PTCN.
  uint32_t variant;
  /// Storage type of the parameters, an LM_DTYPE_ value other than DEFAULT. Default: LM_DTYPE_F32.
  uint32_t dtype;
  /// Width of the input and the output, at least 1. There is no default: lm_config_init leaves 0.
  size_t d_model;
  /// States per channel, at least 1. Default: 16.
  size_t d_state;
  /// Taps of each convolution, at least 1. Default: 4.
  size_t d_conv;
  /// num_conv_dilations dilations, one for each branch, each at least 1. The array is read during the
  /// call only. LM_VARIANT_BASELINE takes one branch of dilation 1. Default: a static {1}.
  const size_t *conv_dilations;
  /// Number of branches, at least 1. Default: 1.
  size_t num_conv_dilations;
  /// The inner width d_inner is expand * d_model, truncated. Default: 2.
  double expand;
  /// Rank of the projection of the time step; 0 stands for ceil(d_model / 16). Default: 0.
  size_t dt_rank;
  /// Smallest initial time step, above 0. Default: 0.001.
  double dt_min;
  /// Largest initial time step, not below dt_min. Default: 0.1.
  double dt_max;
  /// Scale of the initial `dt_proj.weight`: finite, and not negative for LM_DT_INIT_RANDOM. Default: 1.
  double dt_scale;
  /// Lower bound of the initial time step, at least 0. Default: 0.0001.
  double dt_init_floor;
  /// An LM_DT_INIT_ value. Default: LM_DT_INIT_RANDOM.
  uint32_t dt_init;
  /// Whether the depthwise convolutions have a bias. Default: true.
  bool conv_bias;
  /// Whether `in_proj` and `out_proj` have a bias. Default: false.
  bool bias;
  /// Accepted for the reference's sake; without effect there and here. Default: false.
  bool use_fast_path;
  /// The layer's number in its model, for lm_forward_inference; -1 for none. Default: -1.
  int64_t layer_idx;
  /// An LM_DEVICE_ value. Default: LM_DEVICE_CPU.
  uint32_t device;
  /// Which GPU. Default: 0.
  uint32_t device_index;
  /// An LM_MATH_ value. Default: LM_MATH_DEFAULT.
  uint32_t math;
  /// Seed of the initial values, as of `torch.manual_seed`: the low 32 bits count. Default: 0.
  uint64_t seed;
} lm_config;

/// What there is to know of a parameter or a state. The caller sets nothing: struct_size is an argument of
/// the functions that fill it.
typedef struct lm_tensor_info {
  /// The size that the caller gave.
  size_t struct_size;
  /// The name, NUL-terminated.
  char name[64];
  /// Type in which the values are held, an LM_DTYPE_ value other than DEFAULT.
  uint32_t dtype;
  /// Whether a training's weight decay applies; false for states.
  bool weight_decay;
  /// Number of dimensions, 1 to 4.
  size_t ndim;
  /// The ndim sizes, outermost first; 1 in the places behind them.
  size_t shape[4];
  /// Number of values: the product of shape.
  size_t count;
} lm_tensor_info;


/*
 * LIBRARY
 */

/// The version of the binary interface. It rises when a program compiled before can no longer use the
/// library.
#define LM_ABI_VERSION 1

/// The library's version, as LM_VERSION: "major.minor.patch". A static string.
///
/// Any thread, any time.
LM_API const char *lm_version(void);

/// The binary interface's version, as LM_ABI_VERSION. A program whose LM_ABI_VERSION differs must not use
/// the library.
///
/// Any thread, any time.
LM_API uint32_t lm_abi_version(void);

/// One line for a log or a bug report: the version, the instruction set in use, the number of threads, and
/// whether CUDA was built and can be used, or why not. Valid until the calling thread's next call of this
/// function.
///
/// Any thread, any time.
LM_API const char *lm_build_info(void);

/// The calling thread's last message, "" if no call of it has failed yet; never NULL. It says what the last
/// failure was, whether or not other calls have succeeded since. Valid until the calling thread's next call
/// into this library.
///
/// Any thread, any time.
LM_API const char *lm_last_error(void);

/// The name of a status code, "LM_ERR_IO" for LM_ERR_IO; "unknown status" for any other number. A static
/// string.
///
/// Any thread, any time.
LM_API const char *lm_status_name(lm_status status);

/// Sets how many threads a call may compute on, 4096 at most; 0, the default, is one per core. It changes no
/// bit of any result, and holds for calls that start afterwards.
///
/// LM_ERR_INVALID_ARGUMENT for more than 4096.
/// Any thread, any time.
LM_API lm_status lm_set_num_threads(size_t n);

/// Whether layers on LM_DEVICE_CUDA can be created here. If not, lm_build_info says why.
///
/// Any thread, any time.
LM_API bool lm_cuda_available(void);


/*
 * CONFIGURATION
 */

/// Fills config with the reference's defaults, which lm_config lists. d_model remains to be set.
///
/// config: to be filled.
/// struct_size: sizeof(lm_config).
///
/// LM_ERR_INVALID_ARGUMENT for a struct_size that this library does not know.
/// Any thread.
LM_API lm_status lm_config_init(lm_config *config, size_t struct_size);


/*
 * LAYER
 */

/// Creates a layer with the initial values that config->seed gives. Freed by lm_destroy.
///
/// config: filled by lm_config_init, with d_model set. Not kept.
/// layer: receives the handle.
///
/// LM_ERR_INVALID_CONFIG names the field; LM_ERR_UNSUPPORTED and LM_ERR_CUDA for a type or device that
/// cannot be had here; LM_ERR_OUT_OF_MEMORY.
/// Any thread.
LM_API lm_status lm_create(const lm_config *config, lm_layer **layer);

/// Frees a layer. Its caches stay valid, but have nothing left to be used with, other layers of the same
/// shape apart. NULL is ignored.
///
/// Any thread, with no other use of the layer meanwhile or afterwards.
LM_API void lm_destroy(lm_layer *layer);

/// Fills config with what the layer was created with, resolved: dt_rank is a number, never 0.
///
/// config: to be filled; its conv_dilations are borrowed from the layer.
/// struct_size: sizeof(lm_config).
///
/// LM_ERR_INVALID_ARGUMENT for a struct_size that this library does not know.
/// Any number of threads on one layer.
LM_API lm_status lm_get_config(const lm_layer *layer, lm_config *config, size_t struct_size);

/// The layer's inner width: expand * d_model, truncated. 0 for NULL.
///
/// Any number of threads on one layer.
LM_API size_t lm_d_inner(const lm_layer *layer);

/// Computes y, the layer's output for every token of x.
///
/// x: (batch, seqlen, d_model).
/// cache: NULL for sequences that begin here and are not continued. With a cache of this batch the
///        sequences continue from its state, whatever seqlen is, and the state moves on by seqlen tokens.
/// y: (batch, seqlen, d_model); may be x itself.
///
/// LM_ERR_SHAPE_MISMATCH for a cache of another batch or device, or of a layer of another variant, shape or type;
/// LM_ERR_INVALID_ARGUMENT when y overlaps x in part; LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API
lm_status lm_forward(const lm_layer *layer,
                     const float *x,
                     size_t batch,
                     size_t seqlen,
                     lm_cache *cache,
                     float *y);


/*
 * STREAMING
 */

/// Creates a cache for batch sequences, all at their beginning. Freed by lm_free_cache.
///
/// layer: the layer it is for; any other layer of the same variant, shape and type can use it as well.
/// batch: number of sequences.
/// max_seqlen: accepted for the reference's sake, without effect: the state does not grow with the
///             sequence, which may be of any length.
/// dtype: in which the state is held. LM_DTYPE_DEFAULT is the type of the layer's arithmetic, F64 for an F64
///        layer, F32 for every other one. BF16 and F16 take half the memory of F32; each call then rounds the
///        states that it leaves, so that how a sequence is cut into calls changes its results. On a GPU it is F32.
/// cache: receives the handle.
///
/// LM_ERR_INVALID_ARGUMENT for no LM_DTYPE_ value; LM_ERR_UNSUPPORTED for another than F32 on a GPU;
/// LM_ERR_OUT_OF_MEMORY, on a GPU LM_ERR_CUDA.
/// Any number of threads on one layer.
LM_API
lm_status lm_alloc_cache(const lm_layer *layer,
                         size_t batch,
                         size_t max_seqlen,
                         uint32_t dtype,
                         lm_cache **cache);

/// Computes the next token of every sequence: lm_forward with the cache's batch and a seqlen of 1, to the
/// bit.
///
/// x: (batch, d_model), one token for each sequence of the cache.
/// cache: the state, which moves on by one token.
/// y: (batch, d_model); may be x itself.
///
/// Errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API lm_status lm_step(const lm_layer *layer, const float *x, lm_cache *cache, float *y);

/// Frees a cache of lm_alloc_cache or lm_cache_clone. NULL is ignored.
///
/// Any thread, with no other use of the cache meanwhile or afterwards.
LM_API void lm_free_cache(lm_cache *cache);

/// Returns every sequence to its beginning, and makes a cache that LM_ERR_INTERNAL left unusable usable
/// again.
///
/// One thread at a time.
LM_API lm_status lm_cache_reset(lm_cache *cache);

/// Creates a copy of a cache that continues from the same state on its own. Freed by lm_free_cache.
///
/// cache: to be copied.
/// clone: receives the handle.
///
/// LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one cache while none changes it.
LM_API lm_status lm_cache_clone(const lm_cache *cache, lm_cache **clone);

/// Number of sequences. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
LM_API size_t lm_cache_batch(const lm_cache *cache);

/// Number of tokens since the beginning, of the sequence that has had most. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
LM_API uint64_t lm_cache_seqlen_offset(const lm_cache *cache);

/// Memory that the state takes, in bytes. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
LM_API size_t lm_cache_bytes(const lm_cache *cache);

/// Copies a state out, in the reference's layout.
///
/// name: "ssm_state" of shape (batch, d_inner, d_state), or "conv_state.0", "conv_state.1", ... of shape
///       (batch, d_inner, (d_conv - 1) * dilation + 1), oldest input first; see lm_cache_state_info.
/// out: count floats.
/// count: the state's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count.
/// Any number of threads on one cache while none changes it.
LM_API lm_status lm_cache_get_state(const lm_cache *cache, const char *name, float *out, size_t count);

/// Replaces a state. The number of tokens seen stays as it is. Branches that share one history (those of
/// PTCN and DPWC all see the same input) share what is written: writing "conv_state.i" sets the last
/// (d_conv - 1) * dilation + 1 inputs of that history, so write the longest one.
///
/// name: as in lm_cache_get_state.
/// values: count floats, in the layout of lm_cache_get_state.
/// count: the state's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count.
/// One thread at a time.
LM_API lm_status lm_cache_set_state(lm_cache *cache, const char *name, const float *values, size_t count);

/// Number of states that lm_cache_state_info describes: one for each branch, and "ssm_state". 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
LM_API size_t lm_cache_num_states(const lm_cache *cache);

/// Describes a state.
///
/// index: below lm_cache_num_states.
/// info: to be filled.
/// struct_size: sizeof(lm_tensor_info).
///
/// LM_ERR_INVALID_ARGUMENT for an index out of range or a struct_size that this library does not know.
/// Any number of threads on one cache while none changes it.
LM_API
lm_status lm_cache_state_info(const lm_cache *cache,
                              size_t index,
                              lm_tensor_info *info,
                              size_t struct_size);

/// Returns one sequence to its beginning; the others go on.
///
/// lane: below the cache's batch.
///
/// LM_ERR_INVALID_ARGUMENT for another lane.
/// One thread at a time.
LM_API lm_status lm_cache_reset_lane(lm_cache *cache, size_t lane);

/// Makes one sequence go on from where another one is; that one goes on by itself.
///
/// dst, dst_lane: the cache that changes, and which of its sequences.
/// src, src_lane: where it is copied from; src may be dst. The caches may differ in batch and in the type that they
///                are held in, but must be of layers of the same variant, shape and type.
///
/// LM_ERR_INVALID_ARGUMENT for a lane that a cache does not have; LM_ERR_SHAPE_MISMATCH for caches of layers that
/// differ in these.
/// One thread at a time on dst; any number on src while none changes it.
LM_API
lm_status lm_cache_copy_lane(lm_cache *dst,
                             size_t dst_lane,
                             const lm_cache *src,
                             size_t src_lane);

/// Computes the next token of those sequences of a cache that are due. The bits are those that lm_step gives
/// these sequences; the others stay where they are.
///
/// x: (num_lanes, d_model), one token for each of lanes.
/// lanes: num_lanes different numbers below the cache's batch, in any order.
/// num_lanes: 0 is allowed; the pointers may then be NULL.
/// cache: the state, of which these sequences move on by one token.
/// y: (num_lanes, d_model); may be x itself.
///
/// LM_ERR_INVALID_ARGUMENT for a lane that the cache does not have or that is there twice; errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API
lm_status lm_step_lanes(const lm_layer *layer,
                        const float *x,
                        const size_t *lanes,
                        size_t num_lanes,
                        lm_cache *cache,
                        float *y);

/// Computes sequences of different lengths, packed one after the other without padding: lm_forward of each, to
/// the bit, in one call.
///
/// x: (total, d_model), where total is cu_seqlens[num_seqs].
/// cu_seqlens: num_seqs + 1 numbers, the first 0 and none less than the one before: sequence i has the tokens
///             from cu_seqlens[i] to cu_seqlens[i + 1], that one excluded. A sequence may be empty.
/// num_seqs: 0 is allowed; the pointers may then be NULL.
/// cache: NULL for sequences that begin here and are not continued. With a cache of a batch of num_seqs,
///        sequence i continues its sequence i, which moves on by as many tokens.
/// y: (total, d_model); may be x itself.
///
/// LM_ERR_INVALID_ARGUMENT for other cu_seqlens; errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API
lm_status lm_forward_varlen(const lm_layer *layer,
                            const float *x,
                            const size_t *cu_seqlens,
                            size_t num_seqs,
                            lm_cache *cache,
                            float *y);

/// Writes the state of a cache into a buffer, from which lm_cache_load makes it again, in this process or
/// another, on this machine or another, with this version of the library or a later one. The same state gives
/// the same bytes.
///
/// cache: to be saved.
/// buffer: capacity bytes, at any alignment; NULL to ask for the size alone.
/// capacity: not looked at if buffer is NULL.
/// written: receives the number of bytes that were written, or that are needed if buffer is NULL.
///
/// LM_ERR_BUFFER_TOO_SMALL, with nothing written.
/// Any number of threads on one cache while none changes it.
LM_API lm_status lm_cache_save(const lm_cache *cache, void *buffer, size_t capacity, size_t *written);

/// Creates a cache from what lm_cache_save wrote. Freed by lm_free_cache.
///
/// layer: a layer of the variant, shape and type that the cache was of.
/// buffer: size bytes, at any alignment, not kept.
/// size: as lm_cache_save gave it, exactly.
/// cache: receives the handle.
///
/// LM_ERR_FORMAT for bytes that lm_cache_save did not write, cut short or altered; LM_ERR_UNSUPPORTED for
/// those of a later version that this one cannot read; LM_ERR_SHAPE_MISMATCH for a layer of another variant,
/// shape or type; LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one layer.
LM_API lm_status lm_cache_load(const lm_layer *layer, const void *buffer, size_t size, lm_cache **cache);


/*
 * SEVERAL LAYERS OF ONE MODEL
 *
 * As the reference's inference_params: the caches of a model's layers, found by layer_idx and made at
 * first use.
 */

/// Creates an empty collection of caches for batch sequences. Freed by lm_inference_params_free.
///
/// batch: number of sequences.
/// max_seqlen: accepted for the reference's sake, without effect.
/// params: receives the handle.
///
/// Any thread.
LM_API lm_status lm_inference_params_create(size_t batch, size_t max_seqlen, lm_inference_params **params);

/// Frees the collection and its caches. NULL is ignored.
///
/// Any thread, with no other use of it or of its caches meanwhile or afterwards.
LM_API void lm_inference_params_free(lm_inference_params *params);

/// Returns every sequence to its beginning, as lm_cache_reset on each cache; borrowed caches stay valid.
///
/// One thread at a time.
LM_API lm_status lm_inference_params_reset(lm_inference_params *params);

/// The cache of the layer numbered layer_idx: borrowed, never to be freed with lm_free_cache. NULL before
/// that layer's first lm_forward_inference, and for a negative number.
///
/// One thread at a time.
LM_API lm_cache *lm_inference_params_cache(lm_inference_params *params, int64_t layer_idx);

/// lm_forward with the cache that params holds for the layer's layer_idx, made by its first call.
///
/// layer: created with a layer_idx, a different one for each layer of the model.
/// x: (batch, seqlen, d_model).
/// batch: that of params.
/// y: (batch, seqlen, d_model); may be x itself.
///
/// LM_ERR_INVALID_ARGUMENT for a layer without layer_idx, or with one that another layer has used here;
/// LM_ERR_SHAPE_MISMATCH for another batch; further errors as lm_forward.
/// Any number of threads on one layer; params and its caches belong to this call while it runs.
LM_API
lm_status lm_forward_inference(const lm_layer *layer,
                               const float *x,
                               size_t batch,
                               size_t seqlen,
                               lm_inference_params *params,
                               float *y);


/*
 * PARAMETERS AND FILES
 */

/// Number of parameters that lm_parameter_info describes. 0 for NULL.
///
/// Any number of threads on one layer.
LM_API size_t lm_num_parameters(const lm_layer *layer);

/// Describes a parameter. Names, shapes and order are those of the reference's state dict; of two names for
/// one tensor (`conv1d.weight` is branch 0's) only one is listed, and every function accepts both.
///
/// index: below lm_num_parameters.
/// info: to be filled.
/// struct_size: sizeof(lm_tensor_info).
///
/// LM_ERR_INVALID_ARGUMENT for an index out of range or a struct_size that this library does not know.
/// Any number of threads on one layer.
LM_API
lm_status lm_parameter_info(const lm_layer *layer,
                            size_t index,
                            lm_tensor_info *info,
                            size_t struct_size);

/// Finds a parameter by its name.
///
/// name: as lm_parameter_info gives it, or its other name.
/// index: receives its number for lm_parameter_info.
///
/// LM_ERR_NOT_FOUND for another name.
/// Any number of threads on one layer.
LM_API lm_status lm_find_parameter(const lm_layer *layer, const char *name, size_t *index);

/// Copies a parameter out.
///
/// name: as in lm_parameter_info, or its other name.
/// out: count floats.
/// count: the parameter's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count.
/// Any number of threads on one layer.
LM_API lm_status lm_get_parameter(const lm_layer *layer, const char *name, float *out, size_t count);

/// Replaces a parameter. Caches stay as they are.
///
/// name: as in lm_parameter_info, or its other name.
/// values: count floats.
/// count: the parameter's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count; LM_ERR_OUT_OF_MEMORY.
/// One thread at a time, with no other use of the layer meanwhile.
LM_API lm_status lm_set_parameter(lm_layer *layer, const char *name, const float *values, size_t count);

/// Copies a parameter out in a type of the caller's choice: every value exactly where the type can hold
/// it, as F64 always can, else rounded to nearest.
///
/// name: as in lm_parameter_info, or its other name.
/// dtype: an LM_DTYPE_ value; DEFAULT is the parameter's own type.
/// out: the values, at any alignment.
/// bytes: the size of the parameter's values in that type, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another size; LM_ERR_INVALID_ARGUMENT for
/// no LM_DTYPE_ value; LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one layer.
LM_API
lm_status lm_get_parameter_typed(const lm_layer *layer,
                                 const char *name,
                                 uint32_t dtype,
                                 void *out,
                                 size_t bytes);

/// Replaces a parameter with values of a type of the caller's choice: every value exactly where the layer's
/// type can hold it, else rounded to nearest. Caches stay as they are.
///
/// name: as in lm_parameter_info, or its other name.
/// dtype: an LM_DTYPE_ value; DEFAULT is the parameter's own type.
/// values: the values, at any alignment.
/// bytes: the size of the parameter's values in that type, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another size; LM_ERR_INVALID_ARGUMENT for
/// no LM_DTYPE_ value; LM_ERR_OUT_OF_MEMORY.
/// One thread at a time, with no other use of the layer meanwhile.
LM_API
lm_status lm_set_parameter_typed(lm_layer *layer,
                                 const char *name,
                                 uint32_t dtype,
                                 const void *values,
                                 size_t bytes);

/// Creates a layer from a safetensors file. Freed by lm_destroy.
///
/// Tensors are named as in the reference's state dict, each after the prefix. Of two names for one tensor
/// either alone is enough; if the file has both they must agree. The configuration is config if given, and
/// is then checked against the shapes; else the file's metadata `lite_mamba.config`, which lm_save and the
/// exporter write; with neither, only a layer of LM_VARIANT_BASELINE loads, all its sizes taken from the
/// shapes.
///
/// path: the file.
/// prefix: what the layer's names begin with in the file, with or without a dot at the end, such as
///         "layers.0.mixer"; NULL for none.
/// config: NULL to take it from the file.
/// layer: receives the handle.
///
/// LM_ERR_IO for a file that cannot be read or does not exist; LM_ERR_FORMAT for one that is cut short or
/// damaged; LM_ERR_NOT_FOUND for a missing tensor, or a prefix that no name begins with; LM_ERR_FORMAT for
/// an unknown tensor, or two that contradict each other; LM_ERR_SHAPE_MISMATCH for a tensor of another
/// shape; LM_ERR_UNSUPPORTED for one of a type that cannot be converted; LM_ERR_INVALID_CONFIG;
/// LM_ERR_OUT_OF_MEMORY. The message names the tensor.
/// Any thread.
LM_API lm_status lm_load(const char *path, const char *prefix, const lm_config *config, lm_layer **layer);

/// lm_load from a file's content in memory, which is not kept.
///
/// data: size bytes, at any alignment.
///
/// Errors as lm_load.
/// Any thread.
LM_API
lm_status lm_load_memory(const void *data,
                         size_t size,
                         const char *prefix,
                         const lm_config *config,
                         lm_layer **layer);

/// Writes a layer to a safetensors file that lm_load and the reference's load_state_dict read, its
/// configuration in the metadata `lite_mamba.config`. An existing file is replaced.
///
/// LM_ERR_IO when it cannot be written.
/// Any number of threads on one layer.
LM_API lm_status lm_save(const lm_layer *layer, const char *path);


/*
 * DLPACK
 *
 * Tensors of other libraries, used where they lie: of any of the LM_DTYPE_ types, whatever the layer's, of any
 * strides and with an offset. DLTensor is the struct in which these libraries describe them; what this header
 * declares of it steps aside for the standard's own <dlpack/dlpack.h>.
 */

/// Computes y, the layer's output for every token of x: lm_forward of tensors as other libraries have them. Types
/// that differ from the layer's arithmetic are converted on their way, outputs to the nearest value; the bits are
/// otherwise those of lm_forward.
///
/// x: (batch, seqlen, d_model), F32, F64, BF16 or F16 (kDLFloat of 32, 64 or 16 bits, kDLBfloat of 16; one lane),
///    whatever the layer's type is. Strides may be anything, 0 and negative included; NULL stands for those of a
///    contiguous tensor. data + byte_offset must be aligned to the element; data may be NULL where there is no
///    token. On the layer's device: for the CPU kDLCPU or kDLCUDAHost, whose device_id is not looked at; for a GPU
///    kDLCUDA or kDLCUDAManaged with the layer's device_index.
/// cache: as of lm_forward: NULL for sequences that begin here and are not continued.
/// y: (batch, seqlen, d_model), of a type and strides of its own; otherwise as x. Every element must have a place of
///    its own, and no side interleave with another: so does whatever is made of a contiguous tensor by slicing,
///    reversing and transposing.
/// stream: for a layer on a GPU, the CUDA stream (cudaStream_t or CUstream, NULL for the default one) on which the call
///    is put, without waiting for it. Once such a call, of these sizes, has been made on the stream, nothing is
///    allocated, and the call can be captured into a graph, whose replays go on from the cache as the calls would. Calls
///    of one layer on one stream share their scratch memory: a graph captured there must not run while others of them
///    do, nor outlive the layer or the cache. Not looked at on the CPU.
///
/// On the CPU a tensor is used where it lies, with nothing allocated for it, if its type is that of the layer's
/// arithmetic (F64 for an F64 layer, else F32), its last side is contiguous, and one stride that is not negative leads
/// from each token to the next, through all sequences: contiguous tensors, ranges of their columns, every nth token for
/// a batch of 1, a seqlen of 1. Others are converted some hundred tokens at a time. On a GPU it is if it is contiguous
/// and of the layer's own type; others are converted as a whole. There the numbers are lm_forward's within the type's
/// tolerance.
///
/// x and y may be the same elements in the same order, which are then overwritten. Otherwise they must have no byte in
/// common. Where one begins before the other ends, this must follow from equal strides, as for two ranges of the
/// columns of one tensor, or its even and its odd tokens; what cannot be told so is refused.
///
/// LM_ERR_SHAPE_MISMATCH for another number of sides, another d_model, or an x and a y of different shapes;
/// LM_ERR_UNSUPPORTED for another type; LM_ERR_INVALID_ARGUMENT for another device, a negative side, misaligned data,
/// strides that leave the address space, elements of y in one place, and y overlapping x in part; errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API
lm_status lm_forward_dlpack(const lm_layer *layer,
                            const DLTensor *x,
                            lm_cache *cache,
                            const DLTensor *y,
                            void *stream);

/// Computes the next token of every sequence: lm_forward_dlpack with a seqlen of 1, to the bit, of tensors that
/// do not have that side. Allocates nothing after the first call.
///
/// x: (batch, d_model), one token for each sequence of the cache; otherwise as of lm_forward_dlpack.
/// cache: the state, which moves on by one token.
/// y: (batch, d_model); otherwise as of lm_forward_dlpack.
/// stream: as of lm_forward_dlpack.
///
/// Errors as lm_forward_dlpack.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
LM_API
lm_status lm_step_dlpack(const lm_layer *layer,
                         const DLTensor *x,
                         lm_cache *cache,
                         const DLTensor *y,
                         void *stream);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* LITE_MAMBA_H */
