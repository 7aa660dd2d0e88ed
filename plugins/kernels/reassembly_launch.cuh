// SPDX-License-Identifier: Apache-2.0
//! Chooses and starts the kernel of a reassembly.
#pragma once

#include "reassembly_channels_last.cuh"
#include "reassembly_direct.cuh"
#include "reassembly_registers.cuh"
#include "reassembly_tactic.h"
#include "reassembly_tensor_cores.cuh"

#include <type_traits>

namespace freqfusion {

// The widest channel block that a tensor-core tile stages; below it most of its rows would be empty.
constexpr int32_t kFewChannels = 16;

inline bool isTensorCoreShape(CarafeShape const& shape)
{
    return shape.scale == 2 && (shape.kernelSize == 3 || shape.kernelSize == 5);
}

//! True if no vector of channels belongs to two groups.
inline bool hasWholeVectors(CarafeShape const& shape)
{
    return shape.groups == 1 || (shape.channels / shape.groups) % kVector == 0;
}

template <typename T>
Reassembly<T> describe(CarafeShape const& shape, Layout layout, void const* features, void const* taps, void* output)
{
    int64_t const outHeight = int64_t{shape.height} * shape.scale;
    int64_t const outWidth = int64_t{shape.width} * shape.scale;
    Reassembly<T> call{};
    call.features = static_cast<T const*>(features);
    call.taps = static_cast<T const*>(taps);
    call.output = static_cast<T*>(output);
    call.featureStrides = stridesOf(layout, shape.channels, shape.height, shape.width);
    call.tapStrides = stridesOf(layout, shape.groups * tapCount(shape), outHeight, outWidth);
    call.outputStrides = stridesOf(layout, shape.channels, outHeight, outWidth);
    call.batch = shape.batch;
    call.channels = shape.channels;
    call.height = shape.height;
    call.width = shape.width;
    call.kernelSize = shape.kernelSize;
    call.groups = shape.groups;
    call.scale = shape.scale;
    call.padding = shape.padding;
    call.featureFactor = 0.0F;
    call.filterFactor = 1.0F;
    return call;
}

//! Calls `run` with std::integral_constant<int, value> of the first of kValues that equals `value`.
template <int... kValues, typename Run>
cudaError_t withConstant(int32_t value, Run const& run)
{
    cudaError_t status = cudaErrorNotSupported;
    static_cast<void>(((value == kValues && (status = run(std::integral_constant<int, kValues>{}), true)) || ...));
    return status;
}

//! `makeTaps(std::integral_constant<int, K*K or kMaxTaps>)` gives the weights' source.
template <typename T, typename MakeTaps>
cudaError_t launchReassembly(CarafeShape const& shape, Layout layout, Reassembly<T> const& call,
    MakeTaps const& makeTaps, ReassemblyTactic tactic, cudaStream_t stream)
{
    auto const anyTaps = makeTaps(std::integral_constant<int, kMaxTaps>{});
    bool const isAlignedCall = isAligned<T>(call.features, kVector) && isAligned<T>(call.output, kVector);
    if (tactic == ReassemblyTactic::kDirect) {
        return launchDirectly(call, anyTaps, layout, stream);
    }
    if (tactic == ReassemblyTactic::kFp32Units) {
        if (layout == Layout::kNHWC) {
            int32_t const pixels = pixelsPerBlock(shape);
            return isAlignedCall && hasWholeVectors(shape) && pixels > 0
                       ? launchChannelsLast(call, anyTaps, pixels, stream)
                       : cudaErrorNotSupported;
        }
        return withConstant<3, 5>(shape.kernelSize, [&](auto kernelSize) {
            constexpr int kSize = decltype(kernelSize)::value;
            return withConstant<1, 2>(shape.scale, [&](auto scale) {
                return launchFromRegisters<kSize, decltype(scale)::value>(
                    call, makeTaps(std::integral_constant<int, kSize * kSize>{}), stream);
            });
        });
    }
    if constexpr (!std::is_same_v<T, float>) {
        if (!isTensorCoreShape(shape) || (layout == Layout::kNHWC && !(isAlignedCall && hasWholeVectors(shape)))) {
            return cudaErrorNotSupported;
        }
        return withConstant<3, 5>(shape.kernelSize, [&](auto kernelSize) {
            constexpr int kSize = decltype(kernelSize)::value;
            auto const taps = makeTaps(std::integral_constant<int, kSize * kSize>{});
            return layout == Layout::kNHWC ? launchOnTensorCores<kSize, Layout::kNHWC>(call, taps, stream)
                                           : launchOnTensorCores<kSize, Layout::kNCHW>(call, taps, stream);
        });
    }
    return cudaErrorNotSupported;
}

//! Starts `tactic`, or for kAutomatic the first that can do it.
template <typename T, typename MakeTaps>
cudaError_t launchTactic(CarafeShape const& shape, Layout layout, Reassembly<T> const& call, MakeTaps const& makeTaps,
    ReassemblyTactic tactic, cudaStream_t stream)
{
    if (int64_t{shape.height} * shape.width > kMaxTilePixels) {
        tactic = ReassemblyTactic::kDirect; // the others number tiles and pixels in 32 bits
    }
    if (tactic != ReassemblyTactic::kAutomatic) {
        return launchReassembly(shape, layout, call, makeTaps, tactic, stream);
    }
    for (ReassemblyTactic const candidate :
        {ReassemblyTactic::kTensorCores, ReassemblyTactic::kFp32Units, ReassemblyTactic::kDirect}) {
        if (candidate == ReassemblyTactic::kTensorCores && shape.channels / shape.groups < kFewChannels) {
            continue;
        }
        cudaError_t const status = launchReassembly(shape, layout, call, makeTaps, candidate, stream);
        if (status != cudaErrorNotSupported) {
            return status;
        }
    }
    return cudaErrorNotSupported;
}

} // namespace freqfusion
