// Packed lower triangles: entry (row, column), column <= row, lies at row (row + 1) / 2 + column.
#pragma once

#include "common/platform.cuh"

__device__ __forceinline__ int64_t index_in_triangle(int row, int column) {
    return static_cast<int64_t>(row) * (row + 1) / 2 + column;
}

// Row and column, column <= row, of entry `index` of a packed triangle.
struct Place {
    int row, column;
};

__device__ __forceinline__ Place place_in_triangle(int index) {
    // The root is good to one unit; integers decide.
    int row = static_cast<int>(0.5f * (sqrtf(8.0f * static_cast<float>(index) + 1.0f) - 1.0f));
    while (index_in_triangle(row, 0) > index) --row;
    while (index_in_triangle(row + 1, 0) <= index) ++row;
    return {row, index - static_cast<int>(index_in_triangle(row, 0))};
}
