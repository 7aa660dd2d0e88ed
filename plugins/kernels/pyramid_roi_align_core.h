// SPDX-License-Identifier: Apache-2.0
//! Which level of a pyramid a box is read from, and where.
#pragma once

#include "pyramid_roi_align.h"

#include <math.h>

namespace freqfusion {

//! The level of a box (x1, y1, x2, y2). Comparisons, since a logarithm may be rounded over an edge; NaN goes to level
//! 0.
FREQFUSION_HOST_DEVICE static inline int32_t pyramidLevel(float const* box, int32_t finestScale)
{
    float const relative = sqrtf((box[2] - box[0]) * (box[3] - box[1])) / static_cast<float>(finestScale) + 1e-6F;
    return static_cast<int32_t>(relative >= 2.0F) + static_cast<int32_t>(relative >= 4.0F)
           + static_cast<int32_t>(relative >= 8.0F);
}

//! The sample points of a box along one axis of a map.
struct SampleAxis {
    float start;     //!< of the box, in map pixels, 0 at the centre of the first
    float cell;      //!< extent of a cell
    int32_t samples; //!< per cell, also of those outside; 0 for a box without extent
    int32_t size;    //!< of the map
};

//! A point on one axis, as two neighbouring pixels and the share of the second.
struct SamplePoint {
    int32_t low;
    int32_t high; //!< low or low + 1
    float share;
    bool isInside;
};

FREQFUSION_HOST_DEVICE static inline SampleAxis sampleAxis(
    float low, float high, float stride, int32_t size, int32_t cells)
{
    constexpr float kMaxSamples = 16777216.0F; // beyond, fp32 cannot count them; no map is so large
    float const start = low / stride - 0.5F;
    float const extent = high / stride - 0.5F - start;
    float const cell = extent / static_cast<float>(cells);
    float const samples = ceilf(cell);
    bool const isSound = samples >= 1.0F && samples <= kMaxSamples; // false for NaN
    return {start, cell, isSound ? static_cast<int32_t>(samples) : 0, size};
}

FREQFUSION_HOST_DEVICE static inline SamplePoint samplePoint(SampleAxis const& axis, int32_t cell, int32_t sample)
{
    float const last = static_cast<float>(axis.size - 1);
    float const at = axis.start + static_cast<float>(cell) * axis.cell
                     + (static_cast<float>(sample) + 0.5F) * axis.cell / static_cast<float>(axis.samples);
    bool const isInside = at >= -1.0F && at <= static_cast<float>(axis.size);
    float const clamped = !isInside || at < 0.0F ? 0.0F : at > last ? last : at;
    int32_t const low = static_cast<int32_t>(clamped);
    int32_t const high = low + 1 < axis.size ? low + 1 : low;
    return {low, high, clamped - static_cast<float>(low), isInside};
}

//! Bounds on the samples of a cell that may lie on the map: at most `size` + 5 however large the box.
struct SampleRange {
    int32_t first;
    int32_t end; //!< one past the last
};

FREQFUSION_HOST_DEVICE static inline SampleRange samplesNearMap(SampleAxis const& axis, int32_t cell)
{
    float const step = axis.cell / static_cast<float>(axis.samples); // from a half to one pixel, or less in all
    float const start = axis.start + static_cast<float>(cell) * axis.cell;
    float const first = floorf((-1.0F - start) / step) - 2.0F;
    float const end = ceilf((static_cast<float>(axis.size) - start) / step) + 2.0F;
    float const most = static_cast<float>(axis.samples);
    return {first > 0.0F ? static_cast<int32_t>(first < most ? first : most) : 0,
        end < most ? (end > 0.0F ? static_cast<int32_t>(end) : 0) : axis.samples};
}

} // namespace freqfusion
