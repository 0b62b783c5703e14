// Copies from global to shared memory that go on while the thread does something else: cp.async (sm_80 and up).
// Hazard: what was copied is visible to the thread that copied it after copies_wait, to others after a barrier as well.
#pragma once

#include "common/platform.cuh"

// 16 bytes, both addresses multiples of 16; the last 16 - `valid` become 0 and are not read.
__device__ __forceinline__ void copy_16(void* shared, const void* global, int valid) {
#if GS_DEVICE
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid) : "memory");
#else
    emulation::copy_later(shared, global, 16, static_cast<unsigned>(valid));
#endif
}

// The same for what other copies of the multiprocessor will want too: it stays in the first-level cache.
__device__ __forceinline__ void copy_16_cached(void* shared, const void* global, int valid) {
#if GS_DEVICE
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid) : "memory");
#else
    emulation::copy_later(shared, global, 16, static_cast<unsigned>(valid));
#endif
}

// 4 bytes, both addresses multiples of 4; all or (`valid` 0) none of them.
__device__ __forceinline__ void copy_4(void* shared, const void* global, int valid) {
#if GS_DEVICE
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(global), "r"(valid) : "memory");
#else
    emulation::copy_later(shared, global, 4, static_cast<unsigned>(valid));
#endif
}

// Starts one value's copy; zero where there is none.
__device__ __forceinline__ void copy_value(unsigned char* shared, const float* global, bool valid) {
    copy_4(shared, global, valid ? 4 : 0);
}

// Two bytes are less than an asynchronous copy can take: these are on their way at once, in the thread's own order.
template <class T>
__device__ __forceinline__ void copy_value(unsigned char* shared, const T* global, bool valid) {
    *reinterpret_cast<T*>(shared) = valid ? *global : T{};
}

// Closes the group of copies that this thread has issued since it closed the last.
__device__ __forceinline__ void copies_commit() {
#if GS_DEVICE
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulation::commit_copies();
#endif
}

template <int PENDING>
__device__ __forceinline__ void copies_wait() {
#if GS_DEVICE
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulation::wait_for_copies(PENDING);
#endif
}

// Waits until at most `pending` of this thread's groups are under way; PTX wants that number in the instruction.
__device__ __forceinline__ void copies_wait(int pending) {
    switch (pending) {
        case 0: return copies_wait<0>();
        case 1: return copies_wait<1>();
        case 2: return copies_wait<2>();
        case 3: return copies_wait<3>();
        default: return copies_wait<4>();
    }
}
