// SPDX-License-Identifier: Apache-2.0
#include "deformable_attention.h"

#include "host_kernels.h"
#include "sizes.h"

#include <algorithm>
#include <limits>

namespace freqfusion {

int64_t tokensOf(DeformableAttentionShape const& shape) noexcept
{
    int64_t tokens = 0;
    for (int32_t level = 0; level < shape.levels; ++level) {
        tokens += int64_t{shape.height[level]} * shape.width[level];
    }
    return tokens;
}

char const* whyNotRunnable(DeformableAttentionShape const& shape) noexcept
{
    if (shape.levels < 1 || shape.levels > kMaxAttentionLevels) {
        return "there must be between 1 and 8 levels";
    }
    if (shape.points < 1 || int64_t{shape.levels} * shape.points > kMaxAttentionPlaces) {
        return "a head must read at least one place on each level and at most 256 in all";
    }
    if (shape.batch < 0 || shape.heads < 0 || shape.channels < 0) {
        return "the sizes must not be negative";
    }
    for (int32_t level = 0; level < shape.levels; ++level) {
        if (shape.height[level] < 1 || shape.width[level] < 1) {
            return "sizes must hold a positive height and width for each level";
        }
        if (!isAddressable({shape.height[level], shape.width[level]})) {
            return kNotAddressable;
        }
    }
    int64_t const places = 2 * int64_t{shape.levels} * shape.points;
    if (!isAddressable({shape.batch, tokensOf(shape), shape.heads, std::max<int64_t>(shape.channels, places)})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* whyNotRunnable(
    DeformableAttentionShape const& shape, int64_t const* value, int64_t const* offsets, int64_t const* logits) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    int64_t const tokens = tokensOf(shape);
    int64_t const places = int64_t{shape.levels} * shape.points;
    if (value[0] != shape.batch || value[1] != tokens || value[2] != shape.heads || value[3] != shape.channels) {
        return "the value must have a token for every pixel of the levels in sizes";
    }
    if (logits[0] != shape.batch || logits[1] != tokens || logits[2] != shape.heads || logits[3] != places) {
        return "the logits must have size (N, T, M, L * P) for a value of size (N, T, M, D) on L levels";
    }
    if (offsets[0] != shape.batch || offsets[1] != tokens || offsets[2] != shape.heads || offsets[3] != 2 * places) {
        return "the offsets must have size (N, T, M, L * P * 2) for logits of size (N, T, M, L * P)";
    }
    return nullptr;
}

DeformableAttentionShape attentionShape(
    int64_t const* value, int64_t const* logits, int64_t const* sizes, int64_t levels) noexcept
{
    auto const narrowed = [](int64_t number) {
        return number < 0 || number > std::numeric_limits<int32_t>::max() ? -1 : static_cast<int32_t>(number);
    };
    bool const areLevels = levels >= 1 && levels <= kMaxAttentionLevels;
    DeformableAttentionShape shape{narrowed(value[0]), narrowed(value[2]), narrowed(value[3]),
        areLevels ? static_cast<int32_t>(levels) : 0, areLevels ? narrowed(logits[3] / levels) : 0, {}, {}};
    for (int32_t level = 0; level < shape.levels; ++level) {
        shape.height[level] = narrowed(sizes[2 * level]);
        shape.width[level] = narrowed(sizes[2 * level + 1]);
    }
    return shape;
}

char const* runDeformableAttentionOnHost(DeformableAttentionShape const& shape, DType dtype, void const* value,
    void const* offsets, void const* logits, void* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    bool const isEmpty = shape.batch == 0 || shape.heads == 0 || shape.channels == 0;
    if (!isEmpty && !hostKernels().deformableAttention(shape, dtype, value, offsets, logits, output, pool)) {
        return "there is no memory for a copy of an image's values";
    }
    return nullptr;
}

} // namespace freqfusion
