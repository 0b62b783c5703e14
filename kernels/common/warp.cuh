// What the 32 lanes of a warp do together. All lanes must take part.
#pragma once

#include "common/platform.cuh"

#if !GS_DEVICE
template <class T>
struct Exchange {
    T value;
    int partner;
    T result;
};

template <class T>
void exchange_lanes(void* const* lanes) {
    for (int lane = 0; lane < WARP; ++lane) {
        auto* own = static_cast<Exchange<T>*>(lanes[lane]);
        own->result = static_cast<Exchange<T>*>(lanes[own->partner])->value;
    }
}

inline void meet(void* const*) {}
#endif

// What lane `partner` has for `value`.
template <class T>
__device__ __forceinline__ T from_lane(T value, int partner) {
#if GS_DEVICE
    return __shfl_sync(0xFFFFFFFFu, value, partner);
#else
    Exchange<T> own{value, partner, T()};
    emulation::collective(exchange_lanes<T>, &own);
    return own.result;
#endif
}

// The value of the lane whose number differs from one's own in the bits of `mask`.
template <class T>
__device__ __forceinline__ T from_lane_xor(T value, int mask) {
#if GS_DEVICE
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
#else
    return from_lane(value, static_cast<int>(emulation::lane()) ^ mask);
#endif
}

// Orders the lanes' accesses to shared memory before and after it.
__device__ __forceinline__ void warp_barrier() {
#if GS_DEVICE
    __syncwarp();
#else
    emulation::collective(meet, nullptr);
#endif
}

// The sum over all lanes, in the same order in each of them.
__device__ __forceinline__ double warp_sum(double value) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += from_lane_xor(value, mask);
    return value;
}

__device__ __forceinline__ double warp_max(double value) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmax(value, from_lane_xor(value, mask));
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, from_lane_xor(value, mask));
    return value;
}
