// SPDX-License-Identifier: Apache-2.0
//! Offset resampling: out[n, c, Y, X] = bilinear value of features[n, c] at the position that samplePixels
//! (offset_resample_core.h) gives for each axis. Coordinates and sums are fp32; every element is read through the
//! caches about four times and from memory about once.
#include "device.cuh"
#include "offset_resample_core.h"

namespace freqfusion {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kChannelsPerThread = 16; // share one position; 64 x 64 pixels at C = 256 still make 128 blocks

template <typename T>
struct Resampling {
    T const* features;
    T const* offsets;
    T* output;
    Strides featureStrides;
    Strides offsetStrides;
    int32_t channels;
    int32_t height; //!< of the offsets
    int32_t width;
    int32_t groups;
};

//! Where one output pixel of one group reads.
struct Position {
    PixelPair vertical;
    PixelPair horizontal;
};

template <typename T>
__device__ __forceinline__ Position positionOf(
    Resampling<T> const& call, int64_t n, int32_t group, int32_t outY, int32_t outX)
{
    int32_t const cell = group * 4 + outY % 2 * 2 + outX % 2;
    T const* const own = call.offsets + n * call.offsetStrides.batch + cell * call.offsetStrides.channel
                         + outY / 2 * call.offsetStrides.row + outX / 2 * call.offsetStrides.column;
    float const dx = toFloat(own[0]);
    float const dy = toFloat(own[4 * int64_t{call.groups} * call.offsetStrides.channel]);
    return {samplePixels(outY / 2, dy, 2 * call.height), samplePixels(outX / 2, dx, 2 * call.width)};
}

__device__ __forceinline__ float between(float first, float second, float share)
{
    return first + (second - first) * share;
}

//! The four values around `position`, mixed. `corner` is the upper left one.
template <typename T>
__device__ __forceinline__ float sampleAt(T const* corner, Strides const& strides, Position const& position)
{
    float const upper = between(toFloat(corner[0]), toFloat(corner[strides.column]), position.horizontal.share);
    float const lower =
        between(toFloat(corner[strides.row]), toFloat(corner[strides.row + strides.column]), position.horizontal.share);
    return between(upper, lower, position.vertical.share);
}

template <typename T>
__device__ __forceinline__ int64_t cornerOffset(Resampling<T> const& call, Position const& position)
{
    return position.vertical.first * call.featureStrides.row + position.horizontal.first * call.featureStrides.column;
}

//! Grid: x runs of kThreads pairs of neighbouring output pixels, y chunks of channels within groups, z images.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    resamplePlanes(Resampling<T> const call, Work const work, bool const arePairs)
{
    int32_t const perGroup = call.channels / call.groups;
    auto const chunksPerGroup = static_cast<int32_t>(ceilDiv(perGroup, kChannelsPerThread));
    int64_t const pairs = 2 * int64_t{call.height} * call.width;
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t chunk = blockIdx.y; chunk < work.y; chunk += gridDim.y) {
            auto const group = static_cast<int32_t>(chunk / chunksPerGroup);
            int32_t const inGroup = static_cast<int32_t>(chunk % chunksPerGroup) * kChannelsPerThread;
            int32_t const left = perGroup - inGroup;
            int32_t const channels = left < kChannelsPerThread ? left : kChannelsPerThread;
            int64_t const plane =
                n * call.featureStrides.batch + (group * perGroup + inGroup) * call.featureStrides.channel;
            for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
                int64_t const pair = run * kThreads + static_cast<int32_t>(threadIdx.x);
                if (pair >= pairs) {
                    continue;
                }
                auto const outY = static_cast<int32_t>(pair / call.width);
                int32_t const outX = 2 * static_cast<int32_t>(pair % call.width);
                Position const first = positionOf(call, n, group, outY, outX);
                Position const second = positionOf(call, n, group, outY, outX + 1);
                T const* const firstCorner = call.features + plane + cornerOffset(call, first);
                T const* const secondCorner = call.features + plane + cornerOffset(call, second);
                T* const target = call.output + plane + outY * call.featureStrides.row + outX;
#pragma unroll 4
                for (int32_t c = 0; c < channels; ++c) {
                    int64_t const offset = c * call.featureStrides.channel;
                    Pack<T, 2> const result{{fromFloat<T>(sampleAt(firstCorner + offset, call.featureStrides, first)),
                        fromFloat<T>(sampleAt(secondCorner + offset, call.featureStrides, second))}};
                    if (arePairs) {
                        storePack(target + offset, result);
                    } else {
                        target[offset] = result.value[0];
                        target[offset + 1] = result.value[1];
                    }
                }
            }
        }
    }
}

//! Grid: x runs of kThreads vectors of kVector channels of an image's output pixels, z images. `areWide`: every vector
//! is aligned and belongs to one group.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    resamplePixels(Resampling<T> const call, Work const work, bool const areWide)
{
    int32_t const perGroup = call.channels / call.groups;
    auto const perPixel = static_cast<uint32_t>(call.featureStrides.column / kVector);
    auto const outWidth = static_cast<uint32_t>(2 * call.width);
    int64_t const vectors = 4 * int64_t{call.height} * call.width * perPixel;
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
            int64_t const i = run * kThreads + static_cast<int32_t>(threadIdx.x);
            if (i >= vectors) {
                continue;
            }
            int64_t const pixel = i / perPixel;
            int32_t const firstChannel = static_cast<int32_t>(i % perPixel) * kVector;
            auto const outY = static_cast<int32_t>(pixel / outWidth);
            auto const outX = static_cast<int32_t>(pixel % outWidth);
            T const* const image = call.features + n * call.featureStrides.batch + firstChannel;
            T* const target = call.output + n * call.featureStrides.batch + i * kVector;
            Pack<T, kVector> result;
            if (areWide) {
                Position const position = positionOf(call, n, firstChannel / perGroup, outY, outX);
                T const* const corner = image + cornerOffset(call, position);
                Pack<T, kVector> const upperLeft = loadPack<kVector>(corner);
                Pack<T, kVector> const upperRight = loadPack<kVector>(corner + call.featureStrides.column);
                Pack<T, kVector> const lowerLeft = loadPack<kVector>(corner + call.featureStrides.row);
                Pack<T, kVector> const lowerRight =
                    loadPack<kVector>(corner + call.featureStrides.row + call.featureStrides.column);
#pragma unroll
                for (int32_t j = 0; j < kVector; ++j) {
                    float const upper =
                        between(toFloat(upperLeft.value[j]), toFloat(upperRight.value[j]), position.horizontal.share);
                    float const lower =
                        between(toFloat(lowerLeft.value[j]), toFloat(lowerRight.value[j]), position.horizontal.share);
                    float const value = between(upper, lower, position.vertical.share);
                    result.value[j] = fromFloat<T>(firstChannel + j < call.channels ? value : 0.0F);
                }
                storePack(target, result);
            } else {
                for (int32_t j = 0; j < kVector; ++j) {
                    float value = 0.0F; // padding of the pixel
                    if (firstChannel + j < call.channels) {
                        Position const position = positionOf(call, n, (firstChannel + j) / perGroup, outY, outX);
                        value = sampleAt(image + j + cornerOffset(call, position), call.featureStrides, position);
                    }
                    target[j] = fromFloat<T>(value);
                }
            }
        }
    }
}

template <typename T>
cudaError_t launch(OffsetResampleShape const& shape, Layout layout, void const* features, void const* offsets,
    void* output, cudaStream_t stream)
{
    Resampling<T> const call{static_cast<T const*>(features), static_cast<T const*>(offsets), static_cast<T*>(output),
        stridesOf(layout, shape.channels, 2 * int64_t{shape.height}, 2 * int64_t{shape.width}),
        stridesOf(layout, 8 * int64_t{shape.groups}, shape.height, shape.width), shape.channels, shape.height,
        shape.width, shape.groups};
    int32_t const perGroup = shape.channels / shape.groups;
    if (layout == Layout::kNHWC) {
        int64_t const vectors = 4 * int64_t{shape.height} * shape.width * (call.featureStrides.column / kVector);
        bool const areWide = isAligned<T>(features, kVector) && isAligned<T>(output, kVector)
                             && (shape.groups == 1 || perGroup % kVector == 0);
        Work const work{ceilDiv(vectors, kThreads), 1, shape.batch};
        return launchKernel(&resamplePixels<T>, work, dim3(kThreads), 0, stream, call, work, areWide);
    }
    Work const work{ceilDiv(2 * int64_t{shape.height} * shape.width, kThreads),
        shape.groups * ceilDiv(perGroup, kChannelsPerThread), shape.batch};
    return launchKernel(&resamplePlanes<T>, work, dim3(kThreads), 0, stream, call, work, isAligned<T>(output, 2));
}

} // namespace

cudaError_t launchOffsetResample(OffsetResampleShape const& shape, DType dtype, Layout layout, void const* features,
    void const* offsets, void* output, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    if (shape.channels == 0) {
        return cudaSuccess;
    }
    return withElementType(dtype,
        [&](auto element) { return launch<decltype(element)>(shape, layout, features, offsets, output, stream); });
}

} // namespace freqfusion
