// Sums and maxima over a block of ENTRY_THREADS, in an order that does not depend on anything but the block.
#pragma once

#include "common/warp.cuh"

constexpr int ENTRY_WARPS = ENTRY_THREADS / WARP;

// Shared memory of a block that reduces: a number a warp, and a place for is_last_block.
struct Scratch {
    double* warps;  // [ENTRY_WARPS]
    int* flag;
};

__device__ __forceinline__ Scratch scratch_at(unsigned char* shared) {
    double* warps = reinterpret_cast<double*>(shared);
    return {warps, reinterpret_cast<int*>(warps + ENTRY_WARPS)};
}

// The sum of all threads' values, in all threads.
__device__ __forceinline__ double block_sum(double value, const Scratch& scratch) {
    value = warp_sum(value);
    // Somebody may still be reading the last result.
    __syncthreads();
    if (lane_of_warp() == 0) scratch.warps[warp_of_block()] = value;
    __syncthreads();
    double sum = 0.0;
    for (int warp = 0; warp < ENTRY_WARPS; ++warp) sum += scratch.warps[warp];
    return sum;
}

__device__ __forceinline__ double block_max(double value, const Scratch& scratch) {
    value = warp_max(value);
    __syncthreads();
    if (lane_of_warp() == 0) scratch.warps[warp_of_block()] = value;
    __syncthreads();
    double largest = scratch.warps[0];
    for (int warp = 1; warp < ENTRY_WARPS; ++warp) largest = fmax(largest, scratch.warps[warp]);
    return largest;
}

// The sum of `count` terms term(0), term(1), ..., in all threads.
template <class Term>
__device__ __forceinline__ double block_sum_of(int count, const Term& term, const Scratch& scratch) {
    double sum = 0.0;
    for (int index = thread_of_block(); index < count; index += ENTRY_THREADS) sum += term(index);
    return block_sum(sum, scratch);
}

// The same by a warp for itself, in all its lanes.
template <class Term>
__device__ __forceinline__ double warp_sum_of(int count, const Term& term) {
    double sum = 0.0;
    for (int index = lane_of_warp(); index < count; index += WARP) sum += term(index);
    return warp_sum(sum);
}
