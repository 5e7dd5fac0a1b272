//! LAYER

use super::arguments::{check, give, object, object_mut, take_back, tokens, write_struct};
use super::boundary;
use super::config::{from_c, to_c};
use super::types::{lm_cache, lm_config, lm_layer, lm_status};
use crate::layer::Layer;

/// Creates a layer with the initial values that config->seed gives. Freed by lm_destroy.
///
/// config: filled by lm_config_init, with d_model set. Not kept.
/// layer: receives the handle.
///
/// LM_ERR_INVALID_CONFIG names the field; LM_ERR_UNSUPPORTED and LM_ERR_CUDA for a type or device that
/// cannot be had here; LM_ERR_OUT_OF_MEMORY.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_create(config: *const lm_config, layer: *mut *mut lm_layer) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let config = from_c(config)?;
        check(layer, "layer")?;
        give(Layer::new(&config)?, layer);
        Ok(())
    })
}

/// Frees a layer. Its caches stay valid, but have nothing left to be used with, other layers of the same
/// shape apart. NULL is ignored.
///
/// Any thread, with no other use of the layer meanwhile or afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_destroy(layer: *mut lm_layer) {
    // SAFETY: the caller gives the handle up.
    boundary::value((), || unsafe {
        take_back(layer);
        Ok(())
    })
}

/// Fills config with what the layer was created with, resolved: dt_rank is a number, never 0.
///
/// config: to be filled; its conv_dilations are borrowed from the layer.
/// struct_size: sizeof(lm_config).
///
/// LM_ERR_INVALID_ARGUMENT for a struct_size that this library does not know.
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_get_config(
    layer: *const lm_layer,
    config: *mut lm_config,
    struct_size: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let resolved = object(layer, "layer")?.config();
        write_struct(&to_c(resolved, &resolved.conv_dilations, struct_size), config, struct_size, "config")
    })
}

/// The layer's inner width: expand * d_model, truncated. 0 for NULL.
///
/// Any number of threads on one layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_d_inner(layer: *const lm_layer) -> usize {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(layer, "layer") }?.dims().d_inner))
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_forward(
    layer: *const lm_layer,
    x: *const f32,
    batch: usize,
    seqlen: usize,
    cache: *mut lm_cache,
    y: *mut f32,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        if batch == 0 || seqlen == 0 {
            return Ok(());
        }
        let cache = if cache.is_null() { None } else { Some(object_mut(cache, "cache")?) };
        let shape = [("batch", batch), ("seqlen", seqlen), ("d_model", layer.dims().d_model)];
        layer.forward(tokens(x, y, shape)?, batch, seqlen, cache)
    })
}
