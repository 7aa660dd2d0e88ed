// SPDX-License-Identifier: Apache-2.0
#include "adaptive_filter_core.h"
#include "reassembly_simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

//! Turns the logits [tap][plane][lane] of one segment into weights: softmax over taps, times the window, divided by
//! their sum, with the mode folded in.
void normalizeTaps(int32_t taps, float const* window, FilterMode mode, float* weights, int32_t planes)
{
    int32_t const pitch = planes * kLanes;
    Vec const factor = broadcast(filterFactor(mode));
    Vec const centre = broadcast(featureFactor(mode));
    for (int32_t p = 0; p < planes; ++p) {
        float* const plane = weights + p * kLanes;
        Vec top = load(plane);
        for (int32_t t = 1; t < taps; ++t) {
            top = maximum(load(plane + t * pitch), top);
        }
        Vec sum = {};
        for (int32_t t = 0; t < taps; ++t) {
            Vec const weight = expOfNegative(load(plane + t * pitch) - top) * window[t];
            store(plane + t * pitch, weight);
            sum += weight;
        }
        Vec const share = factor / sum;
        for (int32_t t = 0; t < taps; ++t) {
            store(plane + t * pitch, load(plane + t * pitch) * share);
        }
        float* const middle = plane + taps / 2 * pitch;
        store(middle, load(middle) + centre);
    }
}

} // namespace

void adaptiveFilter(AdaptiveFilterShape const& shape, DType dtype, void const* features, void const* logits,
    float const* window, void* output, ThreadPool const& pool) noexcept
{
    int32_t const taps = shape.reassembly.kernelSize * shape.reassembly.kernelSize;
    reassemble(shape.reassembly, dtype, features, logits, output, pool,
        [&](float* weights, int32_t planes) { normalizeTaps(taps, window, shape.mode, weights, planes); });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
