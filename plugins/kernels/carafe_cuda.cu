// SPDX-License-Identifier: Apache-2.0
#include "reassembly_launch.cuh"

namespace freqfusion {

bool isTacticFor(CarafeShape const& shape, DType dtype, Layout layout, ReassemblyTactic tactic) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return false;
    }
    bool const isChannelsLast = layout == Layout::kNHWC;
    switch (tactic) {
    case ReassemblyTactic::kAutomatic:
    case ReassemblyTactic::kDirect:
        return true;
    case ReassemblyTactic::kFp32Units:
        return isChannelsLast ? hasWholeVectors(shape) && pixelsPerBlock(shape) > 0
                              : (shape.kernelSize == 3 || shape.kernelSize == 5) && shape.scale <= 2;
    case ReassemblyTactic::kTensorCores:
        return dtype != DType::kFloat32 && isTensorCoreShape(shape) && (!isChannelsLast || hasWholeVectors(shape));
    }
    return false;
}

cudaError_t launchCarafe(CarafeShape const& shape, DType dtype, Layout layout, void const* features, void const* mask,
    void* output, ReassemblyTactic tactic, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    if (outputCount(shape) == 0) {
        return cudaSuccess;
    }
    return withElementType(dtype, [&](auto element) {
        return launchTactic(
            shape, layout, describe<decltype(element)>(shape, layout, features, mask, output),
            [](auto) { return MaskTaps{}; }, tactic, stream);
    });
}

cudaError_t launchCarafe(CarafeShape const& shape, DType dtype, Layout layout, void const* features, void const* mask,
    void* output, cudaStream_t stream) noexcept
{
    return launchCarafe(shape, dtype, layout, features, mask, output, ReassemblyTactic::kAutomatic, stream);
}

} // namespace freqfusion
