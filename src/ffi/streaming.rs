//! STREAMING

use std::ffi::{c_char, c_void};

use super::arguments::{
    check, enumerated, give, object, object_mut, slice, slice_in_memory, slice_mut, string, take_back,
    tokens, write_struct,
};
use super::boundary;
use super::config::DTYPES;
use super::parameters::tensor_info;
use super::types::{lm_cache, lm_dtype::LM_DTYPE_DEFAULT, lm_layer, lm_status, lm_tensor_info};
use crate::cache::Cache;
use crate::error::{ErrorKind, fail};
use crate::layer::packed_total;

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_alloc_cache(
    layer: *const lm_layer,
    batch: usize,
    max_seqlen: usize,
    dtype: u32,
    cache: *mut *mut lm_cache,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let default = [(LM_DTYPE_DEFAULT as u32, "LM_DTYPE_DEFAULT", layer.arithmetic())];
        let dtypes = [&default[..], &DTYPES[..]].concat();
        let dtype = enumerated(dtype, &dtypes, ErrorKind::InvalidArgument, "dtype")?;
        check(cache, "cache")?;
        let _ = max_seqlen;
        give(Cache::with_dtype(layer, batch, dtype)?, cache);
        Ok(())
    })
}

/// Computes the next token of every sequence: lm_forward with the cache's batch and a seqlen of 1, to the
/// bit.
///
/// x: (batch, d_model), one token for each sequence of the cache.
/// cache: the state, which moves on by one token.
/// y: (batch, d_model); may be x itself.
///
/// Errors as lm_forward.
/// Any number of threads on one layer; the cache belongs to this call while it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_step(
    layer: *const lm_layer,
    x: *const f32,
    cache: *mut lm_cache,
    y: *mut f32,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let cache = object_mut(cache, "cache")?;
        let batch = cache.batch();
        if batch == 0 {
            return Ok(());
        }
        let shape = [("batch", batch), ("seqlen", 1), ("d_model", layer.dims().d_model)];
        layer.forward(tokens(x, y, shape)?, batch, 1, Some(cache))
    })
}

/// Frees a cache of lm_alloc_cache or lm_cache_clone. NULL is ignored.
///
/// Any thread, with no other use of the cache meanwhile or afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_free_cache(cache: *mut lm_cache) {
    // SAFETY: the caller gives the handle up.
    boundary::value((), || unsafe {
        take_back(cache);
        Ok(())
    })
}

/// Returns every sequence to its beginning, and makes a cache that LM_ERR_INTERNAL left unusable usable
/// again.
///
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_reset(cache: *mut lm_cache) -> lm_status {
    // SAFETY: a handle, as the header asks for.
    boundary::status(|| unsafe {
        object_mut(cache, "cache")?.reset();
        Ok(())
    })
}

/// Creates a copy of a cache that continues from the same state on its own. Freed by lm_free_cache.
///
/// cache: to be copied.
/// clone: receives the handle.
///
/// LM_ERR_OUT_OF_MEMORY.
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_clone(cache: *const lm_cache, clone: *mut *mut lm_cache) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let cache = object(cache, "cache")?;
        check(clone, "clone")?;
        give(cache.try_clone()?, clone);
        Ok(())
    })
}

/// Number of sequences. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_batch(cache: *const lm_cache) -> usize {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(cache, "cache") }?.batch()))
}

/// Number of tokens since the beginning, of the sequence that has had most. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_seqlen_offset(cache: *const lm_cache) -> u64 {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(cache, "cache") }?.seqlen_offset()))
}

/// Memory that the state takes, in bytes. 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_bytes(cache: *const lm_cache) -> usize {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(cache, "cache") }?.bytes()))
}

/// Copies a state out, in the reference's layout.
///
/// name: "ssm_state" of shape (batch, d_inner, d_state), or "conv_state.0", "conv_state.1", ... of shape
///       (batch, d_inner, (d_conv - 1) * dilation + 1), oldest input first; see lm_cache_state_info.
/// out: count floats.
/// count: the state's number of values, exactly.
///
/// LM_ERR_NOT_FOUND for another name; LM_ERR_SHAPE_MISMATCH for another count.
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_get_state(
    cache: *const lm_cache,
    name: *const c_char,
    out: *mut f32,
    count: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let cache = object(cache, "cache")?;
        cache.get_state(string(name, "name")?, slice_mut(out, count, "out")?)
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_set_state(
    cache: *mut lm_cache,
    name: *const c_char,
    values: *const f32,
    count: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let cache = object_mut(cache, "cache")?;
        cache.set_state(string(name, "name")?, slice(values, count, "values")?)
    })
}

/// Number of states that lm_cache_state_info describes: one for each branch, and "ssm_state". 0 for NULL.
///
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_num_states(cache: *const lm_cache) -> usize {
    // SAFETY: a handle, as the header asks for.
    boundary::value(0, || Ok(unsafe { object(cache, "cache") }?.states().len()))
}

/// Describes a state.
///
/// index: below lm_cache_num_states.
/// info: to be filled.
/// struct_size: sizeof(lm_tensor_info).
///
/// LM_ERR_INVALID_ARGUMENT for an index out of range or a struct_size that this library does not know.
/// Any number of threads on one cache while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_state_info(
    cache: *const lm_cache,
    index: usize,
    info: *mut lm_tensor_info,
    struct_size: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let cache = object(cache, "cache")?;
        let states = cache.states();
        let Some(state) = states.get(index) else {
            fail!(InvalidArgument, "index is {index}; this cache has {} states", states.len());
        };
        let described = tensor_info(&state.name, &state.shape, cache.dtype(), false, struct_size)?;
        write_struct(&described, info, struct_size, "info")
    })
}

/// Returns one sequence to its beginning; the others go on.
///
/// lane: below the cache's batch.
///
/// LM_ERR_INVALID_ARGUMENT for another lane.
/// One thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_reset_lane(cache: *mut lm_cache, lane: usize) -> lm_status {
    // SAFETY: a handle, as the header asks for.
    boundary::status(|| unsafe { object_mut(cache, "cache")?.reset_lane(lane) })
}

/// Makes one sequence go on from where another one is; that one goes on by itself.
///
/// dst, dst_lane: the cache that changes, and which of its sequences.
/// src, src_lane: where it is copied from; src may be dst. The caches may differ in batch and in the type that they
///                are held in, but must be of layers of the same variant, shape and type.
///
/// LM_ERR_INVALID_ARGUMENT for a lane that a cache does not have; LM_ERR_SHAPE_MISMATCH for caches of layers that
/// differ in these.
/// One thread at a time on dst; any number on src while none changes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_copy_lane(
    dst: *mut lm_cache,
    dst_lane: usize,
    src: *const lm_cache,
    src_lane: usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for; one cache is borrowed once.
    boundary::status(|| unsafe {
        if std::ptr::eq(dst, src) {
            return object_mut(dst, "dst")?.copy_lane_within(dst_lane, src_lane);
        }
        let from = object(src, "src")?;
        object_mut(dst, "dst")?.copy_lane(dst_lane, from, src_lane)
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_step_lanes(
    layer: *const lm_layer,
    x: *const f32,
    lanes: *const usize,
    num_lanes: usize,
    cache: *mut lm_cache,
    y: *mut f32,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let cache = object_mut(cache, "cache")?;
        let lanes = slice(lanes, num_lanes, "lanes")?;
        if lanes.is_empty() {
            return Ok(());
        }
        let shape = [("num_lanes", num_lanes), ("seqlen", 1), ("d_model", layer.dims().d_model)];
        layer.step_lanes(tokens(x, y, shape)?, lanes, cache)
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_forward_varlen(
    layer: *const lm_layer,
    x: *const f32,
    cu_seqlens: *const usize,
    num_seqs: usize,
    cache: *mut lm_cache,
    y: *mut f32,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        if num_seqs == 0 {
            return Ok(());
        }
        let cu_seqlens = slice_in_memory(cu_seqlens, num_seqs.saturating_add(1), "cu_seqlens")?;
        let total = packed_total(cu_seqlens)?;
        if total == 0 {
            return Ok(());
        }
        let cache = if cache.is_null() { None } else { Some(object_mut(cache, "cache")?) };
        let shape = [("total", total), ("seqlen", 1), ("d_model", layer.dims().d_model)];
        layer.forward_varlen(tokens(x, y, shape)?, cu_seqlens, cache)
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_save(
    cache: *const lm_cache,
    buffer: *mut c_void,
    capacity: usize,
    written: *mut usize,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let cache = object(cache, "cache")?;
        check(written, "written")?;
        let len = cache.saved_len()?;
        *written = if buffer.is_null() {
            len
        } else {
            // A capacity may say more than memory can hold, and is then no reason to fail.
            cache.save(slice_mut(buffer.cast::<u8>(), capacity.min(len), "buffer")?)?
        };
        Ok(())
    })
}

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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lm_cache_load(
    layer: *const lm_layer,
    buffer: *const c_void,
    size: usize,
    cache: *mut *mut lm_cache,
) -> lm_status {
    // SAFETY: pointers are the caller's, as the header asks for.
    boundary::status(|| unsafe {
        let layer = object(layer, "layer")?;
        let saved = slice_in_memory(buffer.cast::<u8>(), size, "buffer")?;
        check(cache, "cache")?;
        give(Cache::load(layer, saved)?, cache);
        Ok(())
    })
}
