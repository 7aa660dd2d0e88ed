// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

constexpr int32_t kPyramidLevels = 4;

//! Sizes of one averaging of a pyramid over boxes.
struct PyramidRoiAlignShape {
    int32_t batch;
    int32_t channels;
    int32_t height[kPyramidLevels];
    int32_t width[kPyramidLevels];
    int32_t boxes;        //!< of each image
    int32_t outputSize;   //!< K: cells of a box along each axis
    int32_t finestStride; //!< image pixels to a pixel of level 0; twice as many with every level
    int32_t finestScale;  //!< level 0 takes boxes below twice so many pixels a side, each level boxes of twice the size
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(PyramidRoiAlignShape const& shape) noexcept;

//! Averages bilinear samples of that level of a pyramid which fits a box over each of the box's K x K cells.
//!
//!   maps[l] (N, C, height[l], width[l])   boxes (N, M, 4) fp32: x1, y1, x2, y2 in image pixels
//!   output (N * M, C, K, K)
//! The level is floor(log2(sqrt(w * h) / finestScale + 1e-6)), from 0 to 3. A cell has ceil(side / K) sample points
//! along each axis, by box and axis; a map's pixel centres are half a pixel from its edges. A point further than one
//! pixel outside the map counts as zero, others outside are moved to the border. A box without area gives zeros.
//! Source: RoIAlign (Mask R-CNN, ICCV 2017) with aligned = True and sampling_ratio = 0, and SingleRoIExtractor, of
//! mmcv 1.7 and mmdetection 2.28.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason the output is not valid.
[[nodiscard]] char const* runPyramidRoiAlignOnHost(PyramidRoiAlignShape const& shape, DType dtype,
    void const* const* maps, float const* boxes, void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`; `maps` itself lies in host memory.
[[nodiscard]] cudaError_t launchPyramidRoiAlign(PyramidRoiAlignShape const& shape, DType dtype, void const* const* maps,
    float const* boxes, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
