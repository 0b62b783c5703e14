// Slabs: SLAB features of a block's rows on their way through shared memory to the tensor cores.
//
// A slab's buffer holds ROW_BYTES a row. It is filled with stored values; later each row is converted where it lies:
// shifted, scaled by a power of two of its own, and split into float16 halves, high ones in the first 64 bytes, low
// ones in the last. high + low has 22 significant bits; what it leaves out of a row is below 2^-37 of the row's largest
// value or 2^-22 of the value itself. 16-byte chunks of a converted row lie at (chunk ^ (row % 8)), so that ldmatrix
// meets no bank twice.
//
// A row's scale only ever grows. While it stays, slabs are summed on the tensor cores as they are; when it grows, sums
// are multiplied by the (exact) ratio first.
#pragma once

#include "common/async_copy.cuh"
#include "common/matrix.cuh"
#include "common/numbers.cuh"
#include "common/part.cuh"
#include "common/triangle.cuh"
#include "common/warp.cuh"

constexpr int SLAB_WARPS = SLAB_THREADS / WARP;
constexpr int ROWS_PER_GROUP = 8;  // rows that a warp converts in two passes: 0, 4, 1, 5 and 2, 6, 3, 7
constexpr int QUADS = SLAB / 4;    // lanes that hold a row
constexpr int CHUNK_BYTES = 16;
constexpr int LOW_HALVES = 4;  // chunk at which a row's low halves begin
// Freshly scaled rows stay below 2^13, and are scaled anew when they pass 2^15: float16 ends at 2^16, and the low
// halves of values down to 2^-15 of the largest stay clear of float16's smallest steps.
constexpr int FRESH_EXPONENT = 12;
constexpr int LARGEST_EXPONENT = 14;
// A row of which nothing has been seen. Far below all that can occur, yet its square is no float64 zero.
constexpr int EXPONENT_OF_NOTHING = -400;

__device__ __forceinline__ bool is_aligned(const void* address, int64_t bytes_from_row_to_row) {
    return (reinterpret_cast<uintptr_t>(address) | static_cast<uintptr_t>(bytes_from_row_to_row)) % CHUNK_BYTES == 0;
}

// A block's rows: the first `count` of a matrix whose rows begin `stride` values apart.
template <class T>
struct MatrixRows {
    using Value = T;

    const T* values;
    int count;
    int64_t stride;

    // Whether a row is there, or only fills up the block.
    __device__ __forceinline__ bool has(int index) const { return index < count; }

    __device__ __forceinline__ const T* row(int index) const { return values + index * stride; }

    // Whether all rows begin at multiples of 16 bytes.
    __device__ __forceinline__ bool aligned() const {
        return is_aligned(values, stride * static_cast<int64_t>(sizeof(T)));
    }
};

// TILE rows of one matrix, and TILE of another.
template <class T>
struct TwoMatricesRows {
    using Value = T;

    MatrixRows<T> upper, lower;

    __device__ __forceinline__ bool has(int index) const {
        return index < TILE ? upper.has(index) : lower.has(index - TILE);
    }

    __device__ __forceinline__ bool aligned() const { return upper.aligned() && lower.aligned(); }
};

// Starts the copy of features first .. first + SLAB of the rows, so many values at a time. What a thread copies lies below each other.
template <int WIDTH, class T>
__device__ __forceinline__ void start_copy_of(unsigned char* buffer, const MatrixRows<T>& rows, int64_t first) {
    constexpr int PIECES = SLAB / WIDTH, STEP = SLAB_THREADS / PIECES;
    static_assert(SLAB_THREADS % PIECES == 0, "threads share out whole rows");
    int column = thread_of_block() % PIECES * WIDTH, row = thread_of_block() / PIECES;
    // In aligned rows the number of features is a multiple of a chunk: it is there as a whole or not at all.
    bool valid = first + column < rows.stride;
    const T* from = rows.row(row) + (valid ? first + column : 0);
    unsigned char* to = buffer + row * ROW_BYTES + column * static_cast<int>(sizeof(T));
#pragma unroll 4
    for (; row < rows.count; row += STEP, from += STEP * rows.stride, to += STEP * ROW_BYTES) {
        if (WIDTH > 1) {
            copy_16(to, from, valid ? CHUNK_BYTES : 0);
        } else {
            copy_value(to, from, valid);
        }
    }
}

// The same, as wide as it can be. Features that are not there become 0.
template <class T>
__device__ __forceinline__ void start_copy(unsigned char* buffer, const MatrixRows<T>& rows, int64_t first,
                                           bool aligned) {
    // A loop each: with a width known only as it runs, every copy began with a division.
    if (aligned) {
        start_copy_of<CHUNK_BYTES / sizeof(T)>(buffer, rows, first);
    } else {
        start_copy_of<1>(buffer, rows, first);
    }
}

// Stored values 2 `pair` and 2 `pair` + 1 of a row that has not been converted.
template <class T>
__device__ __forceinline__ float2 stored_pair(const unsigned char* row, int pair) {
    const T* values = reinterpret_cast<const T*>(row) + 2 * pair;
    return make_float2(to_float(values[0]), to_float(values[1]));
}

// Columns 4 quad .. 4 quad + 3 of a row: what a lane converts at a time.
struct Quad {
    float values[4];
};

template <class T>
__device__ __forceinline__ Quad stored_quad(const unsigned char* row, int quad) {
    // One load of 8 or 16 bytes.
    struct alignas(4 * sizeof(T)) Stored {
        T values[4];
    };
    Stored stored = reinterpret_cast<const Stored*>(row)[quad];
    return {{to_float(stored.values[0]), to_float(stored.values[1]), to_float(stored.values[2]),
             to_float(stored.values[3])}};
}

// What a lane subtracts from its columns, and the power of two that keeps the difference of even the largest, and the
// smallest, float32 values among the normal numbers: (x - shift) 2^exponent is computed as x factor - shifted.
struct Shift {
    Quad shifted;
    float factor;
    int exponent;
};

// `largest`: over the whole slab, the same in all lanes.
__device__ __forceinline__ Shift shift_by(const Quad& shift, float largest) {
    int exponent = 0;
    if (largest >= 0x1p126f) exponent = -2;
    if (largest < 0x1p-64f) exponent = 64;
    Shift result{shift, power_of_two(exponent), exponent};
    for (float& value : result.shifted.values) value *= result.factor;
    return result;
}

// Exponents of the rows of three slabs running, and of the last flush. What is being written is never what is being read: those
// of a flush are written in the turn behind it, in which whoever flushes again takes them from its slab. Lies in shared memory, of which three buffers of TILE rows twice leave little on a GPU of 99 KiB: 16 bits each.
struct Exponents {
    int16_t* base;
    int rows;

    // value = converted 2^exponent.
    __device__ __forceinline__ int16_t* of_slab(int slab) const { return base + slab % 3 * rows; }
    // Of the partial sums in global memory.
    __device__ __forceinline__ int16_t* of_flush() const { return base + 3 * rows; }
    // The last slab in which some row's exponent grew, of the even ones and of the odd ones.
    __device__ __forceinline__ int* changed(int slab) const {
        return reinterpret_cast<int*>(base + 4 * rows) + slab % 2;
    }
    // Where the shared memory behind them begins.
    __device__ __forceinline__ void* end() const { return changed(0) + 2; }
};

// Slabs are counted from 3, so that the slab before the first has a place too.
constexpr int FIRST_SLAB = 3;

// A ring of buffers, one a slab, seen from the slab whose turn it is: those of the slabs before it are free. Where a slab lies is
// counted along, since a remainder of a number known only as the kernel runs takes some 25 instructions.
struct Ring {
    int buffers;
    int slab, place;  // the slab whose turn it is, and its buffer

    // The buffer of a slab: of this one or of one of the next `buffers` - 1.
    __device__ __forceinline__ int place_of(int other) const {
        int behind = place + other - slab;
        return behind < buffers ? behind : behind - buffers;
    }

    __device__ __forceinline__ void move_on() {
        ++slab;
        place = place + 1 < buffers ? place + 1 : 0;
    }
};

__device__ __forceinline__ void clear_exponents(const Exponents& exponents) {
    for (int row = thread_of_block(); row < exponents.rows; row += SLAB_THREADS) {
        exponents.of_slab(FIRST_SLAB - 1)[row] = EXPONENT_OF_NOTHING;
    }
    if (thread_of_block() < 2) *exponents.changed(thread_of_block()) = 0;
}

// The exponent under which a row whose largest shifted value is `magnitude` (bits, times 2^factor_exponent) fits into
// float16.
__device__ __forceinline__ int fitting_exponent(int previous, unsigned magnitude, int factor_exponent) {
    // Never so low that its power of two would leave float32.
    int lowest = -126 - factor_exponent;
    int fitting = previous < lowest ? lowest : previous;
    int own = exponent_of_bits(magnitude) - factor_exponent;
    return own - fitting > LARGEST_EXPONENT ? own - FRESH_EXPONENT : fitting;
}

// The bits of the largest magnitude of a row, from the eight lanes that hold it.
__device__ __forceinline__ unsigned largest_magnitude(const Quad& quad) {
    float largest =
        fmaxf(fmaxf(fabsf(quad.values[0]), fabsf(quad.values[1])), fmaxf(fabsf(quad.values[2]), fabsf(quad.values[3])));
    for (int mask = QUADS / 2; mask > 0; mask /= 2) largest = fmaxf(largest, from_lane_xor(largest, mask));
    return __float_as_uint(largest);
}

// Where in a converted row a chunk lies.
__device__ __forceinline__ int place_of_chunk(int row, int chunk) { return (chunk ^ (row & 7)) * CHUNK_BYTES; }

// Four float16 values, two a register.
struct alignas(8) Halves {
    unsigned pairs[2];
};

// Into a row whose number within its eight is `row`.
template <bool LOW>
__device__ __forceinline__ void store_halves(unsigned char* values, int row, int quad, const Quad& value) {
    int chunk = quad / 2, place = quad % 2 * static_cast<int>(sizeof(Halves));
    Halves high, low;
    for (int pair = 0; pair < 2; ++pair) {
        float x = value.values[2 * pair], y = value.values[2 * pair + 1];
        high.pairs[pair] = pack_f16(x, y);
        float2 rounded = unpack_f16(high.pairs[pair]);
        low.pairs[pair] = pack_f16(x - rounded.x, y - rounded.y);
    }
    *reinterpret_cast<Halves*>(values + place_of_chunk(row, chunk) + place) = high;
    if (LOW) *reinterpret_cast<Halves*>(values + place_of_chunk(row, chunk + LOW_HALVES) + place) = low;
}

// A row's values, shifted; 0 in rows that only fill up the block.
template <class Rows>
__device__ __forceinline__ Quad shifted_quad(const unsigned char* buffer, const Rows& rows, int row, int quad,
                                             const Shift& shift) {
    if (!rows.has(row)) return {};
    Quad value = stored_quad<typename Rows::Value>(buffer + row * ROW_BYTES, quad);
    for (int i = 0; i < 4; ++i) value.values[i] = fmaf(value.values[i], shift.factor, -shift.shifted.values[i]);
    return value;
}

// Converts this warp's share of the rows of `slab` where they lie. LOW: with low halves.
template <bool LOW, class Rows>
__device__ __forceinline__ void convert(unsigned char* buffer, const Rows& rows, const Exponents& exponents, int slab,
                                        const Shift& shift) {
    int quad = lane_of_warp() % QUADS, which = lane_of_warp() / QUADS;
    const int16_t* before = exponents.of_slab(slab - 1);
    int16_t* after = exponents.of_slab(slab);
    // Four rows a pass. Those of half a warp lie four apart, so that their chunks are in different banks.
    int first = which % 2 * 4 + which / 2;
#pragma unroll 1
    for (int group = warp_of_block() * ROWS_PER_GROUP; group < exponents.rows; group += ROWS_PER_GROUP * SLAB_WARPS) {
#pragma unroll
        for (int pass = 0; pass < 2; ++pass) {
            int row = group + first + 2 * pass;
            Quad value = shifted_quad(buffer, rows, row, quad, shift);
            int previous = before[row];
            int exponent = fitting_exponent(previous, largest_magnitude(value), shift.exponent);
            float scale = power_of_two(-(exponent + shift.exponent));
            for (float& entry : value.values) entry *= scale;
            // The row is overwritten: every lane must have read its part of it.
            warp_barrier();
            store_halves<LOW>(buffer + row * ROW_BYTES, first + 2 * pass, quad, value);
            if (quad == 0) {
                // Every writer of `changed` writes the same value.
                if (exponent != previous) *exponents.changed(slab) = slab;
                after[row] = static_cast<int16_t>(exponent);
            }
        }
    }
    // What comes next wants the warp's lanes together.
    warp_barrier();
}

// Fragments of a strip: 16 rows of a slab, 16 features a step.
constexpr int STEPS = SLAB / 16;

struct Fragments {
    unsigned high[STEPS][4], low[STEPS][4];
};

// As the left factor: registers in the order (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k
// 8-15). As the right one the two in the middle change places: each eight rows' registers lie side by side, as
// multiplications want them, which would otherwise be moved there.
enum class Side { LEFT, RIGHT };

// `values`: the first row of the strip, which is a multiple of 8.
template <Side SIDE, bool LOW>
__device__ __forceinline__ void load_fragments(Fragments& fragments, unsigned char* values) {
    int lane = lane_of_warp(), eighth = lane / 8;
    int of_rows = SIDE == Side::LEFT ? eighth % 2 : eighth / 2, of_k = SIDE == Side::LEFT ? eighth / 2 : eighth % 2;
    unsigned char* row = values + (of_rows * 8 + lane % 8) * ROW_BYTES;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        int chunk = 2 * step + of_k;
        load_matrices(fragments.high[step], row + place_of_chunk(lane, chunk));
        if (LOW) load_matrices(fragments.low[step], row + place_of_chunk(lane, chunk + LOW_HALVES));
    }
}

// `a` as the left factor, `b` as the right one.
__device__ __forceinline__ void add_product(float (&tile)[8], const unsigned (&a)[4], const unsigned (&b)[4]) {
    multiply_add_f16(tile, a, b[0], b[1]);
    multiply_add_f16(tile + 4, a, b[2], b[3]);
}

// Adds the product of two strips of a slab to their tile: high high. The tensor cores truncate whenever they add: a chain
// over many slabs would come out too small by 2^-24 a step. So a slab's sum starts from zero and joins the tile by
// ordinary, rounded additions.
__device__ __forceinline__ void add_fast(float (&tile)[8], const Fragments& a, const Fragments& b) {
    float sum[8] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) add_product(sum, a.high[step], b.high[step]);
#pragma unroll
    for (int index = 0; index < 8; ++index) tile[index] += sum[index];
}

// The same of (high + low) (high + low), but for low low. It is two sums, small products and large ones: a product waits for
// the one before it in its sum.
__device__ __forceinline__ void add_exact(float (&tile)[8], const Fragments& a, const Fragments& b) {
    float large[8] = {}, small[8] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        add_product(small, a.low[step], b.high[step]);
        add_product(large, a.high[step], b.high[step]);
        add_product(small, a.high[step], b.low[step]);
    }
#pragma unroll
    for (int index = 0; index < 8; ++index) tile[index] += large[index] + small[index];
}

// All four products, those of high halves for themselves, a step at a time: where few values outweigh all others, low
// low is up to 2^-22 of the product, and so is what truncation takes from it in several steps.
__device__ __forceinline__ void add_careful(float (&tile)[8], const Fragments& a, const Fragments& b) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        float large[8] = {}, small[8] = {};
        add_product(small, a.low[step], b.low[step]);
        add_product(small, a.low[step], b.high[step]);
        add_product(small, a.high[step], b.low[step]);
        add_product(large, a.high[step], b.high[step]);
#pragma unroll
        for (int index = 0; index < 8; ++index) tile[index] += large[index] + small[index];
    }
}

// What a row was multiplied by when its exponent grew.
__device__ __forceinline__ float growth(const int16_t* before, const int16_t* after, int row) {
    return power_of_two(before[row] - after[row]);
}

// Multiplies a tile's entries by powers of two of their rows and columns.
__device__ __forceinline__ void scale_tile(float (&tile)[8], const int16_t* before, const int16_t* after, int first_row,
                                           int first_column) {
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

// Tiles that a warp brings to their places at a time: it waits for memory once for all of them.
constexpr int FLUSHED_TOGETHER = 4;

// Entries 2 part and 2 part + 1 of a tile, which lie side by side, in its place among the partial sums: STRIP x STRIP values
// row by row. They are eight rows or columns on from those of the part before.
__device__ __forceinline__ float2* partial_pair(float* partial, int part) {
    int row = lane_of_warp() / 4 + part % 2 * 8, column = 2 * (lane_of_warp() % 4) + part / 2 * 8;
    return reinterpret_cast<float2*>(partial + row * STRIP + column);
}

// What a flush before has left of a tile.
__device__ __forceinline__ void load_partial(float (&stored)[8], float* partial) {
    for (int part = 0; part < 4; ++part) {
        float2 pair = *partial_pair(partial, part);
        stored[2 * part] = pair.x;
        stored[2 * part + 1] = pair.y;
    }
}

// Moves a tile to its place, added to what was there, and begins it anew.
__device__ __forceinline__ void flush_tile(float (&tile)[8], float* partial, const float (&stored)[8]) {
    for (int part = 0; part < 4; ++part) {
        *partial_pair(partial, part) =
            make_float2(stored[2 * part] + tile[2 * part], stored[2 * part + 1] + tile[2 * part + 1]);
    }
    for (int index = 0; index < 8; ++index) tile[index] = 0.0f;
}

// Whether the slab before this one was flushed, so that this turn keeps its exponents.
__device__ __forceinline__ bool follows_flush(int slab) {
    int done = slab - FIRST_SLAB;
    return done > 0 && done % FLUSH_SLABS == 0;
}

// The exponents of the partial sums as `slab` finds them. In the turn behind a flush they are still being kept.
__device__ __forceinline__ const int16_t* exponents_of_last_flush(const Exponents& exponents, int slab) {
    return follows_flush(slab) ? exponents.of_slab(slab - 1) : exponents.of_flush();
}

// Moves a warp's tiles to their places among the partial sums: written there by the first flush, added by those that
// follow, what is there being brought to the present exponents. `work.with_tile(slot, visit)` calls visit(tile, row
// strip, column strip) if the warp has a tile in this of its `Work::SLOTS` slots, `work.partial_of(row strip, column
// strip)` is where it goes, and `work.first_rows(row strip, column strip)` the rows of the buffer that its strips begin at.
template <class Work>
__device__ __forceinline__ void flush_tiles(Work& work, int slab, bool first_flush) {
    const int16_t *before = exponents_of_last_flush(work.exponents, slab), *now = work.exponents.of_slab(slab);
#pragma unroll
    for (int first = 0; first < Work::SLOTS; first += FLUSHED_TOGETHER) {
        float stored[FLUSHED_TOGETHER][8] = {};
        if (!first_flush) {
#pragma unroll
            for (int i = 0; i < FLUSHED_TOGETHER; ++i) {
                work.with_tile(first + i,
                               [&](float (&)[8], int r, int c) { load_partial(stored[i], work.partial_of(r, c)); });
            }
        }
#pragma unroll
        for (int i = 0; i < FLUSHED_TOGETHER; ++i) {
            work.with_tile(first + i, [&](float (&tile)[8], int r, int c) {
                Place rows = work.first_rows(r, c);
                if (!first_flush) scale_tile(stored[i], before, now, rows.row, rows.column);
                flush_tile(tile, work.partial_of(r, c), stored[i]);
            });
        }
    }
}

// How large the products of the two rows whose diagonal entries a lane holds could have been, had nothing cancelled.
struct Reach {
    float sums[2];     // over chains, of the squares of what a chain has added to the row's squared length: in 2^(4 exponent)
    float counted[2];  // what of the squared length, in 2^(2 exponent), has been counted since the last flush
};

// Calls visit(which of the two, row, entry of the tile) for this lane's entry of the diagonal in either half of a tile on the
// diagonal, if it has one there: the same lane has the same at any time.
template <class Visit>
__device__ __forceinline__ void for_diagonal(const float (&tile)[8], int first_row, const Visit& visit) {
    int g = lane_of_warp() / 4, q = lane_of_warp() % 4;
    if (q != g / 2) return;
    visit(0, first_row + g, g % 2 == 0 ? tile[0] : tile[1]);
    visit(1, first_row + g + 8, g % 2 == 0 ? tile[6] : tile[7]);
}

// At the end of a chain: adds the square of what it has added to the diagonal to the reach of the tile's rows.
__device__ __forceinline__ void add_reach(Reach& reach, const float (&tile)[8]) {
    for_diagonal(tile, 0, [&](int which, int, float diagonal) {
        float added = diagonal - reach.counted[which];
        reach.sums[which] += added * added;
        reach.counted[which] = diagonal;
    });
}

// When rows' exponents have grown.
__device__ __forceinline__ void scale_reach(Reach& reach, const float (&tile)[8], const int16_t* before,
                                            const int16_t* after, int first_row) {
    for_diagonal(tile, first_row, [&](int which, int row, float) {
        float square = growth(before, after, row);
        square *= square;
        reach.counted[which] *= square;
        reach.sums[which] *= square * square;
    });
}

// After a flush, the tile being zero again.
__device__ __forceinline__ void count_anew(Reach& reach, const float (&tile)[8]) {
    for_diagonal(tile, 0, [&](int which, int, float) { reach.counted[which] = 0.0f; });
}

__device__ __forceinline__ void clear_reach(Reach& reach, const float (&tile)[8]) {
    for_diagonal(tile, 0, [&](int which, int, float) { reach.sums[which] = reach.counted[which] = 0.0f; });
}

__device__ __forceinline__ void write_reach(float* out, const Reach& reach, const float (&tile)[8], int first_row) {
    for_diagonal(tile, first_row, [&](int which, int row, float) { out[row] = reach.sums[which]; });
}

// In the turn after a flush, when no warp reads any more what the one before has left: remembers under which exponents it has
// left the partial sums.
__device__ __forceinline__ void keep_exponents(const Exponents& exponents, int flushed) {
    for (int row = thread_of_block(); row < exponents.rows; row += SLAB_THREADS) {
        exponents.of_flush()[row] = exponents.of_slab(flushed)[row];
    }
}

// After the last of `slabs`: the exponents of the partial sums of `count` rows from `first` on.
__device__ __forceinline__ void write_exponents(int* out, const Exponents& exponents, int slabs, int first, int count) {
    for (int row = thread_of_block(); row < count; row += SLAB_THREADS) {
        out[row] = exponents.of_slab(FIRST_SLAB + slabs - 1)[first + row];
    }
}

// Streams slabs first .. last through the buffers of `work.ring`. In the turn of slab s a block multiplies s,
// converts s + 1 (and, with LEAD = 2, measures s + 2), and copies of later slabs are under way; the buffer of s - 1 is
// free. So one barrier a slab is enough. Half of the warps prepare before they multiply and half after, so that on each
// scheduler the tensor cores and the ordinary units are busy at the same time.
template <class Work>
__device__ __forceinline__ void stream_slabs(Work& work, int slabs) {
    int last = FIRST_SLAB + slabs, buffers = work.ring.buffers;
    work.ring.slab = FIRST_SLAB - Work::LEAD;
    work.ring.place = 0;
    bool prepares_first = warp_of_block() < SLAB_WARPS / 2;
    for (int slab = FIRST_SLAB; slab < FIRST_SLAB + buffers - 1 - Work::LEAD; ++slab) {
        if (slab < last) work.copy(slab);
        copies_commit();
    }
#pragma unroll 1
    for (int slab = FIRST_SLAB - Work::LEAD; slab < last; ++slab, work.ring.move_on()) {
        // All copies but those behind slab + LEAD have arrived, this thread's by the wait, the others' by the barrier;
        // and all warps are done with the slab before this one.
        copies_wait(buffers - 2 - Work::LEAD);
        __syncthreads();
        int copied = slab + buffers - 1;
        if (copied < last) work.copy(copied);
        copies_commit();
        if (follows_flush(slab)) keep_exponents(work.exponents, slab - 1);
        if (prepares_first) work.prepare(slab, last);
        if (slab >= FIRST_SLAB) work.multiply(slab, last);
        if (!prepares_first) work.prepare(slab, last);
    }
}
