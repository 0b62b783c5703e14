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
// Variants  subspace   EIGEN_VECTORS vectors at once: the error falls as l_9 / l_2 a step, not as l_2 / l_1; ROUND
//                      steps between projections; stops when both residuals are below tolerance l_1, or after
//                      `iterations` steps
//           naive      Jacobi's method on the whole matrix: the reference on the device
#include "common/numbers.cuh"
#include "common/reduce.cuh"

struct EigenShape {
    double tolerance;
    int32_t examples;
    int32_t layers;
    int32_t iterations;
    int32_t padding;
};

struct EigenSummary {
    double first;     // l_1
    double second;    // l_2
    double trace;     // of K': l_1 / trace is the fraction of the variance
    double residual;  // the larger of |K' v - l v| for the first two
    int32_t iterations;
    int32_t padding;
};

constexpr int COUNT = EIGEN_VECTORS;
constexpr int ROUND = 8;
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

// out = K' in for all vectors. A warp takes a row of K, once for all of them.
__device__ __forceinline__ void apply(double* out, const double* in, const Centred& matrix) {
    int n = matrix.n;
    double totals[COUNT], products[COUNT];
    for (int v = 0; v < COUNT; ++v) {
        const double* own = in + static_cast<int64_t>(v) * n;
        totals[v] = matrix.sum([&](int j) { return own[j]; });
        products[v] = matrix.sum([&](int j) { return matrix.mean(j) * own[j]; });
    }
    for (int i = warp_of_block(); i < n; i += ENTRY_WARPS) {
        double sums[COUNT] = {};
        for (int j = lane_of_warp(); j < n; j += WARP) {
            double entry = matrix.k[static_cast<int64_t>(i) * n + j];
            for (int v = 0; v < COUNT; ++v) sums[v] = fma(entry, in[static_cast<int64_t>(v) * n + j], sums[v]);
        }
        for (int v = 0; v < COUNT; ++v) {
            double sum = warp_sum(sums[v]);
            if (lane_of_warp() == 0)
                out[static_cast<int64_t>(v) * n + i] = sum - matrix.mean(i) * totals[v] - products[v];
        }
    }
    __syncthreads();
}

// --- subspace --------------------------------------------------------------------------------------------------------

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

// Makes the vectors orthonormal, one after the other, each twice against those before it; one of which nothing is left
// becomes 0.
__device__ __forceinline__ void orthonormalise(double* vectors, const Centred& matrix) {
    int n = matrix.n;
#pragma unroll 1
    for (int v = 0; v < COUNT; ++v) {
        double* own = vectors + static_cast<int64_t>(v) * n;
        double before = matrix.sum([&](int i) { return own[i] * own[i]; });
#pragma unroll 1
        for (int round = 0; round < 2; ++round) {
#pragma unroll 1
            for (int u = 0; u < v; ++u) {
                const double* other = vectors + static_cast<int64_t>(u) * n;
                double product = matrix.sum([&](int i) { return own[i] * other[i]; });
                for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) own[i] -= product * other[i];
            }
        }
        double after = matrix.sum([&](int i) { return own[i] * own[i]; });
        // Below that, what is left is rounding.
        double scale = after > before * 1e-28 ? 1.0 / sqrt(after) : 0.0;
        for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) own[i] *= scale;
    }
    __syncthreads();
}

// A symmetric matrix of the subspace, its eigenvectors as columns of `rotation`; in shared memory.
struct Projected {
    double values[COUNT][COUNT];
    double rotation[COUNT][COUNT];
};

__device__ __forceinline__ void turn(double& x, double& y, double c, double s) {
    double before = x;
    x = c * before - s * y;
    y = s * before + c * y;
}

// One rotation of Jacobi's method, to zero the entry (p, q) of a small matrix: Golub and Van Loan, section 8.5.
__device__ __forceinline__ void rotate(Projected& small, int p, int q) {
    double pq = small.values[p][q];
    if (pq == 0.0) return;
    double theta = (small.values[q][q] - small.values[p][p]) / (2.0 * pq);
    double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
    double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
    for (int i = 0; i < COUNT; ++i) {
        turn(small.values[i][p], small.values[i][q], c, s);
        turn(small.rotation[i][p], small.rotation[i][q], c, s);
    }
    for (int i = 0; i < COUNT; ++i) turn(small.values[p][i], small.values[q][i], c, s);
}

// Swaps the pairs so that the largest values come first.
__device__ __forceinline__ void sort(Projected& small) {
#pragma unroll 1
    for (int p = 0; p < COUNT; ++p) {
#pragma unroll 1
        for (int q = p + 1; q < COUNT; ++q) {
            if (small.values[q][q] <= small.values[p][p]) continue;
            double value = small.values[p][p];
            small.values[p][p] = small.values[q][q];
            small.values[q][q] = value;
            for (int i = 0; i < COUNT; ++i) {
                double entry = small.rotation[i][p];
                small.rotation[i][p] = small.rotation[i][q];
                small.rotation[i][q] = entry;
            }
        }
    }
}

// By one thread: COUNT is small.
__device__ __forceinline__ void solve(Projected& small) {
    for (int i = 0; i < COUNT; ++i) {
        for (int j = 0; j < COUNT; ++j) small.rotation[i][j] = i == j ? 1.0 : 0.0;
    }
#pragma unroll 1
    for (int sweep = 0; sweep < JACOBI_SWEEPS; ++sweep) {
#pragma unroll 1
        for (int p = 0; p < COUNT; ++p) {
#pragma unroll 1
            for (int q = p + 1; q < COUNT; ++q) rotate(small, p, q);
        }
    }
    sort(small);
}

// vectors := vectors rotation.
__device__ __forceinline__ void combine(double* vectors, const Projected& small, int n) {
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS) {
        double mixed[COUNT] = {};
        for (int v = 0; v < COUNT; ++v) {
            for (int u = 0; u < COUNT; ++u)
                mixed[v] = fma(vectors[static_cast<int64_t>(u) * n + i], small.rotation[u][v], mixed[v]);
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
    double value = small.values[index][index];
    return sqrt(matrix.sum([&](int i) {
        double difference = image[i] - value * vector[i];
        return difference * difference;
    }));
}

// Rayleigh-Ritz: the best approximations to eigenpairs within the subspace; images = K' vectors. Returns the larger
// residual of the first two.
__device__ __forceinline__ double project(double* vectors, double* images, Projected& small, const Centred& matrix) {
    int n = matrix.n;
#pragma unroll 1
    for (int u = 0; u < COUNT; ++u) {
#pragma unroll 1
        for (int v = 0; v <= u; ++v) {
            const double *x = vectors + static_cast<int64_t>(u) * n, *y = images + static_cast<int64_t>(v) * n;
            double product = matrix.sum([&](int i) { return x[i] * y[i]; });
            if (thread_of_block() == 0) small.values[u][v] = small.values[v][u] = product;
        }
    }
    if (thread_of_block() == 0) solve(small);
    __syncthreads();
    combine(vectors, small, n);
    combine(images, small, n);
    return fmax(residual(images, vectors, small, 0, matrix), residual(images, vectors, small, 1, matrix));
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
        orthonormalise(own, matrix);
        apply(images, own, matrix);
        bool last = ++step >= shape.iterations;
        if (last || step % ROUND == 0) {
            error = project(own, images, small, matrix);
            // The same in all threads.
            if (last || error <= shape.tolerance * small.values[0][0]) break;
        }
        for (int i = thread_of_block(); i < COUNT * n; i += ENTRY_THREADS) own[i] = images[i];
        __syncthreads();
    }
    double trace = matrix.sum([&](int i) { return matrix.entry(i, i); });
    if (thread_of_block() != 0) return;
    summaries[layer] = {small.values[0][0], small.values[1][1], trace, error, step, 0};
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
                if (fabs(pq) <= 1e-18 * sqrt(fabs(pp * qq)) || pq == 0.0) continue;
                double theta = (qq - pp) / (2.0 * pq);
                double t = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
                double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
                turn_all(a, n, p, q, n, 1, c, s);
                turn_all(v, n, p, q, n, 1, c, s);
                turn_all(a, n, p, q, 1, n, c, s);
            }
        }
    }
    for (int i = thread_of_block(); i < n; i += ENTRY_THREADS)
        values[static_cast<int64_t>(layer) * n + i] = a[static_cast<int64_t>(i) * n + i];
}
