/* The smallest useful program: a PTCN layer reads six tokens at once, then the same six one by one. */
#include <lite_mamba.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D_MODEL = 32, SEQLEN = 6 };

static void check(lm_status status) {
    if (status != LM_OK) {
        fprintf(stderr, "%s: %s\n", lm_status_name(status), lm_last_error());
        exit(1);
    }
}

int main(void) {
    const size_t dilations[] = {1, 2, 4};
    lm_config config;
    check(lm_config_init(&config, sizeof config)); /* the reference's defaults */
    config.variant = LM_VARIANT_PTCN;
    config.d_model = D_MODEL;
    config.conv_dilations = dilations;
    config.num_conv_dilations = 3;
    config.seed = 7; /* the initial weights of torch.manual_seed(7) */

    lm_layer *layer;
    check(lm_create(&config, &layer));

    float x[SEQLEN][D_MODEL], whole[SEQLEN][D_MODEL], streamed[SEQLEN][D_MODEL];
    for (int t = 0; t < SEQLEN; t++)
        for (int i = 0; i < D_MODEL; i++)
            x[t][i] = sinf(0.3f * (float)t + 0.7f * (float)i);

    check(lm_forward(layer, &x[0][0], 1, SEQLEN, NULL, &whole[0][0]));

    lm_cache *cache;
    check(lm_alloc_cache(layer, 1, SEQLEN, LM_DTYPE_DEFAULT, &cache));
    for (int t = 0; t < SEQLEN; t++)
        check(lm_step(layer, x[t], cache, streamed[t]));

    int same = memcmp(whole, streamed, sizeof whole) == 0;
    printf("lite-mamba %s: %d streamed tokens, %s the forward pass\n", lm_version(), SEQLEN,
           same ? "bit for bit" : "NOT the same as");
    lm_free_cache(cache);
    lm_destroy(layer);
    return same ? 0 : 1;
}
