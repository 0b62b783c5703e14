// Warp-wide matrix products on the tensor cores: ldmatrix and mma.sync (sm_80 and up).
//
// D[16 x 8] += A[16 x 16] B[16 x 8] in float32. With lane = 4 g + q: d0, d1 are (g, 2q), (g, 2q + 1); d2, d3 eight rows
// below. Hazard: the tensor cores truncate where ordinary arithmetic rounds; keep chains of products short
// (a slab).
#pragma once

#include "common/platform.cuh"

// Four 8 x 8 matrices of 16-bit values. Lane 8 i + r brings the address of row r of matrix i (16 bytes, aligned) and
// gets from matrix i, in registers[i], entries (g, 2q) and (g, 2q + 1).
__device__ __forceinline__ void load_matrices(unsigned (&registers)[4], const void* row) {
#if GS_DEVICE
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
#else
    emulation::load_matrices(registers, row);
#endif
}

// The same, each matrix transposed: from matrix i entries (2q, g) and (2q + 1, g).
__device__ __forceinline__ void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
#if GS_DEVICE
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
#else
    emulation::load_matrices_transposed(registers, row);
#endif
}

// float16 operands, k = 16.
__device__ __forceinline__ void multiply_add_f16(float* d, const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if GS_DEVICE
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    unsigned b[2] = {b0, b1};
    emulation::multiply_add(emulation::Operand::f16, d, a, b);
#endif
}

// bfloat16 operands, k = 16: fragments as float16's.
__device__ __forceinline__ void multiply_add_bf16(float* d, const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if GS_DEVICE
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    unsigned b[2] = {b0, b1};
    emulation::multiply_add(emulation::Operand::bf16, d, a, b);
#endif
}

// tf32 operands, k = 8: bits of float32 values whose low 13 are not looked at. a0 .. a3 are (g, q), (g + 8, q), (g, q +
// 4), (g + 8, q + 4) of A; b0, b1 are (q, g), (q + 4, g) of B.
__device__ __forceinline__ void multiply_add_tf32(float* d, const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if GS_DEVICE
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    unsigned b[2] = {b0, b1};
    emulation::multiply_add(emulation::Operand::tf32, d, a, b);
#endif
}
