// Many sums over the lanes of a warp at once.
#pragma once

#include "common/part.cuh"
#include "common/warp.cuh"

// How many of N sums a lane is left with at most.
template <int N>
constexpr int LANE_SUMS = (N + WARP - 1) / WARP;

// The sums of N values over all lanes. Lanes halve what they hold and add the half that they keep, as often as there are
// powers of two in a warp: some N exchanges in all, where one sum after the other would take five times as many. What a lane
// is left with stands at the front of `values`: those of the N sums that lie within `own`, of which all were.
template <int N, int MASK = WARP / 2>
__device__ __forceinline__ Part sum_over_lanes(float* values, Part own = {0, N}) {
    constexpr int HALF = (N + 1) / 2;
    bool upper = (lane_of_warp() & MASK) != 0;
    for (int index = 0; index < HALF; ++index) {
        float low = values[index], high = HALF + index < N ? values[HALF + index] : 0.0f;
        values[index] = (upper ? high : low) + from_lane_xor(upper ? low : high, MASK);
    }
    int middle = own.first + HALF < own.last ? own.first + HALF : own.last;
    own = upper ? Part{middle, own.last} : Part{own.first, middle};
    if constexpr (MASK > 1) {
        return sum_over_lanes<HALF, MASK / 2>(values, own);
    } else {
        return own;
    }
}
