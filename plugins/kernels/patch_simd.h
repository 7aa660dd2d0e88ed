// SPDX-License-Identifier: Apache-2.0
//! Copying a part of a map into scratch memory as fp32.
#pragma once

#include "simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

//! Copies what lies inside the map of the window of `rows` x `columns` pixels that begins at (y0, x0), each possibly
//! negative, to its place in `patch`; leaves the rest of the patch as it is, except that a vector which the map's right
//! edge cuts is filled up with zeros. x0, columns and pitch are multiples of kLanes.
template <typename T>
FREQFUSION_INLINE void copyWindow(T const* map, int32_t height, int32_t width, int32_t y0, int32_t rows, int32_t x0,
    int32_t columns, int32_t pitch, float* patch)
{
    int32_t const firstRow = larger(y0, 0);
    int32_t const endRow = smaller(y0 + rows, height);
    int32_t const begin = larger(x0, 0);
    int32_t const end = smaller(x0 + columns, width);
    for (int32_t y = firstRow; y < endRow; ++y) {
        T const* const from = map + int64_t{y} * width;
        float* const to = patch + int64_t{y - y0} * pitch - x0;
        int32_t x = begin;
        for (; x + kLanes <= end; x += kLanes) {
            store(to + x, loadAs(from + x));
        }
        if (x < end) {
            store(to + x, loadPart(from + x, end - x));
        }
    }
}

//! Sets `count` floats, a multiple of kLanes, to zero.
FREQFUSION_INLINE void clear(float* to, int32_t count)
{
    for (int32_t i = 0; i < count; i += kLanes) {
        store(to + i, Vec{});
    }
}

} // namespace
} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
