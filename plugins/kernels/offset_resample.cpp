// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "offset_resample_core.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(OffsetResampleShape const& shape) noexcept
{
    if (shape.groups < 1) {
        return "groups must be at least 1";
    }
    if (shape.batch < 0 || shape.channels < 0 || shape.height < 0 || shape.width < 0) {
        return "the sizes must not be negative";
    }
    if (shape.channels % shape.groups != 0) {
        return "groups must divide the features' channels";
    }
    int64_t const outHeight = int64_t{shape.height} * 2;
    int64_t const outWidth = int64_t{shape.width} * 2;
    if (!isAddressable({shape.batch, shape.channels, outHeight, outWidth})
        || !isAddressable({shape.batch, 8, shape.groups, shape.height, shape.width})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* whyNotRunnable(OffsetResampleShape const& shape, int64_t const* features, int64_t const* offsets) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (features[0] != shape.batch || features[1] != shape.channels || features[2] != int64_t{shape.height} * 2
        || features[3] != int64_t{shape.width} * 2) {
        return "the features must have size (N, C, 2h, 2w) for offsets of size (N, 8 * groups, h, w)";
    }
    if (offsets[0] != shape.batch || offsets[1] != int64_t{shape.groups} * 8 || offsets[2] != shape.height
        || offsets[3] != shape.width) {
        return "the offsets must have size (N, 8 * groups, h, w) for features of size (N, C, 2h, 2w)";
    }
    return nullptr;
}

char const* runOffsetResampleOnHost(OffsetResampleShape const& shape, DType dtype, void const* features,
    void const* offsets, void* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (shape.batch > 0 && shape.channels > 0 && shape.height > 0 && shape.width > 0) {
        hostKernels().offsetResample(shape, dtype, features, offsets, output, pool);
    }
    return nullptr;
}

} // namespace freqfusion
