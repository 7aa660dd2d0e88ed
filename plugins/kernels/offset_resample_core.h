// SPDX-License-Identifier: Apache-2.0
//! Where an offset resampling reads along one axis.
#pragma once

#include "offset_resample.h"

namespace freqfusion {

//! Two neighbouring pixels of one axis and the share of the second.
struct PixelPair {
    int32_t first; //!< 0 <= first <= size - 2
    float share;   //!< 0 <= share <= 1; pixel `first` weighs 1 - share
};

//! The pixels that an output pixel reads along an axis of `size` feature pixels (at least 2), given its cell and offset
//! in offset-map pixels. A NaN offset reads pixel 0.
FREQFUSION_HOST_DEVICE static inline PixelPair samplePixels(int32_t cell, float offset, int32_t size)
{
    float const last = static_cast<float>(size - 1);
    float position = 2.0F * (static_cast<float>(cell) + 0.5F + offset) - 0.5F;
    position = position > 0.0F ? position : 0.0F;
    position = position < last ? position : last;
    int32_t first = static_cast<int32_t>(position);
    first = first < size - 2 ? first : size - 2;
    return {first, position - static_cast<float>(first)};
}

} // namespace freqfusion
