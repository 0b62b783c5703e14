// Entry points by name, as a driver has them: build.rs writes a file for each .cu that includes it and lists its
// entries.
#pragma once

#include <cstddef>
#include <utility>

#include "block.h"

namespace emulation {

// An entry point: `call` unpacks pointers to its arguments, which have these sizes, and calls it.
struct Entry {
    const char* name;
    void (*call)(void* const* arguments);
    const size_t* sizes;
    size_t count;
};

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

    static constexpr Entry entry(const char* name) { return {name, call, sizes, sizeof...(Arguments)}; }
};

}  // namespace emulation

// The one way in from C and Rust. `geometry`: grid x, y, z, block x, y, z. `arguments[i]` points to the i-th argument,
// as in cuLaunchKernel; `sizes` is null where the caller, like cuLaunchKernel's, does not know them. Returns 0, or 1 with
// what went wrong in `message`, always terminated.
extern "C" int gs_emulation_launch(const char* name, const unsigned* geometry, size_t shared_bytes, uint64_t seed,
                                   void* const* arguments, const size_t* sizes, size_t count, char* message,
                                   size_t length);

// Whether there is an entry point of this name.
extern "C" int gs_emulation_has(const char* name);

// How many arguments the entry point of this name takes, 0 where there is none; `*sizes` then leads to the bytes of each.
extern "C" size_t gs_emulation_arguments(const char* name, const size_t** sizes);
