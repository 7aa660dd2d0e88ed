// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

namespace freqfusion {

//! Sizes of one call of the official test pipelines' pre-processing.
struct PrepareImageShape {
    int32_t batch;
    int32_t height; //!< of the pictures
    int32_t width;
    int32_t longSide; //!< a picture is scaled, ratio kept, until its long or its short side meets the limit first
    int32_t shortSide;
    int32_t sizeDivisor;    //!< both sides are then stretched up to multiples of this
    int32_t exactHeight{0}; //!< with exactWidth, in place of the limits: whatever its ratio, a picture becomes so large
    int32_t exactWidth{0};
    bool reversesChannels{false}; //!< whether the images are BGR
    bool resizesAsPillow{false};  //!< once, to detectron2's size, which must be the last: sizeDivisor is 1
};

//! Height and width after each of the two resizes.
struct PrepareImageSizes {
    int64_t scaledHeight;
    int64_t scaledWidth;
    int64_t outHeight;
    int64_t outWidth;
};

//! What turns a level into the network's number: (level - mean) * inverseStd, by channel of the images, in fp32.
struct LevelScale {
    float mean[3];
    float inverseStd[3];
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(PrepareImageShape const& shape) noexcept;

//! nullptr if `scale` is finite and its inverse deviations are positive.
[[nodiscard]] char const* whyNotRunnable(LevelScale const& scale) noexcept;

//! What the pictures become. `shape` must have positive limits, divisor, height and width.
[[nodiscard]] PrepareImageSizes sizesOf(PrepareImageShape const& shape) noexcept;

//! Resizes pictures as OpenCV does on uint8, twice with rounding to uint8 each time, and normalises their levels.
//!
//!   pictures (N, H, W, 3) uint8 RGB   images (N, 3, outHeight, outWidth) fp32, RGB or BGR
//! OpenCV's bilinear resize is fixed-point: weights have 11 bits, and sums drop 4 and then 16 bits. Left and right of
//! the picture it drops the weight of the missing pixel; above and below it repeats the row and keeps both weights.
//! Nothing else is stored at a picture's size.
//! Pillow's has 22 bits, and its triangles widen where the picture shrinks; along x first, then along y, with rounding
//! to uint8 after each, as all releases before 13 do. (Pillow 13 begins with y where that drops more rows.)
//!
//! Contiguous tensors in host memory. Returns nullptr when done, else the reason nothing was written. There is no CUDA
//! kernel: TensorRT takes the operator's function body.
[[nodiscard]] char const* runPrepareImageOnHost(PrepareImageShape const& shape, LevelScale const& scale,
    uint8_t const* pictures, float* images, ThreadPool const& pool) noexcept;

} // namespace freqfusion
