// Stored values as float32, pairs of float16 values, and powers of two.
#pragma once

#include "common/platform.cuh"

struct F16 {
    uint16_t bits;
};

struct BF16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(BF16 value) {
    return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}

__device__ __forceinline__ float to_float(F16 value) {
#if GS_DEVICE
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
#else
    return emulation::from_f16(value.bits);
#endif
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }

// To nearest, ties to even.
__device__ __forceinline__ void store(BF16* to, float value) {
#if GS_DEVICE
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
    to->bits = emulation::to_bf16(value);
#endif
}

// Two float16 values in a register, `low` in its lower half; to nearest, ties to even.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
#if GS_DEVICE
    unsigned packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return emulation::to_f16(low) | static_cast<unsigned>(emulation::to_f16(high)) << 16;
#endif
}

__device__ __forceinline__ float2 unpack_f16(unsigned packed) {
    F16 low{static_cast<uint16_t>(packed & 0xFFFFu)}, high{static_cast<uint16_t>(packed >> 16)};
    return make_float2(to_float(low), to_float(high));
}

// Two bfloat16 values in a register, `low` in its lower half; to nearest, ties to even.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
#if GS_DEVICE
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return emulation::to_bf16(low) | static_cast<unsigned>(emulation::to_bf16(high)) << 16;
#endif
}

// A value rounded to TF32's 11 significant bits: off by 2^-11 of itself at most, to nearest but just below a power of two.
// What is not finite stays so, and what is 2^114 or more becomes so. Two multiply-adds (Veltkamp's splitting); cvt.rna.tf32
// takes three instructions, of units that have less to spare.
__device__ __forceinline__ float round_to_tf32(float value) {
    float above = fmaf(value, 8192.0f, value);
    return fmaf(value, -8192.0f, above);
}

// The smaller of two values; NaN where one of them is, which fminf leaves out.
__device__ __forceinline__ float smaller(float a, float b) {
#if GS_DEVICE
    float result;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#else
    return a != a || b != b ? a + b : fminf(a, b);
#endif
}

// The larger of two values; NaN where one of them is.
__device__ __forceinline__ float larger(float a, float b) {
#if GS_DEVICE
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#else
    return a != a || b != b ? a + b : fmaxf(a, b);
#endif
}

// False for NaN and the infinities.
__device__ __forceinline__ bool is_finite(float value) { return (__float_as_uint(value) & 0x7F800000u) != 0x7F800000u; }

// The e with 2^e <= |value| < 2^(e + 1) of a normal number, from the bits of its magnitude; -127 for smaller ones.
__device__ __forceinline__ int exponent_of_bits(unsigned magnitude) { return static_cast<int>(magnitude >> 23) - 127; }

// 2^exponent; 0 below the normal numbers. `exponent` is at most 127.
__device__ __forceinline__ float power_of_two(int exponent) {
    return exponent < -126 ? 0.0f : __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
}

// The same in float64, infinity above its numbers.
__device__ __forceinline__ double power_of_two_f64(int exponent) {
    int biased = exponent < -1022 ? 0 : exponent > 1023 ? 2047 : exponent + 1023;
    return __longlong_as_double(static_cast<long long>(biased) << 52);
}

// The e with 2^e <= |value| < 2^(e + 1); -1023 for numbers below the normal ones.
__device__ __forceinline__ int exponent_of(double value) {
    return static_cast<int>(__double_as_longlong(value) >> 52 & 0x7FF) - 1023;
}

// value * 2^exponent in two steps, so that neither leaves the range unless the result does.
__device__ __forceinline__ double scaled(double value, int exponent) {
    int half = exponent / 2;
    return value * power_of_two_f64(half) * power_of_two_f64(exponent - half);
}

// 1 / sqrt(value), for a value that float32 holds as a normal number, to a rounding or two. From float32's estimate by
// Newton's method: division and root of float64 are calls, across which nothing stays in registers.
__device__ __forceinline__ double inverse_root(double value) {
    double root = rsqrtf(static_cast<float>(value));
    for (int step = 0; step < 2; ++step) root *= fma(-0.5 * value * root, root, 1.5);
    return root;
}
