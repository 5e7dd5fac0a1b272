//! lite-mamba: the lite-mamba layer, a selective state space (Mamba) block whose causal convolution is
//! replaced by several dilated ones. "The reference" below is the Python package lite-mamba 0.2.6, whose
//! PyTorch layers this library computes and whose weights it reads.
//!
//! SPDX-License-Identifier: Apache-2.0
//! Generated from src/ffi by cbindgen: `make header`. Do not edit.
//!
//! EXAMPLE
//!
//!     lm_config config;
//!     lm_config_init(&config, sizeof config);         // the reference's defaults
//!     config.d_model = 64;
//!
//!     lm_layer *layer = NULL;
//!     if (lm_create(&config, &layer) != LM_OK) {
//!         fprintf(stderr, "%s\n", lm_last_error());
//!         return 1;
//!     }
//!     lm_forward(layer, x, batch, seqlen, NULL, y);   // x and y: batch * seqlen * 64 floats
//!     lm_destroy(layer);
//!
//! ERRORS
//!
//! Every function that can fail returns an lm_status: LM_OK, which is 0, or an LM_ERR_ code. Outputs come
//! last, through pointers. A call that fails for its arguments or for want of a resource, all of which are
//! checked before work starts, changes nothing that the caller can see: no output is half-written, no
//! cache advanced, no handle stored. The one exception is LM_ERR_INTERNAL, a bug of this library: what the
//! call was to write is then undefined, and the cache it used refuses all further use until
//! lm_cache_reset.
//!
//! lm_last_error() is the calling thread's last message: one sentence that names the argument, what it was
//! and what it must be. It stays valid until that thread's next call into this library. Functions that
//! return a value instead of a status return 0 or NULL on failure and leave a message too. A call that
//! succeeds leaves the message as it was, so look at it only after a failure.
//!
//! ARGUMENTS
//!
//! A pointer must not be NULL unless its description says so or the number of elements behind it is 0;
//! every other NULL is LM_ERR_NULL_POINTER. Sizes are checked for overflow, enumerated values (which cross
//! as uint32_t) for their range, pointers to numbers for their alignment. The functions that free do
//! nothing with NULL. A handle must be one that this library gave and that has not been freed; this cannot
//! be checked. Text, paths included, is NUL-terminated UTF-8.
//!
//! Tensors are contiguous and row-major: (batch, seqlen, d_model) means that the last index varies
//! fastest. (Those of the functions in _dlpack say themselves how they lie.) A batch or a seqlen of 0 is no
//! error: the call returns LM_OK, reads and writes nothing, and leaves the state as it was. NaN and infinity
//! in an input are no error either; they flow through as IEEE 754 says, in the lane of the batch that they
//! belong to and in no other.
//!
//! x and y of one call may be the same buffer, which is then overwritten with the result. Buffers that
//! overlap in part are LM_ERR_INVALID_ARGUMENT. No other two pointers of a call may overlap.
//!
//! A size that needs more memory than the machine has is LM_ERR_OUT_OF_MEMORY.
//!
//! STRUCTS AND VERSIONS
//!
//! Structs that cross begin with struct_size, the sizeof the caller compiled with. A later version may add
//! fields at their end: this library accepts the sizes of earlier versions, taking the defaults for what
//! they lack, and writes no more bytes than the caller has. Any other size, 0 included, is an error.
//! Status codes and enumerated values are never renumbered; later versions may add to them.
//! lm_abi_version() is LM_ABI_VERSION of the library that was loaded: compare them when in doubt.
//!
//! OWNERSHIP
//!
//! Whoever asks for a handle frees it, with the function that its creator names. Handles may be freed in
//! any order: a cache does not need its layer to live. Every handle may be freed from any thread. What is
//! called borrowed belongs to the handle that it came from, and ends with it.
//!
//! THREADS
//!
//! A `const` handle is only read: any number of threads may use one lm_layer through functions that take
//! `const lm_layer *` at the same time. A handle that is not `const` must be used by one thread at a time,
//! with no other use of it meanwhile, `const` or not; so a cache belongs to one thread at a time. Which
//! thread it is does not matter: nothing but lm_last_error and lm_build_info is tied to a thread. Different
//! handles are independent.
//!
//! BITS
//!
//! On one instruction set, a token gives the same bits in a step, in a chunk, in a prefill, among sequences of
//! other lengths, in any lane of a batch and with any number of threads, given the same history: this holds
//! for layers of every storage type whose state is held in the type of their arithmetic, LM_DTYPE_DEFAULT.
//! Different instruction sets differ in rounding; lm_build_info says which one is in use.
//!
//! FLOATING-POINT ENVIRONMENT
//!
//! The library computes in the default environment (round to nearest, denormals kept, exceptions masked)
//! whatever the caller's is, and restores the caller's before it returns: an audio host's flush-to-zero
//! neither changes a result nor gets lost.
//!
//! PROCESSES
//!
//! fork: a child computes on threads of its own, started at need, and may use the handles it inherits. As
//! always after fork, this holds only if no other thread of the parent was inside a call at that moment.
//!
//! dlclose: the library stays mapped (on Linux it is linked with -z nodelete), because its threads live on;
//! loading it again finds it as it was.
//!
//! Environment variables, read at first need: LITE_MAMBA_NUM_THREADS is the number of threads until
//! lm_set_num_threads is called; LITE_MAMBA_ISA names an instruction set to use instead of the fastest one
//! (portable, avx2, avx512, neon), and is ignored if the processor lacks it.
//!
//! Nothing is printed, no signal handler is installed and no C++ exception or Rust panic leaves a
//! function. (A bug of this library, LM_ERR_INTERNAL, does print its place in the source to stderr.)

#![allow(non_camel_case_types)] // these are C names

mod arguments;
mod boundary;
mod config;
mod dlpack;
mod inference;
mod layer;
mod library;
mod parameters;
mod streaming;
mod types;

pub use dlpack::{DLDataType, DLDevice, DLTensor, View, view};

#[cfg(test)]
mod tests;
