// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

//! Sizes of one local similarity.
struct LocalSimilarityShape {
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t kernelSize; //!< K: odd, at least 3
    int32_t dilation;   //!< pixels between neighbouring taps
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(LocalSimilarityShape const& shape) noexcept;

//! Cosine of the angle between each pixel's channel vector and each of its K*K-1 dilated neighbours.
//!
//!   features (N, C, H, W)   output (N, K*K-1, H, W), taps row-major without the centre
//! cos(u, v) = u.v / (max(|u|, 1e-8) max(|v|, 1e-8)), in fp32 whatever the dtype: 1e-8 is zero in fp16, which made
//! every padded neighbour NaN in the official code under fp16. Neighbours outside the image give exactly zero.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runLocalSimilarityOnHost(LocalSimilarityShape const& shape, DType dtype, void const* features,
    void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`.
[[nodiscard]] cudaError_t launchLocalSimilarity(LocalSimilarityShape const& shape, DType dtype, Layout layout,
    void const* features, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
