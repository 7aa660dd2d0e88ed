// SPDX-License-Identifier: Apache-2.0
//! The CPU kernels of each instruction set, and the choice among them.
#pragma once

#include "adaptive_filter.h"
#include "convolve3x3.h"
#include "deformable_attention.h"
#include "local_similarity.h"
#include "offset_resample.h"
#include "prepare_image.h"
#include "pyramid_roi_align.h"
#include "query_argmax.h"
#include "resize_argmax.h"
#include "window_products.h"

namespace freqfusion {

//! The operators compiled for one instruction set. They run shapes that `whyNotRunnable` has passed.
struct HostKernels {
    char const* name;
    void (*carafe)(CarafeShape const& shape, DType dtype, void const* features, void const* mask, void* output,
        ThreadPool const& pool) noexcept;
    void (*adaptiveFilter)(AdaptiveFilterShape const& shape, DType dtype, void const* features, void const* logits,
        float const* window, void* output, ThreadPool const& pool) noexcept;
    bool (*deformableAttention)(DeformableAttentionShape const& shape, DType dtype, void const* value,
        void const* offsets, void const* logits, void* output, ThreadPool const& pool) noexcept; //!< false: no memory
    void (*localSimilarity)(LocalSimilarityShape const& shape, DType dtype, void const* features, void* output,
        ThreadPool const& pool) noexcept;
    void (*offsetResample)(OffsetResampleShape const& shape, DType dtype, void const* features, void const* offsets,
        void* output, ThreadPool const& pool) noexcept;
    void (*resizeArgmax)(ResizeArgmaxShape const& shape, DType dtype, void const* scores, int32_t* labels,
        ThreadPool const& pool) noexcept;
    void (*prepareImage)(PrepareImageShape const& shape, PrepareImageSizes const& sizes, LevelScale const& scale,
        uint8_t const* pictures, float* images, ThreadPool const& pool) noexcept;
    bool (*prepareImageAsPillow)(PrepareImageShape const& shape, PrepareImageSizes const& sizes,
        LevelScale const& scale, uint8_t const* pictures, float* images,
        ThreadPool const& pool) noexcept; //!< false: no memory
    bool (*pyramidRoiAlign)(PyramidRoiAlignShape const& shape, DType dtype, void const* const* maps, float const* boxes,
        void* output, ThreadPool const& pool) noexcept; //!< false: no memory
    bool (*queryArgmax)(QueryArgmaxShape const& shape, DType dtype, void const* masks, void const* classes,
        int32_t* labels, ThreadPool const& pool) noexcept; //!< false: no memory
    int64_t (*packedWeights3x3)(int32_t channels, int32_t outChannels) noexcept;
    void (*packWeights3x3)(int32_t channels, int32_t outChannels, float const* weights, float* packed) noexcept;
    bool (*convolve3x3)(Convolve3x3Shape const& shape, float const* input, float const* packed, float const* bias,
        float* output, ThreadPool const& pool) noexcept; //!< false: no memory
    void (*windowProducts)(WindowProductsShape const& shape, float const* map, float const* factors, float* output,
        ThreadPool const& pool) noexcept;
};

//! The kernels of the best instruction set that this processor has, chosen at the first call. The environment variable
//! FREQFUSION_ISA (baseline, avx2 or avx512) lowers the choice; it cannot name one that the processor lacks.
[[nodiscard]] HostKernels const& hostKernels() noexcept;

} // namespace freqfusion
