// A block of emulated GPU threads on one host thread.
//
// Every thread is a fiber with its own stack. A fiber runs until it has to wait: at a barrier, or for the other lanes
// of its warp. Which warp runs next, and in which order its lanes run, is drawn from a seed, so that code that relies
// on an order that no barrier enforces goes wrong sooner or later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace emulation {

constexpr unsigned LANES = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned NAMED_BARRIERS = 16;

struct Index3 {
    unsigned x = 0, y = 0, z = 0;
};

// What a launch was asked for.
struct Launch {
    Index3 grid, block;
    size_t shared_bytes = 0;
    uint64_t seed = 0;
};

// An asynchronous copy into shared memory that has been issued and not waited for.
struct PendingCopy {
    void* shared;
    const void* global;
    unsigned bytes, valid;
    unsigned group;
};

// A warp-wide operation: is handed what each of the 32 lanes brought along.
using Collective = void (*)(void* const* lanes);

// Runs `kernel` in every block of the grid, one after the other in an order drawn from the seed. Returns what went
// wrong, or nothing.
std::string run(const Launch& launch, const std::function<void()>& kernel);

// For the fiber that is running.
unsigned char* shared_memory();
unsigned lane();
void barrier(unsigned id, unsigned threads);
void barrier_all();
void collective(Collective operation, void* own);
void copy_later(void* shared, const void* global, unsigned bytes, unsigned valid);
void commit_copies();
void wait_for_copies(unsigned pending_groups);
[[noreturn]] void fail(const std::string& what);

extern thread_local constinit Index3 thread_index, block_index, block_size, grid_size;

}  // namespace emulation
