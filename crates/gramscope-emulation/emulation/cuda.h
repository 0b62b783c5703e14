// What CUDA C++ gives a kernel without being asked, for the host compiler. kernels/common/platform.cuh includes it
// where nvcc is not at work.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "tensor_core.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define threadIdx ::emulation::thread_index
#define blockIdx ::emulation::block_index
#define blockDim ::emulation::block_size
#define gridDim ::emulation::grid_size

struct float2 {
    float x, y;
};

inline float2 make_float2(float x, float y) { return {x, y}; }

template <class To, class From>
inline To emulated_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(result));
    return result;
}

inline unsigned __float_as_uint(float value) { return emulated_bits<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return emulated_bits<float>(bits); }
inline long long __double_as_longlong(double value) { return emulated_bits<long long>(value); }
inline double __longlong_as_double(long long bits) { return emulated_bits<double>(bits); }

// Rounded once each, and never contracted with what follows.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

// Two units in the last place off, as the device's may be.
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value) * 1.0000002f; }

inline void __syncthreads() { emulation::barrier_all(); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

using std::exp;
using std::expm1;
using std::fabs;
using std::fma;
using std::fmax;
using std::fmin;
using std::log;
using std::sqrt;
