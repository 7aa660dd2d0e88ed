// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(PyramidRoiAlignShape const& shape) noexcept
{
    if (shape.outputSize < 1) {
        return "output_size must be at least 1";
    }
    if (shape.finestStride < 1 || shape.finestScale < 1) {
        return "finest_stride and finest_scale must be at least 1";
    }
    if (shape.batch < 0 || shape.channels < 0 || shape.boxes < 0) {
        return "the sizes must not be negative";
    }
    for (int32_t level = 0; level < kPyramidLevels; ++level) {
        if (shape.height[level] < 1 || shape.width[level] < 1) {
            return "every map must have at least one row and column";
        }
        if (!isAddressable({shape.batch, shape.channels, shape.height[level], shape.width[level]})) {
            return kNotAddressable;
        }
    }
    if (!isAddressable({shape.batch, shape.boxes, 4})
        || !isAddressable({shape.batch, shape.boxes, shape.channels, shape.outputSize, shape.outputSize})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* runPyramidRoiAlignOnHost(PyramidRoiAlignShape const& shape, DType dtype, void const* const* maps,
    float const* boxes, void* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    bool const isEmpty = shape.batch == 0 || shape.boxes == 0 || shape.channels == 0;
    if (!isEmpty && !hostKernels().pyramidRoiAlign(shape, dtype, maps, boxes, output, pool)) {
        return "there is no memory for a box's weights";
    }
    return nullptr;
}

} // namespace freqfusion
