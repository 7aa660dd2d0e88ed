// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

//! Sizes of one resize-and-argmax. A single resize is written as two equal steps: the second is then the identity.
struct ResizeArgmaxShape {
    int32_t batch;
    int32_t classes;
    int32_t height; //!< of the scores
    int32_t width;
    int32_t stepHeight; //!< after the first resize
    int32_t stepWidth;
    int32_t outHeight; //!< after the second resize
    int32_t outWidth;
    bool alignCorners;
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(ResizeArgmaxShape const& shape) noexcept;

//! Resizes every class map bilinearly, in two steps, and keeps only the index of the largest: the label map.
//!
//!   scores (N, C, h, w)   labels (N, outHeight, outWidth) int32; the lowest index wins a tie
//! The steps are those of the official pipelines (network input size, then picture size), each without antialiasing.
//! Class maps are never stored at the output's size: 150 classes at 512 x 512 would be 157 MB.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runResizeArgmaxOnHost(
    ResizeArgmaxShape const& shape, DType dtype, void const* scores, int32_t* labels, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`.
[[nodiscard]] cudaError_t launchResizeArgmax(ResizeArgmaxShape const& shape, DType dtype, Layout layout,
    void const* scores, int32_t* labels, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
