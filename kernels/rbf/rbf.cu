// The RBF kernel: K_ij = exp(-d_ij^2 / (2 t^2 M)), M the median of all n^2 squared distances d_ij^2, the zero diagonal
// included (the mean of the middle two where their number is even); for t > 1, where most K_ij are nearly 1, K_ij - 1 instead: centring
// takes the 1 away again, and beside it the rest would be lost.
// Source: Kornblith et al. (ICML 2019), section 3 and their code; crates/gramscope-cka/src/cpu/rbf.rs is the model.
//
// In   distances [n, n]    float64, squared, row-major: gs_gram_distances_*, reduced by gs_ucenter_reduce_f64
// Out  selection           Selection: the middle values
//      histogram           [RADIX_BINS] uint32
//      k [n, n]            the kernel, or that less 1; 0 where it is undefined
//      undefined           int32: 1 where M is 0, because half of all pairs coincide
// Launches, in order: start; select with pass = 0 .. RADIX_PASSES - 1; above; apply. Grid, block, shared bytes:
// plan::rbf_*, plan::entries. n^2 < 2^31.
// Deterministic: yes; atomics are integer counts and minima. Accumulates: float64.
//
// Variants  select       the lower middle value by its bits, eight at a time: those of float64 >= 0 are ordered as the
//                        values
//           above        the upper middle value, where it is another one
//           naive        both middle values, each entry counting those below it: the reference on the device
#include "common/atomic.cuh"
#include "common/numbers.cuh"
#include "common/reduce.cuh"

using Bits = unsigned long long;

struct RbfShape {
    double bandwidth;
    int32_t examples;
    int32_t pass;
};

// The two middle values as bits: `lower` digit by digit. Until then `lower` holds the digits found so far, and the
// value is at place `rank` of those that begin with them.
struct Selection {
    Bits lower;
    Bits upper;
    Bits rank;
};

constexpr int DIGIT_BITS = 8;
constexpr Bits NO_BITS = ~0ull;

__device__ __forceinline__ Bits bits_of(double value) { return static_cast<Bits>(__double_as_longlong(value)); }
__device__ __forceinline__ double value_of(Bits bits) { return __longlong_as_double(static_cast<long long>(bits)); }

__device__ __forceinline__ int64_t entry_of_thread() {
    return static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
}

__device__ __forceinline__ int64_t count_of(const RbfShape& shape) {
    return static_cast<int64_t>(shape.examples) * shape.examples;
}

// Places of the middle values in the sorted list: the same where the count is odd.
__device__ __forceinline__ Bits lower_rank(int64_t count) { return static_cast<Bits>((count - 1) / 2); }
__device__ __forceinline__ Bits upper_rank(int64_t count) { return static_cast<Bits>(count / 2); }

extern "C" __global__ void __launch_bounds__(RADIX_BINS)
    gs_rbf_start(Selection* selection, unsigned* histogram, RbfShape shape) {
    histogram[thread_of_block()] = 0;
    if (thread_of_block() == 0) *selection = {0, NO_BITS, lower_rank(count_of(shape))};
}

// The digit in which place `rank` lies, and how many values have smaller ones.
struct Digit {
    int digit;
    Bits before;
};

__device__ __forceinline__ Digit digit_of_rank(const unsigned* histogram, Bits rank) {
    Digit found{0, 0};
    while (found.before + histogram[found.digit] <= rank) found.before += histogram[found.digit++];
    return found;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_rbf_select(Selection* selection, unsigned* histogram, unsigned* arrivals, const double* distances,
                  RbfShape shape) {
    auto* counts = reinterpret_cast<unsigned*>(shared_memory());
    for (int bin = thread_of_block(); bin < RADIX_BINS; bin += ENTRY_THREADS) counts[bin] = 0;
    __syncthreads();
    int low = 64 - DIGIT_BITS * (shape.pass + 1);
    Bits prefix = selection->lower;
    int64_t step = static_cast<int64_t>(gridDim.x) * ENTRY_THREADS;
    for (int64_t entry = entry_of_thread(); entry < count_of(shape); entry += step) {
        Bits bits = bits_of(distances[entry]) >> low;
        if (bits >> DIGIT_BITS == prefix) atomic_add(&counts[bits % RADIX_BINS], 1);
    }
    __syncthreads();
    for (int bin = thread_of_block(); bin < RADIX_BINS; bin += ENTRY_THREADS) {
        if (counts[bin] != 0) atomic_add(&histogram[bin], counts[bin]);
    }
    if (!is_last_block(arrivals, gridDim.x, reinterpret_cast<int*>(counts + RADIX_BINS))) return;
    if (thread_of_block() == 0) {
        Digit found = digit_of_rank(histogram, selection->rank);
        selection->lower = prefix << DIGIT_BITS | static_cast<Bits>(found.digit);
        selection->rank -= found.before;
        // Of the values that equal the lower middle one, more may follow; or the upper one is the same value anyway.
        bool last_of_equals = selection->rank + 1 == histogram[found.digit];
        if (upper_rank(count_of(shape)) == lower_rank(count_of(shape)) || !last_of_equals)
            selection->upper = selection->lower;
        if (low != 0) selection->upper = NO_BITS;
    }
    __syncthreads();
    for (int bin = thread_of_block(); bin < RADIX_BINS; bin += ENTRY_THREADS) histogram[bin] = 0;
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_rbf_above(Selection* selection, const double* distances, RbfShape shape) {
    // Other threads may have lowered it already, but never to `lower`: this says what gs_rbf_select has found.
    if (selection->upper == selection->lower) return;
    Bits least = NO_BITS;
    int64_t step = static_cast<int64_t>(gridDim.x) * ENTRY_THREADS;
    for (int64_t entry = entry_of_thread(); entry < count_of(shape); entry += step) {
        Bits bits = bits_of(distances[entry]);
        if (bits > selection->lower && bits < least) least = bits;
    }
    if (least != NO_BITS) atomic_min(&selection->upper, least);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_rbf_apply(double* k, int* undefined, const double* distances, const Selection* selection, RbfShape shape) {
    int64_t entry = entry_of_thread();
    double median = 0.5 * (value_of(selection->lower) + value_of(selection->upper));
    if (entry == 0) *undefined = median == 0.0;
    if (entry >= count_of(shape)) return;
    if (median == 0.0) {
        k[entry] = 0.0;
        return;
    }
    // One after the other: the square of a bandwidth can leave the range.
    double exponent = -0.5 * (distances[entry] / median) / shape.bandwidth / shape.bandwidth;
    k[entry] = shape.bandwidth > 1.0 ? expm1(exponent) : exp(exponent);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_rbf_naive(Selection* selection, const double* distances, RbfShape shape) {
    int64_t count = count_of(shape), entry = entry_of_thread();
    if (entry >= count) return;
    double own = distances[entry];
    Bits less = 0, equal = 0;
    for (int64_t other = 0; other < count; ++other) {
        less += distances[other] < own;
        equal += distances[other] == own;
    }
    // All threads that write a place write the same value.
    auto holds = [&](Bits rank) { return less <= rank && rank < less + equal; };
    if (holds(lower_rank(count))) selection->lower = bits_of(own);
    if (holds(upper_rank(count))) selection->upper = bits_of(own);
}
