// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tensor.h"

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

namespace freqfusion {

constexpr int32_t kMaxAttentionLevels = 8;   //!< Mask2Former and Deformable DETR have three and four
constexpr int32_t kMaxAttentionPlaces = 256; //!< that a head reads for one token, on all levels together

//! Sizes of one deformable attention. Tokens are the pixels of all levels, one level after the other.
struct DeformableAttentionShape {
    int32_t batch;
    int32_t heads;
    int32_t channels; //!< of a head
    int32_t levels;
    int32_t points; //!< places read on each level
    int32_t height[kMaxAttentionLevels];
    int32_t width[kMaxAttentionLevels];
};

//! Pixels of all levels of an image; 64 bits hold it for any sizes.
[[nodiscard]] int64_t tokensOf(DeformableAttentionShape const& shape) noexcept;

//! nullptr if `shape` can be run, else the reason, worded for an error message.
[[nodiscard]] char const* whyNotRunnable(DeformableAttentionShape const& shape) noexcept;

//! The same, and that tensors of sizes `value[0..3]`, `offsets[0..3]` and `logits[0..3]` belong to it.
[[nodiscard]] char const* whyNotRunnable(DeformableAttentionShape const& shape, int64_t const* value,
    int64_t const* offsets, int64_t const* logits) noexcept;

//! The shape of tensors of sizes `value[0..3]` and `logits[0..3]`, with `levels` levels whose heights and widths are
//! `sizes[0..2 * levels)`, in turn. Numbers that a shape cannot hold, more levels than kMaxAttentionLevels among them,
//! give one that cannot be run.
[[nodiscard]] DeformableAttentionShape attentionShape(
    int64_t const* value, int64_t const* logits, int64_t const* sizes, int64_t levels) noexcept;

//! Lets every token gather from places that it chose itself, on all levels.
//!
//!   value (N, T, M, D)   offsets (N, T, M, L * P * 2)   logits (N, T, M, L * P)   output (N, T, M, D)
//! M heads of D channels, L levels, P points; offsets are (level, point, xy) in pixels of the level read. A softmax
//! over all L * P logits of a head weighs its places. A token in column c of a level w pixels wide reads a level W wide
//! at x = (c + 0.5) * W / w + offset_x - 0.5, y alike, bilinearly; pixels outside the level count as zero. Coordinates
//! and sums are fp32 whatever the dtype. A place that is no number reads nothing. Source: MSDeformAttn of Deformable
//! DETR as Mask2Former's encoder calls it: queries are the tokens themselves.
//!
//! Contiguous tensors in host memory. Returns nullptr when done, else the reason nothing was written.
[[nodiscard]] char const* runDeformableAttentionOnHost(DeformableAttentionShape const& shape, DType dtype,
    void const* value, void const* offsets, void const* logits, void* output, ThreadPool const& pool) noexcept;

#if FREQFUSION_CUDA
//! The same on the device, asynchronously on `stream`.
[[nodiscard]] cudaError_t launchDeformableAttention(DeformableAttentionShape const& shape, DType dtype,
    void const* value, void const* offsets, void const* logits, void* output, cudaStream_t stream) noexcept;
#endif

} // namespace freqfusion
