// SPDX-License-Identifier: Apache-2.0
#include "offset_resample_plugin.h"

#include "shapes.h"

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable OffsetResampleAttributes::fields() noexcept
{
    return {{{{"groups", &groups, 1, kMaxGroups, false}}}, 1, {}};
}

bool OffsetResampleAttributes::fitTogether(Subject const& subject) const noexcept
{
    return isRunnable(OffsetResampleShape{1, groups, 1, 1, groups}, subject);
}

int32_t OffsetResamplePlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t outputCount, IExprBuilder&) noexcept
{
    if (int32_t const status = statusOfArity(inputs, inputCount, kInputCount, outputCount, 1)) {
        return status;
    }
    outputs[0] = inputs[kFeatures];
    return 0;
}

int32_t OffsetResamplePlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs), inputs[kFeatures].dims.d, inputs[kOffsets].dims.d));
}

int32_t OffsetResamplePlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    PluginTensorDesc const& features = inputDesc[kFeatures];
    return statusOf(launchOffsetResample(shapeOf(inputDesc), dtypeOf(features), layoutOf(features), inputs[kFeatures],
        inputs[kOffsets], outputs[0], stream));
}

OffsetResampleShape OffsetResamplePlugin::shapeOf(PluginTensorDesc const* inputs) const noexcept
{
    Dims const& features = inputs[kFeatures].dims;
    Dims const& offsets = inputs[kOffsets].dims;
    return {extent(features, 0), extent(features, 1), extent(offsets, 2), extent(offsets, 3), mAttributes.groups};
}

} // namespace freqfusion::tensorrt
