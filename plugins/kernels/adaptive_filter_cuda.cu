// SPDX-License-Identifier: Apache-2.0
#include "adaptive_filter_core.h"
#include "reassembly_launch.cuh"

namespace freqfusion {

cudaError_t launchAdaptiveFilter(AdaptiveFilterShape const& shape, DType dtype, Layout layout, void const* features,
    void const* logits, float const* window, void* output, ReassemblyTactic tactic, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    CarafeShape const& reassembly = shape.reassembly;
    if (outputCount(reassembly) == 0) {
        return cudaSuccess;
    }
    auto const makeTaps = [&](auto capacity) {
        LogitTaps<decltype(capacity)::value> taps{};
        std::copy_n(window, std::min<int64_t>(tapCount(reassembly), decltype(capacity)::value), taps.values);
        return taps;
    };
    return withElementType(dtype, [&](auto element) {
        auto call = describe<decltype(element)>(reassembly, layout, features, logits, output);
        call.featureFactor = featureFactor(shape.mode);
        call.filterFactor = filterFactor(shape.mode);
        return launchTactic(reassembly, layout, call, makeTaps, tactic, stream);
    });
}

cudaError_t launchAdaptiveFilter(AdaptiveFilterShape const& shape, DType dtype, Layout layout, void const* features,
    void const* logits, float const* window, void* output, cudaStream_t stream) noexcept
{
    return launchAdaptiveFilter(
        shape, dtype, layout, features, logits, window, output, ReassemblyTactic::kAutomatic, stream);
}

} // namespace freqfusion
