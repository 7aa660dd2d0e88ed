// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "resize_argmax_core.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(ResizeArgmaxShape const& shape) noexcept
{
    if (shape.batch < 0) {
        return "the batch must not be negative";
    }
    if (shape.classes < 1 || shape.height < 1 || shape.width < 1) {
        return "the scores must have at least one class, row and column";
    }
    if (shape.stepHeight < 1 || shape.stepWidth < 1 || shape.outHeight < 1 || shape.outWidth < 1) {
        return "sizes must hold four positive numbers: step height, step width, output height, output width";
    }
    if (!isAddressable({shape.batch, shape.classes, shape.height, shape.width})
        || !isAddressable({shape.batch, shape.stepHeight, shape.stepWidth})
        || !isAddressable({shape.batch, shape.outHeight, shape.outWidth})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* runResizeArgmaxOnHost(
    ResizeArgmaxShape const& shape, DType dtype, void const* scores, int32_t* labels, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (shape.batch > 0) {
        hostKernels().resizeArgmax(shape, dtype, scores, labels, pool);
    }
    return nullptr;
}

} // namespace freqfusion
