// Counter-based random numbers: Philox4x32-10.
// Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011). The numbers are those of
// crates/gramscope-nn/src/random.rs: four words at (seed, stream, major, minor), in any order, on any device.
#pragma once

#include "common/platform.cuh"

// What the numbers are used for: `Stream` there.
enum RandomStream : uint32_t { STREAM_AUGMENTATION = 2, STREAM_SHAKE = 12 };

struct RandomWords {
    uint32_t words[4];
};

__device__ __forceinline__ RandomWords random_words(uint64_t seed, uint32_t stream, uint32_t major, uint64_t minor) {
    uint32_t counter[4] = {static_cast<uint32_t>(minor), static_cast<uint32_t>(minor >> 32), major, stream};
    uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        uint64_t a = static_cast<uint64_t>(0xD2511F53u) * counter[0], b = static_cast<uint64_t>(0xCD9E8D57u) * counter[2];
        uint32_t first = static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0];
        uint32_t third = static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1];
        counter[0] = first;
        counter[1] = static_cast<uint32_t>(b);
        counter[2] = third;
        counter[3] = static_cast<uint32_t>(a);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return {{counter[0], counter[1], counter[2], counter[3]}};
}
