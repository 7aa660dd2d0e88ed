// SPDX-License-Identifier: Apache-2.0
//! What every CUDA kernel shares: element conversion, wide accesses, strides of both layouts, and the launch.
#pragma once

#include "tensor.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#if defined(FREQFUSION_CUDA_ON_HOST)
#include "cuda_on_host.h"
#else
#include <cuda_pipeline_primitives.h>
#endif

namespace freqfusion {

constexpr int32_t kWarp = 32;
constexpr int32_t kVector = 8; //!< channels handled at once in channels-last tensors: 16 bytes of fp16

#if defined(FREQFUSION_CUDA_ON_HOST)
// So small that every loop over blocks and channels takes more than one turn.
constexpr int64_t kMaxBlocksX = 5;
constexpr int64_t kMaxBlocksYZ = 2;
constexpr int64_t kWantedBlocks = 4;
#else
constexpr int64_t kMaxBlocksX = 2147483647; //!< limits of CUDA grids; kernels loop over what exceeds them
constexpr int64_t kMaxBlocksYZ = 65535;
constexpr int64_t kWantedBlocks = 528; //!< four for each of an H100's 132 multiprocessors

//! The block's shared memory, as one struct whose size the launch names.
template <typename Shared>
__device__ __forceinline__ Shared& sharedMemory()
{
    extern __shared__ __align__(16) unsigned char storage[];
    return *reinterpret_cast<Shared*>(storage);
}

//! Starts an asynchronous copy of kBytes (4, 8 or 16) into shared memory, of zeros unless `inside`.
template <int kBytes>
__device__ __forceinline__ void copyAsync(void* shared, void const* global, bool inside)
{
    __pipeline_memcpy_async(shared, global, kBytes, inside ? 0 : kBytes);
}

__device__ __forceinline__ void commitCopies()
{
    __pipeline_commit();
}

//! Waits until at most kNewest of this thread's committed groups are still under way.
template <int kNewest>
__device__ __forceinline__ void waitForCopies()
{
    __pipeline_wait_prior(kNewest);
}
#endif

__device__ __forceinline__ float toFloat(float value)
{
    return value;
}

__device__ __forceinline__ float toFloat(__half value)
{
    return __half2float(value);
}

__device__ __forceinline__ float toFloat(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

template <typename T>
__device__ __forceinline__ T fromFloat(float value);

template <>
__device__ __forceinline__ float fromFloat<float>(float value)
{
    return value;
}

template <>
__device__ __forceinline__ __half fromFloat<__half>(float value)
{
    return __float2half_rn(value);
}

template <>
__device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float value)
{
    return __float2bfloat16_rn(value);
}

//! kCount neighbouring elements that move in one access of up to 16 bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
    T value[kCount];
};

template <int kCount, typename T>
__device__ __forceinline__ Pack<T, kCount> loadPack(T const* address)
{
    return *reinterpret_cast<Pack<T, kCount> const*>(address);
}

template <typename T, int kCount>
__device__ __forceinline__ void storePack(T* address, Pack<T, kCount> const& pack)
{
    *reinterpret_cast<Pack<T, kCount>*>(address) = pack;
}

//! True if every address that is a multiple of `elements` elements beyond `base` may be read as one Pack.
template <typename T>
bool isAligned(void const* base, int32_t elements)
{
    std::size_t const bytes = std::min<std::size_t>(sizeof(T) * static_cast<std::size_t>(elements), 16);
    return reinterpret_cast<std::uintptr_t>(base) % bytes == 0;
}

//! Distances between neighbours of a tensor (N, C, H, W) along its axes, in elements.
struct Strides {
    int64_t batch;
    int64_t channel;
    int64_t row;
    int64_t column;
};

FREQFUSION_HOST_DEVICE static inline int64_t roundUp(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

FREQFUSION_HOST_DEVICE static inline int64_t ceilDiv(int64_t value, int64_t divisor)
{
    return (value + divisor - 1) / divisor;
}

//! Strides of a dense tensor in `layout`; with channels innermost `column` is also the pitch of a pixel.
static inline Strides stridesOf(Layout layout, int64_t channels, int64_t height, int64_t width)
{
    if (layout == Layout::kNHWC) {
        int64_t const pitch = roundUp(channels, kChannelPitch);
        return {height * width * pitch, 1, width * pitch, pitch};
    }
    return {channels * height * width, height * width, width, 1};
}

//! Numbers of work items along the axes of a grid; `x` is meant for pixels, `y` for channels, `z` for images.
struct Work {
    int64_t x;
    int64_t y;
    int64_t z;
};

//! Starts `kernel` on a grid that holds `work`, or as much of it as a grid may: kernels loop with the grid's size as
//! step. Nothing is started for no work.
template <typename... Parameters, typename... Arguments>
cudaError_t launchKernel(void (*kernel)(Parameters...), Work const& work, dim3 block, std::size_t sharedBytes,
    cudaStream_t stream, Arguments const&... arguments)
{
    if (work.x <= 0 || work.y <= 0 || work.z <= 0) {
        return cudaSuccess; // a grid of zero blocks is an error
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<uint32_t>(std::min(work.x, kMaxBlocksX)),
        static_cast<uint32_t>(std::min(work.y, kMaxBlocksYZ)), static_cast<uint32_t>(std::min(work.z, kMaxBlocksYZ)));
    config.blockDim = block;
    config.dynamicSmemBytes = sharedBytes;
    config.stream = stream;
    cudaError_t const status = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
    return status == cudaSuccess ? cudaGetLastError() : status;
}

//! Calls `run` with a value of the element type that `dtype` names; other values are refused.
template <typename Run>
cudaError_t withElementType(DType dtype, Run const& run)
{
    switch (dtype) {
    case DType::kFloat32:
        return run(float{});
    case DType::kFloat16:
        return run(__half{});
    case DType::kBFloat16:
        return run(__nv_bfloat16{});
    }
    return cudaErrorInvalidValue;
}

} // namespace freqfusion
