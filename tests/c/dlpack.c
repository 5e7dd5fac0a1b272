/* Tensors of other libraries, in C11 and C++17. The standard's header is included before ours (DLPACK_FIRST), after it
 * (DLPACK_LAST), or not at all; each is the header's name. */
#ifdef DLPACK_FIRST
#include DLPACK_FIRST
#endif
#include "check.h"
#ifdef DLPACK_LAST
#include DLPACK_LAST
#endif
#include <lite_mamba.h>

/* Whose declarations these must be. */
#if defined(EXPECT_STANDARD) && !defined(STANDARD_DLPACK)
#error "the standard's header was not read"
#elif defined(EXPECT_OWN) && defined(STANDARD_DLPACK)
#error "the standard's header was read"
#endif

#ifndef __cplusplus
#define static_assert _Static_assert
#endif
#define AT(type, field, offset) static_assert(offsetof(type, field) == (offset), #type "." #field)
#define IS(name, number) static_assert((int)(name) == (number), #name)

static_assert(sizeof(DLPackVersion) == 8 && sizeof(DLDevice) == 8 && sizeof(DLDataType) == 4, "sizes");
static_assert(sizeof(DLDeviceType) == 4, "sizes");
AT(DLPackVersion, major, 0); AT(DLPackVersion, minor, 4);
AT(DLDevice, device_type, 0); AT(DLDevice, device_id, 4);
AT(DLDataType, code, 0); AT(DLDataType, bits, 1); AT(DLDataType, lanes, 2);
AT(DLTensor, data, 0);
#if UINTPTR_MAX > 0xffffffffu
static_assert(sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64, "sizes");
static_assert(sizeof(struct DLManagedTensorVersioned) == 80, "sizes");
AT(DLTensor, device, 8); AT(DLTensor, ndim, 16); AT(DLTensor, dtype, 20); AT(DLTensor, shape, 24);
AT(DLTensor, strides, 32); AT(DLTensor, byte_offset, 40);
AT(DLManagedTensor, dl_tensor, 0); AT(DLManagedTensor, manager_ctx, 48); AT(DLManagedTensor, deleter, 56);
AT(struct DLManagedTensorVersioned, version, 0); AT(struct DLManagedTensorVersioned, manager_ctx, 8);
AT(struct DLManagedTensorVersioned, deleter, 16); AT(struct DLManagedTensorVersioned, flags, 24);
AT(struct DLManagedTensorVersioned, dl_tensor, 32);
#endif
IS(kDLCPU, 1); IS(kDLCUDA, 2); IS(kDLCUDAHost, 3); IS(kDLOpenCL, 4); IS(kDLVulkan, 7); IS(kDLMetal, 8);
IS(kDLVPI, 9); IS(kDLROCM, 10); IS(kDLROCMHost, 11); IS(kDLExtDev, 12); IS(kDLCUDAManaged, 13); IS(kDLOneAPI, 14);
IS(kDLWebGPU, 15); IS(kDLHexagon, 16); IS(kDLMAIA, 17); IS(kDLTrn, 18);
IS(kDLInt, 0); IS(kDLUInt, 1); IS(kDLFloat, 2); IS(kDLOpaqueHandle, 3); IS(kDLBfloat, 4); IS(kDLComplex, 5);
IS(kDLBool, 6); IS(kDLFloat8_e3m4, 7); IS(kDLFloat8_e4m3, 8); IS(kDLFloat8_e4m3b11fnuz, 9);
IS(kDLFloat8_e4m3fn, 10); IS(kDLFloat8_e4m3fnuz, 11); IS(kDLFloat8_e5m2, 12); IS(kDLFloat8_e5m2fnuz, 13);
IS(kDLFloat8_e8m0fnu, 14); IS(kDLFloat6_e2m3fn, 15); IS(kDLFloat6_e3m2fn, 16); IS(kDLFloat4_e2m1fn, 17);
IS(DLPACK_MAJOR_VERSION, 1);
IS(DLPACK_FLAG_BITMASK_READ_ONLY, 1); IS(DLPACK_FLAG_BITMASK_IS_COPIED, 2);
IS(DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED, 4);

enum { D_MODEL = 8, BATCH = 2, SEQLEN = 3, COUNT = BATCH * SEQLEN * D_MODEL };

static DLTensor describe(void *data, int32_t ndim, int64_t *shape, int64_t *strides) {
    DLTensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = data;
    tensor.device.device_type = kDLCPU;
    tensor.ndim = ndim;
    tensor.dtype.code = kDLFloat;
    tensor.dtype.bits = 32;
    tensor.dtype.lanes = 1;
    tensor.shape = shape;
    tensor.strides = strides;
    return tensor;
}

int main(void) {
    const lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    lm_layer *layer = create(&config);
    lm_cache *cache = alloc_cache(layer, BATCH), *plain_cache = alloc_cache(layer, BATCH);
    float x[COUNT], y[COUNT], plain[COUNT];
    fill(x, COUNT, 1);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, plain));

    /* Contiguous, and in place. */
    int64_t shape[] = {BATCH, SEQLEN, D_MODEL};
    const DLTensor of_x = describe(x, 3, shape, NULL), of_y = describe(y, 3, shape, NULL);
    OK(lm_forward_dlpack(layer, &of_x, NULL, &of_y, NULL));
    CHECK(memcmp(y, plain, sizeof y) == 0);
    memcpy(y, x, sizeof x);
    OK(lm_forward_dlpack(layer, &of_y, NULL, &of_y, NULL));
    CHECK(memcmp(y, plain, sizeof y) == 0);

    /* The token first, as a transposed tensor has it, from doubles and to doubles. */
    int64_t token_first[] = {D_MODEL, BATCH * D_MODEL, 1};
    double turned[COUNT], result[1 + COUNT];
    for (int b = 0; b < BATCH; b++)
        for (int t = 0; t < SEQLEN; t++)
            for (int i = 0; i < D_MODEL; i++)
                turned[(t * BATCH + b) * D_MODEL + i] = x[(b * SEQLEN + t) * D_MODEL + i];
    DLTensor of_turned = describe(turned, 3, shape, token_first);
    DLTensor of_result = describe(result, 3, shape, token_first);
    of_turned.dtype.bits = of_result.dtype.bits = 64;
    of_result.byte_offset = sizeof(double);
    result[0] = 7.0;
    OK(lm_forward_dlpack(layer, &of_turned, NULL, &of_result, NULL));
    int same = result[0] == 7.0;
    for (int b = 0; b < BATCH; b++)
        for (int t = 0; t < SEQLEN; t++)
            for (int i = 0; i < D_MODEL; i++)
                same = same && result[1 + (t * BATCH + b) * D_MODEL + i] == plain[(b * SEQLEN + t) * D_MODEL + i];
    CHECK(same);

    /* Token by token, each in its place among the others. */
    int64_t of_token[] = {SEQLEN * D_MODEL, 1}, token_shape[] = {BATCH, D_MODEL};
    memset(y, 0, sizeof y);
    for (int t = 0; t < SEQLEN; t++) {
        DLTensor token = describe(x, 2, token_shape, of_token), output = describe(y, 2, token_shape, of_token);
        token.byte_offset = output.byte_offset = (uint64_t)t * D_MODEL * sizeof(float);
        OK(lm_step_dlpack(layer, &token, cache, &output, NULL));
    }
    CHECK(memcmp(y, plain, sizeof y) == 0);
    CHECK(lm_cache_seqlen_offset(cache) == SEQLEN);
    OK(lm_forward(layer, x, BATCH, SEQLEN, plain_cache, plain));
    OK(lm_forward(layer, x, BATCH, SEQLEN, plain_cache, plain));
    OK(lm_forward_dlpack(layer, &of_x, cache, &of_y, NULL));
    CHECK(memcmp(y, plain, sizeof y) == 0);

    /* What is refused, changes nothing. tests/dlpack.rs has the rest of it. */
    memset(y, 0xa5, sizeof y);
    memset(plain, 0xa5, sizeof plain);
    DLTensor bad = of_x;
    bad.device.device_type = kDLCUDA;
    FAILS(lm_forward_dlpack(layer, &bad, cache, &of_y, NULL), LM_ERR_INVALID_ARGUMENT, "x->device is kDLCUDA");
    bad = of_y;
    bad.dtype.code = kDLInt;
    FAILS(lm_forward_dlpack(layer, &of_x, cache, &bad, NULL), LM_ERR_UNSUPPORTED, "y->dtype has code 0");
    FAILS(lm_step_dlpack(layer, &of_x, cache, &of_y, NULL), LM_ERR_SHAPE_MISMATCH, "x has 3 dimensions");
    FAILS(lm_forward_dlpack(layer, NULL, cache, &of_y, NULL), LM_ERR_NULL_POINTER, "x is NULL");
    bad = of_x;
    bad.byte_offset = 4;
    FAILS(lm_forward_dlpack(layer, &of_x, cache, &bad, NULL), LM_ERR_INVALID_ARGUMENT, "y overlaps x in part");
    CHECK(memcmp(y, plain, sizeof y) == 0);
    CHECK(lm_cache_seqlen_offset(cache) == 2 * SEQLEN);

    lm_free_cache(cache);
    lm_free_cache(plain_cache);
    lm_destroy(layer);
    return report("dlpack");
}
