// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

constexpr int32_t kMaxQueries = 768; //!< Mask2Former has 100 or 200; CUDA kernels keep two numbers of each

//! Sizes of one label map made from queries.
struct QueryArgmaxShape {
    int32_t batch;
    int32_t queries;
    int32_t classes; //!< without "no object"
    int32_t height;  //!< of the mask logits
    int32_t width;
    int32_t paddedHeight; //!< of the network's input, to which mask logits are resized
    int32_t paddedWidth;
    int32_t keptHeight; //!< of its upper left part that is no padding
    int32_t keptWidth;
    int32_t outHeight; //!< of the picture, to which scores are resized
    int32_t outWidth;
};

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(QueryArgmaxShape const& shape) noexcept;

//! The same, and that class logits of size `classes[0..2]` belong to it.
[[nodiscard]] char const* whyNotRunnable(QueryArgmaxShape const& shape, int64_t const* classes) noexcept;

//! Sums what queries say about every pixel and keeps only the index of the class with the largest sum.
//!
//!   masks (N, Q, h, w)   classes (N, Q, C + 1)   labels (N, outHeight, outWidth) int32; the lowest index wins a tie
//! A class's score at a pixel of the padded image is the sum over queries of softmax(classes)[class] times the sigmoid
//! of the mask logits, which are resized bilinearly to that image first; the last of the C + 1 is "no object" and has
//! no score. Scores are cropped to the kept part and resized bilinearly to the picture. Both resizes are without
//! antialiasing and half-pixel centred. Class maps are never stored: 150 classes at 640 x 640 would be 245 MB.
//! Source: MaskFormer.forward and semantic_inference of Mask2Former, sem_seg_postprocess of detectron2.
//!
//! Contiguous tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runQueryArgmaxOnHost(QueryArgmaxShape const& shape, DType dtype, void const* masks,
    void const* classes, int32_t* labels, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`.
[[nodiscard]] cudaError_t launchQueryArgmax(QueryArgmaxShape const& shape, DType dtype, void const* masks,
    void const* classes, int32_t* labels, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
