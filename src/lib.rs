//! The lite-mamba layer: a Mamba (selective state space) block whose causal convolution is several dilated
//! ones, in four variants, for inference: whole sequences, chunks, or token by token, with the same bits.
//!
//! This crate is both a Rust library and, through [`ffi`], a C library whose header is
//! `include/lite_mamba.h`. What the layer computes is defined by the PyTorch package `lite-mamba` 0.2.6.

mod cache;
#[cfg(feature = "cuda")]
pub mod cuda;
mod environment;
mod error;
#[cfg(test)]
mod fault;
// Its comments are the C header's: their examples are C.
#[cfg(not(doctest))]
pub mod ffi;
mod inference;
mod layer;
mod memory;
pub mod ops;
pub mod simd;
pub mod tensor;
pub mod threads;
pub mod weights;

pub use cache::{Cache, StateInfo};
pub use error::{Error, ErrorKind, Result};
pub use inference::InferenceParams;
pub use layer::{
    Config, Device, Dims, DtInit, Layer, Math, ParameterInfo, Tensors, Tokens, Variant, initial_values,
    parameter_list,
};
pub use tensor::{DType, Element, TensorView, TensorViewMut};
