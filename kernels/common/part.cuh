// Work divided evenly.
#pragma once

#include "common/platform.cuh"

// The part [first, last) of `count` things that falls to `index` of `parts`: parts differ by one at most.
struct Part {
    int first, last;
};

__device__ __forceinline__ Part part_of(int64_t count, int index, int parts) {
    // Counts fit into 31 bits: division of 64 would be a call.
    int share = static_cast<int>(count) / parts, rest = static_cast<int>(count) % parts;
    int first = index * share + (index < rest ? index : rest);
    return {first, first + share + (index < rest ? 1 : 0)};
}
