// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"
#include "sizes.h"

namespace freqfusion {

char const* whyNotRunnable(Convolve3x3Shape const& shape) noexcept
{
    if (shape.batch < 0 || shape.height < 0 || shape.width < 0) {
        return "the sizes must not be negative";
    }
    if (shape.channels < 1 || shape.outChannels < 1) {
        return "there must be at least one input and output channel";
    }
    if (!isAddressable({shape.batch, shape.channels, shape.height, shape.width})
        || !isAddressable({shape.batch, shape.outChannels, shape.height, shape.width})
        || !isAddressable({shape.channels, shape.outChannels, 64})) {
        return kNotAddressable;
    }
    return nullptr;
}

int64_t packedWeights3x3(int32_t channels, int32_t outChannels) noexcept
{
    return hostKernels().packedWeights3x3(channels, outChannels);
}

void packWeights3x3(int32_t channels, int32_t outChannels, float const* weights, float* packed) noexcept
{
    hostKernels().packWeights3x3(channels, outChannels, weights, packed);
}

char const* runConvolve3x3OnHost(Convolve3x3Shape const& shape, float const* input, float const* packed,
    float const* bias, float* output, ThreadPool const& pool) noexcept
{
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    bool const isEmpty = shape.batch == 0 || shape.height == 0 || shape.width == 0;
    if (!isEmpty && !hostKernels().convolve3x3(shape, input, packed, bias, output, pool)) {
        return "there is no memory for the transformed input";
    }
    return nullptr;
}

} // namespace freqfusion
