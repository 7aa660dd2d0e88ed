// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "local_similarity_core.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(LocalSimilarityShape const& shape) noexcept
{
    if (shape.kernelSize < 3 || shape.kernelSize > kMaxSimilarityKernelSize || shape.kernelSize % 2 == 0) {
        return "kernel_size must be odd, from 3 to 15";
    }
    if (shape.dilation < 1 || shape.kernelSize / 2 * int64_t{shape.dilation} > kMaxSimilarityReach) {
        return "dilation must be at least 1 and reach no farther than 32 pixels: (kernel_size - 1) / 2 * dilation <= "
               "32";
    }
    if (shape.batch < 0 || shape.channels < 0 || shape.height < 0 || shape.width < 0) {
        return "the features' sizes must not be negative";
    }
    int64_t const neighbours = int64_t{shape.kernelSize} * shape.kernelSize - 1;
    if (!isAddressable({shape.batch, shape.channels, shape.height, shape.width})
        || !isAddressable({shape.batch, neighbours, shape.height, shape.width})) {
        return kNotAddressable;
    }
    return nullptr;
}

char const* runLocalSimilarityOnHost(
    LocalSimilarityShape const& shape, DType dtype, void const* features, void* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!isKnown(dtype)) {
        return kUnknownDType;
    }
    if (shape.batch > 0 && shape.height > 0 && shape.width > 0) {
        hostKernels().localSimilarity(shape, dtype, features, output, pool);
    }
    return nullptr;
}

} // namespace freqfusion
