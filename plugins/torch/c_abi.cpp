// SPDX-License-Identifier: Apache-2.0
#include "c_abi.h"

#include "kernels/adaptive_filter.h"
#include "kernels/carafe.h"
#include "kernels/deformable_attention.h"
#include "kernels/host_kernels.h"
#include "kernels/local_similarity.h"
#include "kernels/offset_resample.h"
#include "kernels/pyramid_roi_align.h"
#include "kernels/query_argmax.h"
#include "kernels/resize_argmax.h"
#include "kernels/window_products.h"
#include "sleeping_pool.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

namespace freqfusion {
namespace {

static_assert(static_cast<int32_t>(DType::kFloat32) == kFreqFusionFloat32, "the C names are the kernels' own");
static_assert(static_cast<int32_t>(DType::kFloat16) == kFreqFusionFloat16, "the C names are the kernels' own");
static_assert(static_cast<int32_t>(DType::kBFloat16) == kFreqFusionBFloat16, "the C names are the kernels' own");

//! nullptr if these tensors can be handed to one kernel at `place`, whatever their sizes say.
char const* whyNotTogether(
    std::initializer_list<FreqFusionTensor const*> tensors, FreqFusionPlace const& place) noexcept
{
    if (place.onCuda != 0 && freqfusion_has_cuda() == 0) {
        return "the tensors are on a CUDA device, but this library was built without CUDA kernels";
    }
    if (place.onCuda == 0 && place.channelsLast != 0) {
        return "host tensors must be contiguous (N, C, H, W), got channels last";
    }
    for (FreqFusionTensor const* tensor : tensors) {
        if (tensor->dtype != (*tensors.begin())->dtype) {
            return "all tensors must have one dtype";
        }
        if (tensor->dtype < kFreqFusionFloat32 || tensor->dtype > kFreqFusionBFloat16) {
            return "tensors must be float32, float16 or bfloat16";
        }
        for (int64_t const extent : tensor->size) {
            if (extent < 0 || extent > std::numeric_limits<int32_t>::max()) {
                return "every extent must be between 0 and 2^31 - 1";
            }
        }
        bool const isEmpty = std::any_of(tensor->size, tensor->size + 4, [](int64_t extent) { return extent == 0; });
        if (tensor->data == nullptr && !isEmpty) {
            return "a tensor that is not empty has no data";
        }
    }
    return nullptr;
}

//! The same of an int32 tensor.
char const* whyNotLabels(FreqFusionTensor labels, FreqFusionPlace const& place) noexcept
{
    if (labels.dtype != kFreqFusionInt32) {
        return "labels must be int32";
    }
    labels.dtype = kFreqFusionFloat32;
    return whyNotTogether({&labels}, place);
}

bool hasSize(FreqFusionTensor const& tensor, int64_t n, int64_t c, int64_t h, int64_t w) noexcept
{
    return tensor.size[0] == n && tensor.size[1] == c && tensor.size[2] == h && tensor.size[3] == w;
}

DType dtypeOf(FreqFusionTensor const& tensor) noexcept
{
    return static_cast<DType>(tensor.dtype);
}

int32_t extent(FreqFusionTensor const& tensor, int axis) noexcept
{
    return static_cast<int32_t>(tensor.size[axis]);
}

CarafeShape reassemblyOf(
    FreqFusionTensor const& features, int32_t kernelSize, int32_t groups, int32_t scale, int32_t padding) noexcept
{
    return {extent(features, 0), extent(features, 1), extent(features, 2), extent(features, 3), kernelSize, groups,
        scale, static_cast<Padding>(padding)};
}

#if FREQFUSION_CUDA
Layout layoutOf(FreqFusionPlace const& place) noexcept
{
    return place.channelsLast != 0 ? Layout::kNHWC : Layout::kNCHW;
}

cudaStream_t streamOf(FreqFusionPlace const& place) noexcept
{
    return static_cast<cudaStream_t>(place.stream);
}

char const* reasonOf(cudaError_t status) noexcept
{
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}
#endif

} // namespace
} // namespace freqfusion

using namespace freqfusion;

int32_t freqfusion_abi_version(void)
{
    return FREQFUSION_ABI_VERSION;
}

int32_t freqfusion_has_cuda(void)
{
#if FREQFUSION_CUDA
    return 1;
#else
    return 0;
#endif
}

char const* freqfusion_host_level(void)
{
    return hostKernels().name;
}

char const* freqfusion_carafe(FreqFusionTensor const* features, FreqFusionTensor const* mask,
    FreqFusionTensor const* output, int32_t kernelSize, int32_t groups, int32_t scale, int32_t padding,
    FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({features, mask, output}, *place)) {
        return reason;
    }
    CarafeShape const shape = reassemblyOf(*features, kernelSize, groups, scale, padding);
    if (char const* const reason = whyNotRunnable(shape, mask->size)) {
        return reason;
    }
    if (!hasSize(*output, shape.batch, shape.channels, int64_t{scale} * shape.height, int64_t{scale} * shape.width)) {
        return "output must be (N, C, scale * H, scale * W) for features (N, C, H, W)";
    }
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchCarafe(
            shape, dtypeOf(*features), layoutOf(*place), features->data, mask->data, output->data, streamOf(*place)));
    }
#endif
    return runCarafeOnHost(
        shape, dtypeOf(*features), features->data, mask->data, output->data, sleepingPool(place->threads));
}

char const* freqfusion_adaptive_filter(FreqFusionTensor const* features, FreqFusionTensor const* logits,
    FreqFusionTensor const* output, float const* window, int64_t windowCount, int32_t kernelSize, int32_t groups,
    int32_t scale, int32_t mode, int32_t padding, FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({features, logits, output}, *place)) {
        return reason;
    }
    AdaptiveFilterShape const shape{
        reassemblyOf(*features, kernelSize, groups, scale, padding), static_cast<FilterMode>(mode)};
    if (char const* const reason = whyNotRunnable(shape, logits->size, windowCount)) {
        return reason;
    }
    CarafeShape const& size = shape.reassembly;
    if (!hasSize(*output, size.batch, size.channels, int64_t{scale} * size.height, int64_t{scale} * size.width)) {
        return "output must be (N, C, scale * H, scale * W) for features (N, C, H, W)";
    }
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchAdaptiveFilter(shape, dtypeOf(*features), layoutOf(*place), features->data, logits->data,
            window, output->data, streamOf(*place)));
    }
#endif
    return runAdaptiveFilterOnHost(
        shape, dtypeOf(*features), features->data, logits->data, window, output->data, sleepingPool(place->threads));
}

char const* freqfusion_window_products(FreqFusionTensor const* map, FreqFusionTensor const* factors,
    FreqFusionTensor const* output, int32_t kernelSize, int32_t groups, FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({map, factors, output}, *place)) {
        return reason;
    }
    if (place->onCuda != 0 || map->dtype != kFreqFusionFloat32) {
        return "window products are of float32 tensors in host memory";
    }
    WindowProductsShape const shape{
        extent(*factors, 0), extent(*factors, 1), extent(*factors, 2), extent(*factors, 3), kernelSize, groups};
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    int64_t const border = kernelSize - 1;
    if (!hasSize(*map, shape.batch, shape.channels, shape.height + border, shape.width + border)) {
        return "the map must be kernel_size - 1 higher and wider than the factors";
    }
    if (!hasSize(*output, shape.batch, int64_t{groups} * kernelSize * kernelSize, shape.height, shape.width)) {
        return "output must be (N, groups * kernel_size^2, H, W) for factors (N, C, H, W)";
    }
    return runWindowProductsOnHost(shape, static_cast<float const*>(map->data),
        static_cast<float const*>(factors->data), static_cast<float*>(output->data), sleepingPool(place->threads));
}

char const* freqfusion_deformable_attention(FreqFusionTensor const* value, FreqFusionTensor const* offsets,
    FreqFusionTensor const* logits, FreqFusionTensor const* output, int64_t const* sizes, int64_t sizeCount,
    FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({value, offsets, logits, output}, *place)) {
        return reason;
    }
    if (place->channelsLast != 0) {
        return "the value must be contiguous (N, T, M, D), got channels last";
    }
    if (sizeCount % 2 != 0) {
        return "sizes must hold a height and a width for each level";
    }
    DeformableAttentionShape const shape = attentionShape(value->size, logits->size, sizes, sizeCount / 2);
    if (char const* const reason = whyNotRunnable(shape, value->size, offsets->size, logits->size)) {
        return reason;
    }
    if (!std::equal(value->size, value->size + 4, output->size)) {
        return "output must have the size of the value";
    }
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchDeformableAttention(
            shape, dtypeOf(*value), value->data, offsets->data, logits->data, output->data, streamOf(*place)));
    }
#endif
    return runDeformableAttentionOnHost(
        shape, dtypeOf(*value), value->data, offsets->data, logits->data, output->data, sleepingPool(place->threads));
}

char const* freqfusion_local_similarity(FreqFusionTensor const* features, FreqFusionTensor const* output,
    int32_t kernelSize, int32_t dilation, FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({features, output}, *place)) {
        return reason;
    }
    LocalSimilarityShape const shape{
        extent(*features, 0), extent(*features, 1), extent(*features, 2), extent(*features, 3), kernelSize, dilation};
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!hasSize(*output, shape.batch, int64_t{kernelSize} * kernelSize - 1, shape.height, shape.width)) {
        return "output must be (N, kernel_size^2 - 1, H, W) for features (N, C, H, W)";
    }
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchLocalSimilarity(
            shape, dtypeOf(*features), layoutOf(*place), features->data, output->data, streamOf(*place)));
    }
#endif
    return runLocalSimilarityOnHost(
        shape, dtypeOf(*features), features->data, output->data, sleepingPool(place->threads));
}

char const* freqfusion_offset_resample(FreqFusionTensor const* features, FreqFusionTensor const* offsets,
    FreqFusionTensor const* output, int32_t groups, FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({features, offsets, output}, *place)) {
        return reason;
    }
    OffsetResampleShape const shape{
        extent(*features, 0), extent(*features, 1), extent(*offsets, 2), extent(*offsets, 3), groups};
    if (char const* const reason = whyNotRunnable(shape, features->size, offsets->size)) {
        return reason;
    }
    if (!std::equal(features->size, features->size + 4, output->size)) {
        return "output must have the size of features";
    }
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchOffsetResample(shape, dtypeOf(*features), layoutOf(*place), features->data, offsets->data,
            output->data, streamOf(*place)));
    }
#endif
    return runOffsetResampleOnHost(
        shape, dtypeOf(*features), features->data, offsets->data, output->data, sleepingPool(place->threads));
}

char const* freqfusion_resize_argmax(FreqFusionTensor const* scores, FreqFusionTensor const* labels, int32_t stepHeight,
    int32_t stepWidth, int32_t alignCorners, FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({scores}, *place)) {
        return reason;
    }
    if (char const* const reason = whyNotLabels(*labels, *place)) {
        return reason;
    }
    if (labels->size[0] != scores->size[0] || labels->size[1] != 1) {
        return "labels must be (N, 1, height, width) for scores (N, C, h, w)";
    }
    ResizeArgmaxShape const shape{extent(*scores, 0), extent(*scores, 1), extent(*scores, 2), extent(*scores, 3),
        stepHeight, stepWidth, extent(*labels, 2), extent(*labels, 3), alignCorners != 0};
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    auto* const output = static_cast<int32_t*>(labels->data);
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(
            launchResizeArgmax(shape, dtypeOf(*scores), layoutOf(*place), scores->data, output, streamOf(*place)));
    }
#endif
    return runResizeArgmaxOnHost(shape, dtypeOf(*scores), scores->data, output, sleepingPool(place->threads));
}

char const* freqfusion_query_argmax(FreqFusionTensor const* masks, FreqFusionTensor const* classes,
    FreqFusionTensor const* labels, int32_t paddedHeight, int32_t paddedWidth, int32_t keptHeight, int32_t keptWidth,
    FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({masks, classes}, *place)) {
        return reason;
    }
    if (char const* const reason = whyNotLabels(*labels, *place)) {
        return reason;
    }
    if (place->channelsLast != 0) {
        return "the masks must be contiguous (N, Q, h, w), got channels last";
    }
    if (labels->size[0] != masks->size[0] || labels->size[1] != 1 || classes->size[3] != 1) {
        return "labels must be (N, 1, height, width) and classes (N, Q, C + 1, 1) for masks (N, Q, h, w)";
    }
    QueryArgmaxShape const shape{extent(*masks, 0), extent(*masks, 1), extent(*classes, 2) - 1, extent(*masks, 2),
        extent(*masks, 3), paddedHeight, paddedWidth, keptHeight, keptWidth, extent(*labels, 2), extent(*labels, 3)};
    if (char const* const reason = whyNotRunnable(shape, classes->size)) {
        return reason;
    }
    auto* const output = static_cast<int32_t*>(labels->data);
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(
            launchQueryArgmax(shape, dtypeOf(*masks), masks->data, classes->data, output, streamOf(*place)));
    }
#endif
    return runQueryArgmaxOnHost(
        shape, dtypeOf(*masks), masks->data, classes->data, output, sleepingPool(place->threads));
}

char const* freqfusion_pyramid_roi_align(FreqFusionTensor const* map0, FreqFusionTensor const* map1,
    FreqFusionTensor const* map2, FreqFusionTensor const* map3, FreqFusionTensor const* boxes,
    FreqFusionTensor const* output, int32_t outputSize, int32_t finestStride, int32_t finestScale,
    FreqFusionPlace const* place)
{
    if (char const* const reason = whyNotTogether({map0, map1, map2, map3, output}, *place)) {
        return reason;
    }
    FreqFusionTensor alike = *boxes; // the checks of a tensor, but for its dtype
    alike.dtype = map0->dtype;
    if (char const* const reason = whyNotTogether({&alike}, *place)) {
        return reason;
    }
    if (place->channelsLast != 0) {
        return "the maps must be contiguous (N, C, H, W), got channels last";
    }
    PyramidRoiAlignShape shape{
        extent(*map0, 0), extent(*map0, 1), {}, {}, extent(*boxes, 1), outputSize, finestStride, finestScale};
    void const* maps[kPyramidLevels];
    int32_t level = 0;
    for (FreqFusionTensor const* const map : {map0, map1, map2, map3}) {
        if (extent(*map, 0) != shape.batch || extent(*map, 1) != shape.channels) {
            return "all maps must have one batch and channel count";
        }
        shape.height[level] = extent(*map, 2);
        shape.width[level] = extent(*map, 3);
        maps[level++] = map->data;
    }
    if (boxes->dtype != kFreqFusionFloat32 || !hasSize(*boxes, shape.batch, shape.boxes, 4, 1)) {
        return "boxes must be float32 (N, M, 4) for maps (N, C, H, W)";
    }
    if (char const* const reason = whyNotRunnable(shape)) {
        return reason;
    }
    if (!hasSize(*output, int64_t{shape.batch} * shape.boxes, shape.channels, outputSize, outputSize)) {
        return "output must be (N * M, C, output_size, output_size) for maps (N, C, H, W) and boxes (N, M, 4)";
    }
    auto const* const corners = static_cast<float const*>(boxes->data);
#if FREQFUSION_CUDA
    if (place->onCuda != 0) {
        return reasonOf(launchPyramidRoiAlign(shape, dtypeOf(*map0), maps, corners, output->data, streamOf(*place)));
    }
#endif
    return runPyramidRoiAlignOnHost(shape, dtypeOf(*map0), maps, corners, output->data, sleepingPool(place->threads));
}
