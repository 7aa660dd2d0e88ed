// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

namespace freqfusion {

//! Sizes of one call. Height and width are the factors'; the map is larger by K/2 on every side.
struct WindowProductsShape {
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t kernelSize; //!< K: odd
    int32_t groups;     //!< G: divides channels
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(WindowProductsShape const& shape) noexcept;

//! The gradient of a reassembly with respect to its mask, for training.
//!
//!   map (N, C, H + K - 1, W + K - 1)   factors (N, C, H, W)   output (N, G*K*K, H, W)
//! Each output is the sum over its group's channels of factor times the pixel of the K x K window that begins there:
//!   output[n, g*K*K + ky*K + kx, y, x] = sum over c in g of factors[n, c, y, x] * map[n, c, y + ky, x + kx]
//!
//! NCHW fp32 tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runWindowProductsOnHost(WindowProductsShape const& shape, float const* map,
    float const* factors, float* output, ThreadPool const& pool) noexcept;

} // namespace freqfusion
