// SPDX-License-Identifier: Apache-2.0
#include "adaptive_filter_core.h"
#include "carafe_core.h"
#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(AdaptiveFilterShape const& shape) noexcept
{
    if (char const* const reason = whyNotRunnable(shape.reassembly)) {
        return reason;
    }
    if (shape.mode != FilterMode::kLowpass && shape.mode != FilterMode::kHighpass
        && shape.mode != FilterMode::kSharpen) {
        return "mode must be 0 (lowpass), 1 (highpass) or 2 (sharpen)";
    }
    if (shape.mode != FilterMode::kLowpass && shape.reassembly.scale != 1) {
        return "scale_factor must be 1 in the modes highpass and sharpen, which subtract the filtered map from the "
               "features";
    }
    return nullptr;
}

char const* whyNotRunnable(AdaptiveFilterShape const& shape, int64_t const* logits, int64_t windowCount) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (whyNotRunnable(shape.reassembly, logits) != nullptr) {
        return "the logits must have size (N, group_size * kernel_size^2, scale_factor * H, scale_factor * W) for "
               "features of size (N, C, H, W)";
    }
    if (windowCount != tapCount(shape.reassembly)) {
        return "window must hold kernel_size^2 values";
    }
    return nullptr;
}

char const* runAdaptiveFilterOnHost(AdaptiveFilterShape const& shape, DType dtype, void const* features,
    void const* logits, float const* window, void* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (outputCount(shape.reassembly) > 0) {
        hostKernels().adaptiveFilter(shape, dtype, features, logits, window, output, pool);
    }
    return nullptr;
}

} // namespace freqfusion
