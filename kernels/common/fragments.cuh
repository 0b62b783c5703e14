// Operands of matrix products, in shared memory as they are stored in global memory, on their way into registers.
//
// A slab of an operand has ROWS rows (rows of A, or columns of B in D += A B) and DEPTH values of the summed dimension
// k. ALONG k, a line is a row; across it, a line is one k of all rows. Lines are PITCH bytes apart, so that what a warp
// loads at once lies in different banks: ldmatrix wants lines an odd number of 16 bytes apart, pairs along and single
// values across 32 bytes more than a multiple of 128 (the latter for two lines together where bfloat16 takes pairs).
#pragma once

#include "common/matrix.cuh"
#include "common/numbers.cuh"

// Whether a slab needs the wider pad: float32 values, in lines along k for bfloat16 products or across it for others.
template <class T, class ACTIVATION>
constexpr bool has_wide_pad(bool along) {
    return sizeof(T) == sizeof(float) && along == (sizeof(ACTIVATION) == sizeof(BF16));
}

template <class T, class ACTIVATION, bool ALONG_K, int ROW_COUNT, int K_COUNT>
struct Slab {
    using Value = T;
    static constexpr bool ALONG = ALONG_K;
    static constexpr int ROWS = ROW_COUNT, DEPTH = K_COUNT;
    static constexpr int LINES = ALONG ? ROWS : DEPTH, LENGTH = ALONG ? DEPTH : ROWS;
    static constexpr int PAD = has_wide_pad<T, ACTIVATION>(ALONG) ? CONVOLUTION_WIDE_PAD : CONVOLUTION_PAD;
    static constexpr int PITCH = LENGTH * static_cast<int>(sizeof(T)) + PAD;
    static constexpr int BYTES = LINES * PITCH;

    static __device__ __forceinline__ unsigned char* in_line(unsigned char* slab, int line, int place) {
        return slab + line * PITCH + place * static_cast<int>(sizeof(T));
    }

    static __device__ __forceinline__ const T* at(const unsigned char* slab, int row, int k) {
        int line = ALONG ? row : k, place = ALONG ? k : row;
        return reinterpret_cast<const T*>(slab + line * PITCH) + place;
    }
};

// Four values in a row: one load or store of 16 bytes.
struct alignas(16) Four {
    float values[4];
};

struct alignas(8) Two {
    float values[2];
};

// Registers i of the fragments below are those of A [16, k] in multiply_add_*; of B [k, 16], 0 and 2 belong to the first
// eight columns, 1 and 3 to the others.

// 16 rows by 8 k, rounded to TF32, from lines along k; lane i and lane i + 16 bring the address of row i's first.
__device__ __forceinline__ void load_tf32_lines(unsigned (&registers)[4], const void* line) {
    // To ldmatrix a float32 value is two of 16 bits.
    load_matrices(registers, static_cast<const unsigned char*>(line) + kept_lane() / 16 * 16);
    for (unsigned& bits : registers) bits = __float_as_uint(round_to_tf32(__uint_as_float(bits)));
}

// The same from a slab.
template <class S>
__device__ __forceinline__ void load_tf32(unsigned (&registers)[4], const unsigned char* slab, int row, int k) {
    int lane = kept_lane();
    if constexpr (S::ALONG) {
        load_tf32_lines(registers, S::at(slab, row + lane % 16, k));
    } else {
        for (int i = 0; i < 4; ++i) {
            float value = *S::at(slab, row + lane / 4 + 8 * (i % 2), k + lane % 4 + 4 * (i / 2));
            registers[i] = __float_as_uint(round_to_tf32(value));
        }
    }
}

// 16 rows by 16 k of bfloat16 in lines along k, as load_tf32_lines.
__device__ __forceinline__ void load_bf16_lines(unsigned (&registers)[4], const void* line) {
    load_matrices(registers, static_cast<const unsigned char*>(line) + kept_lane() / 16 * 16);
}

// The same from a slab, rounded to bfloat16 where it is float32.
template <class S>
__device__ __forceinline__ void load_bf16(unsigned (&registers)[4], const unsigned char* slab, int row, int k) {
    int lane = kept_lane();
    if constexpr (sizeof(typename S::Value) == sizeof(BF16)) {
        if constexpr (S::ALONG) {
            load_bf16_lines(registers, S::at(slab, row + lane % 16, k));
        } else {
            load_matrices_transposed(registers, S::at(slab, row + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8));
        }
    } else {
        for (int i = 0; i < 4; ++i) {
            int own_row = row + lane / 4 + 8 * (i % 2), own_k = k + lane % 4 * 2 + 8 * (i / 2);
            if constexpr (S::ALONG) {
                Two pair = *reinterpret_cast<const Two*>(S::at(slab, own_row, own_k));
                registers[i] = pack_bf16(pair.values[0], pair.values[1]);
            } else {
                registers[i] = pack_bf16(*S::at(slab, own_row, own_k), *S::at(slab, own_row, own_k + 1));
            }
        }
    }
}

// The row of a lane's `index`-th value, where PARTS lanes have rows of their own and this one is `part` of them: in
// fours, or one by one.
template <int PARTS, bool FOURS>
__device__ __forceinline__ int row_of_part(int part, int index) {
    return FOURS ? 4 * part + index % 4 + 4 * PARTS * (index / 4) : part + PARTS * index;
}

// Four k of COUNT rows, which row_of_part names: values[k][row].
template <class S, int PARTS, bool FOURS, int COUNT>
__device__ __forceinline__ void load_float32(float (&values)[4][COUNT], const unsigned char* slab, int row, int part,
                                             int k) {
    static_assert(S::ALONG || FOURS, "across, rows are loaded in fours");
    if constexpr (S::ALONG) {
        for (int i = 0; i < COUNT; ++i) {
            int own = row + row_of_part<PARTS, FOURS>(part, i);
            Four four = *reinterpret_cast<const Four*>(S::at(slab, own, k));
            for (int j = 0; j < 4; ++j) values[j][i] = four.values[j];
        }
    } else {
        for (int j = 0; j < 4; ++j) {
            for (int i = 0; i < COUNT; i += 4) {
                int own = row + row_of_part<PARTS, FOURS>(part, i);
                Four four = *reinterpret_cast<const Four*>(S::at(slab, own, k + j));
                for (int place = 0; place < 4; ++place) values[j][i + place] = four.values[place];
            }
        }
    }
}

// An operand's rows, from `row` on, as a warp multiplies them.
template <class S>
struct SlabRows {
    // Whether a lane's rows come in fours where it holds float32 values.
    static constexpr bool FOURS = !S::ALONG;

    const unsigned char* slab;
    int row;

    template <class PRODUCT>
    __device__ __forceinline__ void load(unsigned (&registers)[4], int strip, int k) const {
        PRODUCT::template load<S>(registers, slab, row + 16 * strip, k);
    }

    template <int PARTS, bool IN_FOURS, int COUNT>
    __device__ __forceinline__ void load_float32(float (&values)[4][COUNT], int part, int k) const {
        ::load_float32<S, PARTS, IN_FOURS>(values, slab, row, part, k);
    }
};

// --- a warp's sums -----------------------------------------------------------------------------------------------------

// A kind of product on the tensor cores: what it takes, and how many k a step.
struct Tf32 {
    using Value = float;
    static constexpr int DEPTH = CONVOLUTION_DEPTH_F32, STEP = 8;

    template <class S>
    static __device__ __forceinline__ void load(unsigned (&registers)[4], const unsigned char* slab, int row, int k) {
        load_tf32<S>(registers, slab, row, k);
    }

    static __device__ __forceinline__ void load_lines(unsigned (&registers)[4], const void* line) {
        load_tf32_lines(registers, line);
    }

    static __device__ __forceinline__ void multiply_add(float* d, const unsigned (&a)[4], unsigned b0, unsigned b1) {
        multiply_add_tf32(d, a, b0, b1);
    }
};

struct Bf16 {
    using Value = BF16;
    static constexpr int DEPTH = CONVOLUTION_DEPTH_BF16, STEP = 16;

    template <class S>
    static __device__ __forceinline__ void load(unsigned (&registers)[4], const unsigned char* slab, int row, int k) {
        load_bf16<S>(registers, slab, row, k);
    }

    static __device__ __forceinline__ void load_lines(unsigned (&registers)[4], const void* line) {
        load_bf16_lines(registers, line);
    }

    static __device__ __forceinline__ void multiply_add(float* d, const unsigned (&a)[4], unsigned b0, unsigned b1) {
        multiply_add_bf16(d, a, b0, b1);
    }
};

// DOWN x ACROSS tiles of 16 x 16, on the tensor cores.
template <class PRODUCT, int DOWN, int ACROSS>
struct Sums {
    // Results that a lane holds side by side.
    static constexpr int RUN = 2;

    // Rows of A that a lane brings as lines.
    static constexpr int LINES = DOWN;

    float tiles[DOWN][ACROSS][8] = {};

    static __device__ __forceinline__ int row_of_line(int index) { return 16 * index + kept_lane() % 16; }

    // Adds the products of DEPTH k of two operands.
    template <int DEPTH, class A, class B>
    __device__ __forceinline__ void multiply(const A& left, const B& right) {
#pragma unroll
        for (int k = 0; k < DEPTH; k += PRODUCT::STEP) {
            unsigned b[ACROSS][4];
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) right.template load<PRODUCT>(b[j], j, k);
#pragma unroll
            for (int i = 0; i < DOWN; ++i) {
                unsigned a[4];
                left.template load<PRODUCT>(a, i, k);
#pragma unroll
                for (int j = 0; j < ACROSS; ++j) {
                    PRODUCT::multiply_add(tiles[i][j], a, b[j][0], b[j][2]);
                    PRODUCT::multiply_add(tiles[i][j] + 4, a, b[j][1], b[j][3]);
                }
            }
        }
    }

    // Calls visit(row, column, values) for each run of this lane's results; rows and columns count from the warp's first.
    template <bool FOURS, class Visit>
    __device__ __forceinline__ void for_runs(const Visit& visit) {
        int g = kept_lane() / 4, q = kept_lane() % 4;
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
#pragma unroll
                for (int part = 0; part < 4; ++part) {
                    float values[RUN] = {tiles[i][j][2 * part], tiles[i][j][2 * part + 1]};
                    visit(16 * i + 8 * (part % 2) + g, 16 * j + 8 * (part / 2) + 2 * q, values);
                }
            }
        }
    }
};

// The same on the ordinary units, in float32: each sum one chain of fused multiplications and additions.
struct Float32 {
    using Value = float;
    static constexpr int DEPTH = CONVOLUTION_DEPTH_F32;
};

template <int DOWN, int ACROSS>
struct Sums<Float32, DOWN, ACROSS> {
    static constexpr int RUN = 4;
    // 8 x 4 lanes; what a lane holds of either dimension.
    static constexpr int PARTS_DOWN = 8, PARTS_ACROSS = 4, HEIGHT = 16 * DOWN / PARTS_DOWN,
                         WIDTH = 16 * ACROSS / PARTS_ACROSS;

    static constexpr int LINES = HEIGHT;

    float sums[HEIGHT][WIDTH] = {};

    static __device__ __forceinline__ int row_of_line(int index) {
        return row_of_part<PARTS_DOWN, false>(kept_lane() / PARTS_ACROSS, index);
    }

    template <int DEPTH, class A, class B>
    __device__ __forceinline__ void multiply(const A& left, const B& right) {
        int lane = kept_lane();
#pragma unroll
        for (int k = 0; k < DEPTH; k += 4) {
            float a[4][HEIGHT], b[4][WIDTH];
            left.template load_float32<PARTS_DOWN, A::FOURS>(a, lane / PARTS_ACROSS, k);
            right.template load_float32<PARTS_ACROSS, true>(b, lane % PARTS_ACROSS, k);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int y = 0; y < HEIGHT; ++y) {
#pragma unroll
                    for (int x = 0; x < WIDTH; ++x) sums[y][x] = fmaf(a[j][y], b[j][x], sums[y][x]);
                }
            }
        }
    }

    template <bool FOURS, class Visit>
    __device__ __forceinline__ void for_runs(const Visit& visit) {
        int lane = kept_lane();
#pragma unroll
        for (int y = 0; y < HEIGHT; ++y) {
            int row = row_of_part<PARTS_DOWN, FOURS>(lane / PARTS_ACROSS, y);
#pragma unroll
            for (int x = 0; x < WIDTH; x += RUN) {
                float values[RUN] = {sums[y][x], sums[y][x + 1], sums[y][x + 2], sums[y][x + 3]};
                visit(row, row_of_part<PARTS_ACROSS, true>(lane % PARTS_ACROSS, x), values);
            }
        }
    }
};
