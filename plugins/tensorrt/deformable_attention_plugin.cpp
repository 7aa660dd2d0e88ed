// SPDX-License-Identifier: Apache-2.0
#include "deformable_attention_plugin.h"

#include "shape_input.h"
#include "shapes.h"

#include <algorithm>

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable DeformableAttentionAttributes::fields() noexcept
{
    return {{{{"levels", &levels, 1, kMaxAttentionLevels, false}}}, 1, {}};
}

bool DeformableAttentionAttributes::fitTogether(Subject const& subject) const noexcept
{
    DeformableAttentionShape smallest{1, 1, 1, levels, 1, {}, {}};
    std::fill_n(smallest.height, kMaxAttentionLevels, 1);
    std::fill_n(smallest.width, kMaxAttentionLevels, 1);
    return isRunnable(smallest, subject);
}

int32_t DeformableAttentionPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t outputCount, DataType const* inputTypes, int32_t) const noexcept
{
    std::fill_n(outputTypes, outputCount, DataType::kINT32);
    outputTypes[kAttended] = inputTypes[kValue];
    return 0;
}

int32_t DeformableAttentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount,
    DimsExprs const* shapeInputs, int32_t shapeInputCount, DimsExprs* outputs, int32_t outputCount,
    IExprBuilder&) noexcept
{
    constexpr char const* kOperator = DeformableAttentionAttributes::kOperator;
    if (!isShapeInput(shapeInputs, shapeInputCount, {kOperator, kInputCount, 2 * mAttributes.levels})) {
        return -1;
    }
    // inputCount is one more where a version of TensorRT counts the shape input too.
    if (int32_t const status = statusOfArity(
            inputs, std::min<int32_t>(inputCount, kInputCount), kInputCount, outputCount, getNbOutputs())) {
        return status;
    }
    outputs[kAttended] = inputs[kValue];
    carryAsExtents(shapeInputs[0], 0, 2 * mAttributes.levels, outputs + kFirstSize);
    return 0;
}

bool DeformableAttentionPlugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputCount, int32_t) noexcept
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    if (position < kInputCount || position == inputCount + kAttended) {
        return tensor.format == TensorFormat::kLINEAR && matchesFirst(tensors, position);
    }
    return isCarried(tensor, position < inputCount);
}

int32_t DeformableAttentionPlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const* outputs, int32_t) noexcept
{
    return statusOf(whyNotRunnable(
        shapeOf(inputs, outputs), inputs[kValue].dims.d, inputs[kOffsets].dims.d, inputs[kLogits].dims.d));
}

int32_t DeformableAttentionPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    return statusOf(launchDeformableAttention(shapeOf(inputDesc, outputDesc), dtypeOf(inputDesc[kValue]),
        inputs[kValue], inputs[kOffsets], inputs[kLogits], outputs[kAttended], stream));
}

DeformableAttentionShape DeformableAttentionPlugin::shapeOf(
    PluginTensorDesc const* inputs, PluginTensorDesc const* outputs) const noexcept
{
    int64_t sizes[2 * kMaxAttentionLevels] = {};
    for (int32_t i = 0; i < 2 * mAttributes.levels; ++i) {
        sizes[i] = extent(outputs[kFirstSize + i].dims, 0);
    }
    return attentionShape(inputs[kValue].dims.d, inputs[kLogits].dims.d, sizes, mAttributes.levels);
}

} // namespace freqfusion::tensorrt
