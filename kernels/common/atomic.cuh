// Atomic operations on integers in global memory, and the block that comes last. Floats are never added atomically:
// their sum would depend on the order.
#pragma once

#include "common/platform.cuh"

__device__ __forceinline__ void atomic_min(int* place, int value) {
#if GS_DEVICE
    atomicMin(place, value);
#else
    *place = value < *place ? value : *place;
#endif
}

__device__ __forceinline__ void atomic_min(unsigned long long* place, unsigned long long value) {
#if GS_DEVICE
    atomicMin(place, value);
#else
    *place = value < *place ? value : *place;
#endif
}

// Returns what was there.
__device__ __forceinline__ unsigned atomic_add(unsigned* place, unsigned value) {
#if GS_DEVICE
    return atomicAdd(place, value);
#else
    unsigned before = *place;
    *place = before + value;
    return before;
#endif
}

// True in all threads of the block that is the last of `blocks` to call it: what the others wrote before is visible to
// it. `arrivals` is 0 before the launch, and again after it; `shared` is a place in shared memory that is free to use.
__device__ __forceinline__ bool is_last_block(unsigned* arrivals, unsigned blocks, int* shared) {
    // What this thread wrote must be visible before its block counts as arrived, and what the others wrote must not be
    // read before: hence a fence on either side of the atomic.
    __threadfence();
    __syncthreads();
    if (thread_of_block() == 0) {
        *shared = atomic_add(arrivals, 1) == blocks - 1;
        if (*shared) *arrivals = 0;
    }
    __syncthreads();
    bool last = *shared != 0;
    __threadfence();
    return last;
}
