// SPDX-License-Identifier: Apache-2.0
//! How a filter's mode is folded into its taps: result = featureFactor * X + filterFactor * f(X), and X is the centre
//! tap.
#pragma once

#include "adaptive_filter.h"

namespace freqfusion {

FREQFUSION_HOST_DEVICE static inline float featureFactor(FilterMode mode)
{
    return mode == FilterMode::kSharpen ? 2.0F : mode == FilterMode::kHighpass ? 1.0F : 0.0F;
}

FREQFUSION_HOST_DEVICE static inline float filterFactor(FilterMode mode)
{
    return mode == FilterMode::kLowpass ? 1.0F : -1.0F;
}

} // namespace freqfusion
