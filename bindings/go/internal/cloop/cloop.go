// Package cloop makes calls of the C library in a loop in C, for the benchmarks to compare with: what is more
// than this is what Go costs.
package cloop

/*
#cgo pkg-config: lite_mamba
#include <lite_mamba.h>
#include <stdlib.h>

typedef struct {
    lm_layer *layer;
    lm_cache *cache;
    float *x;
} stream;

static void stream_free(stream *s) {
    free(s->x);
    lm_free_cache(s->cache);
    lm_destroy(s->layer);
    free(s);
}

static stream *stream_new(size_t d_model) {
    stream *s = calloc(1, sizeof *s);
    lm_config config;
    if (s == NULL || lm_config_init(&config, sizeof config) != LM_OK)
        return NULL;
    config.d_model = d_model;
    s->x = calloc(2 * d_model, sizeof *s->x);
    if (s->x == NULL || lm_create(&config, &s->layer) != LM_OK ||
        lm_alloc_cache(s->layer, 1, 0, LM_DTYPE_DEFAULT, &s->cache) != LM_OK) {
        stream_free(s);
        return NULL;
    }
    return s;
}

static lm_status stream_steps(const stream *s, size_t d_model, size_t n) {
    lm_status status = LM_OK;
    for (size_t i = 0; i < n && status == LM_OK; i++)
        status = lm_step(s->layer, s->x, s->cache, s->x + d_model);
    return status;
}

static lm_status stream_nothings(const stream *s, size_t n) {
    lm_status status = LM_OK;
    for (size_t i = 0; i < n && status == LM_OK; i++)
        status = lm_forward(s->layer, NULL, 1, 0, s->cache, NULL);
    return status;
}

static uint32_t abi_versions(size_t n) {
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += lm_abi_version();
    return sum;
}
*/
import "C"

// A Stream is a layer of the default configuration and a stream through it.
type Stream struct {
	c      *C.stream
	dModel C.size_t
}

// New returns a stream of that width, or nil if there is none to be had.
func New(dModel int) *Stream {
	c := C.stream_new(C.size_t(dModel))
	if c == nil {
		return nil
	}
	return &Stream{c, C.size_t(dModel)}
}

// Close frees the stream, once.
func (s *Stream) Close() { C.stream_free(s.c) }

// Steps makes n calls of lm_step and reports whether all went well.
func (s *Stream) Steps(n int) bool { return C.stream_steps(s.c, s.dModel, C.size_t(n)) == C.LM_OK }

// Nothings makes n calls of lm_forward without tokens and reports whether all went well.
func (s *Stream) Nothings(n int) bool { return C.stream_nothings(s.c, C.size_t(n)) == C.LM_OK }

// ABIVersions makes n calls of lm_abi_version.
func ABIVersions(n int) uint32 { return uint32(C.abi_versions(C.size_t(n))) }
