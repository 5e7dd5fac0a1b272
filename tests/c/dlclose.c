/* The library's threads live through a dlclose, and loading it again finds it as it was. */
#include <lite_mamba.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ISO C knows no conversion from an object's address to a function's. */
#define LOAD(library, function) (*(void **)&(function) = dlsym((library), "lm_" #function))

enum { D_MODEL = 256, SEQLEN = 64, COUNT = SEQLEN * D_MODEL };

static int use(const char *path, float *y) {
    lm_status (*config_init)(lm_config *, size_t);
    lm_status (*create)(const lm_config *, lm_layer **);
    lm_status (*set_num_threads)(size_t);
    lm_status (*forward)(const lm_layer *, const float *, size_t, size_t, lm_cache *, float *);
    void (*destroy)(lm_layer *);
    static float x[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(i % 17) / 17.0f;

    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 0;
    }
    LOAD(library, config_init);
    LOAD(library, create);
    LOAD(library, set_num_threads);
    LOAD(library, forward);
    LOAD(library, destroy);

    lm_config config;
    lm_layer *layer = NULL;
    if (config_init(&config, sizeof config) != LM_OK)
        return 0;
    config.d_model = D_MODEL;
    if (set_num_threads(2) != LM_OK || create(&config, &layer) != LM_OK)
        return 0;
    const int works = forward(layer, x, 1, SEQLEN, NULL, y) == LM_OK;
    destroy(layer);
    return dlclose(library) == 0 && works;
}

int main(int argc, char **argv) {
    static float y[3][COUNT];
    if (argc != 2)
        return 2;
    for (int i = 0; i < 3; i++) {
        if (!use(argv[1], y[i])) {
            fprintf(stderr, "dlclose: round %d failed\n", i);
            return 1;
        }
        /* Long enough for an idle thread to wake and to park: code that is gone would end the process. */
        nanosleep(&(struct timespec){0, 20 * 1000 * 1000}, NULL);
    }
    return memcmp(y[0], y[1], sizeof y[0]) == 0 && memcmp(y[0], y[2], sizeof y[0]) == 0 ? 0 : 1;
}
