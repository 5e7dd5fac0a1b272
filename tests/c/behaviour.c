/* What the functions do when they are called rightly: the flows of an application, and equality of bits. */
#include "check.h"

#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { D_MODEL = 20, BATCH = 3, SEQLEN = 37, TOKENS = BATCH * SEQLEN, COUNT = TOKENS * D_MODEL };

static int same(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* Token t of every sequence of (BATCH, SEQLEN, D_MODEL), to or from (BATCH, D_MODEL). */
static void gather(const float *all, size_t t, float *token) {
    for (size_t b = 0; b < BATCH; b++)
        memcpy(token + b * D_MODEL, all + (b * SEQLEN + t) * D_MODEL, D_MODEL * sizeof *token);
}

static void steps(const lm_layer *layer, lm_cache *cache, const float *x, size_t from, size_t to, float *y) {
    float in[BATCH * D_MODEL], result[BATCH * D_MODEL];
    for (size_t t = from; t < to; t++) {
        gather(x, t, in);
        OK(lm_step(layer, in, cache, result));
        for (size_t b = 0; b < BATCH; b++)
            memcpy(y + (b * SEQLEN + t) * D_MODEL, result + b * D_MODEL, D_MODEL * sizeof *y);
    }
}

static void library(void) {
    CHECK(strcmp(lm_version(), LM_VERSION) == 0);
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", LM_VERSION_MAJOR, LM_VERSION_MINOR, LM_VERSION_PATCH);
    CHECK(strcmp(version, LM_VERSION) == 0);
    CHECK(lm_abi_version() == LM_ABI_VERSION);
    CHECK(strstr(lm_build_info(), LM_VERSION) && strstr(lm_build_info(), "CUDA"));
    const char *isa = getenv("LITE_MAMBA_ISA");
    CHECK(isa == NULL || strstr(lm_build_info(), isa));

    static const struct {
        lm_status status;
        const char *name;
    } names[] = {
        {LM_OK, "LM_OK"},
        {LM_ERR_NULL_POINTER, "LM_ERR_NULL_POINTER"},
        {LM_ERR_INVALID_CONFIG, "LM_ERR_INVALID_CONFIG"},
        {LM_ERR_INVALID_ARGUMENT, "LM_ERR_INVALID_ARGUMENT"},
        {LM_ERR_SHAPE_MISMATCH, "LM_ERR_SHAPE_MISMATCH"},
        {LM_ERR_UNSUPPORTED, "LM_ERR_UNSUPPORTED"},
        {LM_ERR_NOT_FOUND, "LM_ERR_NOT_FOUND"},
        {LM_ERR_IO, "LM_ERR_IO"},
        {LM_ERR_FORMAT, "LM_ERR_FORMAT"},
        {LM_ERR_OUT_OF_MEMORY, "LM_ERR_OUT_OF_MEMORY"},
        {LM_ERR_BUFFER_TOO_SMALL, "LM_ERR_BUFFER_TOO_SMALL"},
        {LM_ERR_CUDA, "LM_ERR_CUDA"},
        {LM_ERR_INTERNAL, "LM_ERR_INTERNAL"},
    };
    for (int i = 0; i < 13; i++)
        CHECK(names[i].status == i && strcmp(lm_status_name(i), names[i].name) == 0);
    CHECK(strcmp(lm_status_name(13), "unknown status") == 0);
    CHECK(strcmp(lm_status_name(-1), "unknown status") == 0);

    CHECK(strcmp(lm_last_error(), "") == 0);
    CHECK(lm_config_init(NULL, 0) == LM_ERR_NULL_POINTER);
    lm_config config = default_config(LM_VARIANT_PTCN, 1); /* a success keeps the message */
    CHECK(strstr(lm_last_error(), "config is NULL"));
    CHECK(config.struct_size == sizeof config);
}

static void config_defaults(void) {
    lm_config c;
    memset(&c, 0xa5, sizeof c);
    OK(lm_config_init(&c, sizeof c));
    CHECK(c.variant == LM_VARIANT_PTCN && c.dtype == LM_DTYPE_F32 && c.device == LM_DEVICE_CPU);
    CHECK(c.d_model == 0 && c.d_state == 16 && c.d_conv == 4 && c.expand == 2.0 && c.dt_rank == 0);
    CHECK(c.num_conv_dilations == 1 && c.conv_dilations[0] == 1);
    CHECK(c.dt_min == 0.001 && c.dt_max == 0.1 && c.dt_scale == 1.0 && c.dt_init_floor == 1e-4);
    CHECK(c.dt_init == LM_DT_INIT_RANDOM && c.conv_bias && !c.bias && !c.use_fast_path);
    CHECK(c.layer_idx == -1 && c.device_index == 0 && c.math == LM_MATH_DEFAULT && c.seed == 0);

    c = default_config(LM_VARIANT_DPWC, 33);
    c.d_state = 5;
    c.d_conv = 2;
    c.expand = 1.5;
    c.bias = true;
    c.conv_bias = false;
    c.layer_idx = 7;
    c.seed = 42;
    lm_layer *layer = create(&c);
    lm_config resolved;
    OK(lm_get_config(layer, &resolved, sizeof resolved));
    CHECK(resolved.struct_size == sizeof resolved && resolved.variant == LM_VARIANT_DPWC);
    CHECK(resolved.d_model == 33 && resolved.d_state == 5 && resolved.d_conv == 2 && resolved.expand == 1.5);
    CHECK(resolved.dt_rank == 3 && resolved.bias && !resolved.conv_bias);
    CHECK(resolved.layer_idx == 7 && resolved.seed == 42);
    CHECK(resolved.num_conv_dilations == 3 && resolved.conv_dilations != c.conv_dilations);
    CHECK(memcmp(resolved.conv_dilations, c.conv_dilations, 3 * sizeof *c.conv_dilations) == 0);
    CHECK(lm_d_inner(layer) == 49);
    lm_destroy(layer);

    memset(&c.bias, 0xa5, sizeof c.bias); /* no value of a bool, and yet not 0 */
    layer = create(&c);
    OK(lm_get_config(layer, &resolved, sizeof resolved));
    CHECK(resolved.bias);
    lm_destroy(layer);
}

/* Whole, in place, in chunks, and token by token: the same bits. */
static void streaming(uint32_t variant) {
    const lm_config config = default_config(variant, D_MODEL);
    lm_layer *layer = create(&config);
    lm_cache *cache = alloc_cache(layer, BATCH);
    float *x = new_floats(COUNT), *whole = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 3);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, whole));
    CHECK(!same(whole, y, COUNT));

    memcpy(y, x, COUNT * sizeof *y);
    OK(lm_forward(layer, y, BATCH, SEQLEN, NULL, y));
    CHECK(same(y, whole, COUNT));

    CHECK(lm_cache_batch(cache) == BATCH && lm_cache_seqlen_offset(cache) == 0);
    CHECK(lm_cache_bytes(cache) >= BATCH * lm_d_inner(layer) * config.d_state * sizeof(float));
    OK(lm_forward(layer, x, BATCH, SEQLEN, cache, y));
    CHECK(same(y, whole, COUNT) && lm_cache_seqlen_offset(cache) == SEQLEN);

    OK(lm_cache_reset(cache));
    CHECK(lm_cache_seqlen_offset(cache) == 0);
    memset(y, 0, COUNT * sizeof *y);
    steps(layer, cache, x, 0, SEQLEN, y);
    CHECK(same(y, whole, COUNT) && lm_cache_seqlen_offset(cache) == SEQLEN);

    /* Chunks of 1, 2, 3, ... tokens of one sequence, which a step in place and a clone go on from. */
    lm_cache *one = alloc_cache(layer, 1);
    memset(y, 0, COUNT * sizeof *y);
    for (size_t at = 0, length = 1; at < SEQLEN - 1; at += length, length++) {
        if (length > SEQLEN - 1 - at)
            length = SEQLEN - 1 - at;
        OK(lm_forward(layer, x + at * D_MODEL, 1, length, one, y + at * D_MODEL));
    }
    lm_cache *clone = NULL;
    OK(lm_cache_clone(one, &clone));
    float *last = y + (SEQLEN - 1) * D_MODEL, again[D_MODEL];
    memcpy(last, x + (SEQLEN - 1) * D_MODEL, sizeof again);
    OK(lm_step(layer, last, one, last));
    CHECK(same(y, whole, SEQLEN * D_MODEL));
    lm_free_cache(one);
    CHECK(lm_cache_seqlen_offset(clone) == SEQLEN - 1);
    OK(lm_step(layer, x + (SEQLEN - 1) * D_MODEL, clone, again));
    CHECK(same(again, last, D_MODEL));
    lm_free_cache(clone);

    /* A state read out of one cache and written into another goes on from there. */
    OK(lm_cache_reset(cache));
    steps(layer, cache, x, 0, 20, y);
    lm_cache *moved = alloc_cache(layer, BATCH);
    CHECK(lm_cache_num_states(cache) == config.num_conv_dilations + 1);
    for (size_t i = 0; i < lm_cache_num_states(cache); i++) {
        lm_tensor_info info;
        OK(lm_cache_state_info(cache, i, &info, sizeof info));
        CHECK(info.struct_size == sizeof info && info.dtype == LM_DTYPE_F32 && !info.weight_decay);
        CHECK(info.ndim == 3 && info.shape[0] == BATCH && info.shape[1] == lm_d_inner(layer) && info.shape[3] == 1);
        CHECK(info.count == info.shape[0] * info.shape[1] * info.shape[2]);
        const int is_ssm = i == config.num_conv_dilations;
        CHECK(info.shape[2] == (is_ssm ? config.d_state : (config.d_conv - 1) * config.conv_dilations[i] + 1));
        char name[32] = "ssm_state";
        if (!is_ssm)
            snprintf(name, sizeof name, "conv_state.%zu", i);
        CHECK(strcmp(info.name, name) == 0);
        float *state = new_floats(info.count), *back = new_floats(info.count);
        OK(lm_cache_get_state(cache, info.name, state, info.count));
        OK(lm_cache_set_state(moved, info.name, state, info.count));
        OK(lm_cache_get_state(moved, info.name, back, info.count));
        CHECK(same(state, back, info.count));
        free(state);
        free(back);
    }
    steps(layer, moved, x, 20, SEQLEN, y);
    CHECK(same(y, whole, COUNT));

    lm_destroy(layer); /* in any order */
    lm_layer *twin = create(&config);
    steps(twin, cache, x, 20, SEQLEN, y); /* a cache serves any layer of its shape */
    CHECK(same(y, whole, COUNT));
    lm_free_cache(cache);
    lm_destroy(twin);
    lm_free_cache(moved);
    free(x);
    free(whole);
    free(y);
}

static void parameters(uint32_t variant) {
    lm_config config = default_config(variant, D_MODEL);
    config.bias = true;
    config.seed = 1;
    lm_layer *from = create(&config);
    config.seed = 2;
    lm_layer *to = create(&config), *typed = create(&config);
    float x[4 * D_MODEL], expected[4 * D_MODEL], y[4 * D_MODEL];
    fill(x, 4 * D_MODEL, 5);
    OK(lm_forward(from, x, 1, 4, NULL, expected));
    OK(lm_forward(to, x, 1, 4, NULL, y));
    CHECK(!same(y, expected, 4 * D_MODEL));

    int decays = 0, decays_not = 0;
    for (size_t i = 0; i < lm_num_parameters(from); i++) {
        lm_tensor_info info;
        OK(lm_parameter_info(from, i, &info, sizeof info));
        CHECK(info.struct_size == sizeof info && info.dtype == LM_DTYPE_F32 && info.ndim >= 1 && info.ndim <= 4);
        CHECK(info.count == info.shape[0] * info.shape[1] * info.shape[2] * info.shape[3] && info.count > 0);
        *(info.weight_decay ? &decays : &decays_not) += 1;

        float *values = new_floats(info.count), *back = new_floats(info.count);
        double *exact = calloc(info.count, sizeof *exact);
        uint16_t *half = calloc(2 * info.count, sizeof *half);
        if (exact == NULL || half == NULL)
            exit(1);
        OK(lm_get_parameter(from, info.name, values, info.count));
        OK(lm_set_parameter(to, info.name, values, info.count));
        OK(lm_get_parameter_typed(from, info.name, LM_DTYPE_F64, exact, info.count * sizeof *exact));
        for (size_t j = 0; j < info.count; j++)
            CHECK(exact[j] == (double)values[j]);
        OK(lm_get_parameter_typed(from, info.name, LM_DTYPE_DEFAULT, back, info.count * sizeof *back));
        CHECK(same(back, values, info.count));

        /* What 16 bits keep, they keep through another round. */
        for (uint32_t dtype = LM_DTYPE_BF16; dtype <= LM_DTYPE_F16; dtype++) {
            OK(lm_get_parameter_typed(from, info.name, dtype, half, info.count * sizeof *half));
            OK(lm_set_parameter_typed(typed, info.name, dtype, half, info.count * sizeof *half));
            OK(lm_get_parameter_typed(typed, info.name, dtype, half + info.count, info.count * sizeof *half));
            CHECK(memcmp(half, half + info.count, info.count * sizeof *half) == 0);
        }
        OK(lm_set_parameter_typed(typed, info.name, LM_DTYPE_F64, exact, info.count * sizeof *exact));
        free(values);
        free(back);
        free(exact);
        free(half);
    }
    CHECK(decays > 0 && decays_not > 0);
    OK(lm_forward(to, x, 1, 4, NULL, y));
    CHECK(same(y, expected, 4 * D_MODEL));
    OK(lm_forward(typed, x, 1, 4, NULL, y));
    CHECK(same(y, expected, 4 * D_MODEL));

    /* At any alignment, rounded to nearest. */
    unsigned char bytes[1 + 2 * D_MODEL * sizeof(double)];
    const double tenth = 0.1;
    float d[2 * D_MODEL];
    for (int i = 0; i < 2 * D_MODEL; i++)
        memcpy(bytes + 1 + i * sizeof tenth, &tenth, sizeof tenth);
    OK(lm_set_parameter_typed(to, "D", LM_DTYPE_F64, bytes + 1, sizeof bytes - 1));
    OK(lm_get_parameter(to, "D", d, 2 * D_MODEL));
    CHECK(d[0] == 0.1f && d[2 * D_MODEL - 1] == 0.1f);

    /* Two names for branch 0. */
    float weight[2 * D_MODEL * 4], alias[2 * D_MODEL * 4];
    OK(lm_get_parameter(from, "conv1d.weight", weight, 2 * D_MODEL * 4));
    if (variant != LM_VARIANT_BASELINE) {
        const char *listed = variant == LM_VARIANT_DPWC ? "dw_conv1d_layers.0.weight" : "conv1d_layers.0.weight";
        OK(lm_get_parameter(from, listed, alias, 2 * D_MODEL * 4));
        CHECK(same(weight, alias, 2 * D_MODEL * 4));
    }
    lm_destroy(from);
    lm_destroy(to);
    lm_destroy(typed);
}

static void files(uint32_t variant) {
    char path[] = "/tmp/lite_mamba_XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0 && close(file) == 0);
    lm_config config = default_config(variant, D_MODEL);
    config.seed = 9;
    lm_layer *layer = create(&config), *loaded = NULL;
    OK(lm_save(layer, path));

    static unsigned char data[1 << 20];
    FILE *stream = fopen(path, "rb");
    const size_t size = stream == NULL ? 0 : fread(data + 1, 1, sizeof data - 1, stream);
    CHECK(stream != NULL && fclose(stream) == 0 && size > 8 && size < sizeof data - 1);

    float x[4 * D_MODEL], expected[4 * D_MODEL], y[4 * D_MODEL];
    fill(x, 4 * D_MODEL, 5);
    OK(lm_forward(layer, x, 1, 4, NULL, expected));
    for (int way = 0; way < 4; way++) {
        const lm_config *given = way % 2 ? &config : NULL;
        OK(way < 2 ? lm_load(path, NULL, given, &loaded) : lm_load_memory(data + 1, size, "", given, &loaded));
        memset(y, 0, sizeof y);
        OK(lm_forward(loaded, x, 1, 4, NULL, y));
        CHECK(same(y, expected, 4 * D_MODEL));
        lm_destroy(loaded);
        loaded = NULL;
    }
    const size_t cuts[] = {0, 7, 8, 9, size / 2, size - 1};
    for (int i = 0; i < 6; i++)
        FAILS(lm_load_memory(data + 1, cuts[i], NULL, NULL, &loaded), LM_ERR_FORMAT, "");
    FAILS(lm_load(path, "no.such", NULL, &loaded), LM_ERR_NOT_FOUND, "no.such");
    config.d_state = 8;
    FAILS(lm_load(path, NULL, &config, &loaded), LM_ERR_SHAPE_MISMATCH, "");
    CHECK(loaded == NULL);
    CHECK(remove(path) == 0);
    FAILS(lm_load(path, NULL, NULL, &loaded), LM_ERR_IO, path);
    lm_destroy(layer);
}

static void inference_params(void) {
    enum { LAYERS = 40 };
    lm_layer *layers[LAYERS];
    lm_cache *borrowed[LAYERS];
    lm_inference_params *params = NULL;
    OK(lm_inference_params_create(BATCH, SEQLEN, &params));
    float *x = new_floats(COUNT), *expected = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 11);
    for (int i = 0; i < LAYERS; i++) {
        /* Numbered backwards, so that each new cache goes before the others. */
        lm_config config = default_config((uint32_t)i % 4, D_MODEL);
        config.layer_idx = LAYERS - i;
        layers[i] = create(&config);
        CHECK(lm_inference_params_cache(params, config.layer_idx) == NULL);
        OK(lm_forward(layers[i], x, BATCH, SEQLEN, NULL, expected));
        /* A prefill, then steps. */
        float token[BATCH * D_MODEL], want[BATCH * D_MODEL];
        gather(x, 0, token);
        OK(lm_forward_inference(layers[i], token, BATCH, 1, params, y));
        gather(expected, 0, want);
        CHECK(same(y, want, BATCH * D_MODEL));
        borrowed[i] = lm_inference_params_cache(params, config.layer_idx);
        CHECK(borrowed[i] != NULL && lm_cache_seqlen_offset(borrowed[i]) == 1);
    }
    for (int i = 0; i < LAYERS; i++) {
        CHECK(lm_inference_params_cache(params, LAYERS - i) == borrowed[i]);
        OK(lm_forward(layers[i], x, BATCH, SEQLEN, NULL, expected));
        steps(layers[i], borrowed[i], x, 1, SEQLEN, y);
        CHECK(same(y + D_MODEL, expected + D_MODEL, (SEQLEN - 1) * D_MODEL));
        CHECK(lm_cache_seqlen_offset(borrowed[i]) == SEQLEN);
    }
    OK(lm_inference_params_reset(params));
    CHECK(lm_cache_seqlen_offset(borrowed[0]) == 0 && lm_inference_params_cache(params, LAYERS) == borrowed[0]);
    OK(lm_forward(layers[0], x, BATCH, SEQLEN, NULL, expected));
    memcpy(y, x, COUNT * sizeof *y);
    OK(lm_forward_inference(layers[0], y, BATCH, SEQLEN, params, y));
    CHECK(same(y, expected, COUNT));

    lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    config.layer_idx = LAYERS;
    lm_layer *twin = create(&config);
    memcpy(expected, y, COUNT * sizeof *y);
    FAILS(lm_forward_inference(twin, x, BATCH, SEQLEN, params, y), LM_ERR_INVALID_ARGUMENT, "another layer");
    CHECK(same(y, expected, COUNT) && lm_cache_seqlen_offset(borrowed[0]) == SEQLEN);
    lm_destroy(twin);
    lm_inference_params_free(params);
    for (int i = 0; i < LAYERS; i++)
        lm_destroy(layers[i]);
    free(x);
    free(expected);
    free(y);
}

/* NaN and infinity stay in the lane that they came in. */
static void lanes_apart(void) {
    const lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    lm_layer *layer = create(&config);
    float *x = new_floats(COUNT), *clean = new_floats(COUNT), *y = new_floats(COUNT);
    const uint32_t bits[] = {0x7fc00000u, 0x7f800000u}; /* NaN, infinity */
    fill(x, COUNT, 3);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, clean));
    for (int i = 0; i < 2; i++) {
        memcpy(&x[(SEQLEN + 5) * D_MODEL], &bits[i], sizeof *bits);
        OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, y));
        CHECK(same(y, clean, (SEQLEN + 5) * D_MODEL));
        CHECK(same(y + 2 * SEQLEN * D_MODEL, clean + 2 * SEQLEN * D_MODEL, SEQLEN * D_MODEL));
        const float after = y[(SEQLEN + 5) * D_MODEL];
        CHECK(after != after);
    }
    lm_destroy(layer);
    free(x);
    free(clean);
    free(y);
}

/* Sequences that are due are stepped alone, forgotten, and copied, as a server's batch does. */
static void lanes_come_and_go(void) {
    enum { STEP = BATCH * D_MODEL };
    const lm_config config = default_config(LM_VARIANT_STCN, D_MODEL);
    lm_layer *layer = create(&config);
    lm_cache *cache = alloc_cache(layer, BATCH), *whole = alloc_cache(layer, BATCH);
    float x[STEP], y[STEP], due[2 * D_MODEL];
    fill(x, STEP, 9);
    OK(lm_step(layer, x, whole, y));

    const size_t lanes[] = {2, 0};
    memcpy(due, x + 2 * D_MODEL, D_MODEL * sizeof *x);
    memcpy(due + D_MODEL, x, D_MODEL * sizeof *x);
    OK(lm_step_lanes(layer, due, lanes, 2, cache, due));
    CHECK(same(due, y + 2 * D_MODEL, D_MODEL) && same(due + D_MODEL, y, D_MODEL));

    /* Lane 1 takes over where lane 1 of the other cache is; then both caches are the same. */
    OK(lm_cache_copy_lane(cache, 1, whole, 1));
    float after[STEP];
    OK(lm_step(layer, x, whole, y));
    OK(lm_step(layer, x, cache, after));
    CHECK(same(after, y, STEP));

    /* Lane 0 begins anew; lane 2 goes on from where lane 1 is. */
    OK(lm_cache_reset_lane(cache, 0));
    OK(lm_cache_copy_lane(cache, 2, cache, 1));
    memcpy(x + 2 * D_MODEL, x + D_MODEL, D_MODEL * sizeof *x);
    OK(lm_step(layer, x, cache, after));
    CHECK(same(after + D_MODEL, after + 2 * D_MODEL, D_MODEL));
    float first[D_MODEL];
    OK(lm_forward(layer, x, 1, 1, NULL, first));
    CHECK(same(after, first, D_MODEL));

    lm_free_cache(cache);
    lm_free_cache(whole);
    lm_destroy(layer);
}

static const size_t dtype_size[] = {0, 4, 8, 2, 2}; /* of each LM_DTYPE_ */

/* A layer of any type: what it is made of, kept exactly, in files too. */
static void typed_layers(uint32_t variant, uint32_t dtype) {
    lm_config config = default_config(variant, D_MODEL), resolved;
    config.dtype = dtype;
    config.bias = true;
    config.seed = 3;
    lm_layer *layer = create(&config), *loaded = NULL, *as_f32 = NULL;
    OK(lm_get_config(layer, &resolved, sizeof resolved));
    CHECK(resolved.dtype == dtype);

    /* Values that the type has, and most of them no smaller one. */
    for (size_t i = 0; i < lm_num_parameters(layer); i++) {
        lm_tensor_info info;
        OK(lm_parameter_info(layer, i, &info, sizeof info));
        const int is_typed = strcmp(info.name, "A_log") && strcmp(info.name, "D") && strcmp(info.name, "conv_gates");
        CHECK(info.dtype == (dtype_size[dtype] == 2 && !is_typed ? LM_DTYPE_F32 : dtype));
        size_t found = SIZE_MAX;
        OK(lm_find_parameter(layer, info.name, &found));
        CHECK(found == i);

        const size_t size = info.count * dtype_size[info.dtype];
        unsigned char *bytes = malloc(2 * size + 1), *again = bytes + size + 1;
        double *wide = calloc(info.count, sizeof *wide);
        float *narrow = new_floats(info.count), *back = new_floats(info.count);
        if (bytes == NULL || wide == NULL)
            exit(1);
        for (size_t j = 0; j < info.count; j++)
            wide[j] = 0.5 + (double)(j + 1) / 3e4; /* below 1 */
        OK(lm_set_parameter_typed(layer, info.name, LM_DTYPE_F64, wide, info.count * sizeof *wide));
        OK(lm_get_parameter_typed(layer, info.name, LM_DTYPE_DEFAULT, bytes, size));
        OK(lm_set_parameter_typed(layer, info.name, LM_DTYPE_DEFAULT, bytes, size));
        OK(lm_get_parameter_typed(layer, info.name, info.dtype, again, size));
        CHECK(memcmp(bytes, again, size) == 0);
        CHECK(info.dtype != LM_DTYPE_F64 || memcmp(bytes, wide, size) == 0);
        FAILS(lm_get_parameter_typed(layer, info.name, 0, bytes, size + 1), LM_ERR_SHAPE_MISMATCH, info.name);
        free(bytes);

        /* Rounded to nearest once, in the type that it is kept in. */
        OK(lm_get_parameter(layer, info.name, narrow, info.count));
        for (size_t j = 0; j < info.count; j++) {
            /* The distance of neighbours between 0.5 and 1. */
            const double unit = info.dtype == LM_DTYPE_BF16 ? 0x1p-8 : info.dtype == LM_DTYPE_F16 ? 0x1p-11 : 0x1p-24;
            const double error = (double)narrow[j] - wide[j];
            CHECK(error <= unit / 2 && error >= -unit / 2);
        }
        OK(lm_set_parameter(layer, info.name, narrow, info.count));
        OK(lm_get_parameter(layer, info.name, back, info.count));
        CHECK(same(narrow, back, info.count));
        OK(lm_set_parameter_typed(layer, info.name, LM_DTYPE_F64, wide, info.count * sizeof *wide));
        free(wide);
        free(narrow);
        free(back);
    }
    if (variant != LM_VARIANT_BASELINE) {
        size_t listed = SIZE_MAX, alias = SIZE_MAX;
        const char *name = variant == LM_VARIANT_DPWC ? "dw_conv1d_layers.0.weight" : "conv1d_layers.0.weight";
        OK(lm_find_parameter(layer, name, &listed));
        OK(lm_find_parameter(layer, "conv1d.weight", &alias));
        CHECK(alias == listed && alias < lm_num_parameters(layer));
    }

    /* The file keeps the type of each; a configuration of another one converts. */
    char path[] = "/tmp/lite_mamba_XXXXXX";
    const int file = mkstemp(path);
    CHECK(file >= 0 && close(file) == 0);
    OK(lm_save(layer, path));
    OK(lm_load(path, NULL, NULL, &loaded));
    OK(lm_get_config(loaded, &resolved, sizeof resolved));
    CHECK(resolved.dtype == dtype);
    config.dtype = LM_DTYPE_F32;
    OK(lm_load(path, NULL, &config, &as_f32));
    OK(lm_get_config(as_f32, &resolved, sizeof resolved));
    CHECK(resolved.dtype == LM_DTYPE_F32);
    CHECK(lm_num_parameters(loaded) == lm_num_parameters(layer));
    for (size_t i = 0; i < lm_num_parameters(layer); i++) {
        lm_tensor_info info, again;
        OK(lm_parameter_info(layer, i, &info, sizeof info));
        OK(lm_parameter_info(loaded, i, &again, sizeof again));
        CHECK(strcmp(info.name, again.name) == 0 && info.dtype == again.dtype);
        const size_t size = info.count * dtype_size[info.dtype];
        unsigned char *bytes = malloc(2 * size);
        float *floats = new_floats(2 * info.count);
        if (bytes == NULL)
            exit(1);
        OK(lm_get_parameter_typed(layer, info.name, LM_DTYPE_DEFAULT, bytes, size));
        OK(lm_get_parameter_typed(loaded, info.name, LM_DTYPE_DEFAULT, bytes + size, size));
        CHECK(memcmp(bytes, bytes + size, size) == 0);
        OK(lm_get_parameter(layer, info.name, floats, info.count));
        OK(lm_get_parameter(as_f32, info.name, floats + info.count, info.count));
        CHECK(same(floats, floats + info.count, info.count));
        free(bytes);
        free(floats);
    }
    CHECK(remove(path) == 0);

    float x[4 * D_MODEL], expected[4 * D_MODEL], y[4 * D_MODEL];
    fill(x, 4 * D_MODEL, 5);
    OK(lm_forward(layer, x, 1, 4, NULL, expected));
    OK(lm_forward(loaded, x, 1, 4, NULL, y));
    CHECK(same(y, expected, 4 * D_MODEL));
    lm_destroy(layer);
    lm_destroy(loaded);
    lm_destroy(as_f32);
}

/* Whole, in chunks and token by token: the same bits, whatever the layer is stored in. */
static void typed_streaming(uint32_t variant, uint32_t dtype) {
    lm_config config = default_config(variant, D_MODEL);
    config.dtype = dtype;
    lm_layer *layer = create(&config);
    lm_cache *cache = alloc_cache(layer, BATCH);
    lm_tensor_info info;
    OK(lm_cache_state_info(cache, 0, &info, sizeof info));
    CHECK(info.dtype == (dtype == LM_DTYPE_F64 ? LM_DTYPE_F64 : LM_DTYPE_F32));
    float *x = new_floats(COUNT), *whole = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 3);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, whole));
    OK(lm_forward(layer, x, BATCH, SEQLEN, cache, y));
    CHECK(same(y, whole, COUNT));
    OK(lm_cache_reset(cache));
    memset(y, 0, COUNT * sizeof *y);
    steps(layer, cache, x, 0, SEQLEN, y);
    CHECK(same(y, whole, COUNT));
    lm_cache *one = alloc_cache(layer, 1);
    for (size_t at = 0, length = 1; at < SEQLEN; at += length, length++) {
        if (length > SEQLEN - at)
            length = SEQLEN - at;
        OK(lm_forward(layer, x + at * D_MODEL, 1, length, one, y + at * D_MODEL));
    }
    CHECK(same(y, whole, SEQLEN * D_MODEL));
    lm_free_cache(one);
    lm_free_cache(cache);
    lm_destroy(layer);
    free(x);
    free(whole);
    free(y);
}

static float largest_difference(const float *a, const float *b, size_t count) {
    float most = 0, scale = 0;
    for (size_t i = 0; i < count; i++) {
        const float difference = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i], size = b[i] < 0 ? -b[i] : b[i];
        CHECK(difference == difference);
        most = difference > most ? difference : most;
        scale = size > scale ? size : scale;
    }
    return most / scale;
}

/* A state held in a type of one's choice: its memory, and what the choice costs. */
static void typed_caches(uint32_t dtype) {
    enum { LANES = 100, WIDE = 64 };
    lm_config config = default_config(LM_VARIANT_PTCN, WIDE);
    config.dtype = dtype;
    lm_layer *wide = create(&config);
    size_t bytes[5];
    for (uint32_t type = LM_DTYPE_F32; type <= LM_DTYPE_F16; type++) {
        lm_cache *cache = NULL;
        OK(lm_alloc_cache(wide, LANES, 0, type, &cache));
        bytes[type] = lm_cache_bytes(cache);
        /* The longest history and the state itself are all that is kept, and little besides. */
        size_t values = 0, history = 0;
        for (size_t i = 0; i < lm_cache_num_states(cache); i++) {
            lm_tensor_info info;
            OK(lm_cache_state_info(cache, i, &info, sizeof info));
            CHECK(info.dtype == type && info.shape[0] == LANES);
            history = strcmp(info.name, "ssm_state") != 0 && info.count > history ? info.count : history;
            values = info.count + history;
        }
        CHECK(bytes[type] >= values * dtype_size[type]);
        CHECK(bytes[type] - values * dtype_size[type] < values * dtype_size[type] / 10);
        lm_free_cache(cache);
    }
    CHECK(bytes[LM_DTYPE_BF16] == bytes[LM_DTYPE_F16]);
    CHECK(bytes[LM_DTYPE_F64] - bytes[LM_DTYPE_F32] == 2 * (bytes[LM_DTYPE_F32] - bytes[LM_DTYPE_F16]));
    lm_destroy(wide);

    config = default_config(LM_VARIANT_PTCN, D_MODEL);
    config.dtype = dtype;
    const int is_f64 = dtype == LM_DTYPE_F64;
    lm_layer *layer = create(&config);
    float *x = new_floats(COUNT), *whole = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 3);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, whole));
    for (uint32_t type = LM_DTYPE_F32; type <= LM_DTYPE_F16; type++) {
        lm_cache *cache = NULL, *moved = NULL;
        OK(lm_alloc_cache(layer, BATCH, 0, type, &cache));
        memset(y, 0, COUNT * sizeof *y);
        steps(layer, cache, x, 0, 20, y);
        lm_tensor_info info;
        OK(lm_cache_state_info(cache, config.num_conv_dilations, &info, sizeof info));
        float *state = new_floats(2 * info.count);
        OK(lm_cache_get_state(cache, "ssm_state", state, info.count));
        for (size_t i = 0; i < info.count; i++) {
            uint32_t bits;
            memcpy(&bits, &state[i], sizeof bits);
            CHECK(type != LM_DTYPE_BF16 || (bits & 0xffff) == 0);
            CHECK(type != LM_DTYPE_F16 || (bits & 0x1fff) == 0 || (state[i] < 0x1p-14f && state[i] > -0x1p-14f));
        }
        OK(lm_cache_clone(cache, &moved));
        OK(lm_cache_set_state(moved, "ssm_state", state, info.count));
        OK(lm_cache_get_state(moved, "ssm_state", state + info.count, info.count));
        CHECK(same(state, state + info.count, info.count));
        free(state);
        lm_free_cache(moved);

        /* By way of a cache of f64, which holds every value of the others. */
        OK(lm_alloc_cache(layer, BATCH, 0, LM_DTYPE_F64, &moved));
        for (size_t lane = 0; lane < BATCH; lane++)
            OK(lm_cache_copy_lane(moved, BATCH - 1 - lane, cache, lane));
        OK(lm_cache_reset(cache));
        for (size_t lane = 0; lane < BATCH; lane++)
            OK(lm_cache_copy_lane(cache, lane, moved, BATCH - 1 - lane));
        CHECK(lm_cache_seqlen_offset(cache) == 20);
        lm_free_cache(moved);

        steps(layer, cache, x, 20, SEQLEN, y);
        const float off = largest_difference(y, whole, COUNT);
        if (is_f64 ? type == LM_DTYPE_F64 : type <= LM_DTYPE_F64)
            CHECK(same(y, whole, COUNT));
        else if (type == LM_DTYPE_F32)
            CHECK(off < 1e-6f);
        else
            CHECK(off > 1e-6f && off < 0.02f);
        lm_free_cache(cache);
    }
    lm_destroy(layer);
    free(x);
    free(whole);
    free(y);
}

/* Packed sequences have the bits of each alone, from the beginning and from wherever a cache is. */
static void packed_sequences(uint32_t variant, uint32_t dtype) {
    enum { SEQS = 7 };
    static const size_t cu_seqlens[SEQS + 1] = {0, 0, 5, 6, 43, 43, 45, TOKENS};
    lm_config config = default_config(variant, D_MODEL);
    config.dtype = dtype;
    lm_layer *layer = create(&config);
    float *x = new_floats(COUNT), *expected = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 8);
    for (size_t i = 0; i < SEQS; i++) {
        const size_t at = cu_seqlens[i] * D_MODEL;
        OK(lm_forward(layer, x + at, 1, cu_seqlens[i + 1] - cu_seqlens[i], NULL, expected + at));
    }
    OK(lm_forward_varlen(layer, x, cu_seqlens, SEQS, NULL, y));
    CHECK(same(y, expected, COUNT));
    memcpy(y, x, COUNT * sizeof *y);
    OK(lm_forward_varlen(layer, y, cu_seqlens, SEQS, NULL, y));
    CHECK(same(y, expected, COUNT));

    /* In two calls: of each sequence first a third of its tokens, then the others. */
    lm_cache *cache = alloc_cache(layer, SEQS);
    float *part = new_floats(COUNT), *result = new_floats(COUNT);
    memset(y, 0, COUNT * sizeof *y);
    for (int second = 0; second < 2; second++) {
        size_t cu[SEQS + 1] = {0}, from[SEQS];
        for (size_t i = 0; i < SEQS; i++) {
            const size_t length = cu_seqlens[i + 1] - cu_seqlens[i], third = length / 3;
            from[i] = cu_seqlens[i] + (second ? third : 0);
            cu[i + 1] = cu[i] + (second ? length - third : third);
            memcpy(part + cu[i] * D_MODEL, x + from[i] * D_MODEL, (cu[i + 1] - cu[i]) * D_MODEL * sizeof *x);
        }
        OK(lm_forward_varlen(layer, part, cu, SEQS, cache, result));
        for (size_t i = 0; i < SEQS; i++)
            memcpy(y + from[i] * D_MODEL, result + cu[i] * D_MODEL, (cu[i + 1] - cu[i]) * D_MODEL * sizeof *x);
    }
    CHECK(same(y, expected, COUNT));
    CHECK(lm_cache_seqlen_offset(cache) == TOKENS - 45);

    /* Every sequence is where it is alone: a step of all goes on from there, and so does a saved cache. */
    float next[SEQS * D_MODEL], stepped[SEQS * D_MODEL], alone[D_MODEL];
    fill(next, SEQS * D_MODEL, 77);
    size_t size = 0, written = 0;
    lm_cache *loaded = NULL;
    OK(lm_cache_save(cache, NULL, 0, &size));
    unsigned char *bytes = malloc(size);
    OK(lm_cache_save(cache, bytes, size, &written));
    OK(lm_cache_load(layer, bytes, size, &loaded));
    free(bytes);
    OK(lm_step(layer, next, cache, stepped));
    for (size_t i = 0; i < SEQS; i++) {
        lm_cache *one = alloc_cache(layer, 1);
        const size_t at = cu_seqlens[i] * D_MODEL;
        OK(lm_forward(layer, x + at, 1, cu_seqlens[i + 1] - cu_seqlens[i], one, result));
        OK(lm_step(layer, next + i * D_MODEL, one, alone));
        CHECK(same(alone, stepped + i * D_MODEL, D_MODEL));
        lm_free_cache(one);
    }
    OK(lm_step(layer, next, loaded, next));
    CHECK(same(next, stepped, SEQS * D_MODEL));
    lm_free_cache(loaded);
    lm_free_cache(cache);
    lm_destroy(layer);
    free(x);
    free(expected);
    free(y);
    free(part);
    free(result);
}

/* A saved cache goes on with the same bits, and its bytes say nothing but its state. */
static void saved_caches(uint32_t variant, uint32_t dtype) {
    lm_config config = default_config(variant, D_MODEL);
    config.dtype = dtype;
    lm_layer *layer = create(&config), *twin = create(&config);
    float *x = new_floats(COUNT), *y = new_floats(COUNT), *expected = new_floats(COUNT);
    fill(x, COUNT, 21);
    for (uint32_t type = LM_DTYPE_DEFAULT; type <= LM_DTYPE_F16; type++) {
        lm_cache *cache = NULL, *loaded = NULL, *clone = NULL, *moved = NULL;
        OK(lm_alloc_cache(layer, BATCH, 0, type, &cache));
        /* Sequences of 20, 21 and 0 tokens. */
        steps(layer, cache, x, 0, 20, y);
        const size_t second = 1;
        OK(lm_step_lanes(layer, x, &second, 1, cache, y));
        OK(lm_cache_reset_lane(cache, 2));

        size_t size = 0, written = 0;
        OK(lm_cache_save(cache, NULL, 12345, &size));
        unsigned char *bytes = calloc(2, size + 2), *again = bytes + size + 2;
        if (bytes == NULL)
            exit(1);
        bytes[0] = bytes[size + 1] = 0x5a; /* what is around is left alone */
        OK(lm_cache_save(cache, bytes + 1, SIZE_MAX, &written)); /* at an odd address */
        CHECK(written == size && bytes[0] == 0x5a && bytes[size + 1] == 0x5a);
        OK(lm_cache_load(twin, bytes + 1, size, &loaded));
        CHECK(lm_cache_batch(loaded) == BATCH && lm_cache_seqlen_offset(loaded) == 21);
        CHECK(lm_cache_bytes(loaded) == lm_cache_bytes(cache));

        for (size_t i = 0; i < lm_cache_num_states(cache); i++) {
            lm_tensor_info info, other;
            OK(lm_cache_state_info(cache, i, &info, sizeof info));
            OK(lm_cache_state_info(loaded, i, &other, sizeof other));
            CHECK(strcmp(info.name, other.name) == 0 && info.dtype == other.dtype && info.count == other.count);
            float *state = new_floats(2 * info.count);
            OK(lm_cache_get_state(cache, info.name, state, info.count));
            OK(lm_cache_get_state(loaded, info.name, state + info.count, info.count));
            CHECK(same(state, state + info.count, info.count));
            free(state);
        }

        /* The same state has the same bytes, wherever it has been. */
        OK(lm_cache_clone(cache, &clone));
        OK(lm_alloc_cache(twin, BATCH, 0, type, &moved));
        steps(twin, moved, x, 5, 13, y);
        for (size_t lane = 0; lane < BATCH; lane++)
            OK(lm_cache_copy_lane(moved, lane, clone, lane));
        lm_cache *const equal[] = {cache, loaded, clone, moved};
        for (int i = 0; i < 4; i++) {
            memset(again, 0, size);
            OK(lm_cache_save(equal[i], again, size, &written));
            CHECK(written == size && memcmp(again, bytes + 1, size) == 0);
        }

        memcpy(expected, y, COUNT * sizeof *y);
        steps(layer, cache, x, 20, SEQLEN, expected);
        steps(twin, loaded, x, 20, SEQLEN, y);
        CHECK(same(y, expected, COUNT));
        OK(lm_cache_save(cache, again, size, &written));
        CHECK(memcmp(again, bytes + 1, size) != 0);
        OK(lm_cache_save(loaded, bytes + 1, size, &written));
        CHECK(memcmp(again, bytes + 1, size) == 0);
        free(bytes);
        lm_free_cache(cache);
        lm_free_cache(loaded);
        lm_free_cache(clone);
        lm_free_cache(moved);
    }

    /* Of no sequences at all. */
    lm_cache *empty = alloc_cache(layer, 0), *loaded = NULL;
    unsigned char bytes[256];
    size_t written = 0;
    OK(lm_cache_save(empty, bytes, sizeof bytes, &written));
    OK(lm_cache_load(layer, bytes, written, &loaded));
    CHECK(lm_cache_batch(loaded) == 0);
    lm_free_cache(empty);
    lm_free_cache(loaded);
    lm_destroy(layer);
    lm_destroy(twin);
    free(x);
    free(y);
    free(expected);
}

#if defined(__x86_64__)
#define FLUSHES 0x9fc0u /* flush-to-zero, denormals-are-zero, exceptions masked */
#define ODDLY 0xffe3u   /* both, rounding toward zero, some status flags */
#define TRAPS 0x0000u   /* every exception ends the process */
static void set_control(uint64_t control) { _mm_setcsr((uint32_t)control); }
static uint64_t control(void) { return _mm_getcsr(); }
#elif defined(__aarch64__)
#define FLUSHES 0x1000000u
#define ODDLY 0x1c00000u /* and rounding toward zero */
static void set_control(uint64_t control) { __asm__ volatile("msr fpcr, %0" ::"r"(control)); }
static uint64_t control(void) {
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}
#endif

/* An audio host's flush-to-zero changes no bit, and is still there afterwards. */
static void floating_point_environment(void) {
#if defined(FLUSHES)
    const char *under_valgrind = getenv("UNDER_VALGRIND");
    if (under_valgrind != NULL) {
        printf("  (floating-point environment: valgrind has none)\n");
        return;
    }
    const lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    const uint64_t mine = control();
    float *x = new_floats(COUNT), *expected = new_floats(COUNT), *y = new_floats(COUNT);
    fill(x, COUNT, 3);
    for (size_t i = 0; i < COUNT; i++)
        x[i] *= 1e-38f;
    lm_layer *layer = create(&config);
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, expected));
    int denormals = 0;
    for (size_t i = 0; i < COUNT; i++)
        denormals += expected[i] != 0.0f && expected[i] < 1.1754944e-38f && expected[i] > -1.1754944e-38f;
    CHECK(denormals > COUNT / 2);

    const uint64_t theirs[] = {
        FLUSHES,
        ODDLY,
#if defined(TRAPS)
        TRAPS,
#endif
    };
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++) {
        set_control(theirs[i]);
        lm_layer *made = NULL;
        lm_cache *cache = NULL;
        const lm_status status[] = {
            lm_forward(layer, x, BATCH, SEQLEN, NULL, y),
            lm_create(&config, &made),
            lm_alloc_cache(layer, BATCH, 0, 0, &cache),
            lm_forward(layer, NULL, 1, 1, NULL, NULL),
        };
        const uint64_t after = control();
        set_control(mine);
        CHECK(after == theirs[i]);
        CHECK(status[0] == LM_OK && status[1] == LM_OK && status[2] == LM_OK && status[3] == LM_ERR_NULL_POINTER);
        CHECK(same(y, expected, COUNT));
        OK(lm_forward(made, x, BATCH, SEQLEN, NULL, y));
        CHECK(same(y, expected, COUNT));
        set_control(theirs[i]);
        steps(layer, cache, x, 0, SEQLEN, y);
        set_control(mine);
        CHECK(same(y, expected, COUNT));
        lm_free_cache(cache);
        lm_destroy(made);
    }
    lm_destroy(layer);
    free(x);
    free(expected);
    free(y);
#else
    printf("  (floating-point environment: not tested on this processor)\n");
#endif
}

struct Task {
    const lm_layer *layer;
    const float *x;
    float *y;
    lm_status status;
    char message[64];
};

static void *work(void *argument) {
    struct Task *task = argument;
    lm_cache *cache = NULL;
    task->status = lm_alloc_cache(task->layer, BATCH, 0, 0, &cache);
    for (int round = 0; task->status == LM_OK && round < 3; round++) {
        lm_cache_reset(cache);
        task->status = lm_forward(task->layer, task->x, BATCH, SEQLEN, cache, task->y);
    }
    lm_free_cache(cache);
    /* The message is this thread's own, of which there is none yet. */
    snprintf(task->message, sizeof task->message, "%s", lm_last_error());
    return NULL;
}

static void threads(void) {
    enum { THREADS = 8 };
    const lm_config config = default_config(LM_VARIANT_DPWC, D_MODEL);
    lm_layer *layer = create(&config);
    float *x = new_floats(COUNT), *expected = new_floats(COUNT);
    fill(x, COUNT, 3);
    OK(lm_set_num_threads(1));
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, expected));
    CHECK(lm_step(NULL, NULL, NULL, NULL) == LM_ERR_NULL_POINTER);
    for (size_t n = 0; n < 4; n++) {
        OK(lm_set_num_threads(n));
        pthread_t handles[THREADS];
        struct Task tasks[THREADS];
        for (int i = 0; i < THREADS; i++) {
            tasks[i] = (struct Task){layer, x, new_floats(COUNT), LM_ERR_INTERNAL, "not run"};
            if (pthread_create(&handles[i], NULL, work, &tasks[i]) != 0)
                exit(1);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(handles[i], NULL);
            CHECK(tasks[i].status == LM_OK && strcmp(tasks[i].message, "") == 0);
            CHECK(same(tasks[i].y, expected, COUNT));
            free(tasks[i].y);
        }
    }
    OK(lm_set_num_threads(0));
    lm_destroy(layer);
    free(x);
    free(expected);
}

int main(void) {
    library();
    config_defaults();
    for (uint32_t variant = LM_VARIANT_PTCN; variant <= LM_VARIANT_BASELINE; variant++) {
        streaming(variant);
        parameters(variant);
        files(variant);
        for (uint32_t dtype = LM_DTYPE_F32; dtype <= LM_DTYPE_F16; dtype++) {
            /* Under valgrind, which takes minutes for all, each variant in a type of its own. */
            if (getenv("UNDER_VALGRIND") != NULL && dtype - LM_DTYPE_F32 != variant - LM_VARIANT_PTCN)
                continue;
            typed_layers(variant, dtype);
            typed_streaming(variant, dtype);
            packed_sequences(variant, dtype);
            saved_caches(variant, dtype);
        }
    }
    for (uint32_t dtype = LM_DTYPE_F32; dtype <= LM_DTYPE_F16; dtype++)
        typed_caches(dtype);
    inference_params();
    lanes_apart();
    lanes_come_and_go();
    floating_point_environment();
    threads();
    return report("behaviour");
}
