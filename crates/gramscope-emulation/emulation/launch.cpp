#include <algorithm>
#include <cstring>
#include <string>

#include "entries.h"

namespace emulation {

// Written by build.rs.
extern const Entry* const entries[];
extern const size_t entry_count;

namespace {

std::string launch(const Entry& entry, const Launch& how, void* const* arguments, const size_t* sizes, size_t count) {
    if (sizes && count != entry.count) {
        return std::to_string(count) + " arguments instead of " + std::to_string(entry.count);
    }
    for (size_t i = 0; sizes && i < count; ++i) {
        if (sizes[i] != entry.sizes[i]) {
            return "argument " + std::to_string(i) + " has " + std::to_string(sizes[i]) + " bytes instead of " +
                   std::to_string(entry.sizes[i]);
        }
    }
    return run(how, [&] { entry.call(arguments); });
}

const Entry* const* find(const char* name) {
    const Entry* const* end = entries + entry_count;
    return std::find_if(entries, end, [&](const Entry* entry) { return !std::strcmp(entry->name, name); });
}

std::string launch(const char* name, const Launch& how, void* const* arguments, const size_t* sizes, size_t count) {
    const Entry* const* found = find(name);
    if (found == entries + entry_count) return "no such entry point";
    return launch(**found, how, arguments, sizes, count);
}

}  // namespace
}  // namespace emulation

extern "C" int gs_emulation_launch(const char* name, const unsigned* geometry, size_t shared_bytes, uint64_t seed,
                                   void* const* arguments, const size_t* sizes, size_t count, char* message, size_t length) {
    emulation::Launch how{{geometry[0], geometry[1], geometry[2]}, {geometry[3], geometry[4], geometry[5]}, shared_bytes, seed};
    std::string error = emulation::launch(name, how, arguments, sizes, count);
    if (error.empty()) return 0;
    size_t copied = std::min(error.size(), length - 1);
    std::memcpy(message, error.data(), copied);
    message[copied] = '\0';
    return 1;
}

extern "C" const emulation::Entry* gs_emulation_entry(const char* name) {
    const emulation::Entry* const* found = emulation::find(name);
    return found == emulation::entries + emulation::entry_count ? nullptr : *found;
}
