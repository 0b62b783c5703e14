// A batch of training images: bytes to [0, 1], reflect-pad, crop at random, flip left and right at random.
//   images[b] = flip(crop(pad(pixels[rows[i]]))) / 255,  labels_out[b] = labels[rows[i]],  i = order[place.first + b]
// crates/gramscope-train/src/augment.rs is the model, in float32 to the last bit: what happens to an image is a function
// of (seed, epoch, its index in the data set): words 0, 1 and 2 of Philox (common/philox.cuh) give row, column and flip.
// What changes from batch to batch lies in memory, so that a captured launch stays valid: advance moves the place on.
//
// In   pixels [stored, side, side, 3]  uint8: the images that are used
//      labels [stored]                 uint32
//      rows [count]                    uint32: of every image of the data set, its row of pixels and labels
//      order [entries]                 uint32: indices into the data set, a batch's or a whole epoch's
//      place                           BatchPlace: the batch's first entry of order, the epoch; advance: first += batch
// Out  images [batch, side, side, 3]   float32, or bfloat16 (rounded once)
//      labels_out [batch]              uint32
// An image beyond the end of `order`, an entry of it beyond the data set, or of an image whose row is beyond those stored,
// reads nothing: the image is NaN and the label NO_LABEL, which is no class, so that the loss is NaN (loss.cu).
// padding < side; a batch has fewer than 2^31 pixels, a block more included.
// Grid, block: plan::values, a thread a pixel; each works out its image's placement; advance: one warp. Deterministic:
// yes. Accumulates: nothing.
//
// Variants  none: one simple loop a thread is its own naive twin
#include "common/numbers.cuh"
#include "common/order.cuh"
#include "common/philox.cuh"

struct AugmentShape {
    uint64_t seed;
    int64_t count;  // images of the data set
    int32_t entries;
    int32_t batch;
    int32_t side;
    int32_t padding;
    int32_t flip;
    int32_t stored;  // of them, those that are there
};

constexpr int COLOURS = 3;
constexpr uint32_t NO_LABEL = 0xFFFFFFFFu;
constexpr uint32_t NO_ROW = 0xFFFFFFFFu;

// Where the crop of an image lies in the padded one, and whether it is flipped afterwards.
struct Placement {
    int top, left;
    bool flipped;
};

__device__ __forceinline__ Placement placement_of(uint32_t index, uint32_t epoch, const AugmentShape& shape) {
    RandomWords random = random_words(shape.seed, STREAM_AUGMENTATION, epoch, index);
    uint64_t offsets = 2 * static_cast<uint64_t>(shape.padding) + 1;
    auto offset = [&](uint32_t word) { return static_cast<int>(word * offsets >> 32); };
    return {offset(random.words[0]), offset(random.words[1]), shape.flip != 0 && random.words[2] >> 31 == 1};
}

// Which of `length` rows (or columns) lies at `position` once `padding` reflected ones are on either side, the edge
// itself not repeated.
__device__ __forceinline__ int reflect(int position, int padding, int length) {
    int distance = position < padding ? padding - position : position - padding;
    return position >= padding && distance >= length ? 2 * (length - 1) - distance : distance;
}

template <class T>
__device__ __forceinline__ void augment(T* images, uint32_t* labels_out, const uint8_t* pixels, const uint32_t* labels,
                                        const uint32_t* rows, const uint32_t* order, const BatchPlace* place,
                                        const AugmentShape& shape) {
    int image_pixels = shape.side * shape.side, thread = blockIdx.x * ENTRY_THREADS + thread_of_block();
    if (thread >= shape.batch * image_pixels) return;
    int image = thread / image_pixels, pixel = thread % image_pixels;
    uint32_t index = image_of_batch(image, order, shape.entries, place);
    uint32_t row = index < shape.count ? rows[index] : NO_ROW;
    bool exists = row < static_cast<uint32_t>(shape.stored);
    if (pixel == 0) labels_out[image] = exists ? labels[row] : NO_LABEL;
    Placement placement = placement_of(index, place->epoch, shape);
    int column = pixel % shape.side;
    int x = reflect((placement.flipped ? shape.side - 1 - column : column) + placement.left, shape.padding, shape.side);
    int y = reflect(pixel / shape.side + placement.top, shape.padding, shape.side);
    int64_t source = (static_cast<int64_t>(row) * image_pixels + y * shape.side + x) * COLOURS;
    for (int colour = 0; colour < COLOURS; ++colour) {
        float value = exists ? __fdiv_rn(pixels[source + colour], 255.0f) : __uint_as_float(0x7FFFFFFFu);
        store(&images[static_cast<int64_t>(thread) * COLOURS + colour], value);
    }
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_augment_crop_f32(float* images, uint32_t* labels_out, const uint8_t* pixels, const uint32_t* labels,
                        const uint32_t* rows, const uint32_t* order, const BatchPlace* place, AugmentShape shape) {
    augment(images, labels_out, pixels, labels, rows, order, place, shape);
}

extern "C" __global__ void __launch_bounds__(ENTRY_THREADS)
    gs_augment_crop_bf16(BF16* images, uint32_t* labels_out, const uint8_t* pixels, const uint32_t* labels,
                         const uint32_t* rows, const uint32_t* order, const BatchPlace* place, AugmentShape shape) {
    augment(images, labels_out, pixels, labels, rows, order, place, shape);
}

extern "C" __global__ void __launch_bounds__(WARP) gs_augment_advance(BatchPlace* place, uint32_t batch) {
    if (thread_of_block() == 0) place->first += batch;
}
