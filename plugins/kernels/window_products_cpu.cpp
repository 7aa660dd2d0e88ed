// SPDX-License-Identifier: Apache-2.0
//! One task is a row of one group. For each segment of kLanes pixels the sums of some taps stay in registers while the
//! channels pass by: a factor is loaded once for all of them.
#include "window_products.h"

#include "simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

// Rows of a 5 x 5 window that are summed at once: 25 sums fit 32 registers, five fit 16.
#if defined(__AVX512F__)
constexpr int32_t kRowsOfFive = 5;
#else
constexpr int32_t kRowsOfFive = 1;
#endif

//! Where one segment's numbers lie, and how far it is to the next channel or row.
struct Segment {
    float const* map;
    float const* factors;
    float* output; //!< of the first tap
    int64_t mapPitch;
    int64_t mapPlane;
    int64_t plane; //!< of factors and output
    int32_t channels;
    int32_t count; //!< pixels
};

//! Sums kRows x kColumns taps of a window, from row `ky` and column `kx` on.
template <int kRows, int kColumns>
FREQFUSION_INLINE void sumTaps(Segment const& segment, int32_t kernelSize, int32_t ky, int32_t kx)
{
    Vec sums[kRows][kColumns] = {};
    float const* map = segment.map + ky * segment.mapPitch + kx;
    float const* factors = segment.factors;
    bool const isWhole = segment.count >= kLanes;
    for (int32_t c = 0; c < segment.channels; ++c, map += segment.mapPlane, factors += segment.plane) {
        Vec const factor = isWhole ? load(factors) : loadPart(factors, segment.count);
        for (int32_t row = 0; row < kRows; ++row) {
            for (int32_t column = 0; column < kColumns; ++column) {
                float const* const from = map + row * segment.mapPitch + column;
                sums[row][column] += factor * (isWhole ? load(from) : loadPart(from, segment.count));
            }
        }
    }
    for (int32_t row = 0; row < kRows; ++row) {
        for (int32_t column = 0; column < kColumns; ++column) {
            int64_t const tap = int64_t{ky + row} * kernelSize + kx + column;
            storePart(segment.output + tap * segment.plane, sums[row][column], segment.count);
        }
    }
}

void sumWindow(Segment const& segment, int32_t kernelSize)
{
    if (kernelSize == 3) {
        return sumTaps<3, 3>(segment, 3, 0, 0);
    }
    if (kernelSize == 5) {
        for (int32_t ky = 0; ky < 5; ky += kRowsOfFive) {
            sumTaps<kRowsOfFive, 5>(segment, 5, ky, 0);
        }
        return;
    }
    for (int32_t ky = 0; ky < kernelSize; ++ky) {
        for (int32_t kx = 0; kx < kernelSize; ++kx) {
            sumTaps<1, 1>(segment, kernelSize, ky, kx);
        }
    }
}

} // namespace

void windowProducts(WindowProductsShape const& shape, float const* map, float const* factors, float* output,
    ThreadPool const& pool) noexcept
{
    int64_t const border = shape.kernelSize - 1;
    int64_t const taps = int64_t{shape.kernelSize} * shape.kernelSize;
    int32_t const channels = shape.channels / shape.groups;
    Segment first{};
    first.mapPitch = shape.width + border;
    first.mapPlane = (shape.height + border) * first.mapPitch;
    first.plane = int64_t{shape.height} * shape.width;
    first.channels = channels;
    parallelFor(pool, int64_t{shape.batch} * shape.groups * shape.height, [&](int64_t task) {
        int64_t const y = task % shape.height;
        int64_t const group = task / shape.height; // of all images
        Segment segment = first;
        for (int32_t x = 0; x < shape.width; x += kLanes) {
            segment.map = map + group * channels * segment.mapPlane + y * segment.mapPitch + x;
            segment.factors = factors + group * channels * segment.plane + y * shape.width + x;
            segment.output = output + group * taps * segment.plane + y * shape.width + x;
            segment.count = smaller(kLanes, shape.width - x);
            sumWindow(segment, shape.kernelSize);
        }
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
