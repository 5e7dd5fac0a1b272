// The stages of the layer on a GPU, beside the matrix products that cuBLASLt computes. `build.py` makes
// the files of PTX from this one; it needs no header, so that NVRTC alone compiles it.
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

__device__ __forceinline__ void split(u32 (&to)[1], u32 from) { to[0] = from; }
__device__ __forceinline__ void split(u32 (&to)[2], uint2 from) { to[0] = from.x, to[1] = from.y; }
__device__ __forceinline__ void split(u32 (&to)[4], uint4 from) {
    to[0] = from.x, to[1] = from.y, to[2] = from.z, to[3] = from.w;
}
__device__ __forceinline__ void widen_pair(u32 pair, float &low, float &high, bf16) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ void widen_pair(u32 pair, float &low, float &high, f16) {
    low = widen(f16{u16(pair)});
    high = widen(f16{u16(pair >> 16)});
}
template <int V, typename T> __device__ __forceinline__ void unpack(typename Word<sizeof(T) * V>::type word, float (&to)[V]) {
    if constexpr (sizeof(T) * V == 2) {
        to[0] = widen(T{word});
    } else {
        u32 parts[sizeof(T) * V / 4];
        split(parts, word);
#pragma unroll
        for (int i = 0; i < int(sizeof(T)) * V / 4; ++i) {
            if constexpr (sizeof(T) == 4) to[i] = __uint_as_float(parts[i]);
            else widen_pair(parts[i], to[2 * i], to[2 * i + 1], T{});
        }
    }
}
template <int V, typename T> __device__ __forceinline__ void load(const T *from, float (&to)[V]) {
    const typename Word<sizeof(T) * V>::type word = *reinterpret_cast<const typename Word<sizeof(T) * V>::type *>(from);
    unpack<V, T>(word, to);
}
// The same past this multiprocessor's own cache, of what an earlier kernel has written that no begin_early() waited for.
template <int V, typename T> __device__ __forceinline__ void load_shared(const T *from, float (&to)[V]) {
    unpack<V, T>(__ldcg(reinterpret_cast<const typename Word<sizeof(T) * V>::type *>(from)), to);
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
// v / (1 + e^-v), whose exponential may be a little off where it is large, for the quotient is small there.
__device__ __forceinline__ float silu(float v) { return v * reciprocal(1.0f + exp2_approx(v * -1.44269502f)); }
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

// Where the device and its driver can, a kernel of a step is put on its way while the one before it ends, and waits
// for what that one has written in begin_early(). What a kernel reads before, it must find done. Products read weights
// only, so what comes before them may begin them at once: begin_next(). (Not those of cuBLASLt, of which it is unknown
// when they begin the next.) The scan also reads states, in_proj and the convolutions positions and rings, which are the
// last step's. So out_proj, or any other product, begins the next kernel when the scan before it is done.
__device__ __forceinline__ void begin_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void begin_early(bool has_begun_next) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (!has_begun_next) begin_next();
#endif
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
// EQUAL where there are no `starts`: the compiler then sees that all threads agree on lengths.
template <bool EQUAL = false> __device__ __forceinline__ Sequence sequence_of(const Sequences &all, int index) {
    Sequence one;
    const bool equal = EQUAL || !all.starts;
    one.row = equal ? i64(index) * all.seqlen : all.starts[index] - all.starts[0];
    one.len = equal ? all.seqlen : all.starts[index + 1] - all.starts[index];
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

// The same for TILE_TOKENS tokens of 128 channels a block, whose inputs are first brought together in shared memory, in
// f32, with the `span` rows before them and the weights: every tap then reads at a fixed distance from one address.
const int TILE_TOKENS = 64, TILE_WARPS = 16;

struct ConvTileArgs {
    ConvArgs conv;
    int span; // of the longest branch: (taps - 1) dilation
};

// APART: the branches are stored side by side, not added up.
template <typename T, bool APART> __device__ __forceinline__ void conv_tile(const ConvArgs &a, int span) {
    extern __shared__ float4 rows[]; // (span + TILE_TOKENS, 32), then weights (branches taps, 32) and biases (branches, 32)
    const int TOKENS = TILE_TOKENS / TILE_WARPS;
    const float LOG2_E = 1.44269504f, LN_2 = 0.693147182f;
    const int channel = (blockIdx.x * 32 + threadIdx.x) * 4;
    const bool exists = channel < a.channels;
    const Sequence sequence = sequence_of(a.sequences, blockIdx.z);
    const int first = blockIdx.y * TILE_TOKENS;
    if (first >= sequence.len) return;
    const T *x = static_cast<const T *>(a.x) + sequence.row * a.x_stride + min(channel, a.channels - 4);
    float4 *own_rows = rows + threadIdx.x;
    if (first >= span && first + TILE_TOKENS <= sequence.len) {
#pragma unroll 4
        for (int i = threadIdx.y; i < span + TILE_TOKENS; i += TILE_WARPS) {
            float value[4];
            load<4>(x + (first - span + i) * a.x_stride, value);
            own_rows[i * 32] = make_float4(value[0], value[1], value[2], value[3]);
        }
    } else {
        const float *ring = a.ring ? a.ring + i64(sequence.lane) * a.ring_len * a.channels + channel : nullptr;
        const int position = a.ring ? a.positions[sequence.lane] : 0;
#pragma unroll 1
        for (int i = threadIdx.y; i < span + TILE_TOKENS; i += TILE_WARPS) {
            const int token = first - span + i;
            float value[4] = {};
            if (token >= 0 && token < sequence.len) {
                load<4>(x + token * a.x_stride, value);
            } else if (exists && ring && token < 0) {
                int slot = position + token;
                if (slot < 0) slot += a.ring_len;
                load<4>(ring + i64(slot) * a.channels, value);
            }
            own_rows[i * 32] = make_float4(value[0], value[1], value[2], value[3]);
        }
    }
    // Weights and biases times -log2(e), as the exponential of silu takes what comes of them.
    float4 *weights = own_rows + (span + TILE_TOKENS) * 32, *biases = weights + a.branches * a.taps * 32;
    auto bring = [&](float4 *to, const float *from, int count) {
#pragma unroll 1
        for (int i = threadIdx.y; i < count; i += TILE_WARPS) {
            float value[4] = {};
            if (from) load<4>(from + i64(i) * a.channels + min(channel, a.channels - 4), value);
            to[i * 32] = make_float4(value[0] * -LOG2_E, value[1] * -LOG2_E, value[2] * -LOG2_E, value[3] * -LOG2_E);
        }
    };
    bring(weights, a.weight, a.branches * a.taps);
    bring(biases, a.bias, a.branches);
    __syncthreads();

    const int own = threadIdx.y * TOKENS;
    if (!exists || first + own >= sequence.len) return;
    T *out = static_cast<T *>(a.out) + (sequence.row + first + own) * a.out_stride + channel;
    const bool whole = first + own + TOKENS <= sequence.len;
    float sum[TOKENS][4] = {};
    for (int branch = 0; branch < a.branches; ++branch) {
        const float4 bias = biases[branch * 32];
        float acc[TOKENS][4];
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) acc[i][0] = bias.x, acc[i][1] = bias.y, acc[i][2] = bias.z, acc[i][3] = bias.w;
        const int dilation = a.dilations[branch];
        const float gate = a.gates[branch] * -LN_2;
        const float4 *from = own_rows + (span + own - (a.taps - 1) * dilation) * 32;
#pragma unroll 2
        for (int tap = 0; tap < a.taps; ++tap, from += dilation * 32, weights += 32) {
            const float4 w = *weights;
#pragma unroll
            for (int i = 0; i < TOKENS; ++i) {
                const float4 value = from[i * 32];
                acc[i][0] = fmaf(w.x, value.x, acc[i][0]);
                acc[i][1] = fmaf(w.y, value.y, acc[i][1]);
                acc[i][2] = fmaf(w.z, value.z, acc[i][2]);
                acc[i][3] = fmaf(w.w, value.w, acc[i][3]);
            }
        }
#pragma unroll
        for (int i = 0; i < TOKENS; ++i) {
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                const float scale = reciprocal(1.0f + exp2_approx(acc[i][v])), value = acc[i][v] * gate;
                if (APART) acc[i][v] = value * scale;
                else sum[i][v] = fmaf(value, scale, sum[i][v]);
            }
            if (APART && (whole || first + own + i < sequence.len))
                store<4>(out + i * a.out_stride + branch * a.branch_stride, acc[i]);
        }
    }
    if (APART) return;
#pragma unroll
    for (int i = 0; i < TOKENS; ++i)
        if (whole || first + own + i < sequence.len) store<4>(out + i * a.out_stride, sum[i]);
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

// ---- The matrix units: sum += a b, of 16 rows, 8 columns and 16 (f32: 8) inputs. Thread 4 i + j of a warp has rows i and
// i + 8 of a, column i of b, and columns 2 j and 2 j + 1 of rows i and i + 8 of the sum. What is called the k-th input may
// be any, if it is the same in a and b: here those that a thread reads in one piece of 16 bytes.

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, float) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// ---- The selective scan.

struct ScanArgs {
    void *u; // becomes y
    const void *delta;
    const void *z;
    const void *b;           // (rows, states)
    const void *c;           // (rows, states)
    const void *r;           // (rows, rank): where `delta` is not read, δ is computed of it and of
    const void *dt_weight;   // (channels, rank)
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
    int u_stride;
    int delta_stride;
    int z_stride;
    int bc_stride;
    int channels;
    int states;
    int chunk; // tokens of a chunk, a multiple of TILE
    int first; // of the first one, at most as many
    int chunks;
    int lanes;
    int histories;
    int rank;
};

// The convolutions of these tokens are done: positions can move on.
__device__ __forceinline__ void advance(const ScanArgs &p, const Sequence &sequence) {
    p.seen[sequence.lane] += sequence.len;
    for (int i = 0; i < p.histories; ++i) {
        u32 &position = p.positions[i * p.lanes + sequence.lane];
        position = u32((u64(position) + sequence.len) % p.ring_lens[i]);
    }
}

const int TILE = 16;
const int THREADS = 128;

// Where the states of a lane of threads are: four side by side, then those of the other lanes.
template <int LANES> __device__ __forceinline__ int state_of(int lane, int s) {
    return (s / 4 * LANES + lane) * 4 + s % 4;
}

// A value on its way, as it is stored, from `row` rows of `stride` bytes behind an address: one instruction finds it.
template <typename T> __device__ __forceinline__ u64 row_of(const T *first, int row, int stride) {
    return reinterpret_cast<u64>(first) + i64(row) * stride;
}
template <typename T> __device__ __forceinline__ u32 read_raw(const T *first, int row, int stride) {
    u32 raw;
    const u64 at = row_of(first, row, stride);
    if constexpr (sizeof(T) == 2) asm volatile("ld.global.u16 %0, [%1];" : "=r"(raw) : "l"(at));
    else asm volatile("ld.global.u32 %0, [%1];" : "=r"(raw) : "l"(at));
    return raw;
}
__device__ __forceinline__ u32 bits_of(float value) { return __float_as_uint(value); }
template <typename T> __device__ __forceinline__ u32 bits_of(T value) { return value.bits; }
template <typename T> __device__ __forceinline__ u32 raw_of(float value) { return bits_of(narrow<T>(value)); }
__device__ __forceinline__ u32 select(bool first, u32 a, u32 b) { return first ? a : b; }
template <typename T> __device__ __forceinline__ float widen_raw(u32 raw) {
    if constexpr (sizeof(T) == 4) return __uint_as_float(raw);
    else return widen(T{u16(raw)});
}
// A store of values side by side that is no branch.
template <typename T, int V> __device__ __forceinline__ void store_if(bool condition, u64 to, const float (&values)[V]) {
    const u32 wanted = condition;
    u32 bits[V];
#pragma unroll
    for (int v = 0; v < V; ++v) bits[v] = raw_of<T>(values[v]);
    if constexpr (sizeof(T) * V == 2)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.u16 [%1], %2; }" ::"r"(wanted), "l"(to), "r"(bits[0]) : "memory");
    else if constexpr (sizeof(T) * V == 4)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.u32 [%1], %2; }" ::"r"(wanted), "l"(to), "r"(V == 1 ? bits[0] : bits[0] | bits[V - 1] << 16) : "memory");
    else
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %0, 0; @p st.global.v2.u32 [%1], {%2, %3}; }" ::"r"(wanted), "l"(to), "r"(bits[0]), "r"(bits[V - 1]) : "memory");
}

// LANES threads share a channel, each with S of its states. They take LANES tokens at a time: each sees to what one token
// needs but once, all go through the recurrence of all tokens, and the sums over the states end, each token's, where the
// token began. Grid: channels, chunks, sequences.
//
// Where few channels would leave the chip idle, the tokens are cut into chunks: SUMMARY computes each chunk's last
// state from a zero one (from the true one in the first); then every chunk finds its first state from those before.
template <typename T, int S, int LANES, bool SUMMARY> __device__ __forceinline__ void scan(const ScanArgs &p) {
    const int STATES = S * LANES;
    const int GROUPS = TILE / LANES;
    const int STAGED = TILE * 2 * STATES;
    const bool DOUBLE = STAGED <= 16 * THREADS;
    __shared__ float4 staged[(DOUBLE ? 2 : 1) * STAGED / 4];

    const int states = p.states;
    const int lane = threadIdx.x % LANES;
    const int own = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    // Threads beyond the last channel do as its own do, but write nothing: branches would part the warp.
    const bool exists = own < p.channels;
    const int channel = min(own, p.channels - 1);
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
#pragma unroll
    for (int s = 0; s < S; ++s) {
        const int n = state_of<LANES>(lane, s), at = min(n, states - 1);
        a[s] = p.a[i64(channel) * states + at];
        h[s] = 0.0f;
        if (p.state && (SUMMARY ? chunk == 0 : p.chunks == 1)) h[s] = kept[at];
        if (!SUMMARY && p.chunks > 1) h[s] = p.ends[summary + (chunk ? 0 : p.chunks - 1) * next_summary + at];
        if (n >= states) a[s] = h[s] = 0.0f;
        if (SUMMARY && chunk == 0 && exists && n < states) p.ends[summary + (p.chunks - 1) * next_summary + at] = h[s];
    }
    if (!SUMMARY)
        for (int before = 1; before < chunk; ++before) {
            const float sum = p.sums[(i64(blockIdx.z) * p.chunks + before) * p.channels + channel];
#pragma unroll
            for (int s = 0; s < S; ++s) {
                const int n = state_of<LANES>(lane, s);
                const float last = p.ends[summary + before * next_summary + min(n, states - 1)];
                h[s] = fmaf(exp2_approx(sum * a[s]), h[s], n < states ? last : 0.0f);
            }
        }

    const float bias = p.delta_bias[channel], skip = SUMMARY ? 0.0f : p.skip[channel];
    const T *u_of = static_cast<const T *>(p.u) + sequence.row * p.u_stride + channel;
    const T *delta_of = static_cast<const T *>(p.delta) + sequence.row * p.delta_stride + channel;
    const T *z_of = static_cast<const T *>(p.z) + sequence.row * p.z_stride + channel;
    const int u_step = p.u_stride * int(sizeof(T)), delta_step = p.delta_stride * int(sizeof(T));
    const int z_step = p.z_stride * int(sizeof(T)), bc_step = p.bc_stride * int(sizeof(T));

    // Each thread's part of B and C of a tile, and its tokens of a tile, are read one tile ahead. Tokens that are not
    // there have a δ of 0, which leaves the state as it is.
    const int SHARE = STAGED / THREADS;
    const u32 none = raw_of<T>(0.0f), nothing = raw_of<T>(-60000.0f);
    u32 ahead[DOUBLE ? SHARE : 1];
    u32 next_u[GROUPS], next_delta[GROUPS], next_z[GROUPS];
    auto read_tokens = [&](int tile) {
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const int token = tile + g * LANES + lane;
            const int at = min(token, end - 1);
            next_u[g] = select(token < end, read_raw(u_of, at, u_step), none);
            next_delta[g] = select(token < end, read_raw(delta_of, at, delta_step), nothing);
            if (!SUMMARY) next_z[g] = read_raw(z_of, at, z_step);
        }
    };
    // A thread's values of B and C are those of one state and of every STEP-th token, or of several of one token.
    const int ROW = 2 * STATES;
    const int STEP = ROW < THREADS ? THREADS / ROW : 1;
    const int PER_TOKEN = ROW < THREADS ? 1 : ROW / THREADS;
    const T *bc_of[PER_TOKEN];
    bool bc_real[PER_TOKEN];
#pragma unroll
    for (int i = 0; i < PER_TOKEN; ++i) {
        const int at = i * THREADS + threadIdx.x % ROW;
        bc_real[i] = at % STATES < states;
        bc_of[i] = static_cast<const T *>(at < STATES ? p.b : p.c) + sequence.row * p.bc_stride + min(at % STATES, states - 1);
    }
    auto read_staged = [&](int tile, int i) {
        const int of = i % PER_TOKEN, token = tile + i / PER_TOKEN * STEP + int(threadIdx.x) / ROW;
        const u32 value = read_raw(bc_of[of], min(token, end - 1), bc_step);
        return select(token < end && bc_real[of], value, none);
    };
    auto put_staged = [&](int half, int i, u32 value) {
        reinterpret_cast<float *>(staged)[half * STAGED + i * THREADS + threadIdx.x] = widen_raw<T>(value);
    };

    read_tokens(begin);
    if (DOUBLE) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i) put_staged(0, i, read_staged(begin, i));
    }
    float delta_sum = 0.0f;
    int half = 0;
    for (int tile = begin; tile < end; tile += TILE) {
        u32 now_u[GROUPS], now_delta[GROUPS], now_z[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            now_u[g] = next_u[g];
            now_delta[g] = next_delta[g];
            if (!SUMMARY) now_z[g] = next_z[g];
        }
        // The barrier also keeps the compiler from reading only where the values are needed.
        read_tokens(tile + TILE);
        if (DOUBLE) {
#pragma unroll
            for (int i = 0; i < SHARE; ++i) ahead[i] = read_staged(tile + TILE, i);
        } else {
            __syncthreads();
#pragma unroll 4
            for (int i = 0; i < SHARE; ++i) put_staged(0, i, read_staged(tile, i));
        }
        __syncthreads();

        // What the tokens need by themselves comes first for all groups: long chains, which so overlap.
        float delta[GROUPS], delta_u[GROUPS], direct[GROUPS], gate[GROUPS];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const float u = widen_raw<T>(now_u[g]);
            delta[g] = softplus(widen_raw<T>(now_delta[g]) + bias);
            delta_u[g] = delta[g] * u;
            if (SUMMARY) delta_sum += delta[g];
            else direct[g] = skip * u, gate[g] = silu(widen_raw<T>(now_z[g]));
        }
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const float4 *bc = staged + half * (STAGED / 4) + g * LANES * (2 * STATES / 4);
            float part[LANES];
#pragma unroll
            for (int i = 0; i < LANES; ++i) {
                const float d = __shfl_sync(0xffffffffu, delta[g], i, LANES);
                const float du = __shfl_sync(0xffffffffu, delta_u[g], i, LANES);
                part[i] = 0.0f;
#pragma unroll
                for (int s = 0; s < S; s += 4) {
                    const float4 b4 = bc[i * (2 * STATES / 4) + s / 4 * LANES + lane];
                    const float4 c4 = SUMMARY ? b4 : bc[i * (2 * STATES / 4) + STATES / 4 + s / 4 * LANES + lane];
                    const float b[4] = {b4.x, b4.y, b4.z, b4.w}, out[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        float &state = h[s + r];
                        state = fmaf(exp2_approx(d * a[s + r]), state, du * b[r]);
                        // A state that is none must not make NaN of an infinite δu.
                        if (!SUMMARY && state_of<LANES>(lane, s + r) < states) part[i] = fmaf(state, out[r], part[i]);
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
                const float y[1] = {(direct[g] + part[0]) * gate[g]};
                const int token = tile + g * LANES + lane;
                store_if<T>(exists && token < end, row_of(u_of, token, u_step), y);
            }
        }
        if (DOUBLE) {
            half ^= 1;
#pragma unroll
            for (int i = 0; i < SHARE; ++i) put_staged(half, i, ahead[i]);
        }
    }

    const bool last = end == sequence.len;
    if (SUMMARY) {
#pragma unroll
        for (int width = LANES / 2; width > 0; width /= 2) delta_sum += __shfl_xor_sync(0xffffffffu, delta_sum, width, LANES);
        if (exists && lane == 0) p.sums[(i64(blockIdx.z) * p.chunks + chunk) * p.channels + channel] = delta_sum;
    }
#pragma unroll
    for (int s = 0; s < S; ++s) {
        const int n = state_of<LANES>(lane, s);
        if (!exists || n >= states) continue;
        if (SUMMARY) p.ends[summary + chunk * next_summary + n] = h[s];
        else if (p.state && last) kept[n] = h[s];
    }
    if (!SUMMARY && p.state && last && blockIdx.x == 0 && threadIdx.x == 0) advance(p, sequence);
}

// ---- The selective scan of sequences of one length whose channels have 16 states, at which most time is spent.

const int WARP_CHANNELS = 16, SCAN_THREADS = 64;

// softplus within 2^-16, which the types of 16 bits do not tell from it: ln(1 + e) by a polynomial.
template <typename T> __device__ __forceinline__ float softplus_for(float v) {
    if (sizeof(T) == 4) return softplus(v);
    const float e = exp2_approx(fabsf(v) * -1.44269502f);
    float series = fmaf(e, -0.0238690674f, 0.101222098f);
    series = fmaf(e, series, -0.210048526f);
    series = fmaf(e, series, 0.325206621f);
    series = fmaf(e, series, -0.499361357f);
    series = fmaf(e, series, 0.999991598f);
    return fmaf(e, series, fmaxf(v, 0.0f));
}

// Copies that a warp does not wait for. They hold none of the few counters by which a warp waits for registers, which
// loads would share with the exponentials: a wait for one of those would then be one for memory.
template <int BYTES> __device__ __forceinline__ void copy_ahead(void *to, u64 from) {
    const u32 shared = u32(__cvta_generic_to_shared(to));
    if constexpr (BYTES == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(from), "n"(BYTES) : "memory");
}
__device__ __forceinline__ void copies_are_there() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// What a warp's channels take of a tile of tokens.
template <typename T> struct __align__(16) TokenTile {
    T u[TILE][WARP_CHANNELS], delta[TILE][WARP_CHANNELS], z[TILE][WARP_CHANNELS];
    T bc[TILE][32]; // B, then C
};
template <typename T> struct WarpMemory {
    TokenTile<T> tiles[2];               // this one's and the next one's
    float4 deltas[8][TILE + 1];     // (pairs of channels, tokens): both δ, both δu; one more against conflicts of banks
    float4 bc[sizeof(T) == 4 ? 1 : TILE][8]; // of types of 16 bits: B and C, wide
};

// Four threads share two channels, each with four states of both. Where few channels would leave the chip idle, the tokens
// are cut into chunks: SUMMARY computes a chunk's last state from a zero one; then every chunk finds its first state from
// those before. The first chunk needs none and goes with the summaries. Grid: channels, chunks, sequences.
struct Chunk {
    Sequence sequence;
    int index, begin, end;
};
__device__ __forceinline__ Chunk chunk_of(const ScanArgs &p, int index) {
    Chunk chunk;
    chunk.sequence = sequence_of<true>(p.sequences, blockIdx.z);
    chunk.index = index;
    chunk.begin = index ? p.first + (index - 1) * p.chunk : 0;
    chunk.end = min(p.first + index * p.chunk, chunk.sequence.len);
    return chunk;
}

// Channels `channel` and the next, and the states of a thread's lane: four of each.
template <bool SUMMARY> struct States {
    float h[2][4], a[2][4], skip[2];
    i64 ends, next;
    float *kept;

    // Before the first token of the chunk.
    __device__ __forceinline__ States(const ScanArgs &p, const Chunk &chunk, int channel, int lane) {
        ends = (i64(blockIdx.z) * p.chunks * p.channels + channel) * 16 + 4 * lane;
        next = i64(p.channels) * 16;
        kept = p.state + (i64(chunk.sequence.lane) * p.channels + channel) * 16 + 4 * lane;
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            load<4>(p.a + i64(channel + c) * 16 + 4 * lane, a[c]);
            skip[c] = SUMMARY ? 0.0f : p.skip[channel + c];
#pragma unroll
            for (int s = 0; s < 4; ++s) h[c][s] = 0.0f;
            if (!SUMMARY && chunk.index == 0 && p.state) load<4>(kept + c * 16, h[c]);
            if (!SUMMARY && chunk.index > 0) load<4>(p.ends + ends + c * 16, h[c]);
        }
        if (SUMMARY) return;
#pragma unroll 4
        for (int before = 1; before < chunk.index; ++before) {
            float sums[2];
            load<2>(p.sums + (i64(blockIdx.z) * p.chunks + before) * p.channels + channel, sums);
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float last[4];
                load<4>(p.ends + ends + before * next + c * 16, last);
#pragma unroll
                for (int s = 0; s < 4; ++s) h[c][s] = fmaf(exp2_approx(sums[c] * a[c][s]), h[c][s], last[s]);
            }
        }
    }

    // Goes through four tokens: both δ and δu of each, B and C, what u gives directly, and the gate, of the thread's own
    // token each. The sums over the states end, each token's, where the token began: in that thread's y.
    __device__ __forceinline__ void go_through(const float4 *deltas, const float4 *bc, int lane, const float (&direct)[2], const float (&gate)[2], float (&y)[2]) {
        float part[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float4 of_token = deltas[i];
            const float d[2] = {of_token.x, of_token.y}, du[2] = {of_token.z, of_token.w};
            const float4 b4 = bc[i * 8 + lane], c4 = SUMMARY ? b4 : bc[i * 8 + 4 + lane];
            const float b[4] = {b4.x, b4.y, b4.z, b4.w}, out[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    h[c][s] = fmaf(exp2_approx(d[c] * a[c][s]), h[c][s], du[c] * b[s]);
                    if (!SUMMARY) part[c][i] = s ? fmaf(h[c][s], out[s], part[c][i]) : h[c][s] * out[s];
                }
        }
        if (SUMMARY) return;
        // Each exchange halves the tokens that a thread holds sums of.
#pragma unroll
        for (int width = 2; width > 0; width /= 2) {
            const bool upper = lane & width;
#pragma unroll
            for (int c = 0; c < 2; ++c)
#pragma unroll
                for (int i = 0; i < width; ++i) {
                    const float give = upper ? part[c][i] : part[c][i + width];
                    const float keep = upper ? part[c][i + width] : part[c][i];
                    part[c][i] = keep + __shfl_xor_sync(0xffffffffu, give, width, 4);
                }
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) y[c] = (direct[c] + part[c][0]) * gate[c];
    }

    // Behind the last token.
    __device__ __forceinline__ void keep(const ScanArgs &p, const Chunk &chunk, bool exists) {
        const bool is_last = chunk.end == chunk.sequence.len;
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            if (!exists) continue;
            if (SUMMARY || !is_last) {
                if (SUMMARY || chunk.index == 0) store<4>(p.ends + ends + chunk.index * next + c * 16, h[c]);
            } else if (p.state) {
                store<4>(kept + c * 16, h[c]);
            }
        }
        if (!SUMMARY && p.state && is_last && blockIdx.x == 0 && threadIdx.x == 0) advance(p, chunk.sequence);
    }
};

// Of δ over a chunk, of two channels.
__device__ __forceinline__ void store_sums(const ScanArgs &p, const Chunk &chunk, int channel, bool exists, int lane, float (&sums)[2]) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
        sums[c] += __shfl_xor_sync(0xffffffffu, sums[c], 1, 4);
        sums[c] += __shfl_xor_sync(0xffffffffu, sums[c], 2, 4);
        if (exists && lane == 0) p.sums[(i64(blockIdx.z) * p.chunks + chunk.index) * p.channels + channel + c] = sums[c];
    }
}

// A warp that waits for no other one: before the recurrence of a tile its threads see to what the tokens need by
// themselves, four tokens each. C lies behind B.
template <typename T, bool SUMMARY> __device__ __forceinline__ void scan_16(const ScanArgs &p, int index, WarpMemory<T> &memory) {
    const bool NARROW = sizeof(T) == 2;
    const int QUADS = TILE / 4, SEGMENT = 16 / sizeof(T), SEGMENTS = WARP_CHANNELS / SEGMENT;
    const int in_warp = threadIdx.x % 32, lane = threadIdx.x % 4, pair = in_warp / 4;
    const int first_channel = (blockIdx.x * (SCAN_THREADS / 32) + threadIdx.x / 32) * WARP_CHANNELS;
    // Threads beyond the last channel do as its own do, but write nothing: branches would part the warp.
    const int own = first_channel + 2 * pair;
    const bool exists = own < p.channels;
    const int channel = min(own, p.channels - 2);
    const Chunk chunk = chunk_of(p, index);
    const Sequence &sequence = chunk.sequence;
    const int begin = chunk.begin, end = chunk.end;

    const int segment = min(first_channel + in_warp % SEGMENTS * SEGMENT, p.channels - SEGMENT);
    const T *u_of = static_cast<const T *>(p.u) + sequence.row * p.u_stride + segment;
    const T *delta_of = static_cast<const T *>(p.delta) + sequence.row * p.delta_stride + segment;
    const T *z_of = static_cast<const T *>(p.z) + sequence.row * p.z_stride + segment;
    const T *bc_of = static_cast<const T *>(p.b) + sequence.row * p.bc_stride + in_warp % 8 * 4;
    T *y_of = static_cast<T *>(p.u) + sequence.row * p.u_stride + channel;
    const int u_step = p.u_stride * int(sizeof(T)), delta_step = p.delta_stride * int(sizeof(T));
    const int z_step = p.z_stride * int(sizeof(T)), bc_step = p.bc_stride * int(sizeof(T));
    auto read = [&](int tile, TokenTile<T> &to) {
#pragma unroll
        for (int i = 0; i < TILE; i += 32 / SEGMENTS) {
            const int token = i + in_warp / SEGMENTS, at = min(tile + token, end - 1), column = in_warp % SEGMENTS * SEGMENT;
            copy_ahead<16>(&to.u[token][column], row_of(u_of, at, u_step));
            copy_ahead<16>(&to.delta[token][column], row_of(delta_of, at, delta_step));
            if (!SUMMARY) copy_ahead<16>(&to.z[token][column], row_of(z_of, at, z_step));
        }
#pragma unroll
        for (int i = 0; i < TILE; i += 4) {
            const int token = i + in_warp / 8;
            copy_ahead<4 * sizeof(T)>(&to.bc[token][in_warp % 8 * 4], row_of(bc_of, min(tile + token, end - 1), bc_step));
        }
    };
    if (begin < end) read(begin, memory.tiles[0]);

    States<SUMMARY> states(p, chunk, channel, lane);
    const float bias[2] = {p.delta_bias[channel], p.delta_bias[channel + 1]};
    float delta_sum[2] = {};
    int half = 0;
    for (int tile = begin; tile < end; tile += TILE, half ^= 1) {
        TokenTile<T> &now = memory.tiles[half];
        copies_are_there();
        __syncwarp();
        if (tile + TILE < end) read(tile + TILE, memory.tiles[half ^ 1]);
        // Tokens that are not there have a δ of 0, which leaves the state as it is.
        if (tile + TILE > end) {
#pragma unroll
            for (int q = 0; q < QUADS; ++q)
                if (tile + 4 * q + lane >= end) now.delta[4 * q + lane][2 * pair] = now.delta[4 * q + lane][2 * pair + 1] = narrow<T>(-60000.0f);
        }
        float u[QUADS][2], delta[QUADS][2], z[QUADS][2], direct[QUADS][2], gate[QUADS][2];
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
            load<2>(&now.u[4 * q + lane][2 * pair], u[q]);
            load<2>(&now.delta[4 * q + lane][2 * pair], delta[q]);
            if (!SUMMARY) load<2>(&now.z[4 * q + lane][2 * pair], z[q]);
        }
        float wide[2][8];
        if constexpr (NARROW) {
#pragma unroll
            for (int i = 0; i < 2; ++i) load<8>(&now.bc[0][0] + (32 * i + in_warp) * 8, wide[i]);
        }
#pragma unroll
        for (int q = 0; q < QUADS; ++q)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                delta[q][c] = softplus_for<T>(delta[q][c] + bias[c]);
                if (SUMMARY) delta_sum[c] += delta[q][c];
                else direct[q][c] = states.skip[c] * u[q][c], gate[q][c] = silu(z[q][c]);
                u[q][c] *= delta[q][c];
            }
#pragma unroll
        for (int q = 0; q < QUADS; ++q) memory.deltas[pair][4 * q + lane] = make_float4(delta[q][0], delta[q][1], u[q][0], u[q][1]);
        if (NARROW) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&from)[8] = wide[i / 2];
                const int at = i % 2 * 4;
                (&memory.bc[0][0])[(32 * (i / 2) + in_warp) * 2 + i % 2] = make_float4(from[at], from[at + 1], from[at + 2], from[at + 3]);
            }
        }
        __syncwarp();

        const float4 *bc = NARROW ? &memory.bc[0][0] : reinterpret_cast<const float4 *>(now.bc);
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
            float y[2];
            states.go_through(&memory.deltas[pair][4 * q], bc + 4 * q * 8, lane, direct[q], gate[q], y);
            if (SUMMARY) continue;
            const int token = tile + 4 * q + lane;
            store_if<T>(exists && token < end, row_of(y_of, token, u_step), y);
        }
    }

    if (SUMMARY) store_sums(p, chunk, channel, exists, lane, delta_sum);
    states.keep(p, chunk, exists);
}

// ---- The same of the types of 16 bits with dt_proj: a trio of warps has r, B and C of the tokens instead of δ. One warp
// brings tiles, multiplies r and the weights by the matrix units and computes what the tokens need by themselves, a tile
// before the other two come to it with the states of 16 channels each: chains of a warp are long, and what is taken from
// them counts more than what waiting for each other costs. Takes ranks that are multiples of 8, MOST_RANK at most.

const int TRIO_CHANNELS = 32, TRIOS = 2, TRIO_THREADS = 96 * TRIOS, MOST_RANK = 128;

// Copies of 16 bytes, every 32nd of `count`, MOST at most, by one address and without a branch.
template <int MOST, int I = 0> __device__ __forceinline__ void copy_some_ahead(u32 to, u64 from, int count) {
    if constexpr (I < MOST) {
        asm volatile("{ .reg .pred p; setp.gt.s32 p, %2, %3; @p cp.async.cg.shared.global [%0 + %4], [%1 + %4], 16; }" ::"r"(to), "l"(from), "r"(count), "n"(I), "n"(16 * I) : "memory");
        copy_some_ahead<MOST, I + 32>(to, from, count);
    }
}
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all but the last `LEFT` groups of copies.
template <int LEFT> __device__ __forceinline__ void older_copies_are_there() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// Where the warps of a trio wait for each other: at two places in the code, which a bar.sync may not be to synccheck.
__device__ __forceinline__ void meet(int trio) { asm volatile("barrier.sync %0, 96;" ::"r"(trio) : "memory"); }

template <typename T> struct __align__(16) TrioMemory {
    struct { T u[2][TILE][WARP_CHANNELS], z[2][TILE][WARP_CHANNELS]; } given[3]; // the tiles of the three warps, as they go round
    float4 deltas[2][2][8][TILE + 1]; // (tiles, warps, pairs of channels, tokens) as in WarpMemory
    float4 bc[2][TILE][8];            // B and C, wide
};
// r, B and C of the tokens of two tiles of each trio, rows of `rank` + 32 values.
extern __shared__ uint4 projected_tiles[];

template <typename T, bool SUMMARY>
__device__ __forceinline__ void prepare(const ScanArgs &p, const Chunk &chunk, int trio, TrioMemory<T> &memory) {
    const int QUADS = TILE / 4, STEPS = MOST_RANK / 32, SEGMENT = 16 / sizeof(T), SEGMENTS = TRIO_CHANNELS / SEGMENT;
    const int in_warp = threadIdx.x % 32, lane = threadIdx.x % 4, pair = in_warp / 4;
    const int first_channel = (blockIdx.x * TRIOS + trio) * TRIO_CHANNELS;
    const Sequence &sequence = chunk.sequence;
    const int begin = chunk.begin, end = chunk.end;
    const int segment = min(first_channel + in_warp % SEGMENTS * SEGMENT, p.channels - SEGMENT);
    const T *u_of = static_cast<const T *>(p.u) + sequence.row * p.u_stride + segment;
    const T *z_of = static_cast<const T *>(p.z) + sequence.row * p.z_stride + segment;
    const int u_step = p.u_stride * int(sizeof(T)), z_step = p.z_stride * int(sizeof(T));
    // A row of r, B and C takes so many pieces of 16 bytes, the first of B being the one behind r.
    const int to_b = p.rank / 8, row_pieces = to_b + 4, pieces = TILE * row_pieces;
    const uint4 *rows_of = static_cast<const uint4 *>(p.r) + sequence.row * row_pieces;
    uint4 *rows = projected_tiles + trio * 2 * pieces;
    auto bring = [&](int tile, int slot, int half) {
        auto &to = memory.given[slot];
#pragma unroll
        for (int i = 0; i < TILE; i += 32 / SEGMENTS) {
            const int token = i + in_warp / SEGMENTS, at = min(tile + token, end - 1), column = in_warp % SEGMENTS * SEGMENT;
            copy_ahead<16>(&to.u[column / WARP_CHANNELS][token][column % WARP_CHANNELS], row_of(u_of, at, u_step));
            if (!SUMMARY) copy_ahead<16>(&to.z[column / WARP_CHANNELS][token][column % WARP_CHANNELS], row_of(z_of, at, z_step));
        }
        const int there = (end - tile) * row_pieces;
        const uint4 *from = rows_of + i64(tile) * row_pieces;
        uint4 *rows_to = rows + half * pieces;
        if (there >= pieces) {
            copy_some_ahead<TILE * (MOST_RANK / 8 + 4)>(u32(__cvta_generic_to_shared(rows_to + in_warp)), reinterpret_cast<u64>(from + in_warp), pieces - in_warp);
        } else {
            // The last row comes again for tokens that are not there.
#pragma unroll 1
            for (int i = in_warp; i < pieces; i += 32)
                copy_ahead<16>(rows_to + i, reinterpret_cast<u64>(from + (i < there ? i : there - row_pieces + i % row_pieces)));
        }
    };
    bring(begin, 0, 0);
    end_of_copies();

    float bias[2][2];
    uint4 weights[STEPS][2][2];
#pragma unroll
    for (int w = 0; w < 2; ++w)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int channel = min(first_channel + w * WARP_CHANNELS + 2 * pair, p.channels - 2) + c;
            bias[w][c] = p.delta_bias[channel];
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const bool real = 4 * step + lane < to_b;
                const uint4 *from = static_cast<const uint4 *>(p.dt_weight) + i64(channel) * to_b + (real ? 4 * step + lane : 0);
                weights[step][w][c] = real ? *from : make_uint4(0, 0, 0, 0);
            }
        }

    float delta_sum[2][2] = {};
    int slot = 0, half = 0;
    for (int tile = begin; tile < end; tile += TILE, half ^= 1) {
        const int next = slot == 2 ? 0 : slot + 1;
        if (tile + TILE < end) bring(tile + TILE, next, half ^ 1);
        end_of_copies();
        older_copies_are_there<1>();
        __syncwarp();

        // δ before its bias of two warps' channels 2 pair and 2 pair + 1 (rows pair and pair + 8) and tokens 8 i + lane and
        // 8 i + lane + 4 (columns 2 lane and 2 lane + 1).
        float raw[2][2][4] = {};
        const uint4 *row = rows + half * pieces + (pair / 2 + pair % 2 * 4) * row_pieces + lane;
        auto add_to_raw = [&](int step) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                // Beyond the rank both factors are zeros.
                uint4 r = make_uint4(0, 0, 0, 0);
                if (4 * step + lane < to_b) r = row[8 * i * row_pieces + 4 * step];
#pragma unroll
                for (int w = 0; w < 2; ++w) {
                    const uint4 &v0 = weights[step][w][0], &v1 = weights[step][w][1];
                    multiply(raw[w][i], v0.x, v1.x, v0.y, v1.y, r.x, r.y, T{});
                    multiply(raw[w][i], v0.z, v1.z, v0.w, v1.w, r.z, r.w, T{});
                }
            }
        };
        if (p.rank > 64) {
#pragma unroll
            for (int step = 2; step < STEPS; ++step) add_to_raw(step);
        }
        add_to_raw(0);
        add_to_raw(1);
        uint4 words[2]; // of B and C: piece `lane` of tokens pair and pair + 8
#pragma unroll
        for (int i = 0; i < 2; ++i) words[i] = rows[half * pieces + (8 * i + pair) * row_pieces + to_b + lane];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float v[8];
            unpack<8, T>(words[i], v);
            memory.bc[half][8 * i + pair][2 * lane] = make_float4(v[0], v[1], v[2], v[3]);
            memory.bc[half][8 * i + pair][2 * lane + 1] = make_float4(v[4], v[5], v[6], v[7]);
        }
#pragma unroll
        for (int w = 0; w < 2; ++w)
#pragma unroll
            for (int q = 0; q < QUADS; ++q) {
                // Tokens that are not there have a δ and a δu of 0, which leave the state as it is.
                const bool real = tile + 4 * q + lane < end;
                float u[2], delta[2];
                load<2>(&memory.given[slot].u[w][4 * q + lane][2 * pair], u);
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    delta[c] = softplus_for<T>(raw[w][q / 2][2 * c + q % 2] + bias[w][c]);
                    u[c] *= delta[c];
                    if (!real) delta[c] = u[c] = 0.0f;
                    if (SUMMARY) delta_sum[w][c] += delta[c];
                }
                memory.deltas[half][w][pair][4 * q + lane] = make_float4(delta[0], delta[1], u[0], u[1]);
            }
        // The others are done with the tile before.
        meet(trio);
        slot = next;
    }
    if (!SUMMARY) return;
#pragma unroll
    for (int w = 0; w < 2; ++w) {
        const int channel = first_channel + w * WARP_CHANNELS + 2 * pair;
        store_sums(p, chunk, channel, channel < p.channels, lane, delta_sum[w]);
    }
}

template <typename T, bool SUMMARY>
__device__ __forceinline__ void recur(const ScanArgs &p, const Chunk &chunk, int trio, int warp, TrioMemory<T> &memory) {
    const int QUADS = TILE / 4;
    const int in_warp = threadIdx.x % 32, lane = threadIdx.x % 4, pair = in_warp / 4;
    // Threads beyond the last channel do as its own do, but write nothing: branches would part the warp.
    const int own = (blockIdx.x * TRIOS + trio) * TRIO_CHANNELS + warp * WARP_CHANNELS + 2 * pair;
    const bool exists = own < p.channels;
    const int channel = min(own, p.channels - 2);
    const Sequence &sequence = chunk.sequence;
    States<SUMMARY> states(p, chunk, channel, lane);
    T *y_of = static_cast<T *>(p.u) + sequence.row * p.u_stride + channel;
    const int y_step = p.u_stride * int(sizeof(T));
    int slot = 0, half = 0;
    for (int tile = chunk.begin; tile < chunk.end; tile += TILE, half ^= 1) {
        meet(trio);
        float direct[QUADS][2], gate[QUADS][2];
        if (!SUMMARY) {
#pragma unroll
            for (int q = 0; q < QUADS; ++q) {
                load<2>(&memory.given[slot].u[warp][4 * q + lane][2 * pair], direct[q]);
                load<2>(&memory.given[slot].z[warp][4 * q + lane][2 * pair], gate[q]);
            }
#pragma unroll
            for (int q = 0; q < QUADS; ++q)
#pragma unroll
                for (int c = 0; c < 2; ++c) direct[q][c] *= states.skip[c], gate[q][c] = silu(gate[q][c]);
        }
#pragma unroll
        for (int q = 0; q < QUADS; ++q) {
            float y[2];
            states.go_through(&memory.deltas[half][warp][pair][4 * q], memory.bc[half][4 * q], lane, direct[q], gate[q], y);
            if (SUMMARY) continue;
            const int token = tile + 4 * q + lane;
            store_if<T>(exists && token < chunk.end, row_of(y_of, token, y_step), y);
        }
        slot = slot == 2 ? 0 : slot + 1;
    }

    states.keep(p, chunk, exists);
}

template <typename T, bool SUMMARY> __device__ __forceinline__ void scan_dt_16(const ScanArgs &p, int index, TrioMemory<T> *memory) {
    const int warp = threadIdx.x / 32;
    const Chunk chunk = chunk_of(p, index);
    if (warp < 2 * TRIOS) recur<T, SUMMARY>(p, chunk, warp / 2, warp % 2, memory[warp / 2]);
    else prepare<T, SUMMARY>(p, chunk, warp - 2 * TRIOS, memory[warp - 2 * TRIOS]);
}

// ---- Products of few rows, which read each weight once; and of any rows and sizes, where cuBLASLt has none. Weights
// are on their way before begin_early().

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
    int split;  // warps that share the inputs of an output; of `tile`, the binary logarithm of the blocks that do
    int vector; // whether inputs and rows can be read 16 bytes at a time
    int hurry;  // whether the next kernel begins before this one waits: where that is x_proj or the scan of the same step
};

const int PRODUCT_WARPS = 8;

// A warp, or all warps of a block, compute two outputs of a row; `put` takes each of them in a thread of its own.
// Grid: outputs, rows.
template <typename T, typename Begin, typename Put> __device__ __forceinline__ void one_row(const ProductArgs &a, Begin begin, Put put) {
    const int V = 16 / sizeof(T), AHEAD = sizeof(T) == 4 ? 8 : 4; // vectors of an output that are on their way at once
    __shared__ float parts[PRODUCT_WARPS][2];
    const int warp = threadIdx.y, lane = threadIdx.x;
    const bool shared = a.split > 1;
    const int output = (shared ? blockIdx.x : blockIdx.x * PRODUCT_WARPS + warp) * 2;
    const int inputs = output < a.outputs ? a.inputs : 0;
    const int first = shared ? warp * 32 + lane : lane, step = shared ? PRODUCT_WARPS * 32 : 32;
    const T *x = static_cast<const T *>(a.x) + blockIdx.y * a.x_stride;
    const T *weight = static_cast<const T *>(a.weight) + i64(output) * a.inputs;
    const i64 second = output + 1 < a.outputs ? a.inputs : 0;
    if (a.hurry) begin_next();
    uint4 words[AHEAD][2];
    auto read = [&](int k) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i, k += step * V) {
            if (k >= inputs) break;
            words[i][0] = *reinterpret_cast<const uint4 *>(weight + k);
            words[i][1] = *reinterpret_cast<const uint4 *>(weight + second + k);
        }
    };
    if (a.vector) read(first * V);
    begin();
    float acc[2] = {};
    if (a.vector) {
#pragma unroll 1
        for (int k = first * V; k < inputs;) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i, k += step * V) {
                if (k >= inputs) break;
                float w[2][V], value[V];
                unpack<V, T>(words[i][0], w[0]);
                unpack<V, T>(words[i][1], w[1]);
                load<V>(x + k, value);
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    acc[0] = fmaf(w[0][v], value[v], acc[0]);
                    acc[1] = fmaf(w[1][v], value[v], acc[1]);
                }
            }
            if (k < inputs) read(k);
        }
    } else {
#pragma unroll 1
        for (int k = first; k < inputs; k += step) {
            const float value = widen(x[k]);
            acc[0] = fmaf(widen(weight[k]), value, acc[0]);
            acc[1] = fmaf(widen(weight[second + k]), value, acc[1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int width = 16; width > 0; width /= 2) acc[i] += __shfl_xor_sync(0xffffffffu, acc[i], width);
        if (lane == 0) parts[warp][i] = acc[i];
    }
    if (shared) __syncthreads();
    else __syncwarp();
    if (lane >= 2 || (shared && warp > 0) || output + lane >= a.outputs) return;
    float sum = 0.0f;
    if (shared) {
#pragma unroll
        for (int i = 0; i < PRODUCT_WARPS; ++i) sum += parts[i][lane];
    } else {
        sum = parts[warp][lane];
    }
    if (a.bias) sum += widen(static_cast<const T *>(a.bias)[output + lane]);
    put(output + lane, narrow<T>(sum));
}

template <typename T> __device__ __forceinline__ void one_row(const ProductArgs &a) {
    T *y = static_cast<T *>(a.y) + blockIdx.y * a.y_stride;
    one_row<T>(a, [&] { begin_early(a.hurry); }, [&](int output, T value) { y[output] = value; });
}

template <typename T> __device__ __forceinline__ uint4 operand(const unsigned char *from) {
    uint4 words = *reinterpret_cast<const uint4 *>(from);
    if constexpr (sizeof(T) == 4) {
        asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(words.x));
        asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(words.y));
        asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(words.z));
        asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(words.w));
    }
    return words;
}

// Some bytes on their way to shared memory, or zeros.
template <int BYTES> __device__ __forceinline__ void copy_async(u32 to, const void *from, bool exists) {
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(exists ? 4 : 0) : "memory");
}
// Blocks of a cluster, which only devices have whose kernels begin early.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// What other blocks send into a block's shared memory is counted by a barrier there: it waits for so many bytes. A whole
// warp calls this, of which one thread does it: racecheck takes that thread's two instructions for a race otherwise.
__device__ __forceinline__ void expect(u64 *barrier, u32 bytes) {
#if __CUDA_ARCH__ >= 900
    const u32 address = __cvta_generic_to_shared(barrier);
    const bool first = threadIdx.x % 32 == 0;
    if (first) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address) : "memory");
    __syncwarp();
    if (first) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
#endif
}
__device__ __forceinline__ void send(int block, float4 *to, u64 *barrier, float4 value) {
#if __CUDA_ARCH__ >= 900
    u32 address = __cvta_generic_to_shared(to), counted = __cvta_generic_to_shared(barrier);
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(counted) : "r"(block));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%2, %3, %4, %5}, [%1];"
                 ::"r"(address), "r"(counted), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w) : "memory");
#endif
}
__device__ __forceinline__ void wait_for_sent(u64 *barrier) {
#if __CUDA_ARCH__ >= 900
    const u32 address = __cvta_generic_to_shared(barrier);
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(address) : "memory");
    } while (!done);
#endif
}

// Up to ROWS rows of 32 outputs a block: 16 from `first` on, where they are below `limit`, and those `gap` behind them.
// Inputs go through shared memory in chunks; the blocks of a cluster, 2^split, share the chunks, and then the rows of
// the result. Inputs and rows are multiples of 16 bytes. Grid: outputs by blocks of a cluster, rows.
//
// A step is as fast as its instructions are few: those of a kernel that runs once come from far. Hence loops that are
// not unrolled. And it is as fast as what is left to do once the kernel before it is done.
const int TILE_THREADS = 256, TILE_OUTPUTS = 32;
const int CHUNK = 256; // bytes of the inputs of a row that are a chunk
// Rows of a chunk lie in pairs, each 16 bytes further on in the banks of shared memory than the one before: measured, a
// step is up to an eighth longer with 0 or 32. Threads of the matrix units read 64 bytes of two rows at once, so the
// halves of each 128 bytes of an odd row change places.
const int PAIR = 2 * CHUNK + 16;
__device__ __forceinline__ int place_of(int row) { return row / 2 * PAIR + row % 2 * CHUNK; }

template <int ROWS> struct Tile {
#if __CUDA_ARCH__ >= 900
    static const int STAGES = ROWS == 8 ? 5 : 6; // at most; a block with fewer chunks has no more memory than they take
#else
    static const int STAGES = ROWS == 8 ? 5 : 3;
#endif
    static const int STAGE = (TILE_OUTPUTS + ROWS) / 2 * PAIR;
    // Of the memory, parts of the cluster's blocks come first, (blocks, own rows, outputs), then what the caller of `tile`
    // keeps there, then the chunks.
    static const int GATHERED = 4 * TILE_OUTPUTS * ROWS;

    int first, limit, gap, kept; // `kept`: bytes of the caller
    int rank, top, rows;         // of the cluster; the rows that this block ends with

    __device__ __forceinline__ Tile(const ProductArgs &a, int width, int limit, int gap, int kept) : limit(limit), gap(gap), kept(kept) {
        first = (blockIdx.x >> a.split) * width;
        rank = blockIdx.x & ((1 << a.split) - 1);
        rows = ROWS >> a.split;
        top = blockIdx.y * ROWS + rank * rows;
    }
    // Whether there is an i-th value, of 16 outputs of each row.
    __device__ __forceinline__ bool is_real(const ProductArgs &a, int i) const {
        return i < 16 * rows && top + i / 16 < a.rows && first + i % 16 < limit;
    }
};

// UNITS: whether the matrix units multiply, which take f32 as TF32. `ahead` is called before begin_early(), `put` with
// each value: half of the outputs, which of it, row, output, value.
template <typename T, bool UNITS, int ROWS, typename Ahead, typename Put>
__device__ __forceinline__ void tile(const ProductArgs &a, const Tile<ROWS> &t, Ahead ahead, Put put) {
    extern __shared__ float4 memory[];
    __shared__ u64 sent;
    const int STAGES = Tile<ROWS>::STAGES, STAGE = Tile<ROWS>::STAGE, LINES = (ROWS + 15) / 16;
    float *gathered = reinterpret_cast<float *>(memory);
    unsigned char *stages = reinterpret_cast<unsigned char *>(memory) + Tile<ROWS>::GATHERED + t.kept;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int bytes = a.inputs * int(sizeof(T)), chunks = (bytes + CHUNK - 1) / CHUNK;
    if (a.hurry) begin_next();
    const int begin = chunks * t.rank >> a.split, count = (chunks * (t.rank + 1) >> a.split) - begin;
    if (a.split) {
        if (thread < 32) expect(&sent, 4 * TILE_OUTPUTS * ROWS);
        cluster_arrive();
    }

    // A thread copies the same 16 bytes of a chunk for some of the rows. Tiles begin with chunks of their own, so that not
    // all read the same of x at once.
    const int line = thread / 16, own = thread % 16 * 16, end = begin + count;
    int weight_chunk = begin + (blockIdx.x >> a.split) % max(count, 1), x_chunk = weight_chunk;
    const unsigned char *weight[2], *x[LINES];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int output = min(min(t.first + line, t.limit - 1) + i * t.gap, a.outputs - 1);
        weight[i] = static_cast<const unsigned char *>(a.weight) + i64(output) * bytes;
    }
#pragma unroll
    for (int i = 0; i < LINES; ++i) {
        const i64 row = min(int(blockIdx.y) * ROWS + line + 16 * i, a.rows - 1);
        x[i] = static_cast<const unsigned char *>(a.x) + row * a.x_stride * int(sizeof(T));
    }
    const u32 place = u32(__cvta_generic_to_shared(stages)) + place_of(line) + (own ^ (UNITS ? line % 2 * 64 : 0));
    auto copy_weight = [&](u32 stage) {
        const int at = weight_chunk * CHUNK + own;
        const bool exists = at < bytes;
#pragma unroll
        for (int i = 0; i < 2; ++i) copy_async<16>(place + stage + place_of(16 * i), weight[i] + (exists ? at : 0), exists);
        weight_chunk = weight_chunk + 1 == end ? begin : weight_chunk + 1;
    };
    auto copy_x = [&](u32 stage) {
        const int at = x_chunk * CHUNK + own;
        const bool exists = at < bytes;
#pragma unroll
        for (int i = 0; i < LINES; ++i)
            if (ROWS >= 16 || line < ROWS)
                copy_async<16>(place + stage + place_of(TILE_OUTPUTS + 16 * i), x[i] + (exists ? at : 0), exists);
        x_chunk = x_chunk + 1 == end ? begin : x_chunk + 1;
    };
    ahead();
#pragma unroll 1
    for (int stage = 0; stage < min(STAGES - 1, count); ++stage) copy_weight(stage * STAGE);
    if (a.split) cluster_wait();
    begin_early(a.hurry);
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < count) copy_x(stage * STAGE);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    // With matrix units a warp has 16 outputs and a quarter of each chunk's inputs; else 8 outputs and half of them, of
    // which 8 threads have 16 bytes each for a quarter of the rows.
    const int SHARES = UNITS ? 4 : 2, OWN = ROWS / 4;
    float sum[UNITS ? ROWS / 8 : 8][UNITS ? 4 : OWN] = {};
    const unsigned char *from = stages + (UNITS ? place_of(lane / 4) + (warp / 2 ^ lane / 4 % 2) * 64 + lane % 4 * 16
                                                : warp % 2 * 128 + lane % 8 * 16);
    u32 stage = 0, next = (STAGES - 1) * STAGE;
#pragma unroll 1
    for (int chunk = 0; chunk < count; ++chunk) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (chunk + STAGES - 1 < count) copy_weight(next), copy_x(next);
        asm volatile("cp.async.commit_group;" ::: "memory");
        if constexpr (UNITS) {
            const uint4 upper = operand<T>(from + stage + warp % 2 * place_of(16));
            const uint4 lower = operand<T>(from + stage + warp % 2 * place_of(16) + place_of(8));
#pragma unroll
            for (int i = 0; i < ROWS / 8; ++i) {
                const uint4 in = operand<T>(from + stage + place_of(TILE_OUTPUTS + 8 * i));
                multiply(sum[i], upper.x, lower.x, upper.y, lower.y, in.x, in.y, T{});
                multiply(sum[i], upper.z, lower.z, upper.w, lower.w, in.z, in.w, T{});
            }
        } else {
            float4 w[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) w[j] = *reinterpret_cast<const float4 *>(from + stage + warp / 2 * place_of(8) + place_of(j));
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float4 in = *reinterpret_cast<const float4 *>(from + stage + lane / 8 * place_of(OWN) + place_of(TILE_OUTPUTS + i));
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    sum[j][i] = fmaf(w[j].x, in.x, sum[j][i]);
                    sum[j][i] = fmaf(w[j].y, in.y, sum[j][i]);
                    sum[j][i] = fmaf(w[j].z, in.z, sum[j][i]);
                    sum[j][i] = fmaf(w[j].w, in.w, sum[j][i]);
                }
            }
        }
        next = stage;
        stage = stage == (STAGES - 1) * STAGE ? 0 : stage + STAGE;
    }

    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    static_assert(4 * SHARES * TILE_OUTPUTS * (ROWS + 1) <= STAGE, "parts lie where a chunk was");
    float(*parts)[TILE_OUTPUTS][ROWS + 1] = reinterpret_cast<float(*)[TILE_OUTPUTS][ROWS + 1]>(stages);
    if constexpr (UNITS) {
#pragma unroll
        for (int i = 0; i < ROWS / 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                parts[warp / 2][warp % 2 * 16 + lane / 4 + j / 2 * 8][8 * i + lane % 4 * 2 + j % 2] = sum[i][j];
    } else {
        // Each of the 8 threads ends up with one output.
#pragma unroll
        for (int width = 4; width > 0; width /= 2)
#pragma unroll
            for (int j = 0; j < width; ++j)
#pragma unroll
                for (int i = 0; i < OWN; ++i) {
                    const bool upper = lane & width;
                    const float other = __shfl_xor_sync(0xffffffffu, upper ? sum[j][i] : sum[j + width][i], width);
                    sum[j][i] = (upper ? sum[j + width][i] : sum[j][i]) + other;
                }
#pragma unroll
        for (int i = 0; i < OWN; ++i) parts[warp % 2][warp / 2 * 8 + lane % 8][lane / 8 * OWN + i] = sum[0][i];
    }
    __syncthreads();
    auto total = [&](int output, int row) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < SHARES; ++i) total += parts[i][output][row];
        return total;
    };
    if (a.split) {
        const int row = thread / (TILE_OUTPUTS / 4), output = thread % (TILE_OUTPUTS / 4) * 4;
        if (row < ROWS) {
            const int own = t.rank * t.rows + (row & (t.rows - 1));
            send((row << a.split) / ROWS, reinterpret_cast<float4 *>(gathered + own * TILE_OUTPUTS + output), &sent,
                 make_float4(total(output, row), total(output + 1, row), total(output + 2, row), total(output + 3, row)));
        }
        wait_for_sent(&sent);
    }
#pragma unroll 1
    for (int i = thread; i < 2 * 16 * t.rows; i += TILE_THREADS) {
        const int half = i >= 16 * t.rows, which = i - half * 16 * t.rows;
        const int row = which / 16, slot = half * 16 + which % 16, output = t.first + which % 16 + half * t.gap;
        if (!t.is_real(a, which) || output >= a.outputs) continue;
        float value = a.bias ? widen(static_cast<const T *>(a.bias)[output]) : 0.0f;
        if (a.split) {
            float parts[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) parts[i] = i >> a.split ? 0.0f : gathered[(row + i * t.rows) * TILE_OUTPUTS + slot];
#pragma unroll
            for (int i = 0; i < 8; ++i) value += parts[i];
        } else {
            value += total(slot, row);
        }
        put(half, which, t.top + row, output, narrow<T>(value));
    }
}

template <typename T, bool UNITS, int ROWS> __device__ __forceinline__ void tile(const ProductArgs &a) {
    const Tile<ROWS> t(a, TILE_OUTPUTS, a.outputs, 16, 0);
    T *y = static_cast<T *>(a.y);
    tile<T, UNITS, ROWS>(a, t, [] {}, [&](int, int, i64 row, int output, T value) { y[row * a.y_stride + output] = value; });
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

// ---- A token of each sequence: in_proj with the convolutions, and dt_proj with the scan, in one kernel each. Before
// begin_early() they read what the kernel before them does not write.

const int STEP_BRANCHES = 8, STEP_TAPS = 4; // at most

struct StepArgs {
    ProductArgs product; // in_proj, whose outputs are x and z
    ConvArgs conv;
    int dilations[STEP_BRANCHES]; // again, where they need no waiting for
};

// A branch of a channel's convolution: what it multiplies, and what of it is known before the token itself.
struct Taps {
    float weight[STEP_TAPS], bias, gate; // of the token itself, and those before it

    // Loads without a branch: of a tap that is not there, another one's.
    __device__ __forceinline__ void read_weights(const ConvArgs &a, int branch, int channel) {
        const int stride = 4 * a.channels;
        gate = a.gates[branch];
        bias = 0.0f;
        if (a.bias) bias = *reinterpret_cast<const float *>(row_of(a.bias + channel, branch, stride));
#pragma unroll
        for (int back = 0; back < STEP_TAPS; ++back) {
            const int row = branch * a.taps + max(a.taps - 1 - back, 0);
            const float value = *reinterpret_cast<const float *>(row_of(a.weight + channel, row, stride));
            weight[back] = back < a.taps ? value : 0.0f;
        }
    }
    __device__ __forceinline__ float past(const StepArgs &s, int branch, const float *ring, int position) const {
        const ConvArgs &a = s.conv;
        const int stride = 4 * a.channels;
        float sum = bias;
#pragma unroll
        for (int back = 1; back < STEP_TAPS; ++back) {
            int slot = position - (back < a.taps ? back : 0) * s.dilations[branch];
            if (slot < 0) slot += a.ring_len;
            const float input = __ldcg(reinterpret_cast<const float *>(row_of(ring, slot, stride)));
            sum = fmaf(weight[back], back < a.taps ? input : 0.0f, sum);
        }
        return sum;
    }
};

__device__ __forceinline__ float *ring_of(const ConvArgs &a, int stream, int channel) {
    return a.ring + i64(stream) * a.ring_len * a.channels + channel;
}

// in_proj as in one_row, then the convolution of x: each thread sees to a branch of one of the warp's outputs.
template <typename T> __device__ __forceinline__ void step_row(const StepArgs &s) {
    const ConvArgs &a = s.conv;
    const int lane = threadIdx.x, row = blockIdx.y;
    const int channel = (s.product.split > 1 ? blockIdx.x : blockIdx.x * PRODUCT_WARPS + threadIdx.y) * 2 + lane % 2;
    const bool convolves = channel < a.channels;
    const int stream = sequence_of<true>(a.sequences, row).lane, branch = lane / 2;
    const int position = __ldcg(a.positions + stream);
    float *ring = ring_of(a, stream, channel);
    Taps taps;
    float past = 0.0f;
    __shared__ float outputs[PRODUCT_WARPS][2];
    one_row<T>(s.product, [&] {
        if (convolves && branch < a.branches) {
            taps.read_weights(a, branch, channel);
            past = taps.past(s, branch, ring, position);
        }
        begin_early(s.product.hurry);
    }, [&](int output, T value) {
        static_cast<T *>(s.product.y)[row * s.product.y_stride + output] = value;
        outputs[threadIdx.y][threadIdx.x] = widen(value);
    });
    if (s.product.split > 1 && threadIdx.y > 0) return;
    __syncwarp();
    const float x = outputs[threadIdx.y][lane % 2];
    T *out = static_cast<T *>(a.out) + row * a.out_stride + channel;
    float sum = 0.0f;
    if (convolves && branch < a.branches) {
        sum = taps.gate * silu(fmaf(taps.weight[0], x, past));
        if (a.branch_stride) out[branch * a.branch_stride] = narrow<T>(sum);
    }
#pragma unroll
    for (int width = 16; width >= 2; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
    if (lane >= 2 || !convolves) return;
    if (!a.branch_stride) *out = narrow<T>(sum);
    ring[i64(position) * a.channels] = x;
}

// The same as in tile. A block has 16 channels of x, and of z. What is known of the convolutions before the token itself
// waits in shared memory: the places of its inputs in the rings, (ROWS, 16), then (branches; ROWS + 2, 16): sums of each
// row, weights and gates.
template <typename T, bool UNITS, int ROWS> __device__ __forceinline__ void step_tile(const StepArgs &s) {
    extern __shared__ float4 memory[];
    const ConvArgs &a = s.conv;
    const ProductArgs &p = s.product;
    const int ENDS = ROWS * 16 > TILE_THREADS ? ROWS * 16 / TILE_THREADS : 1; // inputs of a thread
    const int AT_ONCE = 4, ALL = 16 * (ROWS + 2);
    const Tile<ROWS> t(p, 16, a.channels, a.channels, 128 * ROWS + 4 * ALL * a.branches);
    const int thread = threadIdx.x, inputs = 16 * t.rows, channel = min(t.first + thread % 16, a.channels - 1);
    i64 *places = reinterpret_cast<i64 *>(memory) + Tile<ROWS>::GATHERED / 8;
    float *known = reinterpret_cast<float *>(places + 16 * ROWS), *weights = known + 16 * ROWS, *gates = weights + 16;
    tile<T, UNITS, ROWS>(p, t, [&] {
        const int first = thread & (inputs - 1);
        const float *ring[ENDS];
        int position[ENDS];
#pragma unroll
        for (int i = 0; i < ENDS; ++i) {
            const int own = first + i * TILE_THREADS, row = t.is_real(p, own) ? t.top + own / 16 : 0;
            const int stream = sequence_of<true>(a.sequences, row).lane;
            ring[i] = ring_of(a, stream, channel);
            position[i] = __ldcg(a.positions + stream);
            if (own < inputs) places[own] = (i64(stream) * a.ring_len + position[i]) * a.channels + channel;
        }
#pragma unroll 2
        for (int branch = thread / inputs; branch < a.branches; branch += max(TILE_THREADS / inputs, 1)) {
            Taps taps;
            taps.read_weights(a, branch, channel);
            float past[ENDS];
#pragma unroll
            for (int i = 0; i < ENDS; ++i) past[i] = taps.past(s, branch, ring[i], position[i]);
#pragma unroll
            for (int i = 0; i < ENDS; ++i)
                if (first + i * TILE_THREADS < inputs) known[branch * ALL + first + i * TILE_THREADS] = past[i];
            if (first < 16) weights[branch * ALL + first] = taps.weight[0], gates[branch * ALL + first] = taps.gate;
        }
    }, [&](int half, int own, i64 row, int output, T value) {
        if (half == 1) {
            static_cast<T *>(p.y)[row * p.y_stride + output] = value;
            return;
        }
        const float x = widen(value);
        T *out = static_cast<T *>(a.out) + row * a.out_stride + channel;
        float sum = 0.0f;
#pragma unroll 1
        for (int top = 0; top < a.branches; top += AT_ONCE) {
            float active[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const int at = min(top + i, a.branches - 1) * ALL;
                active[i] = gates[at + thread % 16] * silu(fmaf(weights[at + thread % 16], x, known[at + own]));
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                if (top + i >= a.branches) break;
                sum += active[i];
                if (a.branch_stride) out[(top + i) * a.branch_stride] = narrow<T>(active[i]);
            }
        }
        if (!a.branch_stride) *out = narrow<T>(sum);
        a.ring[places[own]] = x;
    });
}

// The convolutions alone, where another kernel computes in_proj. Grid: channels, sequences.
template <typename T> __device__ __forceinline__ void step_conv(const StepArgs &s) {
    const ConvArgs &a = s.conv;
    const int AT_ONCE = 4;
    const int channel = blockIdx.x * THREADS + threadIdx.x;
    const i64 row = blockIdx.y;
    begin_early(false);
    if (channel >= a.channels) return;
    const int stream = sequence_of<true>(a.sequences, row).lane;
    const int position = a.positions[stream];
    float *ring = ring_of(a, stream, channel);
    const float x = widen(static_cast<const T *>(a.x)[row * a.x_stride + channel]);
    T *out = static_cast<T *>(a.out) + row * a.out_stride + channel;
    float sum = 0.0f;
    for (int top = 0; top < a.branches; top += AT_ONCE) {
        Taps taps[AT_ONCE];
        float past[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int branch = min(top + i, a.branches - 1);
            taps[i].read_weights(a, branch, channel);
            past[i] = taps[i].past(s, branch, ring, position);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (top + i >= a.branches) break;
            const float active = taps[i].gate * silu(fmaf(taps[i].weight[0], x, past[i]));
            sum += active;
            if (a.branch_stride) out[(top + i) * a.branch_stride] = narrow<T>(active);
        }
    }
    if (!a.branch_stride) *out = narrow<T>(sum);
    ring[i64(position) * a.channels] = x;
}

struct StepScanArgs {
    ScanArgs scan; // of one token
    int rows;
    int hurry; // whether out_proj may begin at once: where it is one of the kernels here
};

// Four values from `n` on of `count`, and zeros behind them.
template <typename T> __device__ __forceinline__ void load_some(const T *from, int n, int count, bool fours, float (&to)[4]) {
    to[0] = to[1] = to[2] = to[3] = 0.0f;
    if (fours) {
        if (n < count) load<4>(from + n, to);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (n + i < count) to[i] = widen(from[n + i]);
    }
}

// Of four values of each of four threads, the sum of the lane-th one's.
__device__ __forceinline__ float sum_of_own(const float (&values)[4], int lane) {
    const bool odd = lane & 1, upper = lane & 2;
    float low = odd ? values[1] : values[0], high = odd ? values[3] : values[2];
    low += __shfl_xor_sync(0xffffffffu, odd ? values[0] : values[1], 1);
    high += __shfl_xor_sync(0xffffffffu, odd ? values[2] : values[3], 1);
    return (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 2);
}
__device__ __forceinline__ float sum_of_own(const float (&values)[1], int) {
    const float sum = values[0] + __shfl_xor_sync(0xffffffffu, values[0], 1);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

// Four threads share a channel, of ROWS sequences, of which each sees to one where there are four. Weights and states
// are read before x_proj is done; what it has computed goes through shared memory: (ROWS; r, B, C, each with zeros up to
// a multiple of 16). Grid: channels and one more, sequences.
template <typename T, int ROWS> __device__ __forceinline__ void step_scan(const StepScanArgs &s) {
    extern __shared__ float4 memory[];
    const ScanArgs &p = s.scan;
    const int lane = threadIdx.x % 4;
    const int own = blockIdx.x * (THREADS / 4) + threadIdx.x / 4;
    const bool exists = own < p.channels;
    const int channel = min(own, p.channels - 1);
    const int count = min(ROWS, s.rows - int(blockIdx.y) * ROWS);
    if (s.hurry) begin_next(); // else out_proj, cuBLASLt's, begins when this is done
    // Once in_proj and the convolutions are done, positions can move on, which is the last block's task.
    if (blockIdx.x + 1 == gridDim.x) {
        begin_early(true);
        for (int i = threadIdx.x; i < count * (p.histories + 1); i += THREADS) {
            const int history = i / count;
            const int lane = sequence_of<true>(p.sequences, blockIdx.y * ROWS + i - history * count).lane;
            if (history == p.histories) {
                ++p.seen[lane];
            } else {
                u32 &position = p.positions[history * p.lanes + lane];
                const u32 next = __ldcg(&position) + 1;
                position = next < p.ring_lens[history] ? next : 0;
            }
        }
        return;
    }
    const int to_b = (p.rank + 15) / 16 * 16, states = (p.states + 15) / 16 * 16, pitch = to_b + 2 * states;
    const float *a = p.a + i64(channel) * p.states;
    const T *weight = static_cast<const T *>(p.dt_weight) + i64(channel) * p.rank;

    // A thread's first states, and the first of its share of the weights. Rows that are not there do as the last one
    // does, but write nothing.
    const bool fours = p.states % 4 == 0, ranks = p.rank % 4 == 0;
    const int VECTORS = 4;
    float *state[ROWS];
    float w[VECTORS][4], power[4], h[ROWS][4], u[1], z[1];
    auto read_states = [&](int row, int n) {
        h[row][0] = h[row][1] = h[row][2] = h[row][3] = 0.0f;
        if (fours) {
            if (n < p.states) load_shared<4>(state[row] + n, h[row]);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (n + i < p.states) h[row][i] = __ldcg(state[row] + n + i);
        }
    };
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const int index = blockIdx.y * ROWS + min(row, count - 1);
        state[row] = p.state + (i64(sequence_of<true>(p.sequences, index).lane) * p.channels + channel) * p.states;
        read_states(row, 4 * lane);
    }
    const int seen_to = ROWS == 1 ? 0 : min(lane, count - 1);
    const i64 own_row = i64(blockIdx.y) * ROWS + seen_to;
    load_some(a, 4 * lane, p.states, fours, power);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) load_some(weight, 4 * lane + 16 * i, p.rank, ranks, w[i]);
    const float bias = p.delta_bias[channel], skip = p.skip[channel];
    begin_early(true);

    load<1>(static_cast<const T *>(p.u) + own_row * p.u_stride + channel, u);
    load<1>(static_cast<const T *>(p.z) + own_row * p.z_stride + channel, z);
    float *staged = reinterpret_cast<float *>(memory);
    const T *projected = static_cast<const T *>(p.r) + i64(blockIdx.y) * ROWS * p.bc_stride;
#pragma unroll 1
    for (int i = threadIdx.x; i < pitch; i += THREADS) {
        const int of_b = i - to_b, of_c = of_b - states;
        const int at = of_b < 0 ? i : of_c < 0 ? of_b : of_c;
        const T *from = projected + (of_b < 0 ? at : of_c < 0 ? p.rank + at : p.rank + p.states + at);
        const bool real = at < (of_b < 0 ? p.rank : p.states);
        float value[ROWS] = {};
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
            if (real) value[row] = widen(from[min(row, count - 1) * p.bc_stride]);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) staged[row * pitch + i] = value[row];
    }
    __syncthreads();

    float delta[ROWS] = {}, sum[ROWS] = {};
    auto add = [&](const float (&w)[4], int k) {
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const float4 r = *reinterpret_cast<const float4 *>(staged + row * pitch + k);
            delta[row] = fmaf(w[0], r.x, delta[row]);
            delta[row] = fmaf(w[1], r.y, delta[row]);
            delta[row] = fmaf(w[2], r.z, delta[row]);
            delta[row] = fmaf(w[3], r.w, delta[row]);
        }
    };
#pragma unroll
    for (int i = 0; i < VECTORS; ++i)
        if (16 * i < p.rank) add(w[i], 4 * lane + 16 * i);
#pragma unroll 1
    for (int k = 4 * lane + 16 * VECTORS; k < to_b; k += 16) {
        float more[4];
        load_some(weight, k, p.rank, ranks, more);
        add(more, k);
    }
    float delta_u[ROWS];
    delta[0] = softplus(sum_of_own(delta, lane) + bias);
    delta_u[0] = delta[0] * u[0];
    if constexpr (ROWS == 4) {
        const float own_delta = delta[0], own_delta_u = delta_u[0];
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            delta[row] = __shfl_sync(0xffffffffu, own_delta, row, 4);
            delta_u[row] = __shfl_sync(0xffffffffu, own_delta_u, row, 4);
        }
    }
#pragma unroll 1
    for (int n = 4 * lane; n < p.states; n += 16) {
        if (n >= 16) load_some(a, n, p.states, fours, power);
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            if (n >= 16) read_states(row, n);
            const float4 in = *reinterpret_cast<const float4 *>(staged + row * pitch + to_b + n);
            const float4 out = *reinterpret_cast<const float4 *>(staged + row * pitch + to_b + states + n);
            const float b[4] = {in.x, in.y, in.z, in.w}, c[4] = {out.x, out.y, out.z, out.w};
            float(&v)[4] = h[row];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                v[i] = fmaf(exp2_approx(delta[row] * power[i]), v[i], delta_u[row] * b[i]);
                // A state that is none must not make NaN of an infinite δu.
                if (fours || n + i < p.states) sum[row] = fmaf(v[i], c[i], sum[row]);
            }
            if (!exists || row >= count) continue;
            if (fours) {
                store<4>(state[row] + n, v);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (n + i < p.states) state[row][n + i] = v[i];
            }
        }
    }
    const float y = fmaf(skip, u[0], sum_of_own(sum, lane)) * silu(z[0]);
    if (exists && lane < (ROWS == 1 ? 1 : count)) static_cast<T *>(p.u)[own_row * p.u_stride + channel] = narrow<T>(y);
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

#define SCAN(T, NAME, S, LANES)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) scan_##NAME(ScanArgs a) { scan<T, S, LANES, false>(a); } \
    extern "C" __global__ void __launch_bounds__(THREADS) summary_##NAME(ScanArgs a) { scan<T, S, LANES, true>(a); }
#define SCAN_16(T, NAME)                                                                                           \
    extern "C" __global__ void __launch_bounds__(SCAN_THREADS, 4) scan_16_##NAME(ScanArgs a) {                    \
        __shared__ WarpMemory<T> memory[SCAN_THREADS / 32];                                                        \
        scan_16<T, false>(a, blockIdx.y + (a.chunks > 1), memory[threadIdx.x / 32]);                               \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(SCAN_THREADS, 4) summary_16_##NAME(ScanArgs a) {                 \
        __shared__ WarpMemory<T> memory[SCAN_THREADS / 32];                                                        \
        if (blockIdx.y == 0) scan_16<T, false>(a, 0, memory[threadIdx.x / 32]);                                    \
        else scan_16<T, true>(a, blockIdx.y, memory[threadIdx.x / 32]);                                            \
    }
#define TILES(T, UNITS, NAME)                                                                                      \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2) tile_8_##NAME(ProductArgs a) { tile<T, UNITS, 8>(a); }   \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2) tile_32_##NAME(ProductArgs a) { tile<T, UNITS, 32>(a); } \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2) step_tile_8_##NAME(StepArgs a) { step_tile<T, UNITS, 8>(a); } \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2) step_tile_32_##NAME(StepArgs a) { step_tile<T, UNITS, 32>(a); }
// Six blocks of step_scans are 80 registers a thread, which leaves some for a block of out_proj of the matrix units beside
// the four that a multiprocessor has of it.
#define STEPS(T, NAME)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) one_row_##NAME(ProductArgs a) { one_row<T>(a); }             \
    extern "C" __global__ void __launch_bounds__(256) step_row_##NAME(StepArgs a) { step_row<T>(a); }              \
    extern "C" __global__ void __launch_bounds__(THREADS) step_conv_##NAME(StepArgs a) { step_conv<T>(a); }        \
    extern "C" __global__ void __launch_bounds__(THREADS) step_scan_##NAME(StepScanArgs a) { step_scan<T, 1>(a); } \
    extern "C" __global__ void __launch_bounds__(THREADS, 6) step_scans_##NAME(StepScanArgs a) { step_scan<T, 4>(a); } \
    TILES(T, sizeof(T) == 2, NAME)
#define STEPS_AND_TF32(T, NAME)                                                                                    \
    STEPS(T, NAME)                                                                                                \
    TILES(T, true, tf32)
#define OTHERS(T, NAME)                                                                                            \
    extern "C" __global__ void conv_##NAME(ConvArgs a) { conv<T, 1, 8>(a); }                                       \
    extern "C" __global__ void __launch_bounds__(512, 2) conv_tile_##NAME(ConvTileArgs a) {                       \
        if (a.conv.branch_stride) conv_tile<T, true>(a.conv, a.span);                                              \
        else conv_tile<T, false>(a.conv, a.span);                                                                  \
    }                                                                                                              \
    extern "C" __global__ void conv_token_##NAME(ConvArgs a) { conv<T, 1, 1>(a); }                                 \
    extern "C" __global__ void history_##NAME(HistoryArgs a) { history<T>(a); }                                    \
    SCAN_16(T, NAME)                                                                                              \
    SCAN(T, upto16_##NAME, 4, 4)                                                                                   \
    SCAN(T, upto64_##NAME, 4, 16)                                                                                  \
    SCAN(T, upto256_##NAME, 16, 16)                                                                                \
    extern "C" __global__ void any_rows_##NAME(ProductArgs a) { any_rows<T>(a); }
#define OTHERS_AND_DT(T, NAME)                                                                                     \
    OTHERS(T, NAME)                                                                                               \
    extern "C" __global__ void __launch_bounds__(TRIO_THREADS, 2) scan_dt_16_##NAME(ScanArgs a) {                 \
        __shared__ TrioMemory<T> memory[TRIOS];                                                                    \
        scan_dt_16<T, false>(a, blockIdx.y + (a.chunks > 1), memory);                                              \
    }                                                                                                              \
    extern "C" __global__ void __launch_bounds__(TRIO_THREADS, 2) summary_dt_16_##NAME(ScanArgs a) {              \
        __shared__ TrioMemory<T> memory[TRIOS];                                                                    \
        if (blockIdx.y == 0) scan_dt_16<T, false>(a, 0, memory);                                                   \
        else scan_dt_16<T, true>(a, blockIdx.y, memory);                                                           \
    }

// A file has the kernels of one storage type: those of a step, or the others.
#define EXPANDED(T, NAME) KERNELS(T, NAME)
EXPANDED(STORAGE, NAME)
