// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

//! What taps outside the map read. The values are those of the ONNX attribute `padding`.
enum class Padding : int32_t {
    kZeros = 0,   //!< zero, as in mmcv
    kReflect = 1, //!< the pixel as far inside, the edge being the mirror, as in the fallback of the official
                  //!< FreqFusion.py; needs a map larger than the window's radius, K/2
};

//! Sizes of one reassembly (`Carafe`, `AdaptiveFilter`). Height and width are the input's; the output is `scale` times
//! larger.
struct CarafeShape {
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t kernelSize; //!< K: odd
    int32_t groups;     //!< G: divides channels
    int32_t scale;      //!< S: output pixels per input pixel, along each axis
    Padding padding = Padding::kZeros;
};

//! The smallest call with these attributes: what cannot be run then is wrong for every map.
[[nodiscard]] CarafeShape smallestShape(int32_t kernelSize, int32_t groups, int32_t scale, Padding padding) noexcept;

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(CarafeShape const& shape) noexcept;

//! The same, and that a mask of size `mask[0..3]` belongs to it.
[[nodiscard]] char const* whyNotRunnable(CarafeShape const& shape, int64_t const* mask) noexcept;

//! Content-aware reassembly of features (CARAFE, ICCV 2019, eq. 4).
//!
//! Each output pixel is the sum of the K x K input window around it, weighted by its own K*K mask values:
//!   features (N, C, H, W)   mask (N, G*K*K, S*H, S*W)   output (N, C, S*H, S*W)
//! All three of one dtype; sums are fp32. `padding` says what stands for input pixels outside the image.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runCarafeOnHost(CarafeShape const& shape, DType dtype, void const* features, void const* mask,
    void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`. Returns cudaErrorInvalidValue for a shape it cannot run, else
//! the launch status.
[[nodiscard]] cudaError_t launchCarafe(CarafeShape const& shape, DType dtype, Layout layout, void const* features,
    void const* mask, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
