// SPDX-License-Identifier: Apache-2.0
//! Which source pixels two bilinear resizes in a row read along one axis, and with what weights.
#pragma once

#include "resize_argmax.h"

namespace freqfusion {

constexpr int32_t kMaxResizeTaps = 4; //!< two pixels of the step, two source pixels each

//! Two pixels that one bilinear resize mixes; `second` weighs `share`, `first` the rest.
struct ResizePair {
    int32_t first;
    int32_t second;
    float share;
};

//! The source pixels of output pixel `index` when `inSize` pixels are resized to `outSize`.
//! Source: area_pixel_compute_source_index and guard_index_and_lambda of ATen/native/UpSample.h, in fp32 as there.
FREQFUSION_HOST_DEVICE static inline ResizePair resizePair(
    int32_t index, int32_t inSize, int32_t outSize, bool alignCorners)
{
    if (inSize == outSize) {
        return {index, index, 0.0F};
    }
    float position = 0.0F;
    if (alignCorners) {
        float const scale = outSize > 1 ? static_cast<float>(inSize - 1) / static_cast<float>(outSize - 1) : 0.0F;
        position = scale * static_cast<float>(index);
    } else {
        float const scale = static_cast<float>(inSize) / static_cast<float>(outSize);
        position = scale * (static_cast<float>(index) + 0.5F) - 0.5F;
        position = position > 0.0F ? position : 0.0F;
    }
    int32_t first = static_cast<int32_t>(position);
    first = first < inSize - 1 ? first : inSize - 1;
    float share = position - static_cast<float>(first);
    share = share > 0.0F ? share : 0.0F;
    share = share < 1.0F ? share : 1.0F;
    return {first, first < inSize - 1 ? first + 1 : first, share};
}

//! Source pixels of both resizes together: `count` distinct indices with weights that are not zero.
struct ResizeTaps {
    int32_t count;
    int32_t index[kMaxResizeTaps];
    float weight[kMaxResizeTaps];
};

//! Adds `weight` at source pixel `index`.
FREQFUSION_HOST_DEVICE static inline void addResizeTap(ResizeTaps& taps, int32_t index, float weight)
{
    for (int32_t i = 0; i < taps.count; ++i) {
        if (taps.index[i] == index) {
            taps.weight[i] += weight;
            return;
        }
    }
    if (weight != 0.0F) {
        taps.index[taps.count] = index;
        taps.weight[taps.count] = weight;
        ++taps.count;
    }
}

//! The source pixels of output pixel `index` after resizing `inSize` to `stepSize` and that to `outSize`.
FREQFUSION_HOST_DEVICE static inline ResizeTaps resizeTaps(
    int32_t index, int32_t inSize, int32_t stepSize, int32_t outSize, bool alignCorners)
{
    ResizePair const outer = resizePair(index, stepSize, outSize, alignCorners);
    ResizePair const low = resizePair(outer.first, inSize, stepSize, alignCorners);
    ResizePair const high = resizePair(outer.second, inSize, stepSize, alignCorners);
    ResizeTaps taps{};
    addResizeTap(taps, low.first, (1.0F - outer.share) * (1.0F - low.share));
    addResizeTap(taps, low.second, (1.0F - outer.share) * low.share);
    addResizeTap(taps, high.first, outer.share * (1.0F - high.share));
    addResizeTap(taps, high.second, outer.share * high.share);
    return taps;
}

} // namespace freqfusion
