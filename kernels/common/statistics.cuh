// The trimmed mean of a column: (sum - least - most) / (n - 2).
//
// The least and the greatest value never enter the sum. So one outlier, however large, does not drown what the others
// add up to, as it would if it were subtracted again in float32.
#pragma once

#include "common/numbers.cuh"

struct Column {
    float sum;  // of all values but two, each times `weight`
    float least, most;  // one of them is not finite once a value was not
};

// A power of two by which n >= 2 values can be multiplied before they are added, so that their sum does not overflow.
__device__ __forceinline__ float weight_of_sum(int n) {
    return power_of_two(-1 - exponent_of_bits(__float_as_uint(static_cast<float>(n - 1))));
}

__device__ __forceinline__ Column column_of(float a, float b) {
    return {0.0f, smaller(a, b), larger(a, b)};
}

// Two more values, at least one of which stays in the middle and joins the sum, as does one of those that were
// outermost.
__device__ __forceinline__ void add_pair(Column& column, float a, float b, float weight) {
    float least = smaller(a, b), most = larger(a, b);
    column.sum = fmaf(fminf(column.most, most), weight, column.sum);
    column.sum = fmaf(fmaxf(column.least, least), weight, column.sum);
    column.least = smaller(column.least, least);
    column.most = larger(column.most, most);
}

__device__ __forceinline__ void add_value(Column& column, float value, float weight) {
    float displaced = smaller(column.most, value);
    column.most = larger(column.most, value);
    column.sum = fmaf(fmaxf(column.least, displaced), weight, column.sum);
    column.least = smaller(column.least, displaced);
}

__device__ __forceinline__ void merge(Column& column, const Column& other, float weight) {
    add_pair(column, other.least, other.most, weight);
    column.sum += other.sum;
}

__device__ __forceinline__ bool all_finite(const Column& column) {
    return is_finite(column.least) && is_finite(column.most);
}

__device__ __forceinline__ float largest_of(const Column& column) {
    return fmaxf(fabsf(column.least), fabsf(column.most));
}

// Rounding must not move it off a constant column's value: hence the bounds.
__device__ __forceinline__ float trimmed_mean(const Column& column, int n, float weight) {
    int others = n > 3 ? n - 2 : 1;
    float mean = column.sum * (1.0f / (weight * static_cast<float>(others)));
    return fminf(fmaxf(mean, column.least), column.most);
}
