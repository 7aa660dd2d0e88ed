// SPDX-License-Identifier: Apache-2.0
#include "resize_argmax_plugin.h"

#include "shape_input.h"
#include "shapes.h"

#include <algorithm>

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable ResizeArgmaxAttributes::fields() noexcept
{
    return {{{{"align_corners", &alignCorners, 0, 1, false}}}, 1, {}};
}

bool ResizeArgmaxAttributes::fitTogether(Subject const& subject) const noexcept
{
    return isRunnable(ResizeArgmaxShape{1, 1, 1, 1, 1, 1, 1, 1, alignCorners != 0}, subject);
}

int32_t ResizeArgmaxPlugin::getOutputDataTypes(
    DataType* outputTypes, int32_t outputCount, DataType const*, int32_t) const noexcept
{
    std::fill_n(outputTypes, outputCount, DataType::kINT32);
    return 0;
}

int32_t ResizeArgmaxPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* shapeInputs,
    int32_t shapeInputCount, DimsExprs* outputs, int32_t outputCount, IExprBuilder&) noexcept
{
    if (!isShapeInput(shapeInputs, shapeInputCount, {ResizeArgmaxAttributes::kOperator, 1, 4})) {
        return -1;
    }
    // inputCount is 1, or 2 where a version of TensorRT counts the shape input too.
    if (int32_t const status = statusOfArity(inputs, std::min(inputCount, 1), 1, outputCount, kOutputCount)) {
        return status;
    }
    outputs[kLabels].nbDims = 3;
    outputs[kLabels].d[0] = inputs[kScores].d[0];
    outputs[kLabels].d[1] = shapeInputs[0].d[2];
    outputs[kLabels].d[2] = shapeInputs[0].d[3];
    carryAsExtents(shapeInputs[0], 0, 2, outputs + kStepHeight);
    return 0;
}

bool ResizeArgmaxPlugin::supportsFormatCombination(
    int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputCount, int32_t) noexcept
{
    PluginTensorDesc const& tensor = tensors[position].desc;
    if (position == kScores) {
        return isFeatureTensor(tensor);
    }
    return isCarried(tensor, position < inputCount);
}

int32_t ResizeArgmaxPlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const* outputs, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs, outputs)));
}

int32_t ResizeArgmaxPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    PluginTensorDesc const& scores = inputDesc[kScores];
    return statusOf(launchResizeArgmax(shapeOf(inputDesc, outputDesc), dtypeOf(scores), layoutOf(scores),
        inputs[kScores], static_cast<int32_t*>(outputs[kLabels]), stream));
}

ResizeArgmaxShape ResizeArgmaxPlugin::shapeOf(
    PluginTensorDesc const* inputs, PluginTensorDesc const* outputs) const noexcept
{
    Dims const& scores = inputs[kScores].dims;
    return {extent(scores, 0), extent(scores, 1), extent(scores, 2), extent(scores, 3),
        extent(outputs[kStepHeight].dims, 0), extent(outputs[kStepWidth].dims, 0), extent(outputs[kLabels].dims, 1),
        extent(outputs[kLabels].dims, 2), mAttributes.alignCorners != 0};
}

} // namespace freqfusion::tensorrt
