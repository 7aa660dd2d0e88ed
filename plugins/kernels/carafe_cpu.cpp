// SPDX-License-Identifier: Apache-2.0
#include "reassembly_simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {

void carafe(CarafeShape const& shape, DType dtype, void const* features, void const* mask, void* output,
    ThreadPool const& pool) noexcept
{
    reassemble(shape, dtype, features, mask, output, pool, [](float*, int32_t) {});
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
