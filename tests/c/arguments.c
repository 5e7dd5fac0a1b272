/* Every argument that a function must refuse: with which status, with which message, and with no trace. */
#include "check.h"

#include <math.h>

enum { D_MODEL = 8, D_STATE = 16, D_INNER = 2 * D_MODEL, BATCH = 2, SEQLEN = 3 };

static lm_layer *layer;
static lm_cache *cache;
static lm_inference_params *params;
static float x[BATCH * SEQLEN * D_MODEL];
static unsigned char saved[1 << 14]; /* the cache */
static size_t saved_size;

/* Where the calls are to write, and nothing may be written. */
static struct {
    lm_layer *layer;
    lm_cache *cache;
    lm_inference_params *params;
    lm_config config;
    lm_tensor_info info;
    float y[BATCH * SEQLEN * D_MODEL];
    float values[BATCH * D_INNER * D_STATE];
    unsigned char saved[sizeof saved];
    size_t number;
} out;

static int untouched(void) {
    for (size_t i = 0; i < sizeof out; i++)
        if (((unsigned char *)&out)[i] != 0xa5)
            return 0;
    return lm_cache_seqlen_offset(cache) == 1;
}

/* The call fails as it should and leaves everything as it was. */
#define REFUSES(call, status, words)                                                                         \
    do {                                                                                                     \
        FAILS(call, status, words);                                                                          \
        if (!untouched()) {                                                                                  \
            CHECK(!"something was written by " #call);                                                       \
            memset(&out, 0xa5, sizeof out);                                                                  \
        }                                                                                                    \
    } while (0)

static void null_pointers(void) {
    const lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    const lm_status null = LM_ERR_NULL_POINTER;
    const size_t count = BATCH * D_INNER * D_STATE;

    REFUSES(lm_config_init(NULL, sizeof(lm_config)), null, "config is NULL");

    REFUSES(lm_create(NULL, &out.layer), null, "config is NULL");
    REFUSES(lm_create(&config, NULL), null, "layer is NULL");
    REFUSES(lm_get_config(NULL, &out.config, sizeof out.config), null, "layer is NULL");
    REFUSES(lm_get_config(layer, NULL, sizeof out.config), null, "config is NULL");
    REFUSES(lm_forward(NULL, x, BATCH, SEQLEN, cache, out.y), null, "layer is NULL");
    REFUSES(lm_forward(layer, NULL, BATCH, SEQLEN, cache, out.y), null, "x is NULL");
    REFUSES(lm_forward(layer, x, BATCH, SEQLEN, cache, NULL), null, "y is NULL");
    REFUSES(lm_forward(NULL, NULL, 0, 0, NULL, NULL), null, "layer is NULL");

    REFUSES(lm_alloc_cache(NULL, BATCH, 0, 0, &out.cache), null, "layer is NULL");
    REFUSES(lm_alloc_cache(layer, BATCH, 0, 0, NULL), null, "cache is NULL");
    REFUSES(lm_step(NULL, x, cache, out.y), null, "layer is NULL");
    REFUSES(lm_step(layer, NULL, cache, out.y), null, "x is NULL");
    REFUSES(lm_step(layer, x, NULL, out.y), null, "cache is NULL");
    REFUSES(lm_step(layer, x, cache, NULL), null, "y is NULL");
    REFUSES(lm_cache_reset(NULL), null, "cache is NULL");
    const size_t lane = 0;
    REFUSES(lm_step_lanes(NULL, x, &lane, 1, cache, out.y), null, "layer is NULL");
    REFUSES(lm_step_lanes(layer, NULL, &lane, 1, cache, out.y), null, "x is NULL");
    REFUSES(lm_step_lanes(layer, x, NULL, 1, cache, out.y), null, "lanes is NULL");
    REFUSES(lm_step_lanes(layer, x, &lane, 1, NULL, out.y), null, "cache is NULL");
    REFUSES(lm_step_lanes(layer, x, &lane, 1, cache, NULL), null, "y is NULL");
    const size_t cu_seqlens[] = {0, 1, SEQLEN};
    REFUSES(lm_forward_varlen(NULL, x, cu_seqlens, BATCH, cache, out.y), null, "layer is NULL");
    REFUSES(lm_forward_varlen(layer, NULL, cu_seqlens, BATCH, cache, out.y), null, "x is NULL");
    REFUSES(lm_forward_varlen(layer, x, NULL, BATCH, cache, out.y), null, "cu_seqlens is NULL");
    REFUSES(lm_forward_varlen(layer, x, cu_seqlens, BATCH, cache, NULL), null, "y is NULL");
    REFUSES(lm_forward_varlen(NULL, NULL, NULL, 0, NULL, NULL), null, "layer is NULL");
    REFUSES(lm_cache_save(NULL, out.saved, sizeof out.saved, &out.number), null, "cache is NULL");
    REFUSES(lm_cache_save(NULL, NULL, 0, &out.number), null, "cache is NULL");
    REFUSES(lm_cache_save(cache, out.saved, sizeof out.saved, NULL), null, "written is NULL");
    REFUSES(lm_cache_save(cache, NULL, 0, NULL), null, "written is NULL");
    REFUSES(lm_cache_load(NULL, saved, saved_size, &out.cache), null, "layer is NULL");
    REFUSES(lm_cache_load(layer, NULL, saved_size, &out.cache), null, "buffer is NULL");
    REFUSES(lm_cache_load(layer, saved, saved_size, NULL), null, "cache is NULL");
    REFUSES(lm_cache_reset_lane(NULL, 0), null, "cache is NULL");
    REFUSES(lm_cache_copy_lane(NULL, 0, cache, 0), null, "dst is NULL");
    REFUSES(lm_cache_copy_lane(cache, 0, NULL, 0), null, "src is NULL");
    REFUSES(lm_cache_copy_lane(NULL, 0, NULL, 0), null, "dst is NULL");
    REFUSES(lm_cache_clone(NULL, &out.cache), null, "cache is NULL");
    REFUSES(lm_cache_clone(cache, NULL), null, "clone is NULL");
    REFUSES(lm_cache_get_state(NULL, "ssm_state", out.values, count), null, "cache is NULL");
    REFUSES(lm_cache_get_state(cache, NULL, out.values, count), null, "name is NULL");
    REFUSES(lm_cache_get_state(cache, "ssm_state", NULL, count), null, "out is NULL");
    REFUSES(lm_cache_set_state(NULL, "ssm_state", x, count), null, "cache is NULL");
    REFUSES(lm_cache_set_state(cache, NULL, x, count), null, "name is NULL");
    REFUSES(lm_cache_set_state(cache, "ssm_state", NULL, count), null, "values is NULL");
    REFUSES(lm_cache_state_info(NULL, 0, &out.info, sizeof out.info), null, "cache is NULL");
    REFUSES(lm_cache_state_info(cache, 0, NULL, sizeof out.info), null, "info is NULL");

    REFUSES(lm_inference_params_create(BATCH, 0, NULL), null, "params is NULL");
    REFUSES(lm_inference_params_reset(NULL), null, "params is NULL");
    REFUSES(lm_forward_inference(NULL, x, BATCH, SEQLEN, params, out.y), null, "layer is NULL");
    REFUSES(lm_forward_inference(layer, NULL, BATCH, SEQLEN, params, out.y), null, "x is NULL");
    REFUSES(lm_forward_inference(layer, x, BATCH, SEQLEN, NULL, out.y), null, "params is NULL");
    REFUSES(lm_forward_inference(layer, x, BATCH, SEQLEN, params, NULL), null, "y is NULL");
    CHECK(lm_inference_params_cache(params, 0) == NULL);

    REFUSES(lm_parameter_info(NULL, 0, &out.info, sizeof out.info), null, "layer is NULL");
    REFUSES(lm_parameter_info(layer, 0, NULL, sizeof out.info), null, "info is NULL");
    REFUSES(lm_find_parameter(NULL, "D", &out.number), null, "layer is NULL");
    REFUSES(lm_find_parameter(layer, NULL, &out.number), null, "name is NULL");
    REFUSES(lm_find_parameter(layer, "D", NULL), null, "index is NULL");
    REFUSES(lm_get_parameter(NULL, "D", out.values, D_INNER), null, "layer is NULL");
    REFUSES(lm_get_parameter(layer, NULL, out.values, D_INNER), null, "name is NULL");
    REFUSES(lm_get_parameter(layer, "D", NULL, D_INNER), null, "out is NULL");
    REFUSES(lm_set_parameter(NULL, "D", x, D_INNER), null, "layer is NULL");
    REFUSES(lm_set_parameter(layer, NULL, x, D_INNER), null, "name is NULL");
    REFUSES(lm_set_parameter(layer, "D", NULL, D_INNER), null, "values is NULL");
    REFUSES(lm_get_parameter_typed(NULL, "D", 0, out.values, 4 * D_INNER), null, "layer is NULL");
    REFUSES(lm_get_parameter_typed(layer, NULL, 0, out.values, 4 * D_INNER), null, "name is NULL");
    REFUSES(lm_get_parameter_typed(layer, "D", 0, NULL, 4 * D_INNER), null, "out is NULL");
    REFUSES(lm_set_parameter_typed(NULL, "D", 0, x, 4 * D_INNER), null, "layer is NULL");
    REFUSES(lm_set_parameter_typed(layer, NULL, 0, x, 4 * D_INNER), null, "name is NULL");
    REFUSES(lm_set_parameter_typed(layer, "D", 0, NULL, 4 * D_INNER), null, "values is NULL");
    REFUSES(lm_load(NULL, NULL, NULL, &out.layer), null, "path is NULL");
    REFUSES(lm_load("x", NULL, NULL, NULL), null, "layer is NULL");
    REFUSES(lm_load_memory(NULL, 8, NULL, NULL, &out.layer), null, "data is NULL");
    REFUSES(lm_load_memory(x, 8, NULL, NULL, NULL), null, "layer is NULL");
    REFUSES(lm_save(NULL, "x"), null, "layer is NULL");
    REFUSES(lm_save(layer, NULL), null, "path is NULL");

    lm_config bad = config;
    bad.conv_dilations = NULL;
    REFUSES(lm_create(&bad, &out.layer), null, "conv_dilations is NULL");

    CHECK(lm_d_inner(NULL) == 0 && strstr(lm_last_error(), "layer is NULL"));
    CHECK(lm_num_parameters(NULL) == 0 && strstr(lm_last_error(), "layer is NULL"));
    CHECK(lm_cache_batch(NULL) == 0 && strstr(lm_last_error(), "cache is NULL"));
    CHECK(lm_cache_seqlen_offset(NULL) == 0 && strstr(lm_last_error(), "cache is NULL"));
    CHECK(lm_cache_bytes(NULL) == 0 && strstr(lm_last_error(), "cache is NULL"));
    CHECK(lm_cache_num_states(NULL) == 0 && strstr(lm_last_error(), "cache is NULL"));
    CHECK(lm_inference_params_cache(NULL, 0) == NULL && strstr(lm_last_error(), "params is NULL"));
    CHECK(lm_inference_params_cache(params, -1) == NULL && strstr(lm_last_error(), "layer_idx is -1"));

    lm_destroy(NULL);
    lm_free_cache(NULL);
    lm_inference_params_free(NULL);
}

/* Sets one field of a default configuration to a value that it must not have. */
#define REFUSES_FIELD(field, value, status)                                                                  \
    do {                                                                                                     \
        lm_config bad = default_config(LM_VARIANT_PTCN, D_MODEL);                                            \
        bad.field = (value);                                                                                 \
        REFUSES(lm_create(&bad, &out.layer), status, #field);                                                \
    } while (0)

static void config_fields(void) {
    const uint32_t enumerated[] = {5, 99, 0x80000000u, 0xffffffffu};
    for (size_t i = 0; i < sizeof enumerated / sizeof *enumerated; i++) {
        REFUSES_FIELD(variant, enumerated[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dtype, enumerated[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(device, enumerated[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(math, enumerated[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dt_init, enumerated[i], LM_ERR_INVALID_CONFIG);
    }
    REFUSES_FIELD(variant, 4, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(dtype, LM_DTYPE_DEFAULT, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(device, 2, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(math, 2, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(dt_init, 2, LM_ERR_INVALID_CONFIG);
    if (!lm_cuda_available())
        REFUSES_FIELD(device, LM_DEVICE_CUDA, LM_ERR_CUDA);

    REFUSES_FIELD(d_model, 0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(d_state, 0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(d_conv, 0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(layer_idx, -2, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(layer_idx, INT64_MIN, LM_ERR_INVALID_CONFIG);

    const double never[] = {NAN, INFINITY, -INFINITY, -1.0, -1e-300};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        REFUSES_FIELD(expand, never[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dt_min, never[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dt_max, never[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dt_scale, never[i], LM_ERR_INVALID_CONFIG);
        REFUSES_FIELD(dt_init_floor, never[i], LM_ERR_INVALID_CONFIG);
    }
    REFUSES_FIELD(expand, 0.0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(expand, 0.1, LM_ERR_INVALID_CONFIG); /* no whole channel */
    REFUSES_FIELD(dt_min, 0.0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(dt_max, 0.0, LM_ERR_INVALID_CONFIG);
    REFUSES_FIELD(dt_min, 0.2, LM_ERR_INVALID_CONFIG); /* above dt_max */
    REFUSES_FIELD(dt_scale, 1e300, LM_ERR_INVALID_CONFIG); /* no f32 */

    const size_t dilations[] = {1, 0, 4};
    lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    config.conv_dilations = dilations;
    REFUSES(lm_create(&config, &out.layer), LM_ERR_INVALID_CONFIG, "conv_dilations[1] is 0");
    config.num_conv_dilations = 0;
    REFUSES(lm_create(&config, &out.layer), LM_ERR_INVALID_CONFIG, "conv_dilations");
    config.conv_dilations = NULL;
    REFUSES(lm_create(&config, &out.layer), LM_ERR_INVALID_CONFIG, "conv_dilations");

    const size_t two[] = {2, 1}, ones[] = {1, 1};
    config = default_config(LM_VARIANT_BASELINE, D_MODEL);
    config.conv_dilations = two;
    REFUSES(lm_create(&config, &out.layer), LM_ERR_INVALID_CONFIG, "conv_dilations");
    config.conv_dilations = ones;
    config.num_conv_dilations = 2;
    REFUSES(lm_create(&config, &out.layer), LM_ERR_INVALID_CONFIG, "conv_dilations");

    /* What is allowed, although it looks odd. */
    config = default_config(LM_VARIANT_PTCN, 1);
    config.d_state = config.d_conv = 1;
    config.expand = 1.0;
    config.dt_init = LM_DT_INIT_CONSTANT;
    config.dt_scale = -1.0;
    config.dt_init_floor = 0.0;
    config.dt_max = config.dt_min;
    config.math = LM_MATH_TF32;
    config.use_fast_path = true;
    config.layer_idx = INT64_MAX;
    lm_destroy(create(&config));
}

static void struct_sizes(void) {
    const size_t sizes[] = {0, 1, 7, 8, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int around = 0; around < 2; around++) {
            /* Small or absurd ones, and those next to the right one. */
            const size_t config_size = around ? sizeof(lm_config) - 8 + 4 * i : sizes[i];
            const size_t info_size = around ? sizeof(lm_tensor_info) - 8 + 4 * i : sizes[i];
            if (config_size != sizeof(lm_config)) {
                REFUSES(lm_config_init(&out.config, config_size), LM_ERR_INVALID_ARGUMENT, "struct_size");
                REFUSES(lm_get_config(layer, &out.config, config_size), LM_ERR_INVALID_ARGUMENT, "struct_size");
                REFUSES_FIELD(struct_size, config_size, LM_ERR_INVALID_CONFIG);
                lm_config bad = default_config(LM_VARIANT_PTCN, D_MODEL);
                bad.struct_size = config_size;
                REFUSES(lm_load("x", NULL, &bad, &out.layer), LM_ERR_INVALID_CONFIG, "struct_size");
                REFUSES(lm_load_memory(x, 8, NULL, &bad, &out.layer), LM_ERR_INVALID_CONFIG, "struct_size");
            }
            if (info_size != sizeof(lm_tensor_info)) {
                REFUSES(lm_parameter_info(layer, 0, &out.info, info_size), LM_ERR_INVALID_ARGUMENT, "struct_size");
                REFUSES(lm_cache_state_info(cache, 0, &out.info, info_size), LM_ERR_INVALID_ARGUMENT, "struct_size");
            }
        }
}

static void sizes_beyond_memory(void) {
    const size_t huge[] = {SIZE_MAX, SIZE_MAX / 2 + 1, SIZE_MAX / 3, SIZE_MAX / 16 + 1, (size_t)1 << 45,
                           ((size_t)1 << 40) - 1, (size_t)1 << 39};
    const lm_status memory = LM_ERR_OUT_OF_MEMORY;
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        for (uint32_t variant = LM_VARIANT_PTCN; variant <= LM_VARIANT_BASELINE; variant++) {
            const lm_config config = default_config(variant, D_MODEL);
            lm_config bad = config;
            bad.d_model = huge[i];
            REFUSES(lm_create(&bad, &out.layer), memory, "");
            bad.d_state = bad.d_conv = bad.dt_rank = huge[i];
            REFUSES(lm_create(&bad, &out.layer), memory, "");
            bad = config;
            bad.d_state = huge[i];
            REFUSES(lm_create(&bad, &out.layer), memory, "");
            bad = config;
            bad.d_conv = huge[i];
            REFUSES(lm_create(&bad, &out.layer), memory, "");
            bad = config;
            bad.dt_rank = huge[i];
            REFUSES(lm_create(&bad, &out.layer), memory, "");
            bad = config;
            bad.expand = (double)huge[i] * 1e10;
            REFUSES(lm_create(&bad, &out.layer), memory, "");
        }
        REFUSES_FIELD(num_conv_dilations, huge[i], memory);

        /* The weights of such a layer are small, its history is not: never create, or never a cache. */
        const size_t dilations[] = {1, huge[i]};
        lm_config config = default_config(LM_VARIANT_STCN, D_MODEL);
        config.conv_dilations = dilations;
        config.num_conv_dilations = 2;
        lm_layer *far = NULL;
        lm_status status = lm_create(&config, &far);
        CHECK(status == LM_OK || (status == memory && strstr(lm_last_error(), "conv_dilations[1]")));
        if (status == LM_OK) {
            REFUSES(lm_alloc_cache(far, 1, 0, 0, &out.cache), memory, "batch");
            REFUSES(lm_forward(far, x, 1, 1, NULL, out.y), memory, "");
            lm_destroy(far);
        }

        REFUSES(lm_alloc_cache(layer, huge[i], 0, 0, &out.cache), memory, "batch");
        REFUSES(lm_forward(layer, x, huge[i], 1, NULL, out.y), memory, "batch");
        REFUSES(lm_forward(layer, x, 1, huge[i], NULL, out.y), memory, "seqlen");
        REFUSES(lm_forward(layer, x, BATCH, huge[i], cache, out.y), memory, "seqlen");
        REFUSES(lm_forward(layer, x, huge[i], huge[i], cache, out.y), memory, "batch");
        const size_t cu_seqlens[] = {0, huge[i], huge[i]};
        REFUSES(lm_forward_varlen(layer, x, cu_seqlens, BATCH, cache, out.y), memory, "total");
        REFUSES(lm_forward_varlen(layer, x, cu_seqlens, huge[i], cache, out.y), memory, "cu_seqlens");
        REFUSES(lm_cache_load(layer, saved, huge[i] | (size_t)1 << 45, &out.cache), memory, "buffer");
        REFUSES(lm_forward_inference(layer, x, BATCH, huge[i], params, out.y), memory, "seqlen");
        REFUSES(lm_forward_inference(layer, x, huge[i], 1, params, out.y), LM_ERR_SHAPE_MISMATCH, "batch");
        CHECK(lm_inference_params_cache(params, 0) == NULL);
    }
    /* What only the product of the two makes too large. */
    REFUSES(lm_forward(layer, x, (size_t)1 << 32, (size_t)1 << 32, NULL, out.y), memory, "batch");
    REFUSES(lm_forward(layer, x, (size_t)1 << 31, (size_t)1 << 30, NULL, out.y), memory, "batch");
    const lm_config wide = default_config(LM_VARIANT_PTCN, (size_t)1 << 20);
    REFUSES(lm_create(&wide, &out.layer), memory, "");

    lm_inference_params *most = NULL;
    OK(lm_inference_params_create(SIZE_MAX, SIZE_MAX, &most));
    REFUSES(lm_forward_inference(layer, x, 1, 1, most, out.y), LM_ERR_SHAPE_MISMATCH, "batch");
    lm_inference_params_free(most);
    lm_cache *long_cache = NULL; /* max_seqlen costs nothing */
    OK(lm_alloc_cache(layer, 1, SIZE_MAX, LM_DTYPE_F32, &long_cache));
    lm_free_cache(long_cache);

    REFUSES(lm_set_num_threads(4097), LM_ERR_INVALID_ARGUMENT, "n is 4097");
    REFUSES(lm_set_num_threads(SIZE_MAX), LM_ERR_INVALID_ARGUMENT, "n is");
}

static void names_counts_and_types(void) {
    const size_t count = BATCH * D_INNER * D_STATE;
    const size_t wrong[] = {0, 1, count - 1, count + 1, D_INNER - 1, D_INNER + 1, 4 * D_INNER + 4};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const lm_status mismatch = LM_ERR_SHAPE_MISMATCH;
        REFUSES(lm_cache_get_state(cache, "ssm_state", out.values, wrong[i]), mismatch, "ssm_state");
        REFUSES(lm_cache_set_state(cache, "ssm_state", out.values, wrong[i]), mismatch, "ssm_state");
        REFUSES(lm_get_parameter(layer, "D", out.values, wrong[i]), mismatch, "D");
        REFUSES(lm_set_parameter(layer, "D", out.values, wrong[i]), mismatch, "D");
        REFUSES(lm_get_parameter_typed(layer, "D", LM_DTYPE_F32, out.values, wrong[i]), mismatch, "D");
        REFUSES(lm_set_parameter_typed(layer, "D", LM_DTYPE_F32, out.values, wrong[i]), mismatch, "D");
    }
    REFUSES(lm_get_parameter_typed(layer, "D", LM_DTYPE_F64, out.values, 4 * D_INNER), LM_ERR_SHAPE_MISMATCH, "D");
    REFUSES(lm_get_parameter_typed(layer, "D", LM_DTYPE_F16, out.values, 4 * D_INNER), LM_ERR_SHAPE_MISMATCH, "D");
    REFUSES(lm_set_parameter_typed(layer, "D", LM_DTYPE_BF16, out.values, 4 * D_INNER), LM_ERR_SHAPE_MISMATCH, "D");

    const char *unknown[] = {"", "d", "D.", "conv_state", "conv_state.3", "conv_state.", "conv_gates.0", "A"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        REFUSES(lm_cache_get_state(cache, unknown[i], out.values, count), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_cache_set_state(cache, unknown[i], out.values, count), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_find_parameter(layer, unknown[i], &out.number), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_get_parameter(layer, unknown[i], out.values, D_INNER), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_set_parameter(layer, unknown[i], out.values, D_INNER), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_get_parameter_typed(layer, unknown[i], 0, out.values, 8), LM_ERR_NOT_FOUND, unknown[i]);
        REFUSES(lm_set_parameter_typed(layer, unknown[i], 0, out.values, 8), LM_ERR_NOT_FOUND, unknown[i]);
    }
    REFUSES(lm_get_parameter(layer, "D\xff", out.values, D_INNER), LM_ERR_INVALID_ARGUMENT, "name is not UTF-8");
    REFUSES(lm_find_parameter(layer, "\xff", &out.number), LM_ERR_INVALID_ARGUMENT, "name is not UTF-8");
    REFUSES(lm_load("\xc3(", NULL, NULL, &out.layer), LM_ERR_INVALID_ARGUMENT, "path is not UTF-8");
    REFUSES(lm_load("x", "\xff", NULL, &out.layer), LM_ERR_INVALID_ARGUMENT, "prefix is not UTF-8");

    const uint32_t no_type[] = {5, 6, 0x80000000u, 0xffffffffu};
    for (size_t i = 0; i < sizeof no_type / sizeof *no_type; i++) {
        const lm_status invalid = LM_ERR_INVALID_ARGUMENT;
        REFUSES(lm_alloc_cache(layer, 1, 0, no_type[i], &out.cache), invalid, "dtype is");
        REFUSES(lm_get_parameter_typed(layer, "D", no_type[i], out.values, 4 * D_INNER), invalid, "dtype is");
        REFUSES(lm_set_parameter_typed(layer, "D", no_type[i], out.values, 4 * D_INNER), invalid, "dtype is");
    }

    const size_t indices[] = {lm_num_parameters(layer), SIZE_MAX};
    for (size_t i = 0; i < 2; i++) {
        const lm_status invalid = LM_ERR_INVALID_ARGUMENT;
        REFUSES(lm_parameter_info(layer, indices[i], &out.info, sizeof out.info), invalid, "index is");
        REFUSES(lm_cache_state_info(cache, indices[i], &out.info, sizeof out.info), invalid, "index is");
    }
    REFUSES(lm_cache_state_info(cache, 4, &out.info, sizeof out.info), LM_ERR_INVALID_ARGUMENT, "index is 4");
}

static void buffers(void) {
    static float both[BATCH * SEQLEN * D_MODEL + 1];
    float before[BATCH * SEQLEN * D_MODEL + 1];
    memcpy(before, both, sizeof both);
    REFUSES(lm_forward(layer, both, BATCH, SEQLEN, cache, both + 1), LM_ERR_INVALID_ARGUMENT, "y overlaps x");
    REFUSES(lm_forward(layer, both + 1, BATCH, SEQLEN, NULL, both), LM_ERR_INVALID_ARGUMENT, "y overlaps x");
    REFUSES(lm_step(layer, both, cache, both + 1), LM_ERR_INVALID_ARGUMENT, "y overlaps x");
    CHECK(memcmp(before, both, sizeof both) == 0);

    float *odd = (float *)(void *)((char *)both + 1);
    REFUSES(lm_forward(layer, odd, 1, 1, NULL, out.y), LM_ERR_INVALID_ARGUMENT, "x is 0x");
    REFUSES(lm_forward(layer, x, 1, 1, NULL, odd), LM_ERR_INVALID_ARGUMENT, "y is 0x");
    REFUSES(lm_get_parameter(layer, "D", odd, D_INNER), LM_ERR_INVALID_ARGUMENT, "out is 0x");

    const size_t cu_seqlens[] = {0, 1, SEQLEN};
    const lm_status invalid = LM_ERR_INVALID_ARGUMENT;
    REFUSES(lm_forward_varlen(layer, both, cu_seqlens, BATCH, cache, both + 1), invalid, "y overlaps x");
    REFUSES(lm_forward_varlen(layer, odd, cu_seqlens, BATCH, cache, out.y), invalid, "x is 0x");
    REFUSES(lm_forward_varlen(layer, x, cu_seqlens, BATCH, cache, odd), invalid, "y is 0x");
    CHECK(memcmp(before, both, sizeof both) == 0);
    size_t *odd_number = (size_t *)(void *)((char *)both + 1);
    REFUSES(lm_forward_varlen(layer, x, odd_number, BATCH, cache, out.y), invalid, "cu_seqlens is 0x");
    REFUSES(lm_cache_save(cache, out.saved, sizeof out.saved, odd_number), invalid, "written is 0x");
    REFUSES(lm_find_parameter(layer, "D", odd_number), invalid, "index is 0x");
}

static void sequences(void) {
    enum { SEQS = 5 };
    const lm_status invalid = LM_ERR_INVALID_ARGUMENT;
    const size_t right[SEQS + 1] = {0, 1, 2, 3, 4, 6};
    lm_cache *of_all = alloc_cache(layer, SEQS);
    for (size_t i = 0; i <= SEQS; i++) {
        /* Wrong at this place: not at the beginning, or before the place before it. */
        size_t wrong[SEQS + 1];
        char words[32];
        snprintf(words, sizeof words, "cu_seqlens[%zu] is", i);
        memcpy(wrong, right, sizeof wrong);
        wrong[i] = i == 0 ? 1 : right[i - 1] - 1;
        if (i != 1) /* there is nothing below 0 */
            REFUSES(lm_forward_varlen(layer, x, wrong, SEQS, of_all, out.y), invalid, words);
        /* Far too much here is wrong at the next place, or more than memory. */
        wrong[i] = SIZE_MAX;
        snprintf(words, sizeof words, "cu_seqlens[%zu] is", i == 0 || i == SEQS ? i : i + 1);
        if (i < SEQS)
            REFUSES(lm_forward_varlen(layer, x, wrong, SEQS, of_all, out.y), invalid, words);
        else
            REFUSES(lm_forward_varlen(layer, x, wrong, SEQS, of_all, out.y), LM_ERR_OUT_OF_MEMORY, "total");
    }
    const size_t back_to_none[] = {0, 3, 0};
    REFUSES(lm_forward_varlen(layer, x, back_to_none, 2, NULL, out.y), invalid, "cu_seqlens[2] is 0");
    const size_t late[] = {2, 3};
    REFUSES(lm_forward_varlen(layer, x, late, 1, NULL, out.y), invalid, "cu_seqlens[0] is 2");

    /* A cache of another batch, with no sequence of its own for one, or with one too many. */
    REFUSES(lm_forward_varlen(layer, x, right, BATCH - 1, cache, out.y), LM_ERR_SHAPE_MISMATCH, "batch");
    REFUSES(lm_forward_varlen(layer, x, right, BATCH + 1, cache, out.y), LM_ERR_SHAPE_MISMATCH, "batch");
    CHECK(lm_cache_seqlen_offset(of_all) == 0);

    /* No tokens are no error, and nobody's business. */
    const size_t none[] = {0, 0, 0};
    OK(lm_forward_varlen(layer, NULL, NULL, 0, NULL, NULL));
    OK(lm_forward_varlen(layer, NULL, NULL, 0, cache, NULL));
    OK(lm_forward_varlen(layer, NULL, none, 0, cache, NULL));
    OK(lm_forward_varlen(layer, NULL, none, BATCH, NULL, NULL));
    OK(lm_forward_varlen(layer, x, none, BATCH, cache, out.y));
    CHECK(untouched());
    lm_free_cache(of_all);
}

static uint32_t crc32(const unsigned char *bytes, size_t size) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void put(unsigned char *bytes, uint64_t value, int size) {
    for (int i = 0; i < size; i++)
        bytes[i] = (unsigned char)(value >> 8 * i);
}

static void saved_caches(void) {
    const size_t capacities[] = {0, 1, saved_size / 2, saved_size - 1};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++)
        REFUSES(lm_cache_save(cache, out.saved, capacities[i], &out.number), LM_ERR_BUFFER_TOO_SMALL, "capacity is");

    /* Cut anywhere, longer, altered anywhere. */
    for (size_t size = 0; size < saved_size; size++)
        REFUSES(lm_cache_load(layer, saved, size, &out.cache), LM_ERR_FORMAT, "");
    REFUSES(lm_cache_load(layer, NULL, 0, &out.cache), LM_ERR_FORMAT, "buffer");
    REFUSES(lm_cache_load(layer, saved, saved_size + 1, &out.cache), LM_ERR_FORMAT, "");
    for (size_t i = 0; i < saved_size; i++) {
        const unsigned char byte = saved[i];
        const lm_status expected = i >= 8 && i < 12 ? LM_ERR_UNSUPPORTED : LM_ERR_FORMAT; /* there is the version */
        saved[i] ^= (unsigned char)(1u << i % 8);
        REFUSES(lm_cache_load(layer, saved, saved_size, &out.cache), expected, "");
        saved[i] = byte;
    }
    REFUSES(lm_cache_load(layer, x, sizeof x, &out.cache), LM_ERR_FORMAT, "does not begin like one");

    /* Made up, with a checksum that is right: the number at a place, of so many bytes. */
    static const struct {
        size_t at;
        int size;
        uint64_t number;
        lm_status status;
        const char *words;
    } lies[] = {
        {8, 4, 2, LM_ERR_UNSUPPORTED, "version 2"},
        {8, 4, 0xffffffffu, LM_ERR_UNSUPPORTED, "version 4294967295"},
        {12, 4, 0, LM_ERR_FORMAT, "type"},
        {12, 4, 5, LM_ERR_FORMAT, "type"},
        {12, 4, 0xffffffffu, LM_ERR_FORMAT, "type"},
        {12, 4, LM_DTYPE_F64, LM_ERR_FORMAT, "bytes"},
        {12, 4, LM_DTYPE_F16, LM_ERR_FORMAT, "bytes"},
        {16, 8, 0, LM_ERR_FORMAT, "bytes"},
        {16, 8, BATCH - 1, LM_ERR_FORMAT, "bytes"},
        {16, 8, BATCH + 1, LM_ERR_FORMAT, "bytes"},
        {16, 8, (uint64_t)1 << 40, LM_ERR_FORMAT, "bytes"},
        {16, 8, (uint64_t)1 << 56, LM_ERR_OUT_OF_MEMORY, "saved cache"},
        {16, 8, UINT64_MAX, LM_ERR_OUT_OF_MEMORY, "saved cache"},
        {24, 8, LM_VARIANT_STCN, LM_ERR_SHAPE_MISMATCH, "variant is 1"},
        {32, 8, LM_DTYPE_BF16, LM_ERR_SHAPE_MISMATCH, "dtype is 3"},
        {40, 8, UINT64_MAX, LM_ERR_SHAPE_MISMATCH, "d_model is 18446744073709551615"},
        {80, 8, UINT64_MAX, LM_ERR_SHAPE_MISMATCH, "num_conv_dilations is 18446744073709551615"},
        {104, 8, 5, LM_ERR_SHAPE_MISMATCH, "a dilation is 5"},
        {112, 8, UINT64_MAX, LM_ERR_FORMAT, "sequence of 18446744073709551615 tokens"},
        {120, 8, ((uint64_t)1 << 62) + 1, LM_ERR_FORMAT, "sequence of 4611686018427387905 tokens"},
    };
    unsigned char made_up[sizeof saved];
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        memcpy(made_up, saved, saved_size);
        put(made_up + lies[i].at, lies[i].number, lies[i].size);
        put(made_up + saved_size - 4, crc32(made_up, saved_size - 4), 4);
        REFUSES(lm_cache_load(layer, made_up, saved_size, &out.cache), lies[i].status, lies[i].words);
    }
    for (size_t size = 0; size < 160; size += 4) { /* no more than a part of the numbers */
        memcpy(made_up, saved, size);
        put(made_up + size, crc32(made_up, size), 4);
        CHECK(lm_cache_load(layer, made_up, size + 4, &out.cache) != LM_OK);
    }
    CHECK(untouched());
}

static void caches_of_others(void) {
    enum { OTHERS = 10 };
    static const size_t other_dilations[] = {1, 2, 5};
    static const size_t lanes[] = {0, 0}, beyond[] = {1, BATCH};
    lm_config others[OTHERS];
    for (int i = 0; i < OTHERS; i++)
        others[i] = default_config(LM_VARIANT_PTCN, D_MODEL);
    others[0].d_model = 2 * D_MODEL;
    others[1].d_state = 8;
    others[2].d_conv = 3;
    others[3].conv_dilations = other_dilations;
    others[4].num_conv_dilations = 2;
    others[5].variant = LM_VARIANT_STCN;
    others[6].expand = 1.0;
    others[7].dtype = LM_DTYPE_F64;
    others[8].dtype = LM_DTYPE_BF16;
    others[9].dtype = LM_DTYPE_F16;
    const char *differs[OTHERS] = {"d_model is 8", "d_state is 16", "d_conv is 4", "a dilation is 4",
                                   "num_conv_dilations is 3", "variant is 0", "d_inner is 16", "dtype is 1",
                                   "dtype is 1", "dtype is 1"};
    const size_t cu_seqlens[] = {0, 1, SEQLEN};
    for (int i = 0; i < OTHERS; i++) {
        lm_layer *other = create(&others[i]);
        lm_cache *others_cache = alloc_cache(other, BATCH);
        REFUSES(lm_cache_load(other, saved, saved_size, &out.cache), LM_ERR_SHAPE_MISMATCH, differs[i]);
        REFUSES(lm_forward_varlen(layer, x, cu_seqlens, BATCH, others_cache, out.y), LM_ERR_SHAPE_MISMATCH, "cache");
        REFUSES(lm_forward(layer, x, BATCH, SEQLEN, others_cache, out.y), LM_ERR_SHAPE_MISMATCH, "cache");
        REFUSES(lm_step(layer, x, others_cache, out.y), LM_ERR_SHAPE_MISMATCH, "another shape or type");
        REFUSES(lm_cache_copy_lane(cache, 0, others_cache, 0), LM_ERR_SHAPE_MISMATCH, "another shape or type");
        CHECK(lm_cache_seqlen_offset(others_cache) == 0);
        lm_free_cache(others_cache);
        lm_destroy(other);
    }
    lm_layer *narrow = create(&others[6]);
    lm_cache *narrow_cache = alloc_cache(narrow, BATCH);
    REFUSES(lm_cache_copy_lane(cache, 0, narrow_cache, 0), LM_ERR_SHAPE_MISMATCH, "src");
    REFUSES(lm_step_lanes(layer, x, lanes, 1, narrow_cache, out.y), LM_ERR_SHAPE_MISMATCH, "cache");
    lm_free_cache(narrow_cache);
    lm_destroy(narrow);
    REFUSES(lm_cache_copy_lane(cache, BATCH, cache, 0), LM_ERR_INVALID_ARGUMENT, "dst_lane");
    REFUSES(lm_cache_copy_lane(cache, 0, cache, SIZE_MAX), LM_ERR_INVALID_ARGUMENT, "src_lane");
    REFUSES(lm_cache_reset_lane(cache, BATCH), LM_ERR_INVALID_ARGUMENT, "lane is");
    REFUSES(lm_step_lanes(layer, x, lanes, 2, cache, out.y), LM_ERR_INVALID_ARGUMENT, "lanes[1] is 0");
    REFUSES(lm_step_lanes(layer, x, beyond, 2, cache, out.y), LM_ERR_INVALID_ARGUMENT, "lanes[1] is");
    OK(lm_step_lanes(layer, NULL, NULL, 0, cache, NULL));
    REFUSES(lm_forward(layer, x, BATCH + 1, 1, cache, out.y), LM_ERR_SHAPE_MISMATCH, "cache");
    REFUSES(lm_forward(layer, x, 1, SEQLEN, cache, out.y), LM_ERR_SHAPE_MISMATCH, "cache");
    REFUSES(lm_forward_inference(layer, x, 1, SEQLEN, params, out.y), LM_ERR_SHAPE_MISMATCH, "batch is 1");
    REFUSES(lm_forward_inference(layer, x, BATCH, SEQLEN, params, out.y), LM_ERR_INVALID_ARGUMENT, "layer_idx");
}

static void files(void) {
    REFUSES(lm_load("/nowhere/to/be/found", NULL, NULL, &out.layer), LM_ERR_IO, "/nowhere/to/be/found");
    REFUSES(lm_load("", NULL, NULL, &out.layer), LM_ERR_IO, "");
    REFUSES(lm_load("/", NULL, NULL, &out.layer), LM_ERR_IO, "/");
    REFUSES(lm_save(layer, "/nowhere/to/be/found"), LM_ERR_IO, "/nowhere/to/be/found");
    REFUSES(lm_load_memory(NULL, 0, NULL, NULL, &out.layer), LM_ERR_FORMAT, "");
    REFUSES(lm_load_memory("\x08\0\0\0\0\0\0\0notjson!", 16, NULL, NULL, &out.layer), LM_ERR_FORMAT, "");
    REFUSES(lm_load_memory("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, NULL, NULL, &out.layer), LM_ERR_FORMAT, "");
    REFUSES(lm_load_memory("\x02\0\0\0\0\0\0\0{}", 10, NULL, NULL, &out.layer), LM_ERR_NOT_FOUND, "in_proj.weight");
}

/* No tokens: nothing to read, nothing to write, nothing wrong. */
static void empty_calls(void) {
    lm_cache *empty = alloc_cache(layer, 0);
    CHECK(lm_cache_batch(empty) == 0);
    OK(lm_step(layer, NULL, empty, NULL));
    OK(lm_forward(layer, NULL, 0, 5, empty, NULL));
    lm_free_cache(empty);
    OK(lm_forward(layer, NULL, 0, 5, NULL, NULL));
    OK(lm_forward(layer, NULL, 5, 0, NULL, NULL));
    OK(lm_forward(layer, NULL, SIZE_MAX, 0, NULL, NULL));
    OK(lm_forward(layer, NULL, 0, SIZE_MAX, NULL, NULL));
    OK(lm_forward(layer, x, BATCH, 0, cache, out.y));
    OK(lm_forward_inference(layer, NULL, BATCH, 0, params, NULL));
    CHECK(lm_inference_params_cache(params, 0) == NULL);
    CHECK(untouched());
}

int main(void) {
    lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    layer = create(&config);
    cache = alloc_cache(layer, BATCH);
    OK(lm_inference_params_create(BATCH, 0, &params));
    fill(x, sizeof x / sizeof *x, 1);
    OK(lm_step(layer, x, cache, out.y)); /* a state that could get lost */
    OK(lm_cache_save(cache, saved, sizeof saved, &saved_size));
    float state[BATCH * D_INNER * D_STATE], after[BATCH * D_INNER * D_STATE], d[D_INNER], d_after[D_INNER];
    OK(lm_cache_get_state(cache, "ssm_state", state, BATCH * D_INNER * D_STATE));
    OK(lm_get_parameter(layer, "D", d, D_INNER));
    memset(&out, 0xa5, sizeof out);

    null_pointers();
    config_fields();
    struct_sizes();
    sizes_beyond_memory();
    names_counts_and_types();
    buffers();
    sequences();
    saved_caches();
    caches_of_others();
    files();
    empty_calls();

    OK(lm_cache_get_state(cache, "ssm_state", after, BATCH * D_INNER * D_STATE));
    OK(lm_get_parameter(layer, "D", d_after, D_INNER));
    CHECK(memcmp(state, after, sizeof state) == 0);
    CHECK(memcmp(d, d_after, sizeof d) == 0);
    lm_inference_params_free(params);
    lm_free_cache(cache);
    lm_destroy(layer);
    return report("arguments");
}
