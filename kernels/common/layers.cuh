// Layers over the same examples that one launch takes together, and what each of them wants.
//
// Each kernel of the way from activations to panel rows takes up to LAYERS_TOGETHER layers at once: a launch, and the
// partial sums that keep all multiprocessors busy, cost the same for many layers as for one.
#pragma once

#include "common/platform.cuh"

// The layers' activations [n, p of the layer], row-major, all of one type. Their columns are counted over all layers.
struct LayerValues {
    const void* x[LAYERS_TOGETHER];
    int64_t features[LAYERS_TOGETHER];
    int64_t first_column[LAYERS_TOGETHER];
};

// The parts that each layer's features are split into, counted over all layers.
struct LayerSplits {
    int32_t first[LAYERS_TOGETHER + 1];  // of each layer; and, behind the last layer, the number of all
    int32_t layers;

    __device__ __forceinline__ int count(int layer) const { return first[layer + 1] - first[layer]; }

    // The last layer whose parts begin at `split` or before.
    __device__ __forceinline__ int layer_of(int split) const {
        int layer = 0;
        for (int step = LAYERS_TOGETHER / 2; step > 0; step /= 2) {
            if (layer + step < layers && first[layer + step] <= split) layer += step;
        }
        return layer;
    }
};

// Whether a launch for the layers that want these products passes a layer by; where they are none, it is for all of
// them. Every thread of a block gets the same answer.
__device__ __forceinline__ bool passes_by(const int* wanted, int products, int layer) {
    return products != WANTS_NOTHING && wanted[layer] != products;
}
