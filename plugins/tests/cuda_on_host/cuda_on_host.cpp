// SPDX-License-Identifier: Apache-2.0
#include "cuda_on_host.h"

#include <csetjmp>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

thread_local uint3 threadIdx;
thread_local uint3 blockIdx;
thread_local dim3 blockDim;
thread_local dim3 gridDim;

namespace cuda_on_host {

constexpr std::size_t kPageBytes = 4096;

namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr unsigned kWarp = 32;

struct Copy {
    void* target;
    void const* source;
    int bytes;
    bool isInside;
};

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

//! A place to go on from. Switching by _setjmp and _longjmp makes no system call, as swapcontext does twice.
struct Fiber {
    ucontext_t start;
    std::jmp_buf here;
    bool isStarted;
    State state;
    char const* operation;
    uint3 index;
    std::vector<std::vector<Copy>> groups; //!< committed; the last one is still open
};

//! Memory that ends at a page which may not be touched.
class GuardedMemory {
  public:
    explicit GuardedMemory(std::size_t bytes) : mMapped((bytes + kPageBytes - 1) / kPageBytes * kPageBytes + kPageBytes)
    {
        mBase = static_cast<unsigned char*>(
            mmap(nullptr, mMapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (mBase == MAP_FAILED || mprotect(mBase + mMapped - kPageBytes, kPageBytes, PROT_NONE) != 0) {
            fail("no memory");
        }
    }
    GuardedMemory(GuardedMemory const&) = delete;
    GuardedMemory& operator=(GuardedMemory const&) = delete;
    ~GuardedMemory() { munmap(mBase, mMapped); }

    unsigned char* lastBytes(std::size_t bytes) const { return mBase + mMapped - kPageBytes - bytes; }

  private:
    std::size_t mMapped;
    unsigned char* mBase;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<unsigned char> scratch;
    unsigned char* shared;
    unsigned current;
    std::jmp_buf scheduler;
    std::function<void()> const* body;
};

thread_local Block* block;
thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;

void perform(Copy const& copy)
{
    if (copy.isInside) {
        std::memcpy(copy.target, copy.source, static_cast<std::size_t>(copy.bytes));
    } else {
        std::memset(copy.target, 0, static_cast<std::size_t>(copy.bytes));
    }
}

Fiber& fiber()
{
    return block->fibers[block->current];
}

void enter()
{
    (*block->body)();
    if (fiber().groups.size() > 1 || !fiber().groups.back().empty()) {
        fail("a thread ended with copies under way");
    }
    fiber().state = State::kDone;
    _longjmp(block->scheduler, 1);
}

void resume(Fiber& one)
{
    if (_setjmp(block->scheduler) == 0) {
        if (one.isStarted) {
            _longjmp(one.here, 1);
        }
        one.isStarted = true;
        setcontext(&one.start);
    }
}

void pause(State state, char const* operation)
{
    fiber().state = state;
    fiber().operation = operation;
    if (_setjmp(fiber().here) == 0) {
        _longjmp(block->scheduler, 1);
    }
}

//! Lets fibers [first, last) go on if all that have not ended wait at `state`, for the same operation.
bool release(unsigned first, unsigned last, State state)
{
    char const* operation = nullptr;
    bool isAnyDone = false;
    for (unsigned i = first; i < last; ++i) {
        Fiber const& one = block->fibers[i];
        if (one.state == State::kDone) {
            isAnyDone = true;
            continue;
        }
        if (one.state != state) {
            return false;
        }
        if (operation != nullptr && std::strcmp(operation, one.operation) != 0) {
            fail("threads of one warp or block wait at different operations");
        }
        operation = one.operation;
    }
    if (operation == nullptr) {
        return false;
    }
    if (isAnyDone) {
        fail("a thread ended before a barrier that others wait at");
    }
    for (unsigned i = first; i < last; ++i) {
        block->fibers[i].state = State::kReady;
    }
    return true;
}

void runBlock(unsigned threads, dim3 shape, bool isDownwards)
{
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& one = block->fibers[i];
        one.state = State::kReady;
        one.groups.assign(1, {});
        one.index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
        one.isStarted = false;
        getcontext(&one.start);
        one.start.uc_stack.ss_sp = stacks[i].get();
        one.start.uc_stack.ss_size = kStackBytes;
        one.start.uc_link = nullptr;
        makecontext(&one.start, enter, 0);
    }
    // A warp goes on alone until the whole of it waits for the block: no two warps are ever at the same place unless a
    // barrier brings them there.
    unsigned const warps = (threads + kWarp - 1) / kWarp;
    do {
        for (unsigned i = 0; i < warps; ++i) {
            unsigned const first = (isDownwards ? warps - 1 - i : i) * kWarp;
            unsigned const last = first + kWarp < threads ? first + kWarp : threads;
            do {
                for (unsigned j = first; j < last; ++j) {
                    block->current = isDownwards ? last - 1 - (j - first) : j;
                    if (fiber().state == State::kReady) {
                        threadIdx = fiber().index;
                        resume(fiber());
                    }
                }
            } while (release(first, last, State::kAtWarpBarrier));
        }
    } while (release(0, threads, State::kAtBlockBarrier));
    for (unsigned i = 0; i < threads; ++i) {
        if (block->fibers[i].state != State::kDone) {
            fail("deadlock: some threads wait at a block barrier, others at a warp's operation");
        }
    }
}

} // namespace

void fail(char const* what)
{
    std::fprintf(stderr, "cuda_on_host: %s (block %u %u %u, thread %u %u %u)\n", what, blockIdx.x, blockIdx.y,
        blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    std::abort();
}

cudaError_t runGrid(dim3 grid, dim3 shape, std::size_t sharedBytes, std::function<void()> const& body)
{
    unsigned const threads = shape.x * shape.y * shape.z;
    if (threads == 0 || threads > 1024 || sharedBytes > 48 * 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0) {
        return cudaErrorInvalidConfiguration;
    }
    std::size_t const rounded = (sharedBytes + 15) / 16 * 16;
    GuardedMemory const shared(rounded);
    Block own{};
    own.fibers.resize(threads);
    own.scratch.resize((threads + kWarp - 1) / kWarp * kWarp * 64);
    own.shared = shared.lastBytes(rounded);
    own.body = &body;
    block = &own;
    while (stacks.size() < threads) {
        stacks.emplace_back(new unsigned char[kStackBytes]);
    }
    blockDim = shape;
    gridDim = grid;
    unsigned const blocks = grid.x * grid.y * grid.z;
    for (unsigned i = 0; i < blocks; ++i) {
        unsigned const place = i % 2 == 0 ? i / 2 : blocks - 1 - i / 2; // no kernel may count on the order of blocks
        blockIdx = {place % grid.x, place / grid.x % grid.y, place / (grid.x * grid.y)};
        std::memset(own.shared, 0xff, rounded);
        runBlock(threads, shape, i % 2 != 0);
    }
    block = nullptr;
    return cudaSuccess;
}

void* sharedMemory()
{
    return block->shared;
}

void blockBarrier()
{
    pause(State::kAtBlockBarrier, "syncthreads");
}

void warpBarrier(char const* operation)
{
    pause(State::kAtWarpBarrier, operation);
}

unsigned char* warpScratch()
{
    return block->scratch.data() + block->current / kWarp * kWarp * 64;
}

int lane()
{
    return static_cast<int>(block->current % kWarp);
}

void queueCopy(void* target, void const* source, int bytes, bool isInside)
{
    auto const size = static_cast<std::uintptr_t>(bytes);
    if (reinterpret_cast<std::uintptr_t>(target) % size != 0
        || (isInside && reinterpret_cast<std::uintptr_t>(source) % size != 0)) {
        fail("an asynchronous copy is not aligned to its size");
    }
    // Half of them arrive at once, half when waited for: hardware promises nothing in between.
    static thread_local uint32_t random = 1;
    random = random * 1664525U + 1013904223U;
    Copy const copy{target, source, bytes, isInside};
    if (random >> 31 != 0) {
        perform(copy);
    } else {
        fiber().groups.back().push_back(copy);
    }
}

void commitCopies()
{
    fiber().groups.emplace_back();
}

void waitForCopies(int newest)
{
    auto& groups = fiber().groups;
    auto const open = static_cast<std::ptrdiff_t>(groups.size()) - 1;
    std::ptrdiff_t const done = open - newest;
    for (std::ptrdiff_t i = 0; i < done; ++i) {
        for (Copy const& copy : groups[static_cast<std::size_t>(i)]) {
            perform(copy);
        }
    }
    if (done > 0) {
        groups.erase(groups.begin(), groups.begin() + done);
    }
}

} // namespace cuda_on_host

extern "C" {

// The part of the CUDA runtime that launchers call.
cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

char const* cudaGetErrorString(cudaError_t status)
{
    return status == cudaSuccess             ? "no error"
           : status == cudaErrorInvalidValue ? "invalid argument"
           : status == cudaErrorNotSupported ? "operation not supported"
                                             : "another error";
}

//! `bytes` bytes, at least 1, that end (or, with `fromStart`, begin) at a page that may not be touched.
__attribute__((visibility("default"))) void* freqfusion_check_allocate(std::size_t bytes, int fromStart)
{
    using cuda_on_host::kPageBytes;
    std::size_t const used = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    auto* const base = static_cast<unsigned char*>(
        mmap(nullptr, used + 2 * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base == MAP_FAILED || mprotect(base + kPageBytes, used, PROT_READ | PROT_WRITE) != 0) {
        return nullptr;
    }
    return base + kPageBytes + (fromStart != 0 ? 0 : used - bytes);
}

__attribute__((visibility("default"))) void freqfusion_check_release(void* address, std::size_t bytes)
{
    using cuda_on_host::kPageBytes;
    std::size_t const used = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    std::uintptr_t const page = reinterpret_cast<std::uintptr_t>(address) / kPageBytes * kPageBytes;
    munmap(reinterpret_cast<void*>(page - kPageBytes), used + 2 * kPageBytes);
}

} // extern "C"
