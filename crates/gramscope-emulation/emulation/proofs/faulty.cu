// Kernels with one mistake each, and their correct twins: tests/emulation.rs proves that the emulation tells them
// apart. All reverse a block's 256 values through shared memory.
#include "common/async_copy.cuh"
#include "common/atomic.cuh"
#include "common/warp.cuh"

constexpr int COUNT = 256;

__device__ float* values() { return reinterpret_cast<float*>(shared_memory()); }

__device__ void write_reversed(float* out) { out[thread_of_block()] = values()[COUNT - 1 - thread_of_block()]; }

__device__ void start_copy_of_own(const float* in) {
    copy_4(values() + thread_of_block(), in + thread_of_block(), 4);
    copies_commit();
}

extern "C" __global__ void gs_faulty_correct(float* out, const float* in) {
    values()[thread_of_block()] = in[thread_of_block()];
    __syncthreads();
    write_reversed(out);
}

extern "C" __global__ void gs_faulty_no_barrier(float* out, const float* in) {
    values()[thread_of_block()] = in[thread_of_block()];
    write_reversed(out);
}

// The second round overwrites what slower threads have yet to read.
extern "C" __global__ void gs_faulty_no_second_barrier(float* out, const float* in) {
    for (int round = 0; round < 2; ++round) {
        values()[thread_of_block()] = in[thread_of_block()] + static_cast<float>(round);
        __syncthreads();
        write_reversed(out + round * COUNT);
    }
}

extern "C" __global__ void gs_faulty_correct_copy(float* out, const float* in) {
    start_copy_of_own(in);
    copies_wait(0);
    __syncthreads();
    write_reversed(out);
}

extern "C" __global__ void gs_faulty_no_wait(float* out, const float* in) {
    start_copy_of_own(in);
    __syncthreads();
    write_reversed(out);
}

// Waits for all groups but one, where there is only one.
extern "C" __global__ void gs_faulty_short_wait(float* out, const float* in) {
    start_copy_of_own(in);
    copies_wait(1);
    __syncthreads();
    write_reversed(out);
}

extern "C" __global__ void gs_faulty_unwritten(float* out, const float* in) {
    if (thread_of_block() != 77) values()[thread_of_block()] = in[thread_of_block()];
    __syncthreads();
    write_reversed(out);
}

extern "C" __global__ void gs_faulty_beyond_shared(float* out, const float* in) {
    values()[thread_of_block() + 1] = in[thread_of_block()];
    __syncthreads();
    out[thread_of_block()] = values()[thread_of_block() + 1];
}

extern "C" __global__ void gs_faulty_divergent_barrier(float* out, const float* in) {
    values()[thread_of_block()] = in[thread_of_block()];
    if (thread_of_block() != 5) __syncthreads();
    write_reversed(out);
}

extern "C" __global__ void gs_faulty_divergent_warp(float* out, const float* in) {
    float value = in[thread_of_block()];
    if (lane_of_warp() != 3) value = from_lane_xor(value, 1);
    out[thread_of_block()] = value;
}

// Lanes exchange values through shared memory, which the order of the lanes alone does not allow.
extern "C" __global__ void gs_faulty_no_warp_barrier(float* out, const float* in) {
    values()[thread_of_block()] = in[thread_of_block()];
    out[thread_of_block()] = values()[thread_of_block() ^ 1];
}

extern "C" __global__ void gs_faulty_correct_warp_barrier(float* out, const float* in) {
    values()[thread_of_block()] = in[thread_of_block()];
    warp_barrier();
    out[thread_of_block()] = values()[thread_of_block() ^ 1];
}

// The last block adds what all blocks have written.
extern "C" __global__ void gs_faulty_correct_last_block(float* sum, float* parts, unsigned* arrivals) {
    if (thread_of_block() == 0) parts[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
    if (!is_last_block(arrivals, gridDim.x, reinterpret_cast<int*>(shared_memory())) || thread_of_block() != 0) return;
    float total = 0.0f;
    for (unsigned block = 0; block < gridDim.x; ++block) total += parts[block];
    *sum = total;
}
