// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "carafe.h"

namespace freqfusion {

//! What is made of the filtered map f(X). The values are those of the ONNX attribute `mode`.
enum class FilterMode : int32_t {
    kLowpass = 0,  //!< f(X)
    kHighpass = 1, //!< X - f(X); needs scale 1
    kSharpen = 2,  //!< 2 X - f(X); needs scale 1
};

//! Sizes and attributes of one adaptive filter.
struct AdaptiveFilterShape {
    CarafeShape reassembly;
    FilterMode mode;
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(AdaptiveFilterShape const& shape) noexcept;

//! The same, and that logits of size `logits[0..3]` and a window of `windowCount` taps belong to it.
[[nodiscard]] char const* whyNotRunnable(
    AdaptiveFilterShape const& shape, int64_t const* logits, int64_t windowCount) noexcept;

//! FreqFusion's predicted low-pass and high-pass filters, from logits to filtered map in one pass.
//!
//!   features (N, C, H, W)   logits (N, G*K*K, S*H, S*W)   window K*K floats, none negative   output (N, C, S*H, S*W)
//! Per output pixel and group the K*K logits go through softmax, are multiplied by the window and divided by their sum;
//! the result weighs the K x K input window as in `Carafe`; `mode` combines that sum with X. Softmax and sums are fp32.
//!
//! NCHW tensors in host memory; `window` is always host memory and fp32. Returns nullptr when done, else the reason
//! nothing was written.
[[nodiscard]] char const* runAdaptiveFilterOnHost(AdaptiveFilterShape const& shape, DType dtype, void const* features,
    void const* logits, float const* window, void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`; `window` stays host memory and is read before this returns.
[[nodiscard]] cudaError_t launchAdaptiveFilter(AdaptiveFilterShape const& shape, DType dtype, Layout layout,
    void const* features, void const* logits, float const* window, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
