// SPDX-License-Identifier: Apache-2.0
#include "carafe_core.h"
#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(WindowProductsShape const& shape) noexcept
{
    CarafeShape const reassembly{
        shape.batch, shape.channels, shape.height, shape.width, shape.kernelSize, shape.groups, 1};
    if (char const* const reason = whyNotRunnable(reassembly)) {
        return reason;
    }
    int64_t const border = shape.kernelSize - 1;
    return isAddressable({shape.batch, shape.channels, shape.height + border, shape.width + border}) ? nullptr
                                                                                                     : kNotAddressable;
}

char const* runWindowProductsOnHost(WindowProductsShape const& shape, float const* map, float const* factors,
    float* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (shape.batch > 0 && shape.height > 0 && shape.width > 0) {
        hostKernels().windowProducts(shape, map, factors, output, pool);
    }
    return nullptr;
}

} // namespace freqfusion
