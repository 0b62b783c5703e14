#include "tensor_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "block.h"

namespace emulation {
namespace {

constexpr int ROWS = 16, COLUMNS = 8, MAX_DEPTH = 16;
// Products that are aligned and added at once, of 16-bit operands and of tf32's; between such groups the sum is normalised and
// truncated. These are what A100s do (and RTX 30 and 40); H100s add twice as many at once and keep a bit more, and so lose less.
constexpr int HALVES_GROUP = 8, TF32_GROUP = 4;
// Bits behind the leading one of the largest addend that survive alignment.
constexpr int FRACTION_BITS = 24;

float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

double power_of_two(int exponent) {
    uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

float slow_from_f16(uint16_t bits) {
    uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1F, fraction = bits & 0x3FF;
    if (exponent == 0x1F) return bits_to_float(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) return std::copysign(static_cast<float>(fraction) * 0x1p-24f, bits_to_float(sign | 0x3F800000u));
    return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
}

const float* f16_table() {
    static const std::vector<float> table = [] {
        std::vector<float> values(1 << 16);
        for (unsigned i = 0; i < values.size(); ++i) values[i] = slow_from_f16(static_cast<uint16_t>(i));
        return values;
    }();
    return table.data();
}

struct Lane {
    float* c;
    const unsigned* a;
    const unsigned* b;
};

// The exponent e of the power of two 2^e just at or below |value|, for a finite one; very low for 0.
int exponent(float value) { return static_cast<int>(float_to_bits(value) >> 23 & 0xFF) - 127; }

// A sum of `count` addends as the hardware forms it: each is cut FRACTION_BITS behind the leading bit of the largest,
// their sum is exact, and is cut to float32.
float truncated_sum(const float* addends, int count) {
    int largest = -127;
    bool finite = true;
    for (int i = 0; i < count; ++i) {
        largest = std::max(largest, exponent(addends[i]));
        finite &= std::isfinite(addends[i]);
    }
    if (!finite) {
        float sum = 0;
        for (int i = 0; i < count; ++i) sum += addends[i];
        return sum;
    }
    if (largest == -127) return 0.0f;
    // Exponents of float32 leave room for both factors in float64.
    double scale = power_of_two(FRACTION_BITS - largest);
    int64_t sum = 0;
    for (int i = 0; i < count; ++i) sum += static_cast<int64_t>(addends[i] * scale);
    double exact = static_cast<double>(sum) * power_of_two(largest - FRACTION_BITS);
    float nearest = static_cast<float>(exact);
    return std::fabs(nearest) > std::fabs(exact) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Where a lane's registers lie in the 16 x 8 result: c0, c1 in row lane / 4, c2, c3 eight rows below.
int result_row(int lane, int index) { return lane / 4 + 8 * (index / 2); }
int result_column(int lane, int index) { return lane % 4 * 2 + index % 2; }

struct Operands {
    float a[ROWS][MAX_DEPTH];
    float b[COLUMNS][MAX_DEPTH];
    int depth;
};

// 16-bit operands: two a register, the lower half first.
template <float (*DECODE)(uint16_t)>
void unpack_halves(void* const* lanes, Operands& operands) {
    operands.depth = 16;
    for (int lane = 0; lane < static_cast<int>(LANES); ++lane) {
        const Lane& own = *static_cast<const Lane*>(lanes[lane]);
        for (int half = 0; half < 2; ++half) {
            auto value = [&](unsigned packed) { return DECODE(static_cast<uint16_t>(packed >> 16 * half)); };
            int k = lane % 4 * 2 + half, row = lane / 4;
            for (int i = 0; i < 4; ++i) operands.a[row + 8 * (i % 2)][k + 8 * (i / 2)] = value(own.a[i]);
            for (int i = 0; i < 2; ++i) operands.b[row][k + 8 * i] = value(own.b[i]);
        }
    }
}

// tf32 operands: the low 13 bits are not looked at.
void unpack_tf32(void* const* lanes, Operands& operands) {
    operands.depth = 8;
    auto value = [](unsigned bits) { return bits_to_float(bits & 0xFFFFE000u); };
    for (int lane = 0; lane < static_cast<int>(LANES); ++lane) {
        const Lane& own = *static_cast<const Lane*>(lanes[lane]);
        int k = lane % 4, row = lane / 4;
        for (int i = 0; i < 4; ++i) operands.a[row + 8 * (i % 2)][k + 4 * (i / 2)] = value(own.a[i]);
        for (int i = 0; i < 2; ++i) operands.b[row][k + 4 * i] = value(own.b[i]);
    }
}

template <void (*UNPACK)(void* const*, Operands&), int GROUP>
void multiply_add_warp(void* const* lanes) {
    Operands operands;
    UNPACK(lanes, operands);
    for (int lane = 0; lane < static_cast<int>(LANES); ++lane) {
        const Lane& own = *static_cast<const Lane*>(lanes[lane]);
        for (int index = 0; index < 4; ++index) {
            const float* a = operands.a[result_row(lane, index)];
            const float* b = operands.b[result_column(lane, index)];
            for (int start = 0; start < operands.depth; start += GROUP) {
                float addends[GROUP + 1];
                for (int k = 0; k < GROUP; ++k) addends[k] = a[start + k] * b[start + k];
                addends[GROUP] = own.c[index];
                own.c[index] = truncated_sum(addends, GROUP + 1);
            }
        }
    }
}

struct MatrixLane {
    unsigned* registers;
    const void* row;
};

// Entry (row, column) of the matrix whose rows' addresses lanes 8 `matrix` + row have brought.
uint16_t entry_of(void* const* lanes, unsigned matrix, unsigned row, unsigned column) {
    uint16_t entry;
    const auto* source = static_cast<const unsigned char*>(static_cast<const MatrixLane*>(lanes[8 * matrix + row])->row);
    std::memcpy(&entry, source + 2 * column, sizeof(entry));
    return entry;
}

template <bool TRANSPOSED>
void load_matrices_warp(void* const* lanes) {
    for (unsigned lane = 0; lane < LANES; ++lane) {
        unsigned g = lane / 4, q = lane % 4;
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            auto entry = [&](unsigned half) -> unsigned {
                return TRANSPOSED ? entry_of(lanes, matrix, 2 * q + half, g) : entry_of(lanes, matrix, g, 2 * q + half);
            };
            static_cast<MatrixLane*>(lanes[lane])->registers[matrix] = entry(0) | entry(1) << 16;
        }
    }
}

template <bool TRANSPOSED>
void load_matrices_of(unsigned* registers, const void* row) {
    MatrixLane own{registers, row};
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix from an address that is no multiple of 16");
    collective(load_matrices_warp<TRANSPOSED>, &own);
}

}  // namespace

float from_f16(uint16_t bits) {
    static const float* const table = f16_table();
    return table[bits];
}

float from_bf16(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

uint16_t to_f16(float value) {
    uint32_t bits = float_to_bits(value);
    auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    float magnitude = std::fabs(value);
    if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7E00u);
    if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7C00u);
    if (magnitude < 0x1p-14f)
        return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
    bits &= 0x7FFFFFFFu;
    bits += 0xFFFu + (bits >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((bits >> 13) - (112u << 10)));
}

uint16_t to_bf16(float value) {
    uint32_t bits = float_to_bits(value);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

void multiply_add(Operand operand, float* c, const unsigned* a, const unsigned* b) {
    Lane own{c, a, b};
    switch (operand) {
        case Operand::f16: return collective(multiply_add_warp<unpack_halves<from_f16>, HALVES_GROUP>, &own);
        case Operand::bf16: return collective(multiply_add_warp<unpack_halves<from_bf16>, HALVES_GROUP>, &own);
        case Operand::tf32: return collective(multiply_add_warp<unpack_tf32, TF32_GROUP>, &own);
    }
}

void load_matrices(unsigned* registers, const void* row) { load_matrices_of<false>(registers, row); }

void load_matrices_transposed(unsigned* registers, const void* row) { load_matrices_of<true>(registers, row); }

}  // namespace emulation
