// Slabs: SLAB features of a block's rows on their way through shared memory to the tensor cores.
//
// A slab's buffer holds ROW_BYTES a row. It is filled with stored values; later each row is converted where it lies: shifted,
// scaled by a power of two of its own, and split into float16 halves, high ones in the first 64 bytes, low ones in the last.
// high + low has 22 significant bits; what it leaves out of a row is below 2^-37 of the row's largest value or 2^-22 of the
// value itself. 16-byte chunks of a converted row lie at (chunk ^ (row % 8)), so that ldmatrix meets no bank twice.
//
// A row's scale only ever grows. While it stays, slabs are summed on the tensor cores as they are; when it grows, sums
// are multiplied by the (exact) ratio first.
#pragma once

#include "common/async_copy.cuh"
#include "common/matrix.cuh"
#include "common/numbers.cuh"
#include "common/triangle.cuh"
#include "common/warp.cuh"

constexpr int SLAB_WARPS = SLAB_THREADS / WARP;
constexpr int ROWS_PER_GROUP = 8;  // rows that a warp converts in turn: (0, 4), (1, 5), (2, 6), (3, 7)
constexpr int CHUNK_BYTES = 16;
constexpr int LOW_HALVES = 4;  // chunk at which a row's low halves begin
// Freshly scaled rows stay below 2^13, and are scaled anew when they pass 2^15: float16 ends at 2^16, and the low halves of
// values down to 2^-15 of the largest stay clear of float16's smallest steps.
constexpr int FRESH_EXPONENT = 12;
constexpr int LARGEST_EXPONENT = 14;
// A row of which nothing has been seen. Far below all that can occur, yet its square is no float64 zero.
constexpr int EXPONENT_OF_NOTHING = -400;

// Where a block's rows come from: rows 0 .. upper_rows of one matrix, and from row `lower_at` on those of another.
template <class T>
struct Rows {
    const T* upper;
    const T* lower;
    int upper_rows, lower_rows, lower_at;
    int64_t stride;  // values from row to row: the number of features

    // Null for a row that only fills up the block.
    __device__ __forceinline__ const T* row(int index) const {
        if (index < lower_at) return index < upper_rows ? upper + index * stride : nullptr;
        return index - lower_at < lower_rows ? lower + (index - lower_at) * stride : nullptr;
    }

    __device__ __forceinline__ bool has(int index) const {
        return index < lower_at ? index < upper_rows : index - lower_at < lower_rows;
    }

    // Whether all rows begin at multiples of 16 bytes.
    __device__ __forceinline__ bool aligned() const {
        auto bits = reinterpret_cast<uintptr_t>(upper) | reinterpret_cast<uintptr_t>(lower);
        return (bits | static_cast<uintptr_t>(stride) * sizeof(T)) % CHUNK_BYTES == 0;
    }
};

// Starts one value's copy; zero where there is none.
__device__ __forceinline__ void copy_value(unsigned char* shared, const float* global, bool valid) {
    copy_4(shared, global, valid ? 4 : 0);
}

// Two bytes are less than an asynchronous copy can take: these are on their way at once, in the thread's own order.
template <class T>
__device__ __forceinline__ void copy_value(unsigned char* shared, const T* global, bool valid) {
    *reinterpret_cast<T*>(shared) = valid ? *global : T{};
}

// Starts the copy of features first .. first + SLAB of `count` rows. Features from `features` on become 0; rows that only fill
// up the block are left as they are.
template <class T>
__device__ __forceinline__ void start_copy(unsigned char* buffer, const Rows<T>& rows, int count, int64_t first, int64_t features,
                                           bool aligned) {
    constexpr int PIECE = CHUNK_BYTES / sizeof(T);
    int width = aligned ? PIECE : 1;
    int pieces = SLAB / width;
    for (int index = thread_of_block(); index < count * pieces; index += SLAB_THREADS) {
        int row = index / pieces, column = index % pieces * width;
        const T* source = rows.row(row);
        if (source == nullptr) continue;
        bool valid = first + column < features;
        const T* from = valid ? source + first + column : source;
        unsigned char* to = buffer + row * ROW_BYTES + column * static_cast<int>(sizeof(T));
        // In aligned rows the number of features is a multiple of a chunk: it is there as a whole or not at all.
        if (aligned) {
            copy_16(to, from, valid ? CHUNK_BYTES : 0);
        } else {
            copy_value(to, from, valid);
        }
    }
}

// Stored values 2 `pair` and 2 `pair` + 1 of a row that has not been converted.
template <class T>
__device__ __forceinline__ float2 stored_pair(const unsigned char* row, int pair) {
    const T* values = reinterpret_cast<const T*>(row) + 2 * pair;
    return make_float2(to_float(values[0]), to_float(values[1]));
}

// What a lane subtracts from its two columns, and the power of two that keeps the difference of even the largest, and the
// smallest, float32 values among the normal numbers: (x - shift) 2^exponent is computed as x factor - shifted.
struct Shift {
    float2 shifted;
    float factor;
    int exponent;
};

// `largest`: over the whole slab, the same in all lanes.
__device__ __forceinline__ Shift shift_by(float2 shift, float largest) {
    int exponent = 0;
    if (largest >= 0x1p126f) exponent = -2;
    if (largest < 0x1p-64f) exponent = 64;
    float factor = power_of_two(exponent);
    return {make_float2(shift.x * factor, shift.y * factor), factor, exponent};
}

// Exponents of the rows of three slabs running, and of two flushes: what is being written is never what is being read.
struct Exponents {
    int* slabs;    // [3][rows]: value = converted 2^exponent
    int* flushes;  // [2][rows]: exponents of the partial sums in global memory
    int* changed;  // [2]: the last slab in which some row's exponent grew, even slabs and odd ones
    int rows;

    __device__ __forceinline__ int* of_slab(int slab) const { return slabs + slab % 3 * rows; }
    __device__ __forceinline__ int* of_flush(int flush) const { return flushes + flush % 2 * rows; }
};

__device__ __forceinline__ Exponents exponents_at(void* shared, int rows) {
    int* slabs = static_cast<int*>(shared);
    return {slabs, slabs + 3 * rows, slabs + 5 * rows, rows};
}

// Slabs are counted from 3, so that the slab before the first has a place too.
constexpr int FIRST_SLAB = 3;

__device__ __forceinline__ void clear_exponents(const Exponents& exponents) {
    for (int row = thread_of_block(); row < exponents.rows; row += SLAB_THREADS) {
        exponents.of_slab(FIRST_SLAB - 1)[row] = EXPONENT_OF_NOTHING;
    }
    if (thread_of_block() < 2) exponents.changed[thread_of_block()] = 0;
}

// The exponent under which a row whose largest shifted value is `magnitude` (bits, times 2^factor_exponent) fits into float16.
__device__ __forceinline__ int fitting_exponent(int previous, unsigned magnitude, int factor_exponent) {
    // Never so low that its power of two would leave float32.
    int lowest = -126 - factor_exponent;
    int fitting = previous < lowest ? lowest : previous;
    int own = exponent_of_bits(magnitude) - factor_exponent;
    return own - fitting > LARGEST_EXPONENT ? own - FRESH_EXPONENT : fitting;
}

// The largest of 16 lanes' values, each half of the warp for itself.
__device__ __forceinline__ unsigned largest_of_half_warp(unsigned value) {
    for (int mask = WARP / 4; mask > 0; mask /= 2) {
        unsigned other = from_lane_xor(value, mask);
        value = value < other ? other : value;
    }
    return value;
}

__device__ __forceinline__ unsigned magnitude_of(float value) { return __float_as_uint(value) & 0x7FFFFFFFu; }

__device__ __forceinline__ unsigned char* chunk_of_row(unsigned char* buffer, int row, int chunk) {
    return buffer + row * ROW_BYTES + ((chunk ^ (row % 8)) * CHUNK_BYTES);
}

// Stored values 2 `pair` and 2 `pair` + 1 of a row, shifted.
template <class T>
__device__ __forceinline__ float2 shifted_pair(const unsigned char* row, int pair, const Shift& shift) {
    float2 stored = stored_pair<T>(row, pair);
    return make_float2(fmaf(stored.x, shift.factor, -shift.shifted.x), fmaf(stored.y, shift.factor, -shift.shifted.y));
}

template <bool LOW>
__device__ __forceinline__ void store_halves(unsigned char* buffer, int row, int pair, float2 value) {
    int chunk = pair / 4, place = pair % 4 * 4;
    unsigned high = pack_f16(value.x, value.y);
    *reinterpret_cast<unsigned*>(chunk_of_row(buffer, row, chunk) + place) = high;
    if (LOW) {
        float2 rounded = unpack_f16(high);
        unsigned low = pack_f16(value.x - rounded.x, value.y - rounded.y);
        *reinterpret_cast<unsigned*>(chunk_of_row(buffer, row, chunk + LOW_HALVES) + place) = low;
    }
}

// Converts this warp's share of the rows of `slab` where they lie. LOW: with low halves.
template <class T, bool LOW>
__device__ __forceinline__ void convert(unsigned char* buffer, const Rows<T>& rows, const Exponents& exponents, int slab, const Shift& shift) {
    int pair = lane_of_warp() % 16, half = lane_of_warp() / 16;
    const int* before = exponents.of_slab(slab - 1);
    int* after = exponents.of_slab(slab);
    for (int group = warp_of_block(); group < exponents.rows / ROWS_PER_GROUP; group += SLAB_WARPS) {
        // Two rows a pass, four apart, so that their chunks lie in different banks.
        for (int pass = 0; pass < ROWS_PER_GROUP / 2; ++pass) {
            int row = group * ROWS_PER_GROUP + pass + ROWS_PER_GROUP / 2 * half;
            float2 value = rows.has(row) ? shifted_pair<T>(buffer + row * ROW_BYTES, pair, shift) : make_float2(0.0f, 0.0f);
            unsigned x = magnitude_of(value.x), y = magnitude_of(value.y);
            int exponent = fitting_exponent(before[row], largest_of_half_warp(x < y ? y : x), shift.exponent);
            float scale = power_of_two(-(exponent + shift.exponent));
            // The row is overwritten: every lane must have read its part of it.
            warp_barrier();
            store_halves<LOW>(buffer, row, pair, make_float2(value.x * scale, value.y * scale));
            if (pair == 0) {
                // Every writer of `changed` writes the same value.
                if (exponent != before[row]) exponents.changed[slab % 2] = slab;
                after[row] = exponent;
            }
        }
    }
}

// Fragments of a strip: 16 rows of 16 features.
struct Fragment {
    unsigned high[4], low[4];
};

// As the left factor: registers in the order (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
// The right factor is read with the same addresses; there registers 0 and 2 are k 0-7 and k 8-15 of its first eight rows.
template <bool LOW>
__device__ __forceinline__ void load_fragment(Fragment& fragment, unsigned char* buffer, int first_row, int step) {
    int lane = lane_of_warp();
    int row = first_row + lane % 16, chunk = 2 * step + lane / 16;
    load_matrices(fragment.high, chunk_of_row(buffer, row, chunk));
    if (LOW) load_matrices(fragment.low, chunk_of_row(buffer, row, chunk + LOW_HALVES));
}

__device__ __forceinline__ void add_product(float (&tile)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    multiply_add_f16(tile, a, b[0], b[2]);
    multiply_add_f16(tile + 4, a, b[1], b[3]);
}

// Adds the product of two strips to their tile: (high + low) (high + low) but for low low, or high high alone. Smallest first.
template <bool LOW>
__device__ __forceinline__ void add_tile(float (&tile)[8], const Fragment& a, const Fragment& b) {
    if (LOW) {
        add_product(tile, a.low, b.high);
        add_product(tile, a.high, b.low);
    }
    add_product(tile, a.high, b.high);
}

// What a row was multiplied by when its exponent grew.
__device__ __forceinline__ float growth(const int* before, const int* after, int row) {
    return power_of_two(before[row] - after[row]);
}

// Multiplies a tile's entries by powers of two of their rows and columns.
__device__ __forceinline__ void scale_tile(float (&tile)[8], const int* before, const int* after, int first_row, int first_column) {
    int g = lane_of_warp() / 4, q = lane_of_warp() % 4;
    float upper = growth(before, after, first_row + g), lower = growth(before, after, first_row + g + 8);
    for (int half = 0; half < 2; ++half) {
        int column = first_column + 8 * half + 2 * q;
        float left = growth(before, after, column), right = growth(before, after, column + 1);
        tile[4 * half + 0] *= upper * left;
        tile[4 * half + 1] *= upper * right;
        tile[4 * half + 2] *= lower * left;
        tile[4 * half + 3] *= lower * right;
    }
}

// Moves a tile to its place among the partial sums, STRIP x STRIP values row by row: written there by the first flush, added
// by those that follow, what is there being brought to the present exponents.
__device__ __forceinline__ void flush_tile(float (&tile)[8], float* partial, const Exponents& exponents, int slab, int flush,
                                           int first_row, int first_column) {
    int g = lane_of_warp() / 4, q = lane_of_warp() % 4;
    float stored[8];
    for (int index = 0; index < 8; ++index) stored[index] = 0.0f;
    float* places[4];
    for (int part = 0; part < 4; ++part) places[part] = partial + (g + 8 * (part % 2)) * STRIP + 8 * (part / 2) + 2 * q;
    if (flush > 0) {
        for (int part = 0; part < 4; ++part) {
            float2 before = *reinterpret_cast<const float2*>(places[part]);
            stored[2 * part] = before.x;
            stored[2 * part + 1] = before.y;
        }
        scale_tile(stored, exponents.of_flush(flush - 1), exponents.of_slab(slab), first_row, first_column);
    }
    for (int part = 0; part < 4; ++part) {
        *reinterpret_cast<float2*>(places[part]) = make_float2(stored[2 * part] + tile[2 * part], stored[2 * part + 1] + tile[2 * part + 1]);
    }
    for (int index = 0; index < 8; ++index) tile[index] = 0.0f;
}

// Remembers under which exponents a flush has left the partial sums.
__device__ __forceinline__ void keep_exponents(const Exponents& exponents, int slab, int flush) {
    for (int row = thread_of_block(); row < exponents.rows; row += SLAB_THREADS) {
        exponents.of_flush(flush)[row] = exponents.of_slab(slab)[row];
    }
}

// After the last of `slabs`: the exponents of the partial sums of `count` rows from `first` on.
__device__ __forceinline__ void write_exponents(int* out, const Exponents& exponents, int slabs, int first, int count) {
    for (int row = thread_of_block(); row < count; row += SLAB_THREADS) {
        out[row] = exponents.of_slab(FIRST_SLAB + slabs - 1)[first + row];
    }
}

// Streams slabs first .. last through a ring of `work.buffers` buffers. In the turn of slab s a block multiplies s, converts
// s + 1 (and, with LEAD = 2, measures s + 2), and copies of later slabs are under way; the buffer of s - 1 is free. So one
// barrier a slab is enough. Half of the warps prepare before they multiply and half after, so that on each scheduler the
// tensor cores and the ordinary units are busy at the same time.
template <class Work>
__device__ __forceinline__ void stream_slabs(Work& work, int slabs) {
    int last = FIRST_SLAB + slabs, buffers = work.buffers;
    bool prepares_first = warp_of_block() < SLAB_WARPS / 2;
    for (int slab = FIRST_SLAB; slab < FIRST_SLAB + buffers - 1 - Work::LEAD; ++slab) {
        if (slab < last) work.copy(slab);
        copies_commit();
    }
#pragma unroll 1
    for (int slab = FIRST_SLAB - Work::LEAD; slab < last; ++slab) {
        // All copies but those behind slab + LEAD have arrived, this thread's by the wait, the others' by the barrier; and all
        // warps are done with the slab before this one.
        copies_wait(buffers - 2 - Work::LEAD);
        __syncthreads();
        int copied = slab + buffers - 1;
        if (copied < last) work.copy(copied);
        copies_commit();
#pragma unroll 1
        for (int turn = 0; turn < 2; ++turn) {
            if ((turn == 0) == prepares_first) {
                work.prepare(slab, last);
            } else if (slab >= FIRST_SLAB) {
                work.multiply(slab, last);
            }
        }
    }
}

// The part [first, last) of `count` slabs that falls to part `index` of `parts`: they differ by one at most.
struct Part {
    int first, last;
};

__device__ __forceinline__ Part part_of(int64_t count, int index, int parts) {
    // Features fit into 31 bits, so their slabs do: 32-bit division needs no call.
    int share = static_cast<int>(count) / parts, rest = static_cast<int>(count) % parts;
    int first = index * share + (index < rest ? index : rest);
    return {first, first + share + (index < rest ? 1 : 0)};
}
