//! CONFIGURATION

use super::arguments::{enumerated, read_struct, slice, write_struct};
use super::boundary;
use super::types::{lm_config, lm_status};
use crate::error::{ErrorKind, Result, fail};
use crate::layer::{Config, Device, DtInit, Math, Variant};
use crate::memory;
use crate::tensor::DType;

static DEFAULT_DILATIONS: [usize; 1] = [1];

/// Fills config with the reference's defaults, which lm_config lists. d_model remains to be set.
///
/// config: to be filled.
/// struct_size: sizeof(lm_config).
///
/// LM_ERR_INVALID_ARGUMENT for a struct_size that this library does not know.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_config_init(config: *mut lm_config, struct_size: usize) -> lm_status {
    // SAFETY: the caller's struct has `struct_size` bytes.
    boundary::status(|| unsafe { write_struct(&defaults(struct_size), config, struct_size, "config") })
}

fn defaults(struct_size: usize) -> lm_config {
    to_c(&Config::new(Variant::Ptcn, 0), &DEFAULT_DILATIONS, struct_size)
}

/// `config` as C sees it; its dilations are borrowed from `dilations`.
pub(super) fn to_c(config: &Config, dilations: &[usize], struct_size: usize) -> lm_config {
    lm_config {
        struct_size,
        variant: config.variant as u32,
        dtype: config.dtype as u32,
        d_model: config.d_model,
        d_state: config.d_state,
        d_conv: config.d_conv,
        conv_dilations: dilations.as_ptr(),
        num_conv_dilations: dilations.len(),
        expand: config.expand,
        dt_rank: config.dt_rank.unwrap_or(0),
        dt_min: config.dt_min,
        dt_max: config.dt_max,
        dt_scale: config.dt_scale,
        dt_init_floor: config.dt_init_floor,
        dt_init: config.dt_init as u32,
        conv_bias: config.conv_bias.into(),
        bias: config.bias.into(),
        use_fast_path: config.use_fast_path.into(),
        layer_idx: config.layer_idx.map_or(-1, |idx| idx as i64),
        device: config.device as u32,
        device_index: config.device_index,
        math: config.math as u32,
        seed: config.seed,
    }
}

/// The caller's configuration. Ranges of the numbers are [`Config::dims`]'s to check.
///
/// # Safety
/// `given` is NULL or as the header asks for.
pub(super) unsafe fn from_c(given: *const lm_config) -> Result<Config> {
    // SAFETY: as the caller promises.
    let c = unsafe { read_struct(given, defaults(size_of::<lm_config>()), "config") }?;
    let kind = ErrorKind::InvalidConfig;
    let variants = [
        (0, "LM_VARIANT_PTCN", Variant::Ptcn),
        (1, "LM_VARIANT_STCN", Variant::Stcn),
        (2, "LM_VARIANT_DPWC", Variant::Dpwc),
        (3, "LM_VARIANT_BASELINE", Variant::Baseline),
    ];
    let dt_inits = [(0, "LM_DT_INIT_RANDOM", DtInit::Random), (1, "LM_DT_INIT_CONSTANT", DtInit::Constant)];
    let devices = [(0, "LM_DEVICE_CPU", Device::Cpu), (1, "LM_DEVICE_CUDA", Device::Cuda)];
    let maths = [(0, "LM_MATH_DEFAULT", Math::Default), (1, "LM_MATH_TF32", Math::Tf32)];
    Ok(Config {
        variant: enumerated(c.variant, &variants, kind, "variant")?,
        dtype: enumerated(c.dtype, &DTYPES, kind, "dtype")?,
        d_model: c.d_model,
        d_state: c.d_state,
        d_conv: c.d_conv,
        // SAFETY: as the caller promises.
        conv_dilations: unsafe { dilations(&c) }?,
        expand: c.expand,
        dt_rank: (c.dt_rank > 0).then_some(c.dt_rank),
        dt_min: c.dt_min,
        dt_max: c.dt_max,
        dt_scale: c.dt_scale,
        dt_init_floor: c.dt_init_floor,
        dt_init: enumerated(c.dt_init, &dt_inits, kind, "dt_init")?,
        conv_bias: c.conv_bias.is_set(),
        bias: c.bias.is_set(),
        use_fast_path: c.use_fast_path.is_set(),
        layer_idx: match c.layer_idx {
            -1 => None,
            0.. => Some(c.layer_idx as u64),
            _ => {
                fail!(InvalidConfig, "layer_idx is {}; it must be -1 for none, or not negative", c.layer_idx)
            }
        },
        device: enumerated(c.device, &devices, kind, "device")?,
        device_index: c.device_index,
        math: enumerated(c.math, &maths, kind, "math")?,
        seed: c.seed,
    })
}

/// The storage types with their numbers and names.
pub(super) const DTYPES: [(u32, &str, DType); 4] = [
    (1, "LM_DTYPE_F32", DType::F32),
    (2, "LM_DTYPE_F64", DType::F64),
    (3, "LM_DTYPE_BF16", DType::Bf16),
    (4, "LM_DTYPE_F16", DType::F16),
];

/// A copy of the caller's dilations.
///
/// # Safety
/// `conv_dilations` is NULL or has `num_conv_dilations` elements.
unsafe fn dilations(c: &lm_config) -> Result<Vec<usize>> {
    let count = c.num_conv_dilations;
    let what = format!("conv_dilations, of num_conv_dilations {count},");
    memory::check_fits(&what, memory::bytes_of::<usize>(&what, count)?)?;
    // SAFETY: as the caller promises.
    let given = unsafe { slice(c.conv_dilations, count, "conv_dilations") }?;
    let mut copy = Vec::new();
    if copy.try_reserve_exact(count).is_err() {
        fail!(OutOfMemory, "{what} needs more memory than can be had");
    }
    copy.extend_from_slice(given);
    Ok(copy)
}
