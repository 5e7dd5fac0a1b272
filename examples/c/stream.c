/* A stream of tokens through a layer, each on from what came before. */
#include <lite_mamba.h>
#include <stdio.h>

int main(void) {
    const size_t dilations[] = {1, 2, 4};
    lm_config config;
    lm_config_init(&config, sizeof config); /* the reference's defaults */
    config.d_model = 32;
    config.conv_dilations = dilations;
    config.num_conv_dilations = 3;

    lm_layer *layer = NULL;
    lm_cache *cache = NULL; /* the state of one stream */
    lm_status status = lm_create(&config, &layer);
    if (status == LM_OK)
        status = lm_alloc_cache(layer, 1, 0, LM_DTYPE_DEFAULT, &cache);

    float token[32] = {0};
    for (int t = 0; t < 6 && status == LM_OK; t++) {
        token[0] = (float)t;
        status = lm_step(layer, token, cache, token); /* in place */
        printf("%d %.4f %.4f %.4f\n", t, token[0], token[1], token[2]);
    }
    if (status != LM_OK)
        fprintf(stderr, "%s\n", lm_last_error());
    lm_free_cache(cache);
    lm_destroy(layer);
    return status != LM_OK;
}
