/* The checks that the test programs are made of. Each failed one prints its place and counts. */
#ifndef CHECK_H
#define CHECK_H

#include <lite_mamba.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

#define CHECK(condition) check_((condition) ? 1 : 0, __FILE__, __LINE__, #condition)
/* The call succeeds. */
#define OK(call) ok_((call), __FILE__, __LINE__, #call)
/* The call returns this status, and leaves a message that contains these words. */
#define FAILS(call, status, words) fails_((forget_message(), (call)), (status), (words), __FILE__, __LINE__, #call)

static inline void check_(int holds, const char *file, int line, const char *what) {
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        failures++;
    }
}

static inline void ok_(lm_status status, const char *file, int line, const char *what) {
    if (status != LM_OK) {
        fprintf(stderr, "%s:%d: %s: %s, \"%s\"\n", file, line, what, lm_status_name(status), lm_last_error());
        failures++;
    }
}

/* Leaves a message that no other call leaves. */
static inline void forget_message(void) {
    lm_set_num_threads(987654321);
}

static inline void fails_(lm_status status, lm_status expected, const char *words, const char *file, int line,
                          const char *what) {
    if (status != expected || strstr(lm_last_error(), words) == NULL || strstr(lm_last_error(), "987654321")) {
        fprintf(stderr, "%s:%d: %s: %s, \"%s\"; expected %s with \"%s\"\n", file, line, what,
                lm_status_name(status), status == LM_OK ? "" : lm_last_error(), lm_status_name(expected), words);
        failures++;
    }
}

/* What main returns. */
static inline int report(const char *program) {
    if (failures > 0)
        fprintf(stderr, "%s: %d checks failed\n", program, failures);
    return failures > 0;
}

static inline lm_config default_config(uint32_t variant, size_t d_model) {
    static const size_t dilations[] = {1, 2, 4};
    lm_config config;
    OK(lm_config_init(&config, sizeof config));
    config.variant = variant;
    config.d_model = d_model;
    if (variant != LM_VARIANT_BASELINE) {
        config.conv_dilations = dilations;
        config.num_conv_dilations = 3;
    }
    return config;
}

/* Ends the program if there is none: nothing works without it. */
static inline lm_layer *create(const lm_config *config) {
    lm_layer *layer = NULL;
    OK(lm_create(config, &layer));
    if (layer == NULL)
        exit(1);
    return layer;
}

static inline lm_cache *alloc_cache(const lm_layer *layer, size_t batch) {
    lm_cache *cache = NULL;
    OK(lm_alloc_cache(layer, batch, 0, LM_DTYPE_DEFAULT, &cache));
    if (cache == NULL)
        exit(1);
    return cache;
}

/* Numbers between -1 and 1, the same on every machine. */
static inline void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

static inline float *new_floats(size_t count) {
    float *values = (float *)calloc(count, sizeof(float));
    if (values == NULL)
        exit(1);
    return values;
}

#endif
