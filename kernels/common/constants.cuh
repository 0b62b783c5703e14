// Every number that a kernel shares with whoever launches it. This file is their one owner: gramscope-cuda's `plan`
// module reads it when it is compiled, so a line must keep the form `constexpr int NAME = DIGITS;`.
#pragma once

// A warp, and the threads of the blocks that work on slabs of features.
constexpr int WARP = 32;
constexpr int SLAB_THREADS = 256;
// Features that go through shared memory, and are scaled, together.
constexpr int SLAB = 32;
// Slabs of a chain, 16 x 32 = 512 features: what a row's products could have come to is counted chain by chain.
constexpr int CHAIN_SLABS = 16;
// Slabs whose sums stay in registers before they are added to partial sums in global memory: a multiple of a chain's.
constexpr int FLUSH_SLABS = 64;
// Bytes that a row of a slab takes in shared memory: 32 float32 values, or their high and low float16 halves.
constexpr int ROW_BYTES = 128;
// Rows of a strip, the unit in which Gram matrices are cut; partial sums lie in tiles of a strip times a strip.
constexpr int STRIP = 16;
// Rows that one block of gs_gram_fused_* holds at most.
constexpr int FUSED_ROWS = 256;
// Layers that a launch of gs_gram_* or gs_ucenter_* takes together at most (common/layers.cuh).
constexpr int LAYERS_TOGETHER = 128;
// Which products a layer still wants, after those that there are have been looked at.
constexpr int WANTS_NOTHING = 0;
constexpr int WANTS_EXACT = 1;
constexpr int WANTS_DOUBLE = 2;
// Sides of the tile that a block of gs_gram_tiled_* or gs_hsic_mma_* computes.
constexpr int TILE = 128;
// Slab buffers that a ring needs at least: being multiplied, converted, (measured,) copied; and at most.
constexpr int FUSED_MIN_BUFFERS = 4;
constexpr int TILED_MIN_BUFFERS = 3;
constexpr int MAX_BUFFERS = 6;
// Threads of the kernels that take a column each, and of those that take an entry or a row each.
constexpr int COLUMN_THREADS = 128;
constexpr int ENTRY_THREADS = 256;
// Bytes that a thread of training's kernels loads at once, where it can: a run of 4 float32 or 8 bfloat16 values.
constexpr int RUN_BYTES = 16;
// Rows that a thread of gs_batch_norm_* has in flight together.
constexpr int BATCH_NORM_ROWS = 4;
// Threads of the block of gs_loss_softmax_cross_entropy: a warp an image, as many warps as there may be.
constexpr int LOSS_THREADS = 1024;
// Threads of gs_pooling_average_*, whose results are few: small blocks reach more multiprocessors.
constexpr int POOLING_THREADS = 64;
// Groups of threads of gs_ucenter_reduce_*: each adds up a part of the splits.
constexpr int REDUCE_GROUPS = 4;
// Side of the tile, and features of the slab, of the float64 Gram kernel.
constexpr int DOUBLE_TILE = 32;
constexpr int DOUBLE_SLAB = 32;
// Bins of one pass of the median's radix selection.
constexpr int RADIX_BINS = 256;
// Vectors of the subspace that gs_eigen_subspace iterates.
constexpr int EIGEN_VECTORS = 8;
// A block of gs_convolution_*_tile*: its threads, the pixels (or, for weights' gradients, weights of one output) that it
// computes for 16, 32 or 64 outputs, and the slabs of the summed dimension that shared memory holds.
constexpr int CONVOLUTION_THREADS = 128;
constexpr int CONVOLUTION_ROWS = 128;
constexpr int CONVOLUTION_BUFFERS = 3;
// Values of the summed dimension in a slab: of float32 activations, and of bfloat16 ones.
constexpr int CONVOLUTION_DEPTH_F32 = 16;
constexpr int CONVOLUTION_DEPTH_BF16 = 32;
// Bytes that keep the lines of a slab in different banks (fragments.cuh says which of the two).
constexpr int CONVOLUTION_PAD = 16;
constexpr int CONVOLUTION_WIDE_PAD = 32;
// gs_convolution_*_patch*: pixels of a block with 16 columns (one with 32 has CONVOLUTION_ROWS), the width of the widest
// images, summed channels of a slab, slabs that shared memory holds.
constexpr int CONVOLUTION_PATCH_ROWS = 256;
constexpr int CONVOLUTION_PATCH_WIDTH = 64;
constexpr int CONVOLUTION_PATCH_DEPTH = 16;
constexpr int CONVOLUTION_PATCH_BUFFERS = 2;
// Values that a block of gs_convolution_reduce adds up over the groups, and in how many parts.
constexpr int CONVOLUTION_REDUCE_VALUES = 32;
constexpr int CONVOLUTION_REDUCE_PARTS = 8;
// gs_probe_*: features of a lane in a tile of WARP times as many, examples that a warp multiplies together, and classes that
// are computed together. Rows of D are padded to a multiple of the last, which makes whole runs of RUN_BYTES.
constexpr int PROBE_FEATURES = 4;
constexpr int PROBE_EXAMPLES = 4;
constexpr int PROBE_CLASSES = 12;
