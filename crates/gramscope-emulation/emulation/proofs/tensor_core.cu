// Products of one warp, D += A B^T, for tests/tensor_core.rs: A [16, k], B [8, k], D [16, 8], row-major.
#include "common/matrix.cuh"
#include "common/warp.cuh"

// Copies `bytes` (a multiple of 4) into shared memory.
__device__ void to_shared(unsigned char* shared, const void* values, int bytes) {
    for (int index = lane_of_warp(); index < bytes / 4; index += WARP) {
        reinterpret_cast<unsigned*>(shared)[index] = static_cast<const unsigned*>(values)[index];
    }
    warp_barrier();
}

// Where this lane's four results lie.
__device__ float* place(float* d, int index) {
    int row = lane_of_warp() / 4 + 8 * (index / 2), column = 2 * (lane_of_warp() % 4) + index % 2;
    return d + row * 8 + column;
}

template <class Multiply>
__device__ void with_results(float* d, const Multiply& multiply) {
    float sums[4];
    for (int index = 0; index < 4; ++index) sums[index] = *place(d, index);
    multiply(sums);
    for (int index = 0; index < 4; ++index) *place(d, index) = sums[index];
}

// Fragments of 16-bit operands by ldmatrix; rows are 32 bytes.
struct Operands {
    unsigned a[4], b[4];
};

__device__ Operands load_halves(const uint16_t* a, const uint16_t* b) {
    unsigned char *left = shared_memory(), *right = left + 512;
    to_shared(left, a, 512);
    to_shared(right, b, 256);
    Operands operands;
    int lane = lane_of_warp();
    load_matrices(operands.a, left + lane % 16 * 32 + lane / 16 * 16);
    // B has eight rows only: the third and fourth matrices are the first two again.
    load_matrices(operands.b, right + lane % 8 * 32 + lane / 8 % 2 * 16);
    return operands;
}

extern "C" __global__ void gs_proof_mma_f16(float* d, const uint16_t* a, const uint16_t* b) {
    Operands operands = load_halves(a, b);
    with_results(d, [&](float* sums) { multiply_add_f16(sums, operands.a, operands.b[0], operands.b[1]); });
}

extern "C" __global__ void gs_proof_mma_bf16(float* d, const uint16_t* a, const uint16_t* b) {
    Operands operands = load_halves(a, b);
    with_results(d, [&](float* sums) { multiply_add_bf16(sums, operands.a, operands.b[0], operands.b[1]); });
}

extern "C" __global__ void gs_proof_mma_tf32(float* d, const unsigned* a, const unsigned* b) {
    int g = lane_of_warp() / 4, q = lane_of_warp() % 4;
    unsigned left[4] = {a[g * 8 + q], a[(g + 8) * 8 + q], a[g * 8 + q + 4], a[(g + 8) * 8 + q + 4]};
    with_results(d, [&](float* sums) { multiply_add_tf32(sums, left, b[g * 8 + q], b[g * 8 + q + 4]); });
}
