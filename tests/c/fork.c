/* A child computes after its parent has used threads, and so does the parent after the fork. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

enum { D_MODEL = 256, BATCH = 2, SEQLEN = 64, COUNT = BATCH * SEQLEN * D_MODEL };

static int computes(const lm_layer *layer, lm_cache *cache, const float *x, const float *expected) {
    float *y = new_floats(COUNT);
    OK(lm_cache_reset(cache));
    OK(lm_forward(layer, x, BATCH, SEQLEN, cache, y));
    CHECK(memcmp(y, expected, COUNT * sizeof *y) == 0);
    free(y);
    return failures == 0;
}

int main(void) {
    const lm_config config = default_config(LM_VARIANT_PTCN, D_MODEL);
    lm_layer *layer = create(&config);
    lm_cache *cache = alloc_cache(layer, BATCH);
    float *x = new_floats(COUNT), *expected = new_floats(COUNT);
    fill(x, COUNT, 3);
    OK(lm_set_num_threads(2));
    OK(lm_forward(layer, x, BATCH, SEQLEN, NULL, expected));

    for (int i = 0; i < 3; i++) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60); /* rather than hang */
            const int first = computes(layer, cache, x, expected);
            const lm_status status = lm_set_num_threads(3);
            lm_layer *own = create(&config);
            const int then = computes(own, cache, x, expected);
            lm_destroy(own);
            lm_free_cache(cache);
            lm_destroy(layer);
            _exit(first && then && status == LM_OK ? 0 : 1);
        }
        CHECK(child > 0);
        CHECK(computes(layer, cache, x, expected));
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    lm_free_cache(cache);
    lm_destroy(layer);
    free(x);
    free(expected);
    return report("fork");
}
