// Entry points by name, as a driver has them: build.rs writes a file for each .cu that includes it and lists its
// entries.
#pragma once

#include <cstddef>
#include <utility>

#include "block.h"

namespace emulation {

// An entry point: `call` unpacks pointers to its arguments, which have these sizes, and calls it. The file that it stands
// in is its family, and `threads` the most that a block of it may have.
struct Entry {
    const char* name;
    const char* family;
    unsigned threads;
    void (*call)(void* const* arguments);
    const size_t* sizes;
    size_t count;
};

// What __launch_bounds__ says of threads.
constexpr unsigned bound(unsigned threads, unsigned = 1) { return threads; }

template <auto KERNEL>
struct Entered;

template <class... Arguments, void (*KERNEL)(Arguments...)>
struct Entered<KERNEL> {
    static constexpr size_t sizes[] = {sizeof(Arguments)...};

    template <size_t... I>
    static void unpack(void* const* arguments, std::index_sequence<I...>) {
        KERNEL(*static_cast<Arguments*>(arguments[I])...);
    }

    static void call(void* const* arguments) { unpack(arguments, std::index_sequence_for<Arguments...>()); }

    static constexpr Entry entry(const char* name, const char* family, unsigned threads) {
        return {name, family, threads, call, sizes, sizeof...(Arguments)};
    }
};

}  // namespace emulation

// The one way in from C and Rust. `geometry`: grid x, y, z, block x, y, z. `arguments[i]` points to the i-th argument,
// as in cuLaunchKernel; `sizes` is null where the caller, like cuLaunchKernel's, does not know them. Returns 0, or 1 with
// what went wrong in `message`, always terminated.
extern "C" int gs_emulation_launch(const char* name, const unsigned* geometry, size_t shared_bytes, uint64_t seed,
                                   void* const* arguments, const size_t* sizes, size_t count, char* message,
                                   size_t length);

// The entry point of this name, or null.
extern "C" const emulation::Entry* gs_emulation_entry(const char* name);
