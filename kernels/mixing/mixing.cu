// The mixture of two residual branches by Shake-Shake, and what follows it in a block.
// Source: Gastaldi 2017, Shake-Shake regularization; crates/gramscope-nn/src/ops/mixing.rs is the model, in float32 to
// the last bit.
//   shares    alpha and beta of block k for image i = order[place.first + b] of the data set: words 0 and 1 of Philox
//             (common/philox.cuh) at (seed, epoch, i 2^32 + k), their upper 24 bits as multiples of 2^-24
//   forward   mixture = alpha a + (1 - alpha) b, sum = mixture + addend, y = relu(sum); NaN stays NaN
//   backward  g = dy where y > 0, else 0; da = beta g, db = (1 - beta) g, daddend = g
// Each product and sum is rounded to float32, what is stored once more to its type; none is made of what was stored.
//
// Stored (float32 or bfloat16): y, mixture, sum, a, b, addend, dmixed, dother, daddend [images, length], row-major. mixture
// and sum are null where nobody looks at them; `dmixed` is dy and becomes da; `dother` is db.
// float32: shares [images], of one block, forward or backward; null: one half. gs_mixing_shares writes those of all:
//          [blocks, 2, batch], of each block alpha first.
// order [entries], place: common/order.cuh. An image beyond the end of `order` has shares of NaN.
// images * length and blocks * 2 * batch < 2^31, a block more included.
// Grid, block: plan::runs, a thread RUN values: in one piece where pointers and images are aligned to RUN_BYTES, else
// one by one, with the same result; shares: plan::values, a thread a block and image. Deterministic: yes. Accumulates:
// nothing.
//
// Variants  none: one simple loop a thread is its own naive twin. forward moves 4 tensors, 6 where mixture and sum are
//           seen; backward moves 5. The shares are drawn once a step: as float32 they are one cached load a run, where
//           Philox would be some hundred instructions.
#include "common/order.cuh"
#include "common/philox.cuh"
#include "common/run.cuh"

struct SharesShape {
    uint64_t seed;
    int32_t entries;
    int32_t batch;
    int32_t blocks;
    int32_t padding;
};

struct MixingShape {
    int32_t images;
    int32_t length;
};

// Uniform in [0, 1), exactly a multiple of 2^-24.
__device__ __forceinline__ float share_of_word(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// The first branch's share for the image that the value at `index` belongs to.
__device__ __forceinline__ float share_at(const float* shares, int64_t index, const MixingShape& shape) {
    return shares == nullptr ? 0.5f : shares[static_cast<uint32_t>(index) / static_cast<uint32_t>(shape.length)];
}

// each(index, run length as a constant, share) for this thread's values, of which a run is of one image.
template <class T, class Each>
__device__ __forceinline__ void for_run_and_share(const float* shares, bool aligned, const MixingShape& shape,
                                                  const Each& each) {
    int64_t values = static_cast<int64_t>(shape.images) * shape.length;
    for_run_of_thread<T>(values, aligned && shape.length % RUN<T> == 0,
                         [&](int64_t first, auto length) { each(first, length, share_at(shares, first, shape)); });
}

template <class T>
__device__ __forceinline__ void mix(T* y, T* mixture, T* sum, const T* a, const T* b, const T* addend,
                                    const float* shares, const MixingShape& shape) {
    bool aligned =
        holds_runs(y) && holds_runs(mixture) && holds_runs(sum) && holds_runs(a) && holds_runs(b) && holds_runs(addend);
    for_run_and_share<T>(shares, aligned, shape, [&](int64_t first, auto length, float share) {
        constexpr int N = decltype(length)::value;
        Run<T, N> own = load_run<N>(a + first), other = load_run<N>(b + first), added = load_run<N>(addend + first);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            float mixed = __fmul_rn(share, own.get(n)) + __fmul_rn(1.0f - share, other.get(n));
            float total = mixed + added.get(n);
            own.set(n, mixed);
            other.set(n, total);
            added.set(n, total < 0.0f ? 0.0f : total);
        }
        if (mixture != nullptr) store_run(mixture + first, own);
        if (sum != nullptr) store_run(sum + first, other);
        store_run(y + first, added);
    });
}

template <class T>
__device__ __forceinline__ void mix_backward(T* dmixed, T* dother, T* daddend, const T* y, const float* shares,
                                             const MixingShape& shape) {
    bool aligned = holds_runs(dmixed) && holds_runs(dother) && holds_runs(daddend) && holds_runs(y);
    for_run_and_share<T>(shares, aligned, shape, [&](int64_t first, auto length, float share) {
        constexpr int N = decltype(length)::value;
        Run<T, N> a = load_run<N>(dmixed + first), b = a, c = a, result = load_run<N>(y + first);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            float g = result.get(n) > 0.0f ? a.get(n) : 0.0f;
            c.set(n, g);
            b.set(n, __fmul_rn(1.0f - share, g));
            a.set(n, __fmul_rn(share, g));
        }
        store_run(daddend + first, c);
        store_run(dother + first, b);
        store_run(dmixed + first, a);
    });
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_mixing_shares(float* shares, const uint32_t* order, const BatchPlace* place, SharesShape shape) {
    int thread = blockIdx.x * ENTRY_THREADS + thread_of_block();
    if (thread >= shape.blocks * shape.batch) return;
    int block = thread / shape.batch, image = thread % shape.batch;
    uint32_t index = image_of_batch(image, order, shape.entries, place);
    uint64_t minor = static_cast<uint64_t>(index) << 32 | static_cast<uint32_t>(block);
    RandomWords random = random_words(shape.seed, STREAM_SHAKE, place->epoch, minor);
    for (int way = 0; way < 2; ++way) {
        float share = index == NO_IMAGE ? __uint_as_float(0x7FFFFFFFu) : share_of_word(random.words[way]);
        shares[(2 * block + way) * shape.batch + image] = share;
    }
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_mixing_forward_f32(float* y, float* mixture, float* sum, const float* a, const float* b, const float* addend,
                          const float* shares, MixingShape shape) {
    mix(y, mixture, sum, a, b, addend, shares, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_mixing_forward_bf16(BF16* y, BF16* mixture, BF16* sum, const BF16* a, const BF16* b, const BF16* addend,
                           const float* shares, MixingShape shape) {
    mix(y, mixture, sum, a, b, addend, shares, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_mixing_backward_f32(float* dmixed, float* dother, float* daddend, const float* y, const float* shares,
                           MixingShape shape) {
    mix_backward(dmixed, dother, daddend, y, shares, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_mixing_backward_bf16(BF16* dmixed, BF16* dother, BF16* daddend, const BF16* y, const float* shares,
                            MixingShape shape) {
    mix_backward(dmixed, dother, daddend, y, shares, shape);
}
