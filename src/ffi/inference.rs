//! SEVERAL LAYERS OF ONE MODEL
//!
//! As the reference's inference_params: the caches of a model's layers, found by layer_idx and made at
//! first use.

use std::ptr;

use super::arguments::{check, give, object, object_mut, take_back, tokens};
use super::boundary;
use super::types::{lm_cache, lm_inference_params, lm_layer, lm_status};
use crate::cache::Cache;
use crate::error::fail;
use crate::inference::InferenceParams;

/// Creates an empty collection of caches for batch sequences. Freed by lm_inference_params_free.
///
/// batch: number of sequences.
/// max_seqlen: accepted for the reference's sake, without effect.
/// params: receives the handle.
///
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_inference_params_create(
    batch: usize,
    max_seqlen: usize,
    params: *mut *mut lm_inference_params,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        check(params, "params")?;
        give(InferenceParams::new(batch, max_seqlen), params);
        Ok(())
    })
}

/// Frees the collection and its caches. NULL is ignored.
///
/// Any thread, with no other use of it or of its caches meanwhile or afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_inference_params_free(params: *mut lm_inference_params) {
    // SAFETY: the caller gives the handle up.
    boundary::value((), || unsafe {
        take_back(params);
        Ok(())
    })
}

/// Returns every sequence to its beginning, as lm_cache_reset on each cache; borrowed caches stay valid.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_inference_params_reset(params: *mut lm_inference_params) -> lm_status {
    // SAFETY: a handle, as the header asks for.
    boundary::status(|| unsafe {
        object_mut(params, "params")?.reset();
        Ok(())
    })
}

/// The cache of the layer numbered layer_idx: borrowed, never to be freed with lm_free_cache. NULL before
/// that layer's first lm_forward_inference, and for a negative number.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_inference_params_cache(
    params: *mut lm_inference_params,
    layer_idx: i64,
) -> *mut lm_cache {
    // SAFETY: a handle, as the header asks for.
    boundary::value(ptr::null_mut(), || unsafe {
        let params = object_mut(params, "params")?;
        let Ok(idx) = u64::try_from(layer_idx) else {
            fail!(InvalidArgument, "layer_idx is {layer_idx}; it must not be negative");
        };
        Ok(params.cache(idx).map_or(ptr::null_mut(), |cache| ptr::from_mut::<Cache>(cache).cast()))
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_forward_inference(
    layer: *const lm_layer,
    x: *const f32,
    batch: usize,
    seqlen: usize,
    params: *mut lm_inference_params,
    y: *mut f32,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let params = object_mut(params, "params")?;
        if batch == 0 || seqlen == 0 {
            return Ok(());
        }
        // All that can be wrong is checked before the cache is made, which the caller would see.
        if batch != params.batch() {
            fail!(ShapeMismatch, "batch is {batch}; params was created for {}", params.batch());
        }
        let shape = [("batch", batch), ("seqlen", seqlen), ("d_model", layer.dims().d_model)];
        let tokens = tokens(x, y, shape)?;
        layer.forward(tokens, batch, seqlen, Some(params.cache_for(layer)?))
    })
}
