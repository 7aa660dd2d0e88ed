// SPDX-License-Identifier: Apache-2.0
#include "local_similarity_plugin.h"

#include "shapes.h"

#include "../kernels/local_similarity_core.h"

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable LocalSimilarityAttributes::fields() noexcept
{
    return {{{{"kernel_size", &kernelSize, 3, kMaxSimilarityKernelSize, true},
                {"dilation", &dilation, 1, kMaxSimilarityReach, false}}},
        2, {}};
}

bool LocalSimilarityAttributes::fitTogether(Subject const& subject) const noexcept
{
    return isRunnable(LocalSimilarityShape{1, 1, 1, 1, kernelSize, dilation}, subject);
}

int32_t LocalSimilarityPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t outputCount, IExprBuilder& builder) noexcept
{
    if (int32_t const status = statusOfArity(inputs, inputCount, kInputCount, outputCount, 1)) {
        return status;
    }
    outputs[0] = inputs[kFeatures];
    outputs[0].d[1] = builder.constant(mAttributes.kernelSize * mAttributes.kernelSize - 1);
    return 0;
}

int32_t LocalSimilarityPlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs)));
}

int32_t LocalSimilarityPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    PluginTensorDesc const& features = inputDesc[kFeatures];
    return statusOf(launchLocalSimilarity(
        shapeOf(inputDesc), dtypeOf(features), layoutOf(features), inputs[kFeatures], outputs[0], stream));
}

LocalSimilarityShape LocalSimilarityPlugin::shapeOf(PluginTensorDesc const* inputs) const noexcept
{
    Dims const& features = inputs[kFeatures].dims;
    return {extent(features, 0), extent(features, 1), extent(features, 2), extent(features, 3), mAttributes.kernelSize,
        mAttributes.dilation};
}

} // namespace freqfusion::tensorrt
