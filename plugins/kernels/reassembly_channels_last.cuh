// SPDX-License-Identifier: Apache-2.0
//! Reassembly of channels-last tensors for any window and scale: a block takes a few neighbouring pixels of a row. Its
//! warps work out the weights of all their outputs in shared memory, one warp per output with taps across the lanes;
//! then each thread sums eight channels of one pixel at a time, which are one 16-byte access of fp16, for the pixel's
//! outputs together. The weights it reads are the same for a whole warp where C >= 256: shared memory broadcasts them.
#pragma once

#include "reassembly.cuh"

namespace freqfusion {

constexpr int32_t kPixelThreads = 256;
constexpr int32_t kMaxPixels = 8;          // per block; 64 x 64 pixels still make 512 blocks
constexpr int32_t kWeightSlots = 4096 * 3; // floats in shared memory: 48 KiB, what every device grants without asking

//! Pixels a block can hold the weights of; 0: the window is too large for this kernel.
inline int32_t pixelsPerBlock(CarafeShape const& shape)
{
    int64_t const weightsPerPixel = tapCount(shape) * shape.scale * shape.scale;
    return static_cast<int32_t>(std::min<int64_t>(kMaxPixels, kWeightSlots / weightsPerPixel));
}

__device__ __forceinline__ float warpMaximum(float value)
{
#pragma unroll
    for (int32_t distance = kWarp / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, distance));
    }
    return value;
}

__device__ __forceinline__ float warpSum(float value)
{
#pragma unroll
    for (int32_t distance = kWarp / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffU, value, distance);
    }
    return value;
}

//! One warp writes the weights of one output pixel to every `pitch`-th float of `weights`.
template <typename T, typename Taps>
__device__ void weighAcrossLanes(
    Taps const& taps, T const* stored, int32_t tapCount, int32_t lane, float* weights, int32_t pitch)
{
    if constexpr (Taps::kIsSoftmax) {
        float largest = kLowest;
        for (int32_t tap = lane; tap < tapCount; tap += kWarp) {
            largest = taps.window(tap) > 0.0F ? fmaxf(largest, toFloat(stored[tap])) : largest;
        }
        largest = warpMaximum(largest);
        float sum = 0.0F;
        for (int32_t tap = lane; tap < tapCount; tap += kWarp) {
            float const numerator = tapNumerator(toFloat(stored[tap]), largest, taps.window(tap));
            weights[tap * pitch] = numerator;
            sum += numerator;
        }
        float const inverse = 1.0F / warpSum(sum);
        for (int32_t tap = lane; tap < tapCount; tap += kWarp) {
            weights[tap * pitch] *= inverse;
        }
    } else {
        for (int32_t tap = lane; tap < tapCount; tap += kWarp) {
            weights[tap * pitch] = toFloat(stored[tap]);
        }
    }
}

//! Grid: x runs of `pixels` pixels of a row, y groups, z images. kSubs is the number of outputs of a pixel that a
//! thread sums together: 4 at scale 2, else 1. Shared memory holds weights[pixel][tap][sub].
template <typename T, int kSubs, typename Taps>
__global__ void __launch_bounds__(kPixelThreads)
    reassembleChannelsLast(Reassembly<T> const call, Taps const taps, Work const work, int32_t const pixels)
{
    float* const weights = &sharedMemory<float>();
    int32_t const kernelSize = call.kernelSize;
    int32_t const radius = kernelSize / 2;
    int32_t const tapCount = kernelSize * kernelSize;
    int32_t const scale = call.scale;
    int32_t const subCount = scale * scale;
    auto const thread = static_cast<int32_t>(threadIdx.x);
    auto const runsPerRow = static_cast<uint32_t>(ceilDiv(call.width, pixels));
    int32_t const perGroup = call.channels / call.groups;
    auto const vectors = static_cast<int32_t>(ceilDiv(perGroup, kVector));
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t group = blockIdx.y; group < work.y; group += gridDim.y) {
            for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
                int64_t const y = static_cast<uint32_t>(run) / runsPerRow;
                int64_t const firstX = int64_t{static_cast<uint32_t>(run) % runsPerRow} * pixels;
                auto const count = static_cast<int32_t>(call.width - firstX < pixels ? call.width - firstX : pixels);
                __syncthreads(); // the run before may still be read
                for (int32_t i = thread / kWarp; i < count * subCount; i += kPixelThreads / kWarp) {
                    int32_t const pixel = i / subCount;
                    int32_t const sub = i % subCount;
                    T const* const stored = call.taps + n * call.tapStrides.batch + group * tapCount
                                            + (y * scale + sub / scale) * call.tapStrides.row
                                            + ((firstX + pixel) * scale + sub % scale) * call.tapStrides.column;
                    weighAcrossLanes(
                        taps, stored, tapCount, thread % kWarp, weights + pixel * tapCount * subCount + sub, subCount);
                }
                __syncthreads();
                for (int32_t i = thread; i < count * vectors; i += kPixelThreads) {
                    int32_t const pixel = i / vectors;
                    int32_t const inGroup = i % vectors * kVector;
                    int64_t const x = firstX + pixel;
                    int64_t const firstChannel = group * perGroup + inGroup;
                    T const* const centre = call.features + n * call.featureStrides.batch + y * call.featureStrides.row
                                            + x * call.featureStrides.column + firstChannel;
                    for (int32_t firstSub = 0; firstSub < subCount; firstSub += kSubs) {
                        float const* const own = weights + pixel * tapCount * subCount + firstSub;
                        float sums[kSubs][kVector] = {};
                        for (int32_t tap = 0; tap < tapCount; ++tap) {
                            int64_t const sourceY = sourceOf(call.padding, y + tap / kernelSize - radius, call.height);
                            int64_t const sourceX = sourceOf(call.padding, x + tap % kernelSize - radius, call.width);
                            if (sourceY < 0 || sourceY >= call.height || sourceX < 0 || sourceX >= call.width) {
                                continue;
                            }
                            Pack<T, kVector> const values =
                                loadPack<kVector>(centre + (sourceY - y) * call.featureStrides.row
                                                  + (sourceX - x) * call.featureStrides.column);
                            Pack<float, kSubs> const factors = loadPack<kSubs>(own + tap * subCount);
#pragma unroll
                            for (int32_t i8 = 0; i8 < kVector; ++i8) {
                                float const value = toFloat(values.value[i8]);
#pragma unroll
                                for (int32_t sub = 0; sub < kSubs; ++sub) {
                                    sums[sub][i8] += factors.value[sub] * value;
                                }
                            }
                        }
                        if constexpr (Taps::kIsSoftmax && kSubs == 1) {
                            if (call.featureFactor != 0.0F) {
                                Pack<T, kVector> const values = loadPack<kVector>(centre);
#pragma unroll
                                for (int32_t i8 = 0; i8 < kVector; ++i8) {
                                    sums[0][i8] = mixed(call, toFloat(values.value[i8]), sums[0][i8]);
                                }
                            }
                        }
#pragma unroll
                        for (int32_t sub = 0; sub < kSubs; ++sub) {
                            int32_t const position = firstSub + sub;
                            Pack<T, kVector> result;
#pragma unroll
                            for (int32_t i8 = 0; i8 < kVector; ++i8) {
                                // Padding of the pixel is written as zeros, whatever its features held.
                                result.value[i8] = fromFloat<T>(inGroup + i8 < perGroup ? sums[sub][i8] : 0.0F);
                            }
                            storePack(call.output + n * call.outputStrides.batch
                                          + (y * scale + position / scale) * call.outputStrides.row
                                          + (x * scale + position % scale) * call.outputStrides.column + firstChannel,
                                result);
                        }
                    }
                }
            }
        }
    }
}

//! Needs 16-byte aligned tensors and groups that begin at multiples of kVector channels.
template <typename T, typename Taps>
cudaError_t launchChannelsLast(Reassembly<T> const& call, Taps const& taps, int32_t pixels, cudaStream_t stream)
{
    Work const work{ceilDiv(call.width, pixels) * call.height, call.groups, call.batch};
    int32_t const weightsPerPixel = call.kernelSize * call.kernelSize * call.scale * call.scale;
    std::size_t const sharedBytes = sizeof(float) * static_cast<std::size_t>(pixels * weightsPerPixel);
    return call.scale == 2 ? launchKernel(&reassembleChannelsLast<T, 4, Taps>, work, dim3(kPixelThreads), sharedBytes,
                                 stream, call, taps, work, pixels)
                           : launchKernel(&reassembleChannelsLast<T, 1, Taps>, work, dim3(kPixelThreads), sharedBytes,
                                 stream, call, taps, work, pixels);
}

} // namespace freqfusion
