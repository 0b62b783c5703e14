// Where a kernel finds itself: on a GPU, or on the host under the emulation of gramscope-emulation. Headers beside this
// one wrap what the two do differently, PTX above all; no other file looks at GS_DEVICE.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define GS_DEVICE 1
#else
#define GS_DEVICE 0
#include "cuda.h"
#endif

#include "common/constants.cuh"

// The block's dynamic shared memory, the only kind in use: its size is the launcher's (gramscope-cuda's `plan`).
__device__ __forceinline__ unsigned char* shared_memory() {
#if GS_DEVICE
    extern __shared__ __align__(128) unsigned char gs_shared[];
    return gs_shared;
#else
    return emulation::shared_memory();
#endif
}

// On the device it is read anew at each use. The compiler would otherwise keep whatever follows from it (addresses of
// all kinds) in registers over whole loops, and the kernels that hold a matrix in registers have none to spare.
__device__ __forceinline__ int thread_of_block() {
#if GS_DEVICE
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
#else
    return static_cast<int>(threadIdx.x);
#endif
}
__device__ __forceinline__ int warp_of_block() { return thread_of_block() / WARP; }
__device__ __forceinline__ int lane_of_warp() { return thread_of_block() % WARP; }

// The same where registers are not scarce: the compiler may keep what follows from it.
__device__ __forceinline__ int kept_thread() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int kept_warp() { return kept_thread() / WARP; }
__device__ __forceinline__ int kept_lane() { return kept_thread() % WARP; }
