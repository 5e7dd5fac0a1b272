/*
 * A CUDA driver and a cuBLASLt that have one device and do nothing, as far as a layer of few tokens needs them, and
 * that fail where the environment variable FAKE_CUDA says: tests/cuda_failures.rs builds them.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, UNSUPPORTED_PTX = 222, UNKNOWN = 999 };
enum { MULTIPROCESSORS = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };

static int is(const char *failure) {
    const char *wanted = getenv("FAKE_CUDA");
    return wanted && !strcmp(wanted, failure);
}

int cuDriverGetVersion(int *version) {
    *version = is("old driver") ? 11080 : 12000;
    return 0;
}
int cuInit(unsigned flags) {
    (void)flags;
    return is("no device") ? NO_DEVICE : is("broken driver") ? UNKNOWN : 0;
}
int cuDeviceGetCount(int *count) {
    *count = !is("count of 0");
    return 0;
}
int cuDeviceGet(int *device, int index) {
    *device = index;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == CAPABILITY_MAJOR  ? (is("old device") ? 7 : 8)
             : attribute == CAPABILITY_MINOR ? (is("old device") ? 5 : 0)
             : attribute == MULTIPROCESSORS  ? 100
                                             : 0;
    return 0;
}
/* What a failure has to give back is counted. */
static int contexts, modules;
int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = context;
    (void)device;
    if (is("no room for a context")) return OUT_OF_MEMORY;
    if (++contexts > 1) abort();
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    (void)device;
    --contexts;
    return 0;
}
int cuCtxPushCurrent_v2(void *context) {
    (void)context;
    return 0;
}
int cuCtxPopCurrent_v2(void **context) {
    *context = NULL;
    return 0;
}
int cuCtxSynchronize(void) { return 0; }
int cuModuleLoadData(void **module, const char *image) {
    /* The text of the kernels, to its end. */
    const char *end = strrchr(image, '}');
    if (!strstr(image, ".version 8.0") || !strstr(image, ".entry copy") || !end || end[1 + strspn(end + 1, "\n")]) abort();
    if (is("old PTX")) return UNSUPPORTED_PTX;
    *module = module;
    if (++modules > 2) abort();
    return 0;
}
int cuModuleUnload(void *module) {
    (void)module;
    --modules;
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = function;
    (void)module;
    return is("other kernels") && !strncmp(name, "step", 4) ? UNKNOWN : 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    (void)function, (void)attribute, (void)value;
    return 0;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == UNKNOWN ? "CUDA_ERROR_UNKNOWN" : NULL;
    return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    static uint64_t next = 1 << 20;
    *address = next;
    next += bytes + 256;
    return is("no room") ? OUT_OF_MEMORY : 0;
}
int cuMemFree_v2(uint64_t address) {
    (void)address;
    return 0;
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void *stream) {
    (void)address, (void)value, (void)bytes, (void)stream;
    return is("no changes") ? UNKNOWN : 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    (void)to, (void)from, (void)bytes, (void)stream;
    return is("no changes") ? UNKNOWN : 0;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    (void)to, (void)from, (void)bytes, (void)stream;
    return is("no changes") ? UNKNOWN : 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    (void)from, (void)stream;
    memset(to, 0, bytes);
    return is("no results") ? UNKNOWN : 0;
}
int cuStreamCreate(void **stream, unsigned flags) {
    *stream = stream;
    (void)flags;
    return 0;
}
int cuStreamDestroy_v2(void *stream) {
    (void)stream;
    return 0;
}
int cuStreamSynchronize(void *stream) {
    (void)stream;
    return 0;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y, unsigned block_z,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    (void)function, (void)x, (void)y, (void)z, (void)block_x, (void)block_y, (void)block_z;
    (void)shared, (void)stream, (void)arguments, (void)extra;
    return is("no kernels") ? UNKNOWN : 0;
}

int cublasLtCreate(void **handle) {
    *handle = handle;
    return is("broken cuBLASLt") ? 1 : 0;
}
