// SPDX-License-Identifier: Apache-2.0
//! Where a deformable attention reads along one axis.
#pragma once

#include "deformable_attention.h"

namespace freqfusion {

//! Two neighbouring pixels of one axis, moved into the map, and what each weighs: nothing where it lay outside.
struct AttendedPixels {
    int32_t low;
    int32_t high;
    float lowShare;
    float highShare;
};

//! The pixels around `position`, in pixels from the centre of pixel 0, on an axis of `size` pixels.
FREQFUSION_HOST_DEVICE static inline AttendedPixels attendedPixels(float position, int32_t size)
{
    // Bounded before it becomes an index: a position beyond two pixels outside, or NaN, reads nothing wherever it is.
    // Shifted to be positive, where cutting off the fraction is rounding down.
    float const end = static_cast<float>(size) + 2.0F;
    float shifted = position + 2.0F;
    shifted = shifted > 0.0F ? shifted : 0.0F;
    shifted = shifted < end ? shifted : end;
    int32_t const whole = static_cast<int32_t>(shifted);
    float const share = shifted - static_cast<float>(whole);
    // As unsigned numbers those before the first pixel are beyond the last, too.
    bool const isLowInside = static_cast<uint32_t>(whole - 2) < static_cast<uint32_t>(size);
    bool const isHighInside = static_cast<uint32_t>(whole - 1) < static_cast<uint32_t>(size);
    return {isLowInside ? whole - 2 : 0, isHighInside ? whole - 1 : 0, isLowInside ? 1.0F - share : 0.0F,
        isHighInside ? share : 0.0F};
}

} // namespace freqfusion
