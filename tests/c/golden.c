/* The reference's numbers (tests/golden/README.md), through the C interface: the files are the arguments. Whole sequences
   and single steps are within 1e-5 of the reference's, in parts of the largest value, and have the same bits. */
#include <lite_mamba.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s: line %d: %s (%s)\n", path, __LINE__, #condition, lm_last_error());          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static const char *path;

typedef struct {
    float *values; /* NULL if the file has no such tensor */
    size_t count, shape[3];
} tensor;

typedef struct {
    char *header;
    const unsigned char *data;
} golden;

/* A tensor by its name. The files are ours, so their headers are as make_golden.py writes them. */
static tensor find(const golden *file, const char *name) {
    tensor found = {NULL, 0, {0, 0, 0}};
    char key[80];
    snprintf(key, sizeof key, "\"%s\": {\"data_offsets\": [", name);
    const char *entry = strstr(file->header, key);
    if (entry == NULL)
        return found;
    size_t begin, end;
    CHECK(sscanf(entry + strlen(key), "%zu, %zu], \"dtype\": \"F32\", \"shape\": [%zu, %zu, %zu]", &begin, &end,
                 &found.shape[0], &found.shape[1], &found.shape[2]) == 5);
    found.count = (end - begin) / sizeof(float);
    CHECK(found.count == found.shape[0] * found.shape[1] * found.shape[2]);
    found.values = malloc(end - begin + 1);
    CHECK(found.values != NULL);
    memcpy(found.values, file->data + begin, end - begin);
    return found;
}

static void near(const float *actual, tensor expected) {
    double difference = 0, scale = 0;
    for (size_t i = 0; i < expected.count; i++) {
        CHECK(isfinite(actual[i]));
        difference = fmax(difference, fabs((double)actual[i] - expected.values[i]));
        scale = fmax(scale, fabs((double)expected.values[i]));
    }
    CHECK(difference <= 1e-5 * (scale == 0 ? 1 : scale));
}

static void run(void) {
    FILE *stream = fopen(path, "rb");
    CHECK(stream != NULL);
    CHECK(fseek(stream, 0, SEEK_END) == 0);
    size_t size = (size_t)ftell(stream);
    rewind(stream);
    unsigned char *bytes = malloc(size);
    CHECK(bytes != NULL && fread(bytes, 1, size, stream) == size);
    fclose(stream);
    size_t length = 0; /* little endian */
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    golden file = {malloc(length + 1), bytes + 8 + length};
    CHECK(file.header != NULL);
    memcpy(file.header, bytes + 8, length);
    file.header[length] = '\0';

    lm_layer *layer, *copy;
    CHECK(lm_load(path, "layer", NULL, &layer) == LM_OK);
    CHECK(lm_load_memory(bytes, size, "layer.", NULL, &copy) == LM_OK);
    tensor x = find(&file, "x"), y = find(&file, "y"), y_step = find(&file, "y_step");
    CHECK(x.values != NULL && y.values != NULL && x.count == y.count);
    const size_t batch = x.shape[0], seqlen = x.shape[1], d_model = x.shape[2];

    float *whole = malloc(x.count * sizeof(float)), *streamed = malloc(x.count * sizeof(float));
    float *token = malloc(batch * d_model * sizeof(float));
    CHECK(whole != NULL && streamed != NULL && token != NULL);
    CHECK(lm_forward(layer, x.values, batch, seqlen, NULL, whole) == LM_OK);
    near(whole, y);

    lm_cache *cache;
    CHECK(lm_alloc_cache(copy, batch, seqlen, LM_DTYPE_DEFAULT, &cache) == LM_OK);
    for (size_t t = 0; t < seqlen; t++) {
        for (size_t b = 0; b < batch; b++)
            memcpy(token + b * d_model, x.values + (b * seqlen + t) * d_model, d_model * sizeof(float));
        CHECK(lm_step(copy, token, cache, token) == LM_OK);
        for (size_t b = 0; b < batch; b++)
            memcpy(streamed + (b * seqlen + t) * d_model, token + b * d_model, d_model * sizeof(float));
    }
    CHECK(memcmp(whole, streamed, x.count * sizeof(float)) == 0);
    if (y_step.values != NULL)
        near(streamed, y_step);
    for (size_t i = 0; i < lm_cache_num_states(cache); i++) {
        lm_tensor_info info;
        CHECK(lm_cache_state_info(cache, i, &info, sizeof info) == LM_OK);
        tensor expected = find(&file, info.name);
        float *state = malloc(info.count * sizeof(float) + 1);
        CHECK(expected.values != NULL && expected.count == info.count && state != NULL);
        CHECK(lm_cache_get_state(cache, info.name, state, info.count) == LM_OK);
        near(state, expected);
        free(state);
        free(expected.values);
    }

    lm_free_cache(cache);
    lm_destroy(layer);
    lm_destroy(copy);
    free(whole);
    free(streamed);
    free(token);
    free(x.values);
    free(y.values);
    free(y_step.values);
    free(file.header);
    free(bytes);
}

int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        path = paths[i];
        run();
    }
    path = "tests/golden";
    CHECK(count > 30);
    printf("%d files\n", count - 1);
    return 0;
}
