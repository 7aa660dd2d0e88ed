// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"

#include "../kernels/resize_argmax.h"

namespace freqfusion::tensorrt {

struct ResizeArgmaxAttributes {
    static constexpr char const* kOperator = "ResizeArgmax";

    int32_t alignCorners{0};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Label map at picture size: scores (N, C, h, w), sizes (4,) int64 -> labels (N, H, W) int32.
//!
//! `sizes` = (step height, step width, H, W) is a shape input whose values come back as extents of the outputs: see
//! shape_input.h.
class ResizeArgmaxPlugin final : public OperatorPlugin<ResizeArgmaxPlugin, ResizeArgmaxAttributes> {
  public:
    using OperatorPlugin::OperatorPlugin;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override { return kOutputCount; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t outputCount, nvinfer1::DataType const*,
        int32_t) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t inputCount,
        nvinfer1::DimsExprs const* shapeInputs, int32_t shapeInputCount, nvinfer1::DimsExprs* outputs,
        int32_t outputCount, nvinfer1::IExprBuilder&) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
        int32_t inputCount, int32_t outputCount) noexcept override;

    // IPluginV3OneRuntime
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t, nvinfer1::PluginTensorDesc const* outputs,
        int32_t) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override;

  private:
    enum Input { kScores };
    enum Output { kLabels, kStepHeight, kStepWidth, kOutputCount };

    ResizeArgmaxShape shapeOf(
        nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const* outputs) const noexcept;
};

} // namespace freqfusion::tensorrt
