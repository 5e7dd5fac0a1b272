/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Host time of a step on a GPU from C, uncaptured, with device tensors: what lm_step_dlpack takes to return.
 *
 *     cc -O2 -Iinclude benches/cuda_step.c -o cuda_step -Ltarget/release -llite_mamba -ldl
 *     LD_LIBRARY_PATH=target/release ./cuda_step
 *
 * The library is one built with the feature `cuda`. The driver is loaded at run time, so nothing of CUDA is needed to
 * build. Medians of 101 rounds; in each, fewer steps are put on a stream than its queue holds, and then waited for.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lite_mamba.h"

enum { ROUNDS = 101, STEPS = 20 };

typedef void (*anything)(void);
typedef int (*of_pointer)(void *);
static int (*alloc)(uint64_t *, size_t), (*release)(uint64_t), (*set)(uint64_t, unsigned char, size_t);
static int (*retain)(void **, int), (*stream_create)(void **, unsigned);
static of_pointer wait_for, push;

static void check(int status, const char *what) {
    if (status) {
        fprintf(stderr, "%s: %d: %s\n", what, status, lm_last_error());
        exit(1);
    }
}

static anything find(void *library, const char *name) {
    anything function;
    *(void **)&function = dlsym(library, name);
    if (!function) {
        fprintf(stderr, "the driver has no %s\n", name);
        exit(1);
    }
    return function;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, size_t d_model, size_t d_conv, const size_t *dilations, size_t branches,
                    uint32_t dtype, uint32_t math) {
    lm_config config;
    lm_layer *layer;
    check(lm_config_init(&config, sizeof config), "lm_config_init");
    config.d_model = d_model;
    config.d_conv = d_conv;
    config.conv_dilations = dilations;
    config.num_conv_dilations = branches;
    config.dtype = dtype;
    config.math = math;
    config.device = LM_DEVICE_CUDA;
    check(lm_create(&config, &layer), "lm_create");
    void *stream;
    check(stream_create(&stream, 1), "cuStreamCreate");
    printf("%s %s |", name, dtype == LM_DTYPE_BF16 ? "bf16" : math ? "tf32" : "f32 ");
    for (int64_t batch = 1; batch <= 32; batch = batch == 1 ? 8 : batch * 4) {
        size_t bytes = (size_t)batch * d_model * (dtype == LM_DTYPE_F32 ? 4 : 2);
        uint64_t data[2];
        DLTensor tensors[2];
        int64_t shape[2] = {batch, (int64_t)d_model};
        lm_cache *cache;
        check(lm_alloc_cache(layer, (size_t)batch, 0, LM_DTYPE_DEFAULT, &cache), "lm_alloc_cache");
        for (int i = 0; i < 2; i++) {
            check(alloc(&data[i], bytes), "cuMemAlloc");
            check(set(data[i], 0x3c, bytes), "cuMemset");
            tensors[i] = (DLTensor){
                .data = (void *)(uintptr_t)data[i],
                .device = {kDLCUDA, 0},
                .ndim = 2,
                .dtype = {dtype == LM_DTYPE_BF16 ? kDLBfloat : kDLFloat, dtype == LM_DTYPE_F32 ? 32 : 16, 1},
                .shape = shape,
            };
        }
        double times[ROUNDS];
        for (int round = -3; round < ROUNDS; round++) {
            double start = now();
            for (int step = 0; step < STEPS; step++)
                check(lm_step_dlpack(layer, &tensors[0], cache, &tensors[1], stream), "lm_step_dlpack");
            if (round >= 0) times[round] = (now() - start) / STEPS;
            check(wait_for(stream), "cuStreamSynchronize");
        }
        qsort(times, ROUNDS, sizeof *times, compare);
        printf(" %5.1f (%.1f-%.1f)", times[ROUNDS / 2], times[ROUNDS / 4], times[ROUNDS * 3 / 4]);
        lm_free_cache(cache);
        release(data[0]);
        release(data[1]);
    }
    printf("\n");
    lm_destroy(layer);
}

int main(void) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver || !lm_cuda_available()) {
        fprintf(stderr, "not measured: %s\n", lm_build_info());
        return 1;
    }
    alloc = (int (*)(uint64_t *, size_t))find(driver, "cuMemAlloc_v2");
    release = (int (*)(uint64_t))find(driver, "cuMemFree_v2");
    set = (int (*)(uint64_t, unsigned char, size_t))find(driver, "cuMemsetD8_v2");
    wait_for = (of_pointer)find(driver, "cuStreamSynchronize");
    retain = (int (*)(void **, int))find(driver, "cuDevicePrimaryCtxRetain");
    push = (of_pointer)find(driver, "cuCtxPushCurrent_v2");
    stream_create = (int (*)(void **, unsigned))find(driver, "cuStreamCreate");
    void *context;
    check(retain(&context, 0), "cuDevicePrimaryCtxRetain");
    check(push(context), "cuCtxPushCurrent");
    printf("host time of a step, us: median (quartiles) at batch 1, 8, 32\n");
    const size_t dilations[] = {1, 2, 4, 8, 16};
    const struct {
        const char *name;
        size_t d_model, d_conv, branches;
    } cases[] = {{"G1", 512, 3, 4}, {"G2", 1024, 4, 4}, {"G4", 768, 4, 4}, {"G5", 256, 4, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        measure(cases[i].name, cases[i].d_model, cases[i].d_conv, dilations, cases[i].branches, LM_DTYPE_F32, 0);
        measure(cases[i].name, cases[i].d_model, cases[i].d_conv, dilations, cases[i].branches, LM_DTYPE_F32, LM_MATH_TF32);
        measure(cases[i].name, cases[i].d_model, cases[i].d_conv, dilations, cases[i].branches, LM_DTYPE_BF16, 0);
    }
    return 0;
}
