#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

thread_local constinit Index3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_BYTES = 256 << 10;
// Bytes behind the shared memory that was asked for; they must not change.
constexpr size_t GUARD_BYTES = 4096;
constexpr unsigned char POISON = 0xFF;  // as float16, bfloat16, float32 and float64: NaN

#if defined(__x86_64__)
// Switching costs a few nanoseconds: the registers that a function call must preserve, and the stack pointer.
using Context = void*;
extern "C" void gs_emulation_switch(Context* from, Context to);
asm(R"(
.text
.p2align 4
.globl gs_emulation_switch
.type gs_emulation_switch, @function
gs_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gs_emulation_switch, .-gs_emulation_switch
)");

void switch_context(Context& from, Context& to) { gs_emulation_switch(&from, to); }

void prepare_context(Context& context, unsigned char* stack, void (*start)()) {
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
    *--top = nullptr;  // where `start` would return to; keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(start);
    top -= 6;
    std::fill(top, top + 6, nullptr);
    context = top;
}
#else
using Context = ucontext_t;

void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare_context(Context& context, unsigned char* stack, void (*start)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
}
#endif

enum class State { ready, at_barrier, in_collective, done };

struct Thread {
    Context context;
    State state = State::ready;
    unsigned barrier = 0;
    Index3 index;
    unsigned groups = 0;
    std::vector<PendingCopy> copies;
};

struct Warp {
    unsigned arrived = 0;
    Collective operation = nullptr;
    void* lanes[LANES] = {};
};

// The splitmix64 sequence (Steele, Lea and Flood 2014).
struct Random {
    uint64_t state;

    uint64_t next() {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }

    unsigned below(unsigned limit) { return static_cast<unsigned>(next() % limit); }
};

// What one host thread needs to run blocks; kept from launch to launch.
struct Machine {
    unsigned char* stacks;
    unsigned char* shared;
    Context scheduler;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    unsigned waiting[NAMED_BARRIERS] = {};
    unsigned current = 0;
    Random random{0};
    const std::function<void()>* kernel = nullptr;
    std::string error;

    Machine() {
        stacks = static_cast<unsigned char*>(map(STACK_BYTES * MAX_THREADS));
        shared = static_cast<unsigned char*>(map(SHARED_BYTES + GUARD_BYTES));
    }

    ~Machine() {
        munmap(stacks, STACK_BYTES * MAX_THREADS);
        munmap(shared, SHARED_BYTES + GUARD_BYTES);
    }

    static void* map(size_t bytes) {
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        return memory;
    }

    void run_block(const Launch& launch);
    void run_lanes(unsigned warp);
    bool ready(unsigned warp) const;
    void resume(unsigned thread);
    void suspend(State state);
    void release(unsigned barrier);
    std::string stuck() const;
};

Machine& machine() {
    static thread_local std::unique_ptr<Machine> own = std::make_unique<Machine>();
    return *own;
}

void fiber_start() {
    Machine& own = machine();
    (*own.kernel)();
    own.suspend(State::done);
    std::abort();  // a fiber that is done is never resumed
}

void Machine::suspend(State state) {
    threads[current].state = state;
    switch_context(threads[current].context, scheduler);
}

void Machine::resume(unsigned thread) {
    current = thread;
    thread_index = threads[thread].index;
    switch_context(scheduler, threads[thread].context);
}

void Machine::release(unsigned barrier) {
    waiting[barrier] = 0;
    for (Thread& thread : threads) {
        if (thread.state == State::at_barrier && thread.barrier == barrier) thread.state = State::ready;
    }
}

bool Machine::ready(unsigned warp) const {
    const Thread* first = &threads[warp * LANES];
    return std::any_of(first, first + LANES, [](const Thread& thread) { return thread.state == State::ready; });
}

// Every lane that can run, each until it has to wait, in an order of their own.
void Machine::run_lanes(unsigned warp) {
    unsigned start = random.below(LANES), step = 2 * random.below(LANES / 2) + 1;
    for (unsigned i = 0; i < LANES && error.empty(); ++i) {
        unsigned thread = warp * LANES + (start + i * step) % LANES;
        if (threads[thread].state == State::ready) resume(thread);
    }
}

std::string Machine::stuck() const {
    auto count = [&](State state) {
        return std::to_string(std::count_if(threads.begin(), threads.end(), [&](auto& t) { return t.state == state; }));
    };
    return "deadlock: " + count(State::at_barrier) + " threads wait at a barrier, " + count(State::in_collective) +
           " for other lanes of their warp, " + count(State::done) + " have returned";
}

void Machine::run_block(const Launch& launch) {
    unsigned count = launch.block.x * launch.block.y * launch.block.z;
    std::memset(shared, POISON, launch.shared_bytes + GUARD_BYTES);
    std::fill(waiting, waiting + NAMED_BARRIERS, 0);
    threads.resize(count);
    warps.assign(count / LANES, Warp());
    for (unsigned i = 0; i < count; ++i) {
        Thread& thread = threads[i];
        thread.state = State::ready;
        thread.groups = 0;
        thread.copies.clear();
        unsigned x = launch.block.x, y = launch.block.y;
        thread.index = {i % x, i / x % y, i / (x * y)};
        prepare_context(thread.context, stacks + i * STACK_BYTES, fiber_start);
    }
    while (error.empty()) {
        unsigned start = random.below(warps.size()), offset = 0;
        while (offset < warps.size() && !ready((start + offset) % warps.size())) ++offset;
        if (offset == warps.size()) break;
        unsigned warp = (start + offset) % warps.size();
        // Staying with a warp is kind to the caches; leaving it now and then lets others overtake it.
        do run_lanes(warp);
        while (error.empty() && ready(warp) && random.below(16) != 0);
    }
    if (!error.empty()) return;
    if (std::any_of(threads.begin(), threads.end(), [](auto& thread) { return thread.state != State::done; })) {
        error = stuck();
        return;
    }
    const unsigned char* guard = shared + launch.shared_bytes;
    if (std::any_of(guard, guard + GUARD_BYTES, [](unsigned char byte) { return byte != POISON; })) {
        error = "a write beyond the shared memory that was asked for";
    }
}

}  // namespace

std::string run(const Launch& launch, const std::function<void()>& kernel) {
    unsigned threads = launch.block.x * launch.block.y * launch.block.z;
    if (threads == 0 || threads > MAX_THREADS || threads % LANES != 0)
        return "a block of " + std::to_string(threads) + " threads";
    if (launch.shared_bytes > SHARED_BYTES) return std::to_string(launch.shared_bytes) + " bytes of shared memory";
    Machine& own = machine();
    own.random = {launch.seed};
    own.kernel = &kernel;
    own.error.clear();
    block_size = launch.block;
    grid_size = launch.grid;
    std::vector<unsigned> order(static_cast<size_t>(launch.grid.x) * launch.grid.y * launch.grid.z);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[own.random.below(i)]);
    for (unsigned block : order) {
        block_index = {block % launch.grid.x, block / launch.grid.x % launch.grid.y,
                       block / (launch.grid.x * launch.grid.y)};
        own.run_block(launch);
        if (!own.error.empty()) break;
    }
    return own.error;
}

unsigned char* shared_memory() { return machine().shared; }

unsigned lane() { return machine().current % LANES; }

void barrier(unsigned id, unsigned threads) {
    Machine& own = machine();
    own.threads[own.current].barrier = id;
    if (++own.waiting[id] == threads) {
        own.release(id);
    } else {
        own.suspend(State::at_barrier);
    }
}

void barrier_all() { barrier(0, static_cast<unsigned>(machine().threads.size())); }

void collective(Collective operation, void* value) {
    Machine& own = machine();
    unsigned first = own.current / LANES * LANES;
    Warp& warp = own.warps[own.current / LANES];
    if (warp.arrived != 0 && warp.operation != operation) fail("lanes of one warp at different warp-wide operations");
    warp.operation = operation;
    warp.lanes[own.current % LANES] = value;
    warp.arrived += 1;
    if (warp.arrived < LANES) {
        own.suspend(State::in_collective);
        return;
    }
    warp.arrived = 0;
    operation(warp.lanes);
    for (unsigned i = first; i < first + LANES; ++i) own.threads[i].state = State::ready;
}

void copy_later(void* shared, const void* global, unsigned bytes, unsigned valid) {
    Machine& own = machine();
    Thread& thread = own.threads[own.current];
    auto address = reinterpret_cast<uintptr_t>(shared);
    if (address % bytes != 0 || reinterpret_cast<uintptr_t>(global) % bytes != 0)
        fail("a misaligned asynchronous copy");
    // Nobody may rely on what is there from now until the copy has been waited for.
    std::memset(shared, POISON, bytes);
    thread.copies.push_back({shared, global, bytes, valid, thread.groups});
}

void commit_copies() {
    Machine& own = machine();
    ++own.threads[own.current].groups;
}

void wait_for_copies(unsigned pending_groups) {
    Machine& own = machine();
    Thread& thread = own.threads[own.current];
    auto& copies = thread.copies;
    auto arrives = [&](const PendingCopy& copy) { return copy.group + pending_groups < thread.groups; };
    for (const PendingCopy& copy : copies) {
        if (!arrives(copy)) continue;
        std::memcpy(copy.shared, copy.global, copy.valid);
        std::memset(static_cast<unsigned char*>(copy.shared) + copy.valid, 0, copy.bytes - copy.valid);
    }
    copies.erase(std::remove_if(copies.begin(), copies.end(), arrives), copies.end());
}

void fail(const std::string& what) {
    Machine& own = machine();
    own.error = what;
    own.suspend(State::done);
    std::abort();  // a block that has failed is not resumed
}

}  // namespace emulation
