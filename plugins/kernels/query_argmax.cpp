// SPDX-License-Identifier: Apache-2.0
#include "query_argmax.h"

#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(QueryArgmaxShape const& shape) noexcept
{
    if (shape.batch < 0) {
        return "the batch must not be negative";
    }
    if (shape.queries < 1 || shape.queries > kMaxQueries) {
        return "the masks must have between 1 and 768 queries";
    }
    if (shape.classes < 1 || shape.height < 1 || shape.width < 1) {
        return "there must be at least one class beside \"no object\", and the masks must have a row and a column";
    }
    if (shape.paddedHeight < 1 || shape.paddedWidth < 1 || shape.keptHeight < 1 || shape.keptWidth < 1
        || shape.outHeight < 1 || shape.outWidth < 1) {
        return "sizes must hold six positive numbers: padded, kept and output height and width";
    }
    if (shape.keptHeight > shape.paddedHeight || shape.keptWidth > shape.paddedWidth) {
        return "the kept height and width in sizes must not exceed the padded ones";
    }
    if (!isAddressable({shape.batch, shape.queries, shape.height, shape.width})
        || !isAddressable({shape.batch, shape.queries, int64_t{shape.classes} + 1})
        || !isAddressable({shape.batch, shape.paddedHeight, shape.paddedWidth})
        || !isAddressable({shape.batch, shape.outHeight, shape.outWidth})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* whyNotRunnable(QueryArgmaxShape const& shape, int64_t const* classes) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (classes[0] != shape.batch || classes[1] != shape.queries || classes[2] != int64_t{shape.classes} + 1) {
        return "the classes must have size (N, Q, C + 1) for masks of size (N, Q, h, w)";
    }
    return nullptr;
}

char const* runQueryArgmaxOnHost(QueryArgmaxShape const& shape, DType dtype, void const* masks, void const* classes,
    int32_t* labels, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (shape.batch > 0 && !hostKernels().queryArgmax(shape, dtype, masks, classes, labels, pool)) {
        return "there is no memory for the scores of a tile";
    }
    return nullptr;
}

} // namespace freqfusion
