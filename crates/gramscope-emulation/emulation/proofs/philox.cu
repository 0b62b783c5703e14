// The four words of common/philox.cuh at (seed, stream, major, minor), for tests/augment.rs.
#include "common/philox.cuh"

extern "C" __global__ void gs_philox_words(uint32_t* words, uint64_t seed, uint32_t stream, uint32_t major,
                                           uint64_t minor) {
    if (thread_of_block() != 0) return;
    RandomWords random = random_words(seed, stream, major, minor);
    for (int index = 0; index < 4; ++index) words[index] = random.words[index];
}
