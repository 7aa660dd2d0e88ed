// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

//! Sizes of one offset resampling. Height and width are those of the offsets; features and output are twice as large.
struct OffsetResampleShape {
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t groups; //!< G: divides channels
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(OffsetResampleShape const& shape) noexcept;

//! The same, and that offsets of size `offsets[0..3]` belong to features of size `features[0..3]`.
[[nodiscard]] char const* whyNotRunnable(
    OffsetResampleShape const& shape, int64_t const* features, int64_t const* offsets) noexcept;

//! Moves every pixel of a map by a predicted offset and reads the map there, bilinearly.
//!
//!   features (N, C, 2h, 2w)   offsets (N, 8G, h, w)   output (N, C, 2h, 2w)
//! Offset channel = axis*4G + g*4 + i*2 + j: axis 0 is horizontal, 1 vertical; g the channel group; (i, j) the row and
//! column of the output pixel (2Y+i, 2X+j) in its 2 x 2 cell. Units are offset-map pixels, so that output pixel reads
//! features at x = 2 (X + 0.5 + offset_x) - 0.5, y alike, each clamped to the map (border padding) before the bilinear
//! weights are formed. Coordinates are fp32 whatever the dtype.
//! Source: LocalSimGuidedSampler.sample of the official FreqFusion.py.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runOffsetResampleOnHost(OffsetResampleShape const& shape, DType dtype, void const* features,
    void const* offsets, void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`.
[[nodiscard]] cudaError_t launchOffsetResample(OffsetResampleShape const& shape, DType dtype, Layout layout,
    void const* features, void const* offsets, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
