// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

namespace freqfusion {

//! Sizes of one 3 x 3 convolution with stride 1 and a border of one zero, so that the output is as large as the input.
struct Convolve3x3Shape {
    int32_t batch;
    int32_t channels;
    int32_t outChannels;
    int32_t height;
    int32_t width;
    bool relu; //!< whether negative results become zero
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(Convolve3x3Shape const& shape) noexcept;

//! How many floats `packWeights3x3` writes.
[[nodiscard]] int64_t packedWeights3x3(int32_t channels, int32_t outChannels) noexcept;

//! Transforms weights (O, C, 3, 3) into what `runConvolve3x3OnHost` reads, in this process only: the order depends on
//! the instruction set.
void packWeights3x3(int32_t channels, int32_t outChannels, float const* weights, float* packed) noexcept;

//! Convolves by minimal filtering F(2 x 2, 3 x 3): 16 products for the four results of a tile and a pair of channels,
//! in place of 36. Results differ from plain sums by a few times their rounding.
//!
//!   input (N, C, H, W)   bias (O) or nullptr   output (N, O, H, W), all fp32
//! Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
//!
//! NCHW tensors in host memory. Returns nullptr when done, else the reason the output is not valid.
[[nodiscard]] char const* runConvolve3x3OnHost(Convolve3x3Shape const& shape, float const* input, float const* packed,
    float const* bias, float* output, ThreadPool const& pool) noexcept;

} // namespace freqfusion
