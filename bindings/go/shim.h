/*
 * What Go calls instead of the functions of lite_mamba.h, where that needs a hand:
 *
 * - A failed call's message is copied in the same C call. lm_last_error belongs to the thread, and a
 *   goroutine may be on another one by the time of its next call.
 * - A configuration's dilations cross as an argument of their own: Go memory that C is given may not
 *   point to other Go memory.
 */
#ifndef LITE_MAMBA_GO_SHIM_H
#define LITE_MAMBA_GO_SHIM_H

#include <lite_mamba.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The message is NULL on success, else for the caller to free. */
typedef struct {
    lm_status status;
    char *message;
} lmgo_result;

static inline lmgo_result lmgo_done(lm_status status) {
    lmgo_result result = {status, NULL};
    if (status != LM_OK)
        result.message = strdup(lm_last_error());
    return result;
}

/* Called before any handle is made, so that no handle of another binary interface exists. */
static inline lmgo_result lmgo_check_abi(void) {
    lmgo_result result = {LM_OK, NULL};
    uint32_t version = lm_abi_version();
    if (version != LM_ABI_VERSION) {
        char message[128];
        snprintf(message, sizeof message, "the library's ABI version is %u; it must be %u, as in the header compiled with",
                 (unsigned)version, (unsigned)LM_ABI_VERSION);
        result.status = LM_ERR_UNSUPPORTED;
        result.message = strdup(message);
    }
    return result;
}

/* library */

static inline char *lmgo_build_info(void) { return strdup(lm_build_info()); }

static inline lmgo_result lmgo_set_num_threads(size_t n) { return lmgo_done(lm_set_num_threads(n)); }

/* configuration and layer */

static inline lmgo_result lmgo_config_init(lm_config *config) {
    lmgo_result abi = lmgo_check_abi();
    return abi.status != LM_OK ? abi : lmgo_done(lm_config_init(config, sizeof *config));
}

static inline lmgo_result lmgo_create(lm_config config, const size_t *dilations, size_t num_dilations,
                                      lm_layer **layer) {
    config.conv_dilations = dilations;
    config.num_conv_dilations = num_dilations;
    return lmgo_done(lm_create(&config, layer));
}

static inline lmgo_result lmgo_get_config(const lm_layer *layer, lm_config *config) {
    return lmgo_done(lm_get_config(layer, config, sizeof *config));
}

static inline lmgo_result lmgo_forward(const lm_layer *layer, const float *x, size_t batch, size_t seqlen,
                                       lm_cache *cache, float *y) {
    return lmgo_done(lm_forward(layer, x, batch, seqlen, cache, y));
}

/* streaming */

static inline lmgo_result lmgo_alloc_cache(const lm_layer *layer, size_t batch, uint32_t dtype, lm_cache **cache) {
    return lmgo_done(lm_alloc_cache(layer, batch, 0, dtype, cache));
}

static inline lmgo_result lmgo_step(const lm_layer *layer, const float *x, lm_cache *cache, float *y) {
    return lmgo_done(lm_step(layer, x, cache, y));
}

static inline lmgo_result lmgo_step_lanes(const lm_layer *layer, const float *x, const size_t *lanes,
                                          size_t num_lanes, lm_cache *cache, float *y) {
    return lmgo_done(lm_step_lanes(layer, x, lanes, num_lanes, cache, y));
}

static inline lmgo_result lmgo_forward_varlen(const lm_layer *layer, const float *x, const size_t *cu_seqlens,
                                              size_t num_seqs, lm_cache *cache, float *y) {
    return lmgo_done(lm_forward_varlen(layer, x, cu_seqlens, num_seqs, cache, y));
}

static inline lmgo_result lmgo_cache_reset(lm_cache *cache) { return lmgo_done(lm_cache_reset(cache)); }

static inline lmgo_result lmgo_cache_clone(const lm_cache *cache, lm_cache **clone) {
    return lmgo_done(lm_cache_clone(cache, clone));
}

static inline lmgo_result lmgo_cache_get_state(const lm_cache *cache, const char *name, float *out, size_t count) {
    return lmgo_done(lm_cache_get_state(cache, name, out, count));
}

static inline lmgo_result lmgo_cache_set_state(lm_cache *cache, const char *name, const float *values, size_t count) {
    return lmgo_done(lm_cache_set_state(cache, name, values, count));
}

static inline lmgo_result lmgo_cache_state_info(const lm_cache *cache, size_t index, lm_tensor_info *info) {
    return lmgo_done(lm_cache_state_info(cache, index, info, sizeof *info));
}

static inline lmgo_result lmgo_cache_reset_lane(lm_cache *cache, size_t lane) {
    return lmgo_done(lm_cache_reset_lane(cache, lane));
}

static inline lmgo_result lmgo_cache_copy_lane(lm_cache *dst, size_t dst_lane, const lm_cache *src, size_t src_lane) {
    return lmgo_done(lm_cache_copy_lane(dst, dst_lane, src, src_lane));
}

/* The type in which the state is held; every cache has a state. */
static inline uint32_t lmgo_cache_dtype(const lm_cache *cache) {
    lm_tensor_info info;
    return lm_cache_state_info(cache, 0, &info, sizeof info) == LM_OK ? info.dtype : LM_DTYPE_DEFAULT;
}

static inline lmgo_result lmgo_cache_save(const lm_cache *cache, void *buffer, size_t capacity, size_t *written) {
    return lmgo_done(lm_cache_save(cache, buffer, capacity, written));
}

static inline lmgo_result lmgo_cache_load(const lm_layer *layer, const void *buffer, size_t size, lm_cache **cache) {
    return lmgo_done(lm_cache_load(layer, buffer, size, cache));
}

/* several layers of one model */

static inline lmgo_result lmgo_inference_params_create(size_t batch, lm_inference_params **params) {
    lmgo_result abi = lmgo_check_abi();
    return abi.status != LM_OK ? abi : lmgo_done(lm_inference_params_create(batch, 0, params));
}

static inline lmgo_result lmgo_inference_params_reset(lm_inference_params *params) {
    return lmgo_done(lm_inference_params_reset(params));
}

static inline lmgo_result lmgo_forward_inference(const lm_layer *layer, const float *x, size_t batch, size_t seqlen,
                                                 lm_inference_params *params, float *y) {
    return lmgo_done(lm_forward_inference(layer, x, batch, seqlen, params, y));
}

/* parameters and files */

static inline lmgo_result lmgo_parameter_info(const lm_layer *layer, size_t index, lm_tensor_info *info) {
    return lmgo_done(lm_parameter_info(layer, index, info, sizeof *info));
}

static inline lmgo_result lmgo_find_parameter(const lm_layer *layer, const char *name, lm_tensor_info *info) {
    size_t index;
    lm_status status = lm_find_parameter(layer, name, &index);
    return lmgo_done(status != LM_OK ? status : lm_parameter_info(layer, index, info, sizeof *info));
}

static inline lmgo_result lmgo_get_parameter(const lm_layer *layer, const char *name, float *out, size_t count) {
    return lmgo_done(lm_get_parameter(layer, name, out, count));
}

static inline lmgo_result lmgo_set_parameter(lm_layer *layer, const char *name, const float *values, size_t count) {
    return lmgo_done(lm_set_parameter(layer, name, values, count));
}

static inline lmgo_result lmgo_get_parameter_typed(const lm_layer *layer, const char *name, uint32_t dtype, void *out,
                                                   size_t bytes) {
    return lmgo_done(lm_get_parameter_typed(layer, name, dtype, out, bytes));
}

static inline lmgo_result lmgo_set_parameter_typed(lm_layer *layer, const char *name, uint32_t dtype,
                                                   const void *values, size_t bytes) {
    return lmgo_done(lm_set_parameter_typed(layer, name, dtype, values, bytes));
}

static inline lmgo_result lmgo_load(const char *path, const char *prefix, bool has_config, lm_config config,
                                    const size_t *dilations, size_t num_dilations, lm_layer **layer) {
    lmgo_result abi = lmgo_check_abi();
    config.conv_dilations = dilations;
    config.num_conv_dilations = num_dilations;
    return abi.status != LM_OK ? abi : lmgo_done(lm_load(path, prefix, has_config ? &config : NULL, layer));
}

static inline lmgo_result lmgo_load_memory(const void *data, size_t size, const char *prefix, bool has_config,
                                           lm_config config, const size_t *dilations, size_t num_dilations,
                                           lm_layer **layer) {
    lmgo_result abi = lmgo_check_abi();
    config.conv_dilations = dilations;
    config.num_conv_dilations = num_dilations;
    return abi.status != LM_OK ? abi
                               : lmgo_done(lm_load_memory(data, size, prefix, has_config ? &config : NULL, layer));
}

static inline lmgo_result lmgo_save(const lm_layer *layer, const char *path) { return lmgo_done(lm_save(layer, path)); }

/* tensors of other libraries */

static inline lmgo_result lmgo_forward_dlpack(const lm_layer *layer, const void *x, lm_cache *cache, const void *y,
                                              void *stream) {
    return lmgo_done(lm_forward_dlpack(layer, (const DLTensor *)x, cache, (const DLTensor *)y, stream));
}

static inline lmgo_result lmgo_step_dlpack(const lm_layer *layer, const void *x, lm_cache *cache, const void *y,
                                           void *stream) {
    return lmgo_done(lm_step_dlpack(layer, (const DLTensor *)x, cache, (const DLTensor *)y, stream));
}

#endif
