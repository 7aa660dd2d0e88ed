// SPDX-License-Identifier: Apache-2.0
#include "carafe_core.h"
#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

CarafeShape smallestShape(int32_t kernelSize, int32_t groups, int32_t scale, Padding padding) noexcept
{
    int32_t const side = padding == Padding::kReflect ? kernelSize / 2 + 1 : 1;
    return {1, groups, side, side, kernelSize, groups, scale, padding};
}

char const* whyNotRunnable(CarafeShape const& shape) noexcept
{
    if (shape.kernelSize < 1 || shape.kernelSize > kMaxKernelSize || shape.kernelSize % 2 == 0) {
        return "kernel_size must be odd, from 1 to 31";
    }
    if (shape.scale < 1 || shape.scale > kMaxScale) {
        return "scale_factor must be from 1 to 64";
    }
    if (shape.groups < 1) {
        return "group_size (the number of channel groups) must be at least 1";
    }
    if (shape.batch < 0 || shape.channels < 0 || shape.height < 0 || shape.width < 0) {
        return "the features' sizes must not be negative";
    }
    if (shape.channels % shape.groups != 0) {
        return "group_size (the number of channel groups) must divide the features' channels";
    }
    if (shape.padding != Padding::kZeros && shape.padding != Padding::kReflect) {
        return "padding must be 0 (zeros) or 1 (reflect)";
    }
    int32_t const radius = shape.kernelSize / 2;
    if (shape.padding == Padding::kReflect && radius > 0 && (shape.height <= radius || shape.width <= radius)) {
        return "padding 1 (reflect) needs features higher and wider than kernel_size / 2, rounded down";
    }
    int64_t const outHeight = int64_t{shape.height} * shape.scale;
    int64_t const outWidth = int64_t{shape.width} * shape.scale;
    if (!isAddressable({shape.batch, shape.channels, outHeight, outWidth})
        || !isAddressable({shape.batch, shape.groups, tapCount(shape), outHeight, outWidth})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* whyNotRunnable(CarafeShape const& shape, int64_t const* mask) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (mask[0] != shape.batch || mask[1] != shape.groups * tapCount(shape)
        || mask[2] != int64_t{shape.height} * shape.scale || mask[3] != int64_t{shape.width} * shape.scale) {
        return "the mask must have size (N, group_size * kernel_size^2, scale_factor * H, scale_factor * W) for "
               "features "
               "of size (N, C, H, W)";
    }
    return nullptr;
}

char const* runCarafeOnHost(CarafeShape const& shape, DType dtype, void const* features, void const* mask, void* output,
    ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (outputCount(shape) > 0) {
        hostKernels().carafe(shape, dtype, features, mask, output, pool);
    }
    return nullptr;
}

} // namespace freqfusion
