// SPDX-License-Identifier: Apache-2.0
//! The choice between the CUDA kernels that can do the same reassembly, for callers that time them, like TensorRT.
#pragma once

#include "adaptive_filter.h"
#include "carafe.h"

#if FREQFUSION_CUDA

namespace freqfusion {

//! A kernel. The values may be stored, in TensorRT engines for example.
enum class ReassemblyTactic : int32_t {
    kAutomatic = 0,   //!< the fastest expected
    kDirect = 1,      //!< reassembly_direct.cuh: anything
    kFp32Units = 2,   //!< reassembly_registers.cuh, reassembly_channels_last.cuh: multiply-adds of the fp32 units
    kTensorCores = 3, //!< reassembly_tensor_cores.cuh: fp16 and bf16, K of 3 or 5, S = 2
};

constexpr int32_t kReassemblyTactics = 4;

//! True if `tactic` can do it with tensors that are 16-byte aligned. kAutomatic and kDirect always can.
[[nodiscard]] bool isTacticFor(CarafeShape const& shape, DType dtype, Layout layout, ReassemblyTactic tactic) noexcept;

//! `launchCarafe` by one kernel. Returns cudaErrorNotSupported if that cannot do it.
[[nodiscard]] cudaError_t launchCarafe(CarafeShape const& shape, DType dtype, Layout layout, void const* features,
    void const* mask, void* output, ReassemblyTactic tactic, cudaStream_t stream) noexcept;

//! `launchAdaptiveFilter` by one kernel. Returns cudaErrorNotSupported if that cannot do it.
[[nodiscard]] cudaError_t launchAdaptiveFilter(AdaptiveFilterShape const& shape, DType dtype, Layout layout,
    void const* features, void const* logits, float const* window, void* output, ReassemblyTactic tactic,
    cudaStream_t stream) noexcept;

} // namespace freqfusion

#endif
