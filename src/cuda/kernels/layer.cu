// The stages of the layer on a GPU, beside the matrix products that cuBLASLt computes. `build.py` makes
// layer.ptx from this file; it needs no header, so that NVRTC alone compiles it.
//
// Tensors are row-major, a row being a token; T is the storage type, arithmetic and states are f32. The structs
// of arguments are those of `kernels.rs`, field by field.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 { u16 bits; };
struct f16 { u16 bits; };

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(bf16 v) { return __uint_as_float(u32(v.bits) << 16); }
__device__ __forceinline__ float widen(f16 v) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
    return wide;
}
template <typename T> __device__ __forceinline__ T narrow(float v);
template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float v) {
    bf16 narrowed;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(v));
    return narrowed;
}
template <> __device__ __forceinline__ f16 narrow<f16>(float v) {
    f16 narrowed;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(v));
    return narrowed;
}

// V values side by side, read and written by one instruction of up to 16 bytes.
template <typename T, int V> struct __align__(sizeof(T) * V) Vector { T values[V]; };
template <int BYTES> struct Word;
template <> struct Word<2> { typedef u16 type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };

template <int V, typename T> __device__ __forceinline__ void load(const T *from, float (&to)[V]) {
    union { typename Word<sizeof(T) * V>::type word; Vector<T, V> vector; } bits;
    bits.word = *reinterpret_cast<const typename Word<sizeof(T) * V>::type *>(from);
#pragma unroll
    for (int v = 0; v < V; ++v) to[v] = widen(bits.vector.values[v]);
}
template <int V, typename T> __device__ __forceinline__ void store(T *to, const float (&from)[V]) {
    union { typename Word<sizeof(T) * V>::type word; Vector<T, V> vector; } bits;
#pragma unroll
    for (int v = 0; v < V; ++v) bits.vector.values[v] = narrow<T>(from[v]);
    *reinterpret_cast<typename Word<sizeof(T) * V>::type *>(to) = bits.word;
}

__device__ __forceinline__ float exp2_approx(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
    return power;
}
__device__ __forceinline__ float reciprocal(float v) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(v));
    return inverse;
}
// e^v within 3 ulp or so: what rounding takes from v log2(e) comes back as a factor.
__device__ __forceinline__ float exponential(float v) {
    const float LOG2_E = 1.44269502f, LOG2_E_REST = 1.92596303e-8f, LN_2 = 0.693147182f;
    float whole = v * LOG2_E;
    float rest = fmaf(v, LOG2_E, -whole) + v * LOG2_E_REST;
    rest = fabsf(v) < 128.0f ? rest : 0.0f;
    float power = exp2_approx(whole);
    return fmaf(power, rest * LN_2, power);
}
__device__ __forceinline__ float silu(float v) { return v * reciprocal(1.0f + exponential(-v)); }
// ln(1 + e^v) = max(v, 0) + 2 atanh(e / (2 + e)) with e = e^-|v|; the series ends below half an ulp.
__device__ __forceinline__ float softplus(float v) {
    float e = exponential(-fabsf(v));
    float s = e * reciprocal(2.0f + e);
    float q = s * s;
    float series = fmaf(q, 2.0f / 15, 2.0f / 13);
    series = fmaf(q, series, 2.0f / 11);
    series = fmaf(q, series, 2.0f / 9);
    series = fmaf(q, series, 2.0f / 7);
    series = fmaf(q, series, 2.0f / 5);
    series = fmaf(q, series, 2.0f / 3);
    series = fmaf(q, series, 2.0f);
    return fmaxf(v, 0.0f) + s * series;
}

// The sequences of a call: `starts` says where each one's rows begin, and end where the next begin; where there is
// none, all are `seqlen` long. `lanes` says where their states are; where there is none, in order from `first_lane`.
struct Sequences {
    const int *starts;
    const int *lanes;
    int seqlen;
    int first_lane;
};
struct Sequence {
    i64 row;
    int len;
    int lane;
};
__device__ __forceinline__ Sequence sequence_of(const Sequences &all, int index) {
    Sequence one;
    one.row = all.starts ? all.starts[index] - all.starts[0] : i64(index) * all.seqlen;
    one.len = all.starts ? all.starts[index + 1] - all.starts[index] : all.seqlen;
    one.lane = all.lanes ? all.lanes[index] : all.first_lane + index;
    return one;
}

// ---- The dilated convolutions with their activation and gates.

struct ConvArgs {
    const void *x;
    void *out;
    const float *weight;  // (branches, taps, channels)
    const float *bias;    // (branches, channels), or null
    const float *gates;   // (branches)
    const int *dilations; // (branches)
    float *ring;          // (lanes, ring_len, channels), or null for sequences that begin here
    const u32 *positions; // (lanes): where in the ring the next input goes
    Sequences sequences;
    i64 x_stride;
    i64 out_stride;
    i64 branch_stride; // 0: the branches are added up
    int channels;
    int taps;
    int branches;
    int ring_len;
};

// A thread computes V channels of TOKENS tokens, one branch after another: weights are read once for all its tokens.
// Grid: channels, tokens, sequences. With one token, it also moves on the ring, whose slot for it no tap reads.
template <typename T, int V, int TOKENS> __device__ __forceinline__ void conv(const ConvArgs &a) {
    const int channel = (blockIdx.x * 32 + threadIdx.x) * V;
    const Sequence sequence = sequence_of(a.sequences, blockIdx.z);
    const int first = (blockIdx.y * blockDim.y + threadIdx.y) * TOKENS;
    if (channel >= a.channels || first >= sequence.len) return;
    const T *x = static_cast<const T *>(a.x) + sequence.row * a.x_stride + channel;
    T *out = static_cast<T *>(a.out) + (sequence.row + first) * a.out_stride + channel;
    float *ring = a.ring ? a.ring + i64(sequence.lane) * a.ring_len * a.channels + channel : nullptr;
    const int position = a.ring ? a.positions[sequence.lane] : 0;

    float sum[TOKENS][V] = {};
    for (int branch = 0; branch < a.branches; ++branch) {
        const float *weight = a.weight + i64(branch) * a.taps * a.channels + channel;
        float acc[TOKENS][V];
        float bias[V] = {};
        if (a.bias) load<V>(a.bias + i64(branch) * a.channels + channel, bias);
#pragma unroll
        for (int i = 0; i < TOKENS; ++i)
#pragma unroll
            for (int v = 0; v < V; ++v) acc[i][v] = bias[v];
        const int dilation = a.dilations[branch];
        for (int tap = 0; tap < a.taps; ++tap) {
            const int back = (a.taps - 1 - tap) * dilation;
            float w[V];
            load<V>(weight + i64(tap) * a.channels, w);
            if (first >= back && first + TOKENS <= sequence.len) {
                const T *from = x + (first - back) * a.x_stride;
#pragma unroll
                for (int i = 0; i < TOKENS; ++i) {
                    float value[V];
                    load<V>(from + i * a.x_stride, value);
#pragma unroll
                    for (int v = 0; v < V; ++v) acc[i][v] = fmaf(w[v], value[v], acc[i][v]);
                }
            } else {
#pragma unroll
                for (int i = 0; i < TOKENS; ++i) {
                    const int token = first + i - back;
                    float value[V] = {};
                    if (first + i < sequence.len && token >= 0) {
                        load<V>(x + token * a.x_stride, value);
                    } else if (first + i < sequence.len && ring) {
                        int slot = position + token;
                        if (slot < 0) slot += a.ring_len;
                        load<V>(ring + i64(slot) * a.channels, value);
                    }
#pragma unroll
                    for (int v = 0; v < V; ++v) acc[i][v] = fmaf(w[v], value[v], acc[i][v]);
                }
            }
        }
        const float gate = a.gates[branch];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const float active = gate * silu(acc[i][v]);
                acc[i][v] = active;
                sum[i][v] += active;
            }
            if (a.branch_stride && first + i < sequence.len)
                store<V>(out + i * a.out_stride + branch * a.branch_stride, acc[i]);
        }
    }
    if (!a.branch_stride) {
#pragma unroll
        for (int i = 0; i < TOKENS; ++i)
            if (first + i < sequence.len) store<V>(out + i * a.out_stride, sum[i]);
    }
    if (TOKENS == 1 && ring) {
        float value[V];
        load<V>(x, value);
        store<V>(ring + i64(position) * a.channels, value);
    }
}

struct HistoryArgs {
    const void *x;
    float *ring;
    const u32 *positions;
    Sequences sequences;
    i64 x_stride;
    int channels;
    int ring_len;
};

// Puts the last inputs of several tokens into their rings. Grid: channels, slots, sequences.
template <typename T> __device__ __forceinline__ void history(const HistoryArgs &a) {
    const int channel = blockIdx.x * 32 + threadIdx.x;
    const int age = blockIdx.y * blockDim.y + threadIdx.y; // of the newest: 0
    const Sequence sequence = sequence_of(a.sequences, blockIdx.z);
    if (channel >= a.channels || age >= a.ring_len || age >= sequence.len) return;
    const int token = sequence.len - 1 - age;
    const int slot = int((i64(a.positions[sequence.lane]) + token) % a.ring_len);
    const T *x = static_cast<const T *>(a.x) + (sequence.row + token) * a.x_stride + channel;
    a.ring[(i64(sequence.lane) * a.ring_len + slot) * a.channels + channel] = widen(*x);
}

// ---- The selective scan.

struct ScanArgs {
    void *u; // becomes y
    const void *delta;
    const void *z;
    const void *b;           // (rows, states)
    const void *c;           // (rows, states)
    const float *a;          // (channels, states): A log2(e)
    const float *skip;       // (channels): D
    const float *delta_bias; // (channels)
    float *state;            // (lanes, channels, states), or null for sequences that begin and end here
    float *ends;             // (sequences, chunks, channels, states): of each chunk, the last one's place holding
                             // the state before the first
    float *sums;             // (sequences, chunks, channels): of δ over each chunk
    u32 *positions;          // (histories, lanes), moved on by the tokens of each sequence
    const u32 *ring_lens;    // (histories)
    u64 *seen;               // (lanes), likewise
    Sequences sequences;
    i64 u_stride;
    i64 delta_stride;
    i64 z_stride;
    i64 bc_stride;
    int channels;
    int states;
    int chunk; // tokens of a chunk, a multiple of TILE
    int chunks;
    int lanes;
    int histories;
};

const int TILE = 16;
const int THREADS = 128;

// Where the states of a lane of threads are: four side by side, then those of the other lanes.
template <int LANES> __device__ __forceinline__ int state_of(int lane, int s) {
    return (s / 4 * LANES + lane) * 4 + s % 4;
}

// LANES threads share a channel, each with S of its states. They take LANES tokens at a time: each sees to what one
// token needs but once, all go through the recurrence of all tokens, and the sums over the states end, each token's,
// where the token began. Grid: channels, chunks, sequences.
//
// Where few channels would leave the chip idle, the tokens are cut into chunks: SUMMARY computes each chunk's last
// state from a zero one (from the true one in the first); then every chunk finds its first state from those before.
template <typename T, int S, int LANES, bool EXACT, bool SUMMARY>
__device__ __forceinline__ void scan(const ScanArgs &p) {
    const int STATES = S * LANES;
    const int GROUPS = TILE / LANES;
    const int STAGED = TILE * 2 * STATES;
    const bool DOUBLE = STAGED <= 16 * THREADS;
    __shared__ float4 staged[(DOUBLE ? 2 : 1) * STAGED / 4];

    const int states = EXACT ? STATES : p.states;
    const int lane = threadIdx.x % LANES;
    const int channel = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const bool exists = channel < p.channels;
    const Sequence sequence = sequence_of(p.sequences, blockIdx.z);
    const int chunk = blockIdx.y;
    const int begin = chunk * p.chunk;
    const int end = min(begin + p.chunk, sequence.len);
    if (begin >= end) return;

    // The state before the first token of the chunk.
    const i64 summary = (i64(blockIdx.z) * p.chunks * p.channels + channel) * states;
    const i64 next_summary = i64(p.channels) * states;
    float *kept = p.state + (i64(sequence.lane) * p.channels + channel) * states;
    float h[S], a[S];
    const bool given = exists && p.state && (SUMMARY ? chunk == 0 : p.chunks == 1);
#pragma unroll
    for (int s = 0; s < S; ++s) {
        const int n = state_of<LANES>(lane, s);
        const bool real = exists && n < states;
        a[s] = real ? p.a[i64(channel) * states + n] : 0.0f;
        h[s] = given && real ? kept[n] : 0.0f;
        if (SUMMARY && chunk == 0 && real) p.ends[summary + (p.chunks - 1) * next_summary + n] = h[s];
        if (!SUMMARY && p.chunks > 1 && real) h[s] = p.ends[summary + (chunk ? 0 : p.chunks - 1) * next_summary + n];
    }
    if (!SUMMARY && exists)
        for (int before = 1; before < chunk; ++before) {
            const float sum = p.sums[(i64(blockIdx.z) * p.chunks + before) * p.channels + channel];
#pragma unroll
            for (int s = 0; s < S; ++s) {
                const int n = state_of<LANES>(lane, s);
                if (EXACT || n < states)
                    h[s] = fmaf(exp2_approx(sum * a[s]), h[s], p.ends[summary + before * next_summary + n]);
            }
        }

    const float bias = exists ? p.delta_bias[channel] : 0.0f;
    const float skip = exists && !SUMMARY ? p.skip[channel] : 0.0f;
    T *u_all = static_cast<T *>(p.u) + sequence.row * p.u_stride + channel;
    const T *delta_all = static_cast<const T *>(p.delta) + sequence.row * p.delta_stride + channel;
    const T *z_all = static_cast<const T *>(p.z) + sequence.row * p.z_stride + channel;
    const T *b_all = static_cast<const T *>(p.b) + sequence.row * p.bc_stride;
    const T *c_all = static_cast<const T *>(p.c) + sequence.row * p.bc_stride;

    // Each thread's part of B and C of a tile, and its tokens of a tile: read one tile ahead.
    const int SHARE = STAGED / THREADS;
    T ahead[DOUBLE ? SHARE : 1];
    T next_u[GROUPS], next_delta[GROUPS], next_z[GROUPS];
    auto read_tokens = [&](int tile) {
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const int token = tile + g * LANES + lane;
            if (exists && token < end) {
                next_u[g] = u_all[token * p.u_stride];
                next_delta[g] = delta_all[token * p.delta_stride];
                if (!SUMMARY) next_z[g] = z_all[token * p.z_stride];
            }
        }
    };
    auto read_staged = [&](int tile, int i) {
        const int at = i * THREADS + threadIdx.x;
        const int token = tile + at / (2 * STATES), n = at % STATES;
        const T *from = at / STATES % 2 ? c_all : b_all;
        return token < end && n < states ? from[token * p.bc_stride + n] : narrow<T>(0.0f);
    };
    auto put_staged = [&](int half, int i, T value) {
        reinterpret_cast<float *>(staged)[half * STAGED + i * THREADS + threadIdx.x] = widen(value);
    };

    read_tokens(begin);
    if (DOUBLE) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i) put_staged(0, i, read_staged(begin, i));
        __syncthreads();
    }
    float delta_sum = 0.0f;
    int half = 0;
    for (int tile = begin; tile < end; tile += TILE) {
        T now_u[GROUPS], now_delta[GROUPS], now_z[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            now_u[g] = next_u[g];
            now_delta[g] = next_delta[g];
            if (!SUMMARY) now_z[g] = next_z[g];
        }
        const bool more = tile + TILE < end;
        if (more) read_tokens(tile + TILE);
        if (DOUBLE) {
            if (more)
#pragma unroll
                for (int i = 0; i < SHARE; ++i) ahead[i] = read_staged(tile + TILE, i);
        } else {
            __syncthreads();
#pragma unroll 4
            for (int i = 0; i < SHARE; ++i) put_staged(0, i, read_staged(tile, i));
            __syncthreads();
        }

#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            if (tile + g * LANES >= end) break;
            const int token = tile + g * LANES + lane;
            const bool valid = exists && token < end;
            const float u = valid ? widen(now_u[g]) : 0.0f;
            const float delta = valid ? softplus(widen(now_delta[g]) + bias) : 0.0f;
            const float delta_u = delta * u;
            if (SUMMARY) delta_sum += delta;
            const float4 *bc = staged + half * (STAGED / 4) + g * LANES * (2 * STATES / 4);
            float part[LANES];
#pragma unroll
            for (int i = 0; i < LANES; ++i) {
                const float d = __shfl_sync(0xffffffffu, delta, i, LANES);
                const float du = __shfl_sync(0xffffffffu, delta_u, i, LANES);
                part[i] = 0.0f;
#pragma unroll
                for (int s = 0; s < S; s += 4) {
                    const float4 b4 = bc[i * (2 * STATES / 4) + s / 4 * LANES + lane];
                    const float b[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
                    for (int r = 0; r < 4; ++r)
                        h[s + r] = fmaf(exp2_approx(d * a[s + r]), h[s + r], du * b[r]);
                    if (!SUMMARY) {
                        const float4 c4 = bc[i * (2 * STATES / 4) + STATES / 4 + s / 4 * LANES + lane];
                        const float c[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
                        for (int r = 0; r < 4; ++r)
                            // A state that is none must not make NaN of an infinite δu.
                            if (EXACT || state_of<LANES>(lane, s + r) < states)
                                part[i] = fmaf(h[s + r], c[r], part[i]);
                    }
                }
            }
            if (!SUMMARY) {
                // Each exchange halves the tokens that a thread holds sums of.
#pragma unroll
                for (int width = LANES / 2; width > 0; width /= 2) {
                    const bool upper = lane & width;
#pragma unroll
                    for (int i = 0; i < width; ++i) {
                        const float give = upper ? part[i] : part[i + width];
                        const float keep = upper ? part[i + width] : part[i];
                        part[i] = keep + __shfl_xor_sync(0xffffffffu, give, width, LANES);
                    }
                }
                if (valid) u_all[token * p.u_stride] = narrow<T>(fmaf(skip, u, part[0]) * silu(widen(now_z[g])));
            }
        }
        if (DOUBLE && more) {
            half ^= 1;
#pragma unroll
            for (int i = 0; i < SHARE; ++i) put_staged(half, i, ahead[i]);
            __syncthreads();
        }
    }

    if (SUMMARY) {
#pragma unroll
        for (int width = LANES / 2; width > 0; width /= 2)
            delta_sum += __shfl_xor_sync(0xffffffffu, delta_sum, width, LANES);
        if (exists && lane == 0) p.sums[(i64(blockIdx.z) * p.chunks + chunk) * p.channels + channel] = delta_sum;
    }
    const bool last = end == sequence.len;
#pragma unroll
    for (int s = 0; s < S; ++s) {
        const int n = state_of<LANES>(lane, s);
        if (!exists || n >= states) continue;
        if (SUMMARY) p.ends[summary + chunk * next_summary + n] = h[s];
        else if (p.state && last) kept[n] = h[s];
    }
    // The convolutions are done: their positions can move on.
    if (!SUMMARY && p.state && last && blockIdx.x == 0 && threadIdx.x == 0) {
        p.seen[sequence.lane] += sequence.len;
        for (int i = 0; i < p.histories; ++i) {
            u32 &position = p.positions[i * p.lanes + sequence.lane];
            position = u32((u64(position) + sequence.len) % p.ring_lens[i]);
        }
    }
}

// ---- Products of few rows, which read each weight once; and of any rows and sizes, where cuBLASLt has none.

struct ProductArgs {
    const void *x;      // (rows, inputs)
    const void *weight; // (outputs, inputs)
    const void *bias;   // (outputs), or null
    void *y;            // (rows, outputs)
    i64 x_stride;
    i64 y_stride;
    int rows;
    int inputs;
    int outputs;
    int split;  // warps that share the inputs of an output: 1 or all of the block
    int vector; // whether inputs and rows can be read 16 bytes at a time
};

const int PRODUCT_WARPS = 8;

template <typename T, int ROWS, int V>
__device__ __forceinline__ void few_rows_sum(const ProductArgs &a, int output, int first, int step, float (&acc)[2][ROWS]) {
    const T *x = static_cast<const T *>(a.x);
    const T *weight = static_cast<const T *>(a.weight) + i64(output) * a.inputs;
    const i64 second = output + 1 < a.outputs ? a.inputs : 0;
    for (int k = first * V; k < a.inputs; k += step * V) {
        float w[2][V];
        load<V>(weight + k, w[0]);
        load<V>(weight + second + k, w[1]);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            if (row >= a.rows) break;
            float value[V];
            load<V>(x + row * a.x_stride + k, value);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                acc[0][row] = fmaf(w[0][v], value[v], acc[0][row]);
                acc[1][row] = fmaf(w[1][v], value[v], acc[1][row]);
            }
        }
    }
}

// Up to ROWS rows; a warp, or all warps of a block, compute two outputs of every row.
template <typename T, int ROWS> __device__ __forceinline__ void few_rows(const ProductArgs &a) {
    __shared__ float parts[PRODUCT_WARPS][2 * ROWS];
    const int warp = threadIdx.y, lane = threadIdx.x;
    const bool shared = a.split > 1;
    const int output = (shared ? blockIdx.x : blockIdx.x * PRODUCT_WARPS + warp) * 2;
    float acc[2][ROWS] = {};
    if (output < a.outputs) {
        const int first = shared ? warp * 32 + lane : lane;
        const int step = shared ? PRODUCT_WARPS * 32 : 32;
        if (a.vector) few_rows_sum<T, ROWS, 16 / sizeof(T)>(a, output, first, step, acc);
        else few_rows_sum<T, ROWS, 1>(a, output, first, step, acc);
    }
#pragma unroll
    for (int i = 0; i < 2 * ROWS; ++i) {
        float &sum = acc[i / ROWS][i % ROWS];
#pragma unroll
        for (int width = 16; width > 0; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
        if (lane == 0) parts[warp][i] = sum;
    }
    if (shared) __syncthreads();
    else __syncwarp();
    if (lane >= 2 * ROWS || (shared && warp > 0)) return;
    const int which = lane / ROWS, row = lane % ROWS;
    if (output + which >= a.outputs || row >= a.rows) return;
    float sum = 0.0f;
    if (shared)
        for (int i = 0; i < PRODUCT_WARPS; ++i) sum += parts[i][lane];
    else sum = parts[warp][lane];
    if (a.bias) sum += widen(static_cast<const T *>(a.bias)[output + which]);
    static_cast<T *>(a.y)[row * a.y_stride + output + which] = narrow<T>(sum);
}

// Any product, 16 x 16 outputs a block. Grid: outputs, rows.
template <typename T> __device__ __forceinline__ void any_rows(const ProductArgs &a) {
    __shared__ float xs[16][17], ws[16][17];
    const int output = blockIdx.x * 16 + threadIdx.x;
    for (i64 top = i64(blockIdx.y) * 16; top < a.rows; top += i64(gridDim.y) * 16) {
        const i64 row = top + threadIdx.y;
        float sum = 0.0f;
        for (int k = 0; k < a.inputs; k += 16) {
            const int own = blockIdx.x * 16 + threadIdx.y;
            const bool inside = k + threadIdx.x < a.inputs;
            xs[threadIdx.y][threadIdx.x] =
                inside && row < a.rows ? widen(static_cast<const T *>(a.x)[row * a.x_stride + k + threadIdx.x]) : 0.0f;
            ws[threadIdx.y][threadIdx.x] = inside && own < a.outputs
                ? widen(static_cast<const T *>(a.weight)[i64(own) * a.inputs + k + threadIdx.x]) : 0.0f;
            __syncthreads();
#pragma unroll
            for (int i = 0; i < 16; ++i)
                if (k + i < a.inputs) sum = fmaf(xs[threadIdx.y][i], ws[threadIdx.x][i], sum);
            __syncthreads();
        }
        if (row < a.rows && output < a.outputs) {
            if (a.bias) sum += widen(static_cast<const T *>(a.bias)[output]);
            static_cast<T *>(a.y)[row * a.y_stride + output] = narrow<T>(sum);
        }
    }
}

// ---- Tensors of any type and strides to any other.

struct CopyArgs {
    const void *from;
    void *to;
    i64 from_strides[3];
    i64 to_strides[3];
    i64 sides[3];
    u32 from_type; // 1 f32, 2 f64, 3 bf16, 4 f16
    u32 to_type;
};

extern "C" __global__ void copy(CopyArgs a) {
    const i64 count = a.sides[0] * a.sides[1] * a.sides[2];
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += i64(gridDim.x) * blockDim.x) {
        const i64 x = i % a.sides[2], y = i / a.sides[2] % a.sides[1], z = i / a.sides[2] / a.sides[1];
        const i64 from = z * a.from_strides[0] + y * a.from_strides[1] + x * a.from_strides[2];
        const i64 to = z * a.to_strides[0] + y * a.to_strides[1] + x * a.to_strides[2];
        float value;
        switch (a.from_type) {
            case 1: value = static_cast<const float *>(a.from)[from]; break;
            case 2: value = float(static_cast<const double *>(a.from)[from]); break;
            case 3: value = widen(static_cast<const bf16 *>(a.from)[from]); break;
            default: value = widen(static_cast<const f16 *>(a.from)[from]);
        }
        switch (a.to_type) {
            case 1: static_cast<float *>(a.to)[to] = value; break;
            case 2: static_cast<double *>(a.to)[to] = value; break;
            case 3: static_cast<bf16 *>(a.to)[to] = narrow<bf16>(value); break;
            default: static_cast<f16 *>(a.to)[to] = narrow<f16>(value);
        }
    }
}

#define SCAN(T, NAME, S, LANES, EXACT)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) scan_##NAME(ScanArgs a) {                               \
        scan<T, S, LANES, EXACT, false>(a);                                                                        \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) summary_##NAME(ScanArgs a) {                            \
        scan<T, S, LANES, EXACT, true>(a);                                                                         \
    }
#define ALL(T, NAME)                                                                                               \
    extern "C" __global__ void conv_##NAME(ConvArgs a) { conv<T, 1, 8>(a); }                                       \
    extern "C" __global__ void __launch_bounds__(256) conv_vector_##NAME(ConvArgs a) { conv<T, 4, 8>(a); }         \
    extern "C" __global__ void conv_token_##NAME(ConvArgs a) { conv<T, 1, 1>(a); }                                 \
    extern "C" __global__ void history_##NAME(HistoryArgs a) { history<T>(a); }                                    \
    SCAN(T, 16_##NAME, 4, 4, true)                                                                                 \
    SCAN(T, upto16_##NAME, 4, 4, false)                                                                            \
    SCAN(T, upto64_##NAME, 4, 16, false)                                                                           \
    SCAN(T, upto256_##NAME, 16, 16, false)                                                                         \
    extern "C" __global__ void few_rows_1_##NAME(ProductArgs a) { few_rows<T, 1>(a); }                             \
    extern "C" __global__ void few_rows_4_##NAME(ProductArgs a) { few_rows<T, 4>(a); }                             \
    extern "C" __global__ void few_rows_8_##NAME(ProductArgs a) { few_rows<T, 8>(a); }                             \
    extern "C" __global__ void any_rows_##NAME(ProductArgs a) { any_rows<T>(a); }
ALL(float, f32)
ALL(bf16, bf16)
ALL(f16, f16)
