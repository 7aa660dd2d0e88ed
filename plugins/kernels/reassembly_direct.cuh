// SPDX-License-Identifier: Apache-2.0
//! Reassembly of any size, layout and grouping: one thread per output element and no other state. It reads each window
//! through the caches and works out each softmax K*K times too often; it is what remains when no other kernel fits.
#pragma once

#include "reassembly.cuh"

namespace freqfusion {

constexpr int32_t kDirectThreads = 256; // eight warps: enough for any multiprocessor at the 40 registers this takes

//! Element (n, c, Y, X) of the output.
template <typename T, typename Taps>
__device__ float reassembledAt(
    Reassembly<T> const& call, Taps const& taps, int64_t n, int32_t c, int64_t outY, int64_t outX)
{
    int32_t const kernelSize = call.kernelSize;
    int32_t const radius = kernelSize / 2;
    int32_t const tapCount = kernelSize * kernelSize;
    int64_t const group = c / (call.channels / call.groups);
    T const* const own = call.taps + n * call.tapStrides.batch + group * tapCount * call.tapStrides.channel
                         + outY * call.tapStrides.row + outX * call.tapStrides.column;
    T const* const plane = call.features + n * call.featureStrides.batch + c * call.featureStrides.channel;
    int64_t const y = outY / call.scale;
    int64_t const x = outX / call.scale;
    float largest = kLowest;
    if constexpr (Taps::kIsSoftmax) {
        for (int32_t tap = 0; tap < tapCount; ++tap) {
            float const logit = toFloat(own[tap * call.tapStrides.channel]);
            largest = taps.window(tap) > 0.0F ? fmaxf(largest, logit) : largest;
        }
    }
    float total = 0.0F;
    float filtered = 0.0F;
    for (int32_t ky = 0; ky < kernelSize; ++ky) {
        for (int32_t kx = 0; kx < kernelSize; ++kx) {
            int32_t const tap = ky * kernelSize + kx;
            float weight = toFloat(own[tap * call.tapStrides.channel]);
            if constexpr (Taps::kIsSoftmax) {
                weight = tapNumerator(weight, largest, taps.window(tap));
                total += weight;
            }
            int64_t const sourceY = sourceOf(call.padding, y + ky - radius, call.height);
            int64_t const sourceX = sourceOf(call.padding, x + kx - radius, call.width);
            if (sourceY >= 0 && sourceY < call.height && sourceX >= 0 && sourceX < call.width) {
                filtered +=
                    weight * toFloat(plane[sourceY * call.featureStrides.row + sourceX * call.featureStrides.column]);
            }
        }
    }
    if constexpr (Taps::kIsSoftmax) {
        filtered /= total;
        return call.featureFactor != 0.0F
                   ? mixed(call, toFloat(plane[y * call.featureStrides.row + x * call.featureStrides.column]), filtered)
                   : filtered;
    }
    return filtered;
}

//! `elements` counts output elements with the padding of each pixel, in the order of memory.
template <typename T, typename Taps>
__global__ void __launch_bounds__(kDirectThreads)
    reassembleDirectly(Reassembly<T> const call, Taps const taps, int64_t const elements, bool const isChannelsLast)
{
    int64_t const outHeight = int64_t{call.height} * call.scale;
    int64_t const outWidth = int64_t{call.width} * call.scale;
    int64_t const step = int64_t{gridDim.x} * blockDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements; i += step) {
        int64_t rest = i;
        int64_t c = 0;
        if (isChannelsLast) {
            c = rest % call.outputStrides.column;
            rest /= call.outputStrides.column;
        }
        int64_t const outX = rest % outWidth;
        rest /= outWidth;
        int64_t const outY = rest % outHeight;
        rest /= outHeight;
        if (!isChannelsLast) {
            c = rest % call.channels;
            rest /= call.channels;
        }
        bool const isPadding = c >= call.channels;
        call.output[i] =
            fromFloat<T>(isPadding ? 0.0F : reassembledAt(call, taps, rest, static_cast<int32_t>(c), outY, outX));
    }
}

static_assert(sizeof(Reassembly<float>) + sizeof(LogitTaps<kMaxTaps>) + sizeof(Work) + 8 <= 4096,
    "kernels take 4 KiB of arguments on drivers before 530");

template <typename T, typename Taps>
cudaError_t launchDirectly(Reassembly<T> const& call, Taps const& taps, Layout layout, cudaStream_t stream)
{
    int64_t const elements = call.outputStrides.batch * call.batch;
    return launchKernel(&reassembleDirectly<T, Taps>, Work{ceilDiv(elements, kDirectThreads), 1, 1},
        dim3(kDirectThreads), 0, stream, call, taps, elements, layout == Layout::kNHWC);
}

} // namespace freqfusion
