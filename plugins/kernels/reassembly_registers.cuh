// SPDX-License-Identifier: Apache-2.0
//! Reassembly of NCHW tensors for the usual windows and scales: one thread per input pixel. It works out the weights of
//! the pixel's S*S outputs once, holds them in registers and walks through the channels, each window read through L1.
//!
//! Per channel a thread issues K*K loads and S*S*K*K multiply-adds: at K = 5, S = 2 two thirds of all instructions are
//! multiply-adds. The fp32 roof of an H100 (132 x 128 x 1.7 GHz = 29 T/s) then allows 19 T/s, and 64x64 -> 128x128 at
//! C = 256 (105 M multiply-adds) 5.5 us, while its 22.6 MB in fp32 need 8 us at 2.8 TB/s: memory binds fp32, arithmetic
//! binds fp16, which is why reassembly_tensor_cores.cuh exists.
#pragma once

#include "reassembly.cuh"

namespace freqfusion {

constexpr int32_t kRegisterRows = 4; // rows of 32 pixels per block: 128 threads may take 168 registers and fill an SM
constexpr int32_t kRegisterChannels = 32; // per block: weights are worked out C/32 times, 100 loads against 800

//! Grid: x tiles of 32 x kRegisterRows input pixels, y chunks of channels within groups, z images.
template <typename T, int K, int S, typename Taps>
__global__ void __launch_bounds__(kWarp* kRegisterRows)
    reassembleFromRegisters(Reassembly<T> const call, Taps const taps, Work const work, bool const arePairs)
{
    constexpr int kTaps = K * K;
    constexpr int kRadius = K / 2;
    auto const tilesX = static_cast<uint32_t>(ceilDiv(call.width, kWarp));
    int32_t const perGroup = call.channels / call.groups;
    auto const chunksPerGroup = static_cast<uint32_t>(ceilDiv(perGroup, kRegisterChannels));
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t chunk = blockIdx.y; chunk < work.y; chunk += gridDim.y) {
            auto const group = static_cast<int32_t>(static_cast<uint32_t>(chunk) / chunksPerGroup);
            int32_t const inGroup =
                static_cast<int32_t>(static_cast<uint32_t>(chunk) % chunksPerGroup) * kRegisterChannels;
            int32_t const firstChannel = group * perGroup + inGroup;
            int32_t const channels = perGroup - inGroup < kRegisterChannels ? perGroup - inGroup : kRegisterChannels;
            for (int64_t tile = blockIdx.x; tile < work.x; tile += gridDim.x) {
                int64_t const y =
                    int64_t{static_cast<uint32_t>(tile) / tilesX} * kRegisterRows + static_cast<int32_t>(threadIdx.y);
                int64_t const x =
                    int64_t{static_cast<uint32_t>(tile) % tilesX} * kWarp + static_cast<int32_t>(threadIdx.x);
                if (y >= call.height || x >= call.width) {
                    continue;
                }

                float weights[S * S][kTaps];
                T const* const own = call.taps + n * call.tapStrides.batch
                                     + int64_t{group} * kTaps * call.tapStrides.channel + S * y * call.tapStrides.row
                                     + S * x;
#pragma unroll
                for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
                    for (int i = 0; i < S; ++i) {
                        T const* const address = own + tap * call.tapStrides.channel + i * call.tapStrides.row;
                        if (arePairs) {
                            Pack<T, S> const pair = loadPack<S>(address);
#pragma unroll
                            for (int j = 0; j < S; ++j) {
                                weights[i * S + j][tap] = toFloat(pair.value[j]);
                            }
                        } else {
#pragma unroll
                            for (int j = 0; j < S; ++j) {
                                weights[i * S + j][tap] = toFloat(address[j]);
                            }
                        }
                    }
                }
                int64_t rows[K];
                int32_t columns[K];
#pragma unroll
                for (int k = 0; k < K; ++k) {
                    int64_t const sourceY = sourceOf(call.padding, y + k - kRadius, call.height);
                    int64_t const sourceX = sourceOf(call.padding, x + k - kRadius, call.width);
                    // Outside the image the pixel itself is read, with weight zero.
                    rows[k] = sourceY >= 0 && sourceY < call.height ? (sourceY - y) * call.featureStrides.row : 0;
                    columns[k] = sourceX >= 0 && sourceX < call.width ? static_cast<int32_t>(sourceX - x) : 0;
                }
#pragma unroll
                for (int sub = 0; sub < S * S; ++sub) {
                    weigh(taps, weights[sub]);
#pragma unroll
                    for (int tap = 0; tap < kTaps; ++tap) {
                        bool const isOutside = call.padding == Padding::kZeros
                                               && ((tap / K != kRadius && rows[tap / K] == 0)
                                                   || (tap % K != kRadius && columns[tap % K] == 0));
                        weights[sub][tap] = isOutside ? 0.0F : weights[sub][tap];
                    }
                }

                T const* plane = call.features + n * call.featureStrides.batch
                                 + firstChannel * call.featureStrides.channel + y * call.featureStrides.row + x;
                T* result = call.output + n * call.outputStrides.batch + firstChannel * call.outputStrides.channel
                            + S * y * call.outputStrides.row + S * x;
                for (int32_t c = 0; c < channels; ++c) {
                    float sums[S * S] = {};
#pragma unroll
                    for (int tap = 0; tap < kTaps; ++tap) {
                        float const value = toFloat(plane[rows[tap / K] + columns[tap % K]]);
#pragma unroll
                        for (int sub = 0; sub < S * S; ++sub) {
                            sums[sub] += weights[sub][tap] * value;
                        }
                    }
                    if constexpr (Taps::kIsSoftmax && S == 1) {
                        if (call.featureFactor != 0.0F) {
                            sums[0] = mixed(call, toFloat(plane[0]), sums[0]);
                        }
                    }
#pragma unroll
                    for (int i = 0; i < S; ++i) {
                        T* const address = result + i * call.outputStrides.row;
                        Pack<T, S> pair;
#pragma unroll
                        for (int j = 0; j < S; ++j) {
                            pair.value[j] = fromFloat<T>(sums[i * S + j]);
                        }
                        if (arePairs) {
                            storePack(address, pair);
                        } else {
#pragma unroll
                            for (int j = 0; j < S; ++j) {
                                address[j] = pair.value[j];
                            }
                        }
                    }
                    plane += call.featureStrides.channel;
                    result += call.outputStrides.channel;
                }
            }
        }
    }
}

template <int K, int S, typename T, typename Taps>
cudaError_t launchFromRegisters(Reassembly<T> const& call, Taps const& taps, cudaStream_t stream)
{
    int64_t const chunks = call.groups * ceilDiv(call.channels / call.groups, kRegisterChannels);
    Work const work{ceilDiv(call.width, kWarp) * ceilDiv(call.height, kRegisterRows), chunks, call.batch};
    bool const arePairs = isAligned<T>(call.taps, S) && isAligned<T>(call.output, S);
    return launchKernel(&reassembleFromRegisters<T, K, S, Taps>, work, dim3(kWarp, kRegisterRows), 0, stream, call,
        taps, work, arePairs);
}

} // namespace freqfusion
