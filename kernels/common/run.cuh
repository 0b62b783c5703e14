// Runs of stored values that a thread loads and stores at once.
#pragma once

#include "common/numbers.cuh"

// Values of a run of RUN_BYTES.
template <class T>
constexpr int RUN = RUN_BYTES / static_cast<int>(sizeof(T));

template <class T, int N>
struct alignas(N * sizeof(T)) Run {
    T values[N];

    __device__ __forceinline__ float get(int n) const { return to_float(values[n]); }
    __device__ __forceinline__ void set(int n, float value) { store(&values[n], value); }
};

// In pairs: as values of their own the compiler would give each a whole register. `n` is known once loops are unrolled.
template <>
struct alignas(RUN_BYTES) Run<BF16, RUN<BF16>> {
    unsigned pairs[RUN<BF16> / 2];

    __device__ __forceinline__ float get(int n) const {
        return __uint_as_float(n % 2 == 0 ? pairs[n / 2] << 16 : pairs[n / 2] & 0xFFFF0000u);
    }

    __device__ __forceinline__ void set(int n, float value) {
        BF16 rounded;
        store(&rounded, value);
        unsigned bits = rounded.bits;
        pairs[n / 2] = n % 2 == 0 ? (pairs[n / 2] & 0xFFFF0000u) | bits : (pairs[n / 2] & 0xFFFFu) | bits << 16;
    }
};

// The N values from `from` on, which is aligned to all of them.
template <int N, class T>
__device__ __forceinline__ Run<T, N> load_run(const T* from) {
    return *reinterpret_cast<const Run<T, N>*>(from);
}

template <class T, int N>
__device__ __forceinline__ void store_run(T* to, const Run<T, N>& run) {
    *reinterpret_cast<Run<T, N>*>(to) = run;
}

// A length that is known when the kernel is compiled, as an argument.
template <int N>
struct Length {
    static constexpr int value = N;
};

__device__ __forceinline__ bool holds_runs(const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % RUN_BYTES == 0;
}

// The place of this thread among all of a grid of ENTRY_THREADS a block.
__device__ __forceinline__ int64_t thread_of_grid() {
    return static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
}

// each(index, run length as a constant) for this thread's RUN<T> of `length` values: once with a whole run where there
// is one and `whole_runs` (all pointers are aligned), else value by value.
template <class T, class Each>
__device__ __forceinline__ void for_run_of_thread(int64_t length, bool whole_runs, const Each& each) {
    int64_t first = thread_of_grid() * RUN<T>, last = first + RUN<T> < length ? first + RUN<T> : length;
    if (whole_runs && last - first == RUN<T>) {
        each(first, Length<RUN<T>>());
    } else {
        for (int64_t index = first; index < last; ++index) each(index, Length<1>());
    }
}
