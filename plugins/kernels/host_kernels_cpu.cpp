// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"

#define FREQFUSION_QUOTE(name) #name
#define FREQFUSION_QUOTE_VALUE(name) FREQFUSION_QUOTE(name)

namespace freqfusion::FREQFUSION_SIMD_LEVEL {

void carafe(CarafeShape const&, DType, void const*, void const*, void*, ThreadPool const&) noexcept;
void adaptiveFilter(
    AdaptiveFilterShape const&, DType, void const*, void const*, float const*, void*, ThreadPool const&) noexcept;
bool deformableAttention(
    DeformableAttentionShape const&, DType, void const*, void const*, void const*, void*, ThreadPool const&) noexcept;
void localSimilarity(LocalSimilarityShape const&, DType, void const*, void*, ThreadPool const&) noexcept;
void offsetResample(OffsetResampleShape const&, DType, void const*, void const*, void*, ThreadPool const&) noexcept;
void resizeArgmax(ResizeArgmaxShape const&, DType, void const*, int32_t*, ThreadPool const&) noexcept;
void prepareImage(PrepareImageShape const&, PrepareImageSizes const&, LevelScale const&, uint8_t const*, float*,
    ThreadPool const&) noexcept;
bool prepareImageAsPillow(PrepareImageShape const&, PrepareImageSizes const&, LevelScale const&, uint8_t const*, float*,
    ThreadPool const&) noexcept;
bool pyramidRoiAlign(
    PyramidRoiAlignShape const&, DType, void const* const*, float const*, void*, ThreadPool const&) noexcept;
bool queryArgmax(QueryArgmaxShape const&, DType, void const*, void const*, int32_t*, ThreadPool const&) noexcept;
int64_t packedWeights3x3(int32_t, int32_t) noexcept;
void packWeights3x3(int32_t, int32_t, float const*, float*) noexcept;
bool convolve3x3(Convolve3x3Shape const&, float const*, float const*, float const*, float*, ThreadPool const&) noexcept;
void windowProducts(WindowProductsShape const&, float const*, float const*, float*, ThreadPool const&) noexcept;

extern HostKernels const kHostKernels;
HostKernels const kHostKernels{FREQFUSION_QUOTE_VALUE(FREQFUSION_SIMD_LEVEL), carafe, adaptiveFilter,
    deformableAttention, localSimilarity, offsetResample, resizeArgmax, prepareImage, prepareImageAsPillow,
    pyramidRoiAlign, queryArgmax, packedWeights3x3, packWeights3x3, convolve3x3, windowProducts};

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
