// SPDX-License-Identifier: Apache-2.0
//! Runs the CUDA kernels on the host, as they are, to find wrong indices, races and missing waits without a GPU. The
//! kernels' sources are compiled as C++ with FREQFUSION_CUDA_ON_HOST and this header in place of the device's own
//! functions. Every CUDA thread is a fiber. One warp after the other goes on from block barrier to block barrier,
//! upwards and downwards in turn, and so do the threads of a warp between its own exchanges. Shared memory is filled
//! with NaN before each block and ends at a page that may not be touched. Of asynchronous copies half happen at once
//! and half when they are waited for.
//!
//! What this cannot show: speed, the rounding of tensor cores and of exp2, and whether the instructions in mma.cuh are
//! spelt right; their meaning is written here a second time from the PTX manual.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#define __launch_bounds__(...)

extern thread_local uint3 threadIdx;
extern thread_local uint3 blockIdx;
extern thread_local dim3 blockDim;
extern thread_local dim3 gridDim;

namespace cuda_on_host {

//! Runs `body` once for every thread of every block.
cudaError_t runGrid(dim3 grid, dim3 block, std::size_t sharedBytes, std::function<void()> const& body);

void* sharedMemory();

//! Waits for all threads of the block (or of the warp) to call this, from the same kind of operation.
void blockBarrier();
void warpBarrier(char const* operation);

//! This warp's place for exchanged values: 32 x 64 bytes.
unsigned char* warpScratch();
int lane();

void queueCopy(void* target, void const* source, int bytes, bool isInside);
void commitCopies();
void waitForCopies(int newest);
[[noreturn]] void fail(char const* what);

//! Gives every lane's `own` to all: returns the array of the 32.
template <typename T>
T const* exchange(T const& own, char const* operation)
{
    static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>, "a lane has 64 bytes");
    T* const all = reinterpret_cast<T*>(warpScratch());
    all[lane()] = own;
    warpBarrier(operation);
    return all;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaLaunchConfig_t const* config, void (*kernel)(Parameters...), Arguments const&... arguments)
{
    return runGrid(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(arguments...); });
}

} // namespace cuda_on_host

// The runtime's own function of this name is a template that takes any argument, and would win.
#define cudaLaunchKernelEx ::cuda_on_host::launch

inline void __syncthreads()
{
    cuda_on_host::blockBarrier();
}

inline float __shfl_xor_sync(unsigned, float value, int distance)
{
    float const other = cuda_on_host::exchange(value, "shfl")[cuda_on_host::lane() ^ distance];
    cuda_on_host::warpBarrier("shfl end");
    return other;
}

namespace freqfusion {

template <typename Shared>
Shared& sharedMemory()
{
    return *static_cast<Shared*>(cuda_on_host::sharedMemory());
}

template <int kBytes>
void copyAsync(void* shared, void const* global, bool inside)
{
    cuda_on_host::queueCopy(shared, global, kBytes, inside);
}

inline void commitCopies()
{
    cuda_on_host::commitCopies();
}

template <int kNewest>
void waitForCopies()
{
    cuda_on_host::waitForCopies(kNewest);
}

inline int32_t readLane()
{
    return cuda_on_host::lane();
}

template <typename T>
float elementOf(uint32_t word, int half)
{
    auto const bits = static_cast<uint16_t>(word >> (16 * half));
    T value;
    __builtin_memcpy(static_cast<void*>(&value), &bits, sizeof(bits));
    return static_cast<float>(value);
}

template <typename T>
void multiplyAdd(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    struct Fragments {
        uint32_t a[4];
        uint32_t b[2];
    };
    Fragments const* const all = cuda_on_host::exchange(Fragments{{a0, a1, a2, a3}, {b0, b1}}, "mma");
    int const g = cuda_on_host::lane() / 4;
    int const t = cuda_on_host::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        int const row = g + i / 2 * 8;
        int const column = 2 * t + i % 2;
        double sum = d[i];
        for (int k = 0; k < 16; ++k) {
            uint32_t const a = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
            uint32_t const b = all[column * 4 + k % 8 / 2].b[k / 8];
            sum += static_cast<double>(elementOf<T>(a, k % 2)) * static_cast<double>(elementOf<T>(b, k % 2));
        }
        d[i] = static_cast<float>(sum);
    }
    cuda_on_host::warpBarrier("mma end");
}

inline void loadTransposed(uint32_t (&registers)[4], void const* row)
{
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) {
        cuda_on_host::fail("ldmatrix: a row is not 16-byte aligned");
    }
    void const* const* const rows = cuda_on_host::exchange(row, "ldmatrix");
    int const g = cuda_on_host::lane() / 4;
    int const t = cuda_on_host::lane() % 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
        auto const* const even = static_cast<uint16_t const*>(rows[matrix * 8 + 2 * t]);
        auto const* const odd = static_cast<uint16_t const*>(rows[matrix * 8 + 2 * t + 1]);
        registers[matrix] = even[g] | static_cast<uint32_t>(odd[g]) << 16;
    }
    cuda_on_host::warpBarrier("ldmatrix end");
}

} // namespace freqfusion
