// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"

#include "../kernels/local_similarity.h"

namespace freqfusion::tensorrt {

struct LocalSimilarityAttributes {
    static constexpr char const* kOperator = "LocalSimilarity";

    int32_t kernelSize{0};
    int32_t dilation{0};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Cosine to each dilated neighbour: features (N, C, H, W) -> (N, K*K-1, H, W).
class LocalSimilarityPlugin final : public OperatorPlugin<LocalSimilarityPlugin, LocalSimilarityAttributes> {
  public:
    using OperatorPlugin::OperatorPlugin;

    // IPluginV3OneBuild
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t inputCount, nvinfer1::DimsExprs const*, int32_t,
        nvinfer1::DimsExprs* outputs, int32_t outputCount, nvinfer1::IExprBuilder& builder) noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t, nvinfer1::PluginTensorDesc const*,
        int32_t) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const*,
        void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override;

  private:
    enum Input { kFeatures, kInputCount };

    LocalSimilarityShape shapeOf(nvinfer1::PluginTensorDesc const* inputs) const noexcept;
};

} // namespace freqfusion::tensorrt
