// The two leading eigenpairs of K' = HKH for every Gram matrix of a batch, and K' without the first.
// Source: subspace iteration with Rayleigh-Ritz projection (Golub and Van Loan, section 8.2.4; Stewart 1969); what they
// are for: Nguyen et al. (ICLR 2021), section 5. crates/gramscope-reference/src/components.rs is the model.
//
// K'_ij = K_ij - m_i - m_j with m_i = rowsum_i / n less half of their mean: K' v needs K, m and two sums, so K' is
// never stored.
//
// In   k [layers, n, n]        float64, row-major, symmetric, with its diagonal
//      sums [layers, 3, n]     as gs_ucenter_rows leaves them with biased = 1
// Out  vectors [layers, EIGEN_VECTORS, n]   float64, orthonormal or 0; the first two are the leading eigenvectors
//      summaries [layers]      EigenSummary
//      scratch [layers, EIGEN_VECTORS, n]
//      deflated [layers, n, n] float64: K' - l_1 v_1 v_1^T
// A block a matrix (plan::eigen_subspace); deflate: plan::eigen_deflate. Deterministic: yes, no atomics. float64
// throughout.
//
// Variants  subspace   EIGEN_VECTORS vectors at once: the error of pair k falls as l_9 / l_k a step, not as l_(k + 1) /
//                      l_k; ROUND steps between projections; stops when the residuals of the first `pairs` are below
//                      tolerance l_1, or after `iterations` steps
//           naive      Jacobi's method on the whole matrix: the reference on the device
#include "common/numbers.cuh"
#include "common/records.cuh"
#include "common/reduce.cuh"
#include "common/triangle.cuh"

struct EigenShape {
    double tolerance;
    int32_t examples;
    int32_t layers;
    int32_t iterations;
    int32_t pairs;  // that have to settle: 1 or 2
};

constexpr int COUNT = EIGEN_VECTORS;
constexpr int ROUND = 8;
// Rows of K that a warp multiplies at once, so that vectors are read once for all of them.
constexpr int ROWS = 4;
constexpr int JACOBI_SWEEPS = 12;

// --- K' --------------------------------------------------------------------------------------------------------------

// One matrix of the batch, and a block's scratch.
struct Centred {
    const double* k;
    const double* sums;
    int n;
    double half;  // half of the mean of K
    Scratch scratch;

    __device__ __forceinline__ double mean(int i) const { return sums[i] / n - half; }
    __device__ __forceinline__ double entry(int64_t i, int64_t j) const {
        return k[i * n + j] - mean(static_cast<int>(i)) - mean(static_cast<int>(j));
    }

    template <class Term>
    __device__ __forceinline__ double sum(const Term& term) const {
        return block_sum_of(n, term, scratch);
    }
};

__device__ __forceinline__ Centred centred_at(const double* k, const double* sums, int layer, int n,
                                              const Scratch& scratch) {
    Centred matrix{k + static_cast<int64_t>(layer) * n * n, sums + static_cast<int64_t>(layer) * 3 * n, n, 0.0,
                   scratch};
    matrix.half = 0.5 * matrix.sum([&](int i) { return matrix.sums[i]; }) / (static_cast<double>(n) * n);
    return matrix;
}

// --- subspace --------------------------------------------------------------------------------------------------------

static_assert(COUNT == ENTRY_WARPS, "a warp a vector");

// The eigenproblem within the subspace, and what warps find of one vector each; in shared memory.
struct Projected {
    double values[COUNT][COUNT];    // the matrix of the subspace, symmetric; in the end its diagonal
    double rotation[COUNT][COUNT];  // its eigenvectors as columns
    double products[2][COUNT];
    int order[COUNT];  // of the eigenvalues, the largest first

    __device__ __forceinline__ double value(int pair) const { return values[order[pair]][order[pair]]; }
};

// out = K' in for all vectors. A warp takes a vector's two sums, and then rows of K.
__device__ __forceinline__ void apply(double* out, const double* in, Projected& small, const Centred& matrix) {
    int n = matrix.n, warp = warp_of_block();
    const double* own = in + static_cast<int64_t>(warp) * n;
    double total = warp_sum_of(n, [&](int j) { return own[j]; });
    double product = warp_sum_of(n, [&](int j) { return matrix.mean(j) * own[j]; });
    if (lane_of_warp() == 0) {
        small.products[0][warp] = total;
        small.products[1][warp] = product;
    }
    __syncthreads();
    for (int first = warp; first < n; first += ROWS * ENTRY_WARPS) {
        double sums[ROWS][COUNT] = {};
        auto row = [&](int r) { return first + r * ENTRY_WARPS; };
        for (int j = lane_of_warp(); j < n; j += WARP) {
            double values[COUNT];
            for (int v = 0; v < COUNT; ++v) values[v] = in[static_cast<int64_t>(v) * n + j];
            for (int r = 0; r < ROWS; ++r) {
                double entry = row(r) < n ? matrix.k[static_cast<int64_t>(row(r)) * n + j] : 0.0;
                for (int v = 0; v < COUNT; ++v) sums[r][v] = fma(entry, values[v], sums[r][v]);
            }
        }
        for (int r = 0; r < ROWS && row(r) < n; ++r) {
            double mean = matrix.mean(row(r));
            for (int v = 0; v < COUNT; ++v) {
                double sum = warp_sum(sums[r][v]) - mean * small.products[0][v] - small.products[1][v];
                if (lane_of_warp() == 0) out[static_cast<int64_t>(v) * n + row(r)] = sum;
            }
        }
    }
    __syncthreads();
}

// Start vectors: well spread, the same for every matrix.
__device__ __forceinline__ void spread(double* vectors, int n) {
    for (int index = thread_of_block(); index < COUNT * n; index += ENTRY_THREADS) {
        unsigned bits = static_cast<unsigned>(index + 1) * 2654435761u;
        bits ^= bits >> 15;
        bits *= 2246822519u;
        bits ^= bits >> 13;
        vectors[index] = static_cast<double>(bits) * 0x1p-31 - 1.0;
    }
    __syncthreads();
}

// Makes the vectors orthonormal, one after the other, each twice against all before it; one of which nothing is left
// becomes 0. A warp takes a product.
__device__ __forceinline__ void orthonormalise(double* vectors, Projected& small, int n) {
    int warp = warp_of_block();
    const double* other = vectors + static_cast<int64_t>(warp) * n;
    double* products = small.products[0];
#pragma unroll 1
    for (int v = 0; v < COUNT; ++v) {
        double* own = vectors + static_cast<int64_t>(v) * n;
        double before = 0.0;
#pragma unroll 1
        for (int round = 0; round < 2; ++round) {
            if (warp <= v) {
                double product = warp_sum_of(n, [&](int i) { return own[i] * other[i]; });
                if (lane_of_warp() == 0) products[warp] = product;
            }
            __syncthreads();
            if (round == 0) before = products[v];
            for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) {
                double value = own[i];
                for (int u = 0; u < v; ++u) value = fma(-products[u], vectors[static_cast<int64_t>(u) * n + i], value);
                own[i] = value;
            }
            __syncthreads();
        }
        // By every warp, in the same order.
        double after = warp_sum_of(n, [&](int i) { return own[i] * own[i]; });
        __syncthreads();
        // Below that, what is left is rounding.
        double scale = after > before * 1e-28 ? 1.0 / sqrt(after) : 0.0;
        for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) own[i] *= scale;
        __syncthreads();
    }
}

__device__ __forceinline__ void turn(double& x, double& y, double c, double s) {
    double before = x;
    x = c * before - s * y;
    y = s * before + c * y;
}

// Cosine and sine of the rotation that zeroes the entry pq of a symmetric matrix: Golub and Van Loan, section 8.5.
struct Rotation {
    double c, s;
};

__device__ __forceinline__ Rotation rotation_of(double pp, double qq, double pq) {
    if (pq == 0.0) return {1.0, 0.0};
    double theta = (qq - pp) / (2.0 * pq);
    double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
    double c = 1.0 / sqrt(t * t + 1.0);
    return {c, t * c};
}

// One of the COUNT - 1 rounds of a tournament, in which all meet all: pair `index` of the COUNT / 2 that meet in it.
__device__ __forceinline__ Place meeting(int round, int index) {
    constexpr int OTHERS = COUNT - 1;
    if (index == 0) return {round, OTHERS};
    return {(round + index) % OTHERS, (round + OTHERS - index) % OTHERS};
}

// The order of the diagonal, by lane `i` the place of its entry.
__device__ __forceinline__ void sort(Projected& small, int i) {
    double own = small.values[i][i];
    int place = 0;
    for (int other = 0; other < COUNT; ++other) {
        double value = small.values[other][other];
        place += value > own || (!(value < own) && other < i);
    }
    // So that there is something at every place, even where NaN has none.
    if (lane_of_warp() < COUNT) small.order[i] = i;
    warp_barrier();
    if (lane_of_warp() < COUNT) small.order[place] = i;
}

// The eigenvectors of the matrix of the subspace by Jacobi's method, by one warp: COUNT / 2 rotations at once, a lane a row
// of each. Once a sweep has turned by no more than 1e-8, what it leaves is rounding: errors are squared from sweep to sweep.
__device__ __forceinline__ void solve(Projected& small) {
    static_assert(COUNT * COUNT == 2 * WARP, "a lane a row of a rotation");
    int lane = lane_of_warp(), i = lane % COUNT;
    for (int index = lane; index < COUNT * COUNT; index += WARP)
        small.rotation[index / COUNT][index % COUNT] = index / COUNT == index % COUNT ? 1.0 : 0.0;
#pragma unroll 1
    for (int sweep = 0; sweep < JACOBI_SWEEPS; ++sweep) {
        double largest = 0.0;
#pragma unroll 1
        for (int round = 0; round < COUNT - 1; ++round) {
            auto [p, q] = meeting(round, lane / COUNT);
            auto [c, s] = rotation_of(small.values[p][p], small.values[q][q], small.values[p][q]);
            largest = fmax(largest, fabs(s));
            // Nobody may turn what somebody has yet to read.
            warp_barrier();
            turn(small.values[i][p], small.values[i][q], c, s);
            turn(small.rotation[i][p], small.rotation[i][q], c, s);
            warp_barrier();
            turn(small.values[p][i], small.values[q][i], c, s);
            warp_barrier();
        }
        if (warp_max(largest) <= 1e-8) break;
    }
    sort(small, i);
}

// vectors := vectors rotation, in the order of the eigenvalues.
__device__ __forceinline__ void combine(double* vectors, const Projected& small, int n) {
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) {
        double mixed[COUNT] = {};
        for (int v = 0; v < COUNT; ++v) {
            for (int u = 0; u < COUNT; ++u)
                mixed[v] = fma(vectors[static_cast<int64_t>(u) * n + i], small.rotation[u][small.order[v]], mixed[v]);
        }
        for (int v = 0; v < COUNT; ++v) vectors[static_cast<int64_t>(v) * n + i] = mixed[v];
    }
    __syncthreads();
}

// |K' v - l v| of eigenpair `index`.
__device__ __forceinline__ double residual(const double* images, const double* vectors, const Projected& small,
                                           int index, const Centred& matrix) {
    const double *image = images + static_cast<int64_t>(index) * matrix.n,
                 *vector = vectors + static_cast<int64_t>(index) * matrix.n;
    double value = small.value(index);
    return sqrt(matrix.sum([&](int i) {
        double difference = image[i] - value * vector[i];
        return difference * difference;
    }));
}

// Rayleigh-Ritz: the best approximations to eigenpairs within the subspace; images = K' vectors. Returns the largest
// residual of the first `pairs`.
__device__ __forceinline__ double project(double* vectors, double* images, Projected& small, int pairs,
                                          const Centred& matrix) {
    int n = matrix.n, warp = warp_of_block();
#pragma unroll 1
    for (int entry = warp; entry < index_in_triangle(COUNT, 0); entry += ENTRY_WARPS) {
        Place place = place_in_triangle(entry);
        const double *x = vectors + static_cast<int64_t>(place.row) * n,
                     *y = images + static_cast<int64_t>(place.column) * n;
        double product = warp_sum_of(n, [&](int i) { return x[i] * y[i]; });
        if (lane_of_warp() == 0)
            small.values[place.row][place.column] = small.values[place.column][place.row] = product;
    }
    __syncthreads();
    if (warp == 0) solve(small);
    __syncthreads();
    combine(vectors, small, n);
    combine(images, small, n);
    double first = residual(images, vectors, small, 0, matrix);
    return pairs < 2 ? first : fmax(first, residual(images, vectors, small, 1, matrix));
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 1)
    gs_eigen_subspace(double* vectors, EigenSummary* summaries, double* scratch, const double* k, const double* sums,
                      EigenShape shape) {
    int n = shape.examples, layer = static_cast<int>(blockIdx.x);
    auto& small = *reinterpret_cast<Projected*>(shared_memory());
    Centred matrix = centred_at(k, sums, layer, n, scratch_at(shared_memory() + sizeof(Projected)));
    double* own = vectors + static_cast<int64_t>(layer) * COUNT * n;
    double* images = scratch + static_cast<int64_t>(layer) * COUNT * n;
    spread(own, n);
    double error = 0.0;
    int step = 0;
    for (;;) {
        orthonormalise(own, small, n);
        apply(images, own, small, matrix);
        bool last = ++step >= shape.iterations;
        if (last || step % ROUND == 0) {
            error = project(own, images, small, shape.pairs, matrix);
            // The same in all threads.
            if (last || error <= shape.tolerance * small.value(0)) break;
        }
        for (int i = thread_of_block(); i < COUNT * n; i += ENTRY_THREADS) own[i] = images[i];
        __syncthreads();
    }
    double trace = matrix.sum([&](int i) { return matrix.entry(i, i); });
    if (thread_of_block() != 0) return;
    summaries[layer] = {small.value(0), small.value(1), trace, error, step, 0};
}

// --- deflate ---------------------------------------------------------------------------------------------------------

// blockIdx.y: the matrix.
extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 1)
    gs_eigen_deflate(double* deflated, const double* vectors, const EigenSummary* summaries, const double* k,
                     const double* sums, EigenShape shape) {
    int64_t n = shape.examples, entry = static_cast<int64_t>(blockIdx.x) * ENTRY_THREADS + thread_of_block();
    int layer = static_cast<int>(blockIdx.y);
    Centred matrix = centred_at(k, sums, layer, shape.examples, scratch_at(shared_memory()));
    if (entry >= n * n) return;
    const double* first = vectors + layer * COUNT * n;
    int64_t i = entry / n, j = entry % n;
    deflated[layer * n * n + entry] = matrix.entry(i, j) - summaries[layer].first * first[i] * first[j];
}

// --- naive -----------------------------------------------------------------------------------------------------------

// Turns columns, or rows, p and q of a matrix [n, n] by (c, s).
__device__ __forceinline__ void turn_all(double* matrix, int n, int64_t p, int64_t q, int64_t along, int64_t across,
                                         double c, double s) {
    for (int64_t i = thread_of_block(); i < n; i += ENTRY_THREADS)
        turn(matrix[i * along + p * across], matrix[i * along + q * across], c, s);
    __syncthreads();
}

// work [layers, 2, n, n]: K' on its way to the diagonal, and the eigenvectors as columns. values [layers, n], unsorted.
extern "C" __global__ void __launch_bounds__(ENTRY_THREADS, 1)
    gs_eigen_naive(double* values, double* work, const double* k, const double* sums, EigenShape shape) {
    int n = shape.examples, layer = static_cast<int>(blockIdx.x);
    Centred matrix = centred_at(k, sums, layer, n, scratch_at(shared_memory()));
    double* a = work + static_cast<int64_t>(layer) * 2 * n * n;
    double* v = a + static_cast<int64_t>(n) * n;
    for (int64_t index = thread_of_block(); index < static_cast<int64_t>(n) * n; index += ENTRY_THREADS) {
        a[index] = matrix.entry(index / n, index % n);
        v[index] = index / n == index % n ? 1.0 : 0.0;
    }
    __syncthreads();
    for (int sweep = 0; sweep < JACOBI_SWEEPS; ++sweep) {
        for (int64_t p = 0; p < n; ++p) {
            for (int64_t q = p + 1; q < n; ++q) {
                double pp = a[p * n + p], qq = a[q * n + q], pq = a[p * n + q];
                // Nobody may turn what somebody has yet to read.
                __syncthreads();
                if (fabs(pq) <= 1e-18 * sqrt(fabs(pp * qq))) continue;
                auto [c, s] = rotation_of(pp, qq, pq);
                turn_all(a, n, p, q, n, 1, c, s);
                turn_all(v, n, p, q, n, 1, c, s);
                turn_all(a, n, p, q, 1, n, c, s);
            }
        }
    }
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS)
        values[static_cast<int64_t>(layer) * n + i] = a[static_cast<int64_t>(i) * n + i];
}
