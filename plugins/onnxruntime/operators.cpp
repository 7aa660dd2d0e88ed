// SPDX-License-Identifier: Apache-2.0
#include "operators.h"

#include "kernels/local_similarity.h"
#include "kernels/offset_resample.h"
#include "kernels/query_argmax.h"
#include "kernels/resize_argmax.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace freqfusion::ort {
namespace {

CarafeShape reassemblyAttributes(Attributes const& attributes)
{
    auto const padding = static_cast<Padding>(attributes.integer("padding", 0));
    return smallestShape(attributes.integer("kernel_size"), attributes.integer("group_size"),
        attributes.integer("scale_factor"), padding);
}

CarafeShape withSize(CarafeShape attributes, Size const& size)
{
    attributes.batch = static_cast<int32_t>(size[0]);
    attributes.channels = static_cast<int32_t>(size[1]);
    attributes.height = static_cast<int32_t>(size[2]);
    attributes.width = static_cast<int32_t>(size[3]);
    return attributes;
}

std::vector<int64_t> reassembledSize(CarafeShape const& shape)
{
    int64_t const scale = shape.scale;
    return {shape.batch, shape.channels, scale * shape.height, scale * shape.width};
}

std::vector<Extent> inferReassembledSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node)
{
    int64_t const scale = node.GetAttrInt("scale_factor");
    return {features[0], features[1], features[2].times(scale), features[3].times(scale)};
}

LevelScale levelScale(Attributes const& attributes)
{
    LevelScale scale{};
    for (auto [name, to] : {std::pair{"mean", scale.mean}, std::pair{"inverse_std", scale.inverseStd}}) {
        std::vector<float> const values = attributes.floats(name);
        if (values.size() != 3) {
            throw Refusal{
                std::string{"attribute "} + name + " must hold three numbers, got " + std::to_string(values.size())};
        }
        std::copy(values.begin(), values.end(), to);
    }
    return scale;
}

} // namespace

// Each constructor asks whyNotRunnable about the smallest picture: what it refuses then is wrong for every picture.

Carafe::Carafe(Attributes const& attributes) : mAttributes{reassemblyAttributes(attributes)}
{
    refuse(whyNotRunnable(mAttributes));
}

void Carafe::run(Call const& call) const
{
    Input const features = call.input(0, "features");
    Input const mask = call.input(1, "mask");
    CarafeShape const shape = withSize(mAttributes, features.size);
    refuse(whyNotRunnable(shape, mask.size.data()));
    void* const output = call.output(reassembledSize(shape));
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(
            launchCarafe(shape, call.dtype(), Layout::kNCHW, features.data, mask.data, output, call.stream()));
    }
#endif
    refuse(runCarafeOnHost(shape, call.dtype(), features.data, mask.data, output, call.threads()));
}

std::vector<Extent> Carafe::inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node)
{
    return inferReassembledSize(features, node);
}

AdaptiveFilter::AdaptiveFilter(Attributes const& attributes)
    : mAttributes{reassemblyAttributes(attributes), static_cast<FilterMode>(attributes.integer("mode"))},
      mWindow{attributes.floats("window")}
{
    refuse(whyNotRunnable(mAttributes));
    CarafeShape const& shape = mAttributes.reassembly;
    int64_t const side = int64_t{shape.scale} * shape.height;
    int64_t const logits[4]{1, int64_t{shape.groups} * shape.kernelSize * shape.kernelSize, side, side};
    refuse(whyNotRunnable(mAttributes, logits, static_cast<int64_t>(mWindow.size())));
}

void AdaptiveFilter::run(Call const& call) const
{
    Input const features = call.input(0, "features");
    Input const logits = call.input(1, "logits");
    AdaptiveFilterShape const shape{withSize(mAttributes.reassembly, features.size), mAttributes.mode};
    refuse(whyNotRunnable(shape, logits.size.data(), static_cast<int64_t>(mWindow.size())));
    void* const output = call.output(reassembledSize(shape.reassembly));
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchAdaptiveFilter(
            shape, call.dtype(), Layout::kNCHW, features.data, logits.data, mWindow.data(), output, call.stream()));
    }
#endif
    refuse(runAdaptiveFilterOnHost(
        shape, call.dtype(), features.data, logits.data, mWindow.data(), output, call.threads()));
}

std::vector<Extent> AdaptiveFilter::inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node)
{
    return inferReassembledSize(features, node);
}

DeformableAttention::DeformableAttention(Attributes const& attributes) : mLevels{attributes.integer("levels")}
{
    DeformableAttentionShape smallest{1, 1, 1, mLevels, 1, {}, {}};
    std::fill_n(smallest.height, kMaxAttentionLevels, 1);
    std::fill_n(smallest.width, kMaxAttentionLevels, 1);
    refuse(whyNotRunnable(smallest));
}

void DeformableAttention::run(Call const& call) const
{
    Input const value = call.input(0, "value", "N, T, M, D");
    Input const offsets = call.input(1, "offsets", "N, T, M, L * P * 2");
    Input const logits = call.input(2, "logits", "N, T, M, L * P");
    std::vector<int64_t> const sizes = call.sizes(3, "sizes", 2 * static_cast<size_t>(mLevels));
    DeformableAttentionShape const shape = attentionShape(value.size.data(), logits.size.data(), sizes.data(), mLevels);
    refuse(whyNotRunnable(shape, value.size.data(), offsets.size.data(), logits.size.data()));
    void* const output = call.output({value.size.begin(), value.size.end()});
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchDeformableAttention(
            shape, call.dtype(), value.data, offsets.data, logits.data, output, call.stream()));
    }
#endif
    refuse(runDeformableAttentionOnHost(
        shape, call.dtype(), value.data, offsets.data, logits.data, output, call.threads()));
}

std::vector<Extent> DeformableAttention::inferSize(std::vector<Extent> const& value, Ort::ShapeInferContext&)
{
    return value;
}

LocalSimilarity::LocalSimilarity(Attributes const& attributes)
    : mKernelSize{attributes.integer("kernel_size", 3)}, mDilation{attributes.integer("dilation", 2)}
{
    refuse(whyNotRunnable(LocalSimilarityShape{1, 1, 1, 1, mKernelSize, mDilation}));
}

void LocalSimilarity::run(Call const& call) const
{
    Input const features = call.input(0, "features");
    LocalSimilarityShape const shape{static_cast<int32_t>(features.size[0]), static_cast<int32_t>(features.size[1]),
        static_cast<int32_t>(features.size[2]), static_cast<int32_t>(features.size[3]), mKernelSize, mDilation};
    refuse(whyNotRunnable(shape));
    int64_t const taps = int64_t{mKernelSize} * mKernelSize - 1;
    void* const output = call.output({features.size[0], taps, features.size[2], features.size[3]});
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchLocalSimilarity(shape, call.dtype(), Layout::kNCHW, features.data, output, call.stream()));
    }
#endif
    refuse(runLocalSimilarityOnHost(shape, call.dtype(), features.data, output, call.threads()));
}

std::vector<Extent> LocalSimilarity::inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext& node)
{
    int64_t const kernelSize = node.GetAttrInt("kernel_size");
    if (kernelSize < 1 || kernelSize > std::numeric_limits<int32_t>::max()) {
        return {}; // refused when the kernel is made
    }
    return {features[0], {kernelSize * kernelSize - 1, ""}, features[2], features[3]};
}

OffsetResample::OffsetResample(Attributes const& attributes) : mGroups{attributes.integer("groups")}
{
    refuse(whyNotRunnable(OffsetResampleShape{1, mGroups, 1, 1, mGroups}));
}

void OffsetResample::run(Call const& call) const
{
    Input const features = call.input(0, "features");
    Input const offsets = call.input(1, "offsets");
    OffsetResampleShape const shape{static_cast<int32_t>(features.size[0]), static_cast<int32_t>(features.size[1]),
        static_cast<int32_t>(offsets.size[2]), static_cast<int32_t>(offsets.size[3]), mGroups};
    refuse(whyNotRunnable(shape, features.size.data(), offsets.size.data()));
    void* const output = call.output({features.size.begin(), features.size.end()});
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchOffsetResample(
            shape, call.dtype(), Layout::kNCHW, features.data, offsets.data, output, call.stream()));
    }
#endif
    refuse(runOffsetResampleOnHost(shape, call.dtype(), features.data, offsets.data, output, call.threads()));
}

std::vector<Extent> OffsetResample::inferSize(std::vector<Extent> const& features, Ort::ShapeInferContext&)
{
    return features;
}

ResizeArgmax::ResizeArgmax(Attributes const& attributes) : mAlignCorners{attributes.integer("align_corners", 0) != 0} {}

void ResizeArgmax::run(Call const& call) const
{
    Input const scores = call.input(0, "scores");
    auto const [stepHeight, stepWidth, height, width] = call.sizes<4>(1, "sizes");
    ResizeArgmaxShape const shape{static_cast<int32_t>(scores.size[0]), static_cast<int32_t>(scores.size[1]),
        static_cast<int32_t>(scores.size[2]), static_cast<int32_t>(scores.size[3]), stepHeight, stepWidth, height,
        width, mAlignCorners};
    refuse(whyNotRunnable(shape));
    auto* const labels = static_cast<int32_t*>(call.output({scores.size[0], height, width}));
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchResizeArgmax(shape, call.dtype(), Layout::kNCHW, scores.data, labels, call.stream()));
    }
#endif
    refuse(runResizeArgmaxOnHost(shape, call.dtype(), scores.data, labels, call.threads()));
}

std::vector<Extent> ResizeArgmax::inferSize(std::vector<Extent> const&, Ort::ShapeInferContext&)
{
    return {}; // the sizes are a tensor's values
}

void QueryArgmax::run(Call const& call) const
{
    Input const masks = call.input(0, "masks", "N, Q, h, w");
    Input const classes = call.matrices(1, "classes", "N, Q, C + 1");
    auto const [paddedHeight, paddedWidth, keptHeight, keptWidth, height, width] = call.sizes<6>(2, "sizes");
    QueryArgmaxShape const shape{static_cast<int32_t>(masks.size[0]), static_cast<int32_t>(masks.size[1]),
        static_cast<int32_t>(classes.size[2]) - 1, static_cast<int32_t>(masks.size[2]),
        static_cast<int32_t>(masks.size[3]), paddedHeight, paddedWidth, keptHeight, keptWidth, height, width};
    refuse(whyNotRunnable(shape, classes.size.data()));
    auto* const labels = static_cast<int32_t*>(call.output({masks.size[0], height, width}));
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchQueryArgmax(shape, call.dtype(), masks.data, classes.data, labels, call.stream()));
    }
#endif
    refuse(runQueryArgmaxOnHost(shape, call.dtype(), masks.data, classes.data, labels, call.threads()));
}

std::vector<Extent> QueryArgmax::inferSize(std::vector<Extent> const&, Ort::ShapeInferContext&)
{
    return {}; // the sizes are a tensor's values
}

PrepareImage::PrepareImage(Attributes const& attributes)
    : mAttributes{1, 1, 1, attributes.integer("long_side"), attributes.integer("short_side"),
          attributes.integer("size_divisor"), attributes.integer("exact_height", 0),
          attributes.integer("exact_width", 0), attributes.integer("reverse_channels", 0) != 0,
          attributes.integer("resize_as_pillow", 0) != 0},
      mScale{levelScale(attributes)}
{
    refuse(whyNotRunnable(mAttributes));
    refuse(whyNotRunnable(mScale));
}

void PrepareImage::run(Call const& call) const
{
    Input const pictures = call.input(0, "pictures", "N, H, W, 3");
    if (pictures.size[3] != 3) {
        throw Refusal{"pictures must have three channels, the last dimension of (N, H, W, 3), got "
                      + std::to_string(pictures.size[3])};
    }
    PrepareImageShape shape = mAttributes;
    shape.batch = static_cast<int32_t>(pictures.size[0]);
    shape.height = static_cast<int32_t>(pictures.size[1]);
    shape.width = static_cast<int32_t>(pictures.size[2]);
    refuse(whyNotRunnable(shape));
    PrepareImageSizes const sizes = sizesOf(shape);
    void* const images = call.output({pictures.size[0], 3, sizes.outHeight, sizes.outWidth});
    refuse(runPrepareImageOnHost(
        shape, mScale, static_cast<uint8_t const*>(pictures.data), static_cast<float*>(images), call.threads()));
}

std::vector<Extent> PrepareImage::inferSize(std::vector<Extent> const& pictures, NodeBeforeRun& node)
{
    constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();
    auto const narrowed = [](int64_t value) {
        return value < 0 || value > kMaxExtent ? 0 : static_cast<int32_t>(value);
    };
    PrepareImageShape const shape{1, narrowed(pictures[1].value), narrowed(pictures[2].value),
        narrowed(node.GetAttrInt("long_side")), narrowed(node.GetAttrInt("short_side")),
        narrowed(node.GetAttrInt("size_divisor")), narrowed(node.integer("exact_height", 0)),
        narrowed(node.integer("exact_width", 0)), false, node.integer("resize_as_pillow", 0) != 0};
    if (whyNotRunnable(shape) != nullptr) {
        return {}; // unknown, or refused when the node runs
    }
    PrepareImageSizes const sizes = sizesOf(shape);
    return {pictures[0], {3, ""}, {sizes.outHeight, ""}, {sizes.outWidth, ""}};
}

Convolve3x3::Convolve3x3(Attributes const& attributes) : mAttributes{1, 1, 1, 1, 1, attributes.integer("relu", 0) != 0}
{
    Ort::ConstValue const weights = attributes.constant(1, "weights");
    std::vector<int64_t> const size = weights.GetTensorTypeAndShapeInfo().GetShape();
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    if (size.size() != 4 || size[0] > kMax || size[1] > kMax || size[2] != 3 || size[3] != 3) {
        throw Refusal{"weights must have the shape (O, C, 3, 3)"};
    }
    mAttributes.outChannels = static_cast<int32_t>(size[0]);
    mAttributes.channels = static_cast<int32_t>(size[1]);
    refuse(whyNotRunnable(mAttributes));
    mWeights.resize(static_cast<size_t>(packedWeights3x3(mAttributes.channels, mAttributes.outChannels)));
    packWeights3x3(mAttributes.channels, mAttributes.outChannels, weights.GetTensorData<float>(), mWeights.data());
    if (attributes.inputs() > 2) {
        Ort::ConstValue const bias = attributes.constant(2, "bias");
        if (bias.GetTensorTypeAndShapeInfo().GetShape() != std::vector<int64_t>{size[0]}) {
            throw Refusal{"bias must have the shape (O) for weights (O, C, 3, 3)"};
        }
        mBias.assign(bias.GetTensorData<float>(), bias.GetTensorData<float>() + size[0]);
    }
}

void Convolve3x3::run(Call const& call) const
{
    Input const input = call.input(0, "input");
    if (input.size[1] != mAttributes.channels) {
        throw Refusal{"input must have as many channels as the weights, " + std::to_string(mAttributes.channels)
                      + ", got " + std::to_string(input.size[1])};
    }
    Convolve3x3Shape shape = mAttributes;
    shape.batch = static_cast<int32_t>(input.size[0]);
    shape.height = static_cast<int32_t>(input.size[2]);
    shape.width = static_cast<int32_t>(input.size[3]);
    refuse(whyNotRunnable(shape));
    void* const output = call.output({shape.batch, shape.outChannels, shape.height, shape.width});
    refuse(runConvolve3x3OnHost(shape, static_cast<float const*>(input.data), mWeights.data(),
        mBias.empty() ? nullptr : mBias.data(), static_cast<float*>(output), call.threads()));
}

std::vector<Extent> Convolve3x3::inferSize(std::vector<Extent> const& input, Ort::ShapeInferContext& node)
{
    auto const weights = node.GetInputShape(1);
    if (weights.size() != 4 || !weights[0].IsInt()) {
        return {};
    }
    return {input[0], {weights[0].AsInt(), ""}, input[2], input[3]};
}

PyramidRoiAlign::PyramidRoiAlign(Attributes const& attributes)
    : mAttributes{1, 1, {1, 1, 1, 1}, {1, 1, 1, 1}, 1, attributes.integer("output_size"),
          attributes.integer("finest_stride"), attributes.integer("finest_scale")}
{
    refuse(whyNotRunnable(mAttributes));
}

void PyramidRoiAlign::run(Call const& call) const
{
    PyramidRoiAlignShape shape = mAttributes;
    void const* maps[kPyramidLevels];
    for (int32_t level = 0; level < kPyramidLevels; ++level) {
        std::string const name = "map " + std::to_string(level);
        Input const map = call.input(static_cast<size_t>(level), name.c_str());
        if (level == 0) {
            shape.batch = static_cast<int32_t>(map.size[0]);
            shape.channels = static_cast<int32_t>(map.size[1]);
        } else if (map.size[0] != shape.batch || map.size[1] != shape.channels) {
            throw Refusal{"all maps must have one batch and channel count: map 0 has (" + std::to_string(shape.batch)
                          + ", " + std::to_string(shape.channels) + "), " + name + " has ("
                          + std::to_string(map.size[0]) + ", " + std::to_string(map.size[1]) + ")"};
        }
        shape.height[level] = static_cast<int32_t>(map.size[2]);
        shape.width[level] = static_cast<int32_t>(map.size[3]);
        maps[level] = map.data;
    }
    Boxes const boxes = call.boxes(kPyramidLevels, "boxes");
    if (boxes.batch != shape.batch) {
        throw Refusal{"boxes must be of as many images as the maps, " + std::to_string(shape.batch) + ", got "
                      + std::to_string(boxes.batch)};
    }
    shape.boxes = boxes.count;
    refuse(whyNotRunnable(shape));
    void* const output =
        call.output({int64_t{shape.batch} * shape.boxes, shape.channels, shape.outputSize, shape.outputSize});
#if FREQFUSION_CUDA
    if (call.onCuda()) {
        return refuse(launchPyramidRoiAlign(shape, call.dtype(), maps, boxes.data, output, call.stream()));
    }
#endif
    refuse(runPyramidRoiAlignOnHost(shape, call.dtype(), maps, boxes.data, output, call.threads()));
}

std::vector<Extent> PyramidRoiAlign::inferSize(std::vector<Extent> const& finest, Ort::ShapeInferContext& node)
{
    auto const boxes = node.GetInputShape(kPyramidLevels);
    if (boxes.size() != 3 || !boxes[1].IsInt() || boxes[1].AsInt() < 0) {
        return {};
    }
    Extent const cells{node.GetAttrInt("output_size"), ""};
    return {finest[0].times(boxes[1].AsInt()), finest[1], cells, cells};
}

} // namespace freqfusion::ort
