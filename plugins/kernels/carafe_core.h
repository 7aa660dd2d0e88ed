// SPDX-License-Identifier: Apache-2.0
//! Checks of a reassembly's sizes, and its counts.
#pragma once

#include "carafe.h"

namespace freqfusion {

constexpr int32_t kMaxKernelSize = 31; //!< a reassembly's scratch memory is sized for at most 31 x 31 taps
constexpr int32_t kMaxScale = 64;

FREQFUSION_HOST_DEVICE static inline int64_t tapCount(CarafeShape const& shape)
{
    return int64_t{shape.kernelSize} * shape.kernelSize;
}

//! Where a tap at `position` of an axis of `size` pixels reads; outside [0, size) if it reads zero.
FREQFUSION_HOST_DEVICE static inline int64_t sourceOf(Padding padding, int64_t position, int64_t size)
{
    int64_t const mirrored = position < 0 ? -position : position < size ? position : 2 * (size - 1) - position;
    return padding == Padding::kReflect && mirrored >= 0 && mirrored < size ? mirrored : position;
}

FREQFUSION_HOST_DEVICE static inline int64_t outputCount(CarafeShape const& shape)
{
    return int64_t{shape.batch} * shape.channels * shape.height * shape.scale * shape.width * shape.scale;
}

} // namespace freqfusion
