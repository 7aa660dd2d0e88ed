// SPDX-License-Identifier: Apache-2.0
//! Where a deformable attention reads along one axis.
#pragma once

#include "deformable_attention.h"

namespace freqfusion {

//! A pixel of an axis and the one after it, and what each weighs: one less its distance from the position, if that is
//! less than one. An axis of one pixel has none after it, and `secondShare` is 0.
struct AttendedPixels {
    int32_t first; //!< 0 <= first <= max(size - 2, 0)
    float firstShare;
    float secondShare;
};

//! The pixels around `position`, in pixels from the centre of pixel 0, on an axis of `size` pixels. Written in
//! selections instead of branches, so that compilers make vectors of it.
FREQFUSION_HOST_DEVICE static inline AttendedPixels attendedPixels(float position, int32_t size)
{
    // Bounded before it becomes an index: a position beyond two pixels outside, or NaN, reads nothing wherever it is.
    float const end = static_cast<float>(size) + 1.0F;
    float bounded = position > -2.0F ? position : -2.0F;
    bounded = bounded < end ? bounded : end;
    int32_t const whole = static_cast<int32_t>(bounded);
    int32_t const lowest = whole > 0 ? whole : 0;
    int32_t const last = size > 1 ? size - 2 : 0;
    int32_t const first = lowest < last ? lowest : last;
    float const beyond = bounded - static_cast<float>(first);
    float const firstShare = 1.0F - (beyond < 0.0F ? -beyond : beyond);
    float const secondShare = beyond < 1.0F ? beyond : 2.0F - beyond;
    float const hasSecond = size > 1 ? 1.0F : 0.0F;
    return {first, firstShare > 0.0F ? firstShare : 0.0F, (secondShare > 0.0F ? secondShare : 0.0F) * hasSecond};
}

} // namespace freqfusion
