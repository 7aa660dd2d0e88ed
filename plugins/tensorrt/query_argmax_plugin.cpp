// SPDX-License-Identifier: Apache-2.0
#include "query_argmax_plugin.h"

#include "shape_input.h"

#include <algorithm>

namespace freqfusion::tensorrt {

using namespace nvinfer1;

int32_t QueryArgmaxPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t outputCount, DataType const*, int32_t) const noexcept
{
    std::fill_n(outputTypes, outputCount, DataType::kINT32);
    return 0;
}

int32_t QueryArgmaxPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* shapeInputs,
    int32_t shapeInputCount, DimsExprs* outputs, int32_t outputCount, IExprBuilder&) noexcept
{
    constexpr char const* kOperator = QueryArgmaxAttributes::kOperator;
    if (!isShapeInput(shapeInputs, shapeInputCount, {kOperator, kInputCount, 6})) {
        return -1;
    }
    // inputCount is one more where a version of TensorRT counts the shape input too.
    if (inputCount < kInputCount || inputCount > kInputCount + 1 || outputCount != kOutputCount) {
        report({kOperator, nullptr}, "got %d inputs and %d outputs, expected %d and %d. Export the model again.",
            inputCount, outputCount, kInputCount, kOutputCount);
        return -1;
    }
    if (inputs[kMasks].nbDims != 4 || inputs[kClasses].nbDims != 3) {
        report({kOperator, nullptr},
            "masks have %d dimensions and classes %d, expected 4: batch, queries, height, width, and 3: batch, "
            "queries, classes. Export the model again.",
            inputs[kMasks].nbDims, inputs[kClasses].nbDims);
        return -1;
    }
    outputs[kLabels].nbDims = 3;
    outputs[kLabels].d[0] = inputs[kMasks].d[0];
    outputs[kLabels].d[1] = shapeInputs[0].d[4];
    outputs[kLabels].d[2] = shapeInputs[0].d[5];
    carryAsExtents(shapeInputs[0], 0, 4, outputs + kPaddedHeight);
    return 0;
}

bool QueryArgmaxPlugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputCount, int32_t) noexcept
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    if (position < kInputCount) {
        return tensor.format == TensorFormat::kLINEAR && matchesFirst(tensors, position);
    }
    return isCarried(tensor, position < inputCount);
}

int32_t QueryArgmaxPlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const* outputs, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs, outputs), inputs[kClasses].dims.d));
}

int32_t QueryArgmaxPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    return statusOf(launchQueryArgmax(shapeOf(inputDesc, outputDesc), dtypeOf(inputDesc[kMasks]), inputs[kMasks],
        inputs[kClasses], static_cast<int32_t*>(outputs[kLabels]), stream));
}

QueryArgmaxShape QueryArgmaxPlugin::shapeOf(PluginTensorDesc const* inputs, PluginTensorDesc const* outputs) noexcept
{
    Dims const& masks = inputs[kMasks].dims;
    return {extent(masks, 0), extent(masks, 1), extent(inputs[kClasses].dims, 2) - 1, extent(masks, 2),
        extent(masks, 3), extent(outputs[kPaddedHeight].dims, 0), extent(outputs[kPaddedWidth].dims, 0),
        extent(outputs[kKeptHeight].dims, 0), extent(outputs[kKeptWidth].dims, 0), extent(outputs[kLabels].dims, 1),
        extent(outputs[kLabels].dims, 2)};
}

} // namespace freqfusion::tensorrt
