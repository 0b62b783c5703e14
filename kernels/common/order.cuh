// The order in which an epoch takes images of a data set, in device memory: what changes from batch to batch lies
// there, so that a captured launch stays valid.
#pragma once

#include "common/platform.cuh"

// Where a batch begins in the order. Epochs count from 1.
struct BatchPlace {
    uint32_t first;
    uint32_t epoch;
};

constexpr uint32_t NO_IMAGE = 0xFFFFFFFFu;

// The number in the data set of a batch's image, or NO_IMAGE beyond the `entries` of `order`.
__device__ __forceinline__ uint32_t image_of_batch(int image, const uint32_t* order, int entries,
                                                   const BatchPlace* place) {
    int64_t entry = static_cast<int64_t>(place->first) + image;
    return entry < entries ? order[entry] : NO_IMAGE;
}
