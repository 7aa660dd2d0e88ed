// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"

#include "../kernels/offset_resample.h"

namespace freqfusion::tensorrt {

struct OffsetResampleAttributes {
    static constexpr char const* kOperator = "OffsetResample";

    int32_t groups{0};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Reads a map at offset positions: features (N, C, 2h, 2w), offsets (N, 8G, h, w) -> (N, C, 2h, 2w).
class OffsetResamplePlugin final : public OperatorPlugin<OffsetResamplePlugin, OffsetResampleAttributes> {
  public:
    using OperatorPlugin::OperatorPlugin;

    // IPluginV3OneBuild
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t inputCount, nvinfer1::DimsExprs const*, int32_t,
        nvinfer1::DimsExprs* outputs, int32_t outputCount, nvinfer1::IExprBuilder&) noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t, nvinfer1::PluginTensorDesc const*,
        int32_t) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const*,
        void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override;

  private:
    enum Input { kFeatures, kOffsets, kInputCount };

    OffsetResampleShape shapeOf(nvinfer1::PluginTensorDesc const* inputs) const noexcept;
};

} // namespace freqfusion::tensorrt
