// The tensor cores, as they compute: operands rounded to their format, products exact, sums truncated.
#pragma once

#include <cstdint>

namespace emulation {

float from_f16(uint16_t bits);
float from_bf16(uint16_t bits);
uint16_t to_f16(float value);   // to nearest, ties to even
uint16_t to_bf16(float value);  // the same

enum class Operand { f16, bf16, tf32 };

// mma.sync of one warp, D = A B + C in float32, C overwritten: m16n8k16 for f16 and bf16, m16n8k8 for tf32. Each lane
// brings its fragments in PTX's layout.
void multiply_add(Operand operand, float* c, const unsigned* a, const unsigned* b);

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lane 8 i + r holds the address of row r of matrix i.
void load_matrices(unsigned* registers, const void* row);

// The same with .trans.
void load_matrices_transposed(unsigned* registers, const void* row);

}  // namespace emulation
