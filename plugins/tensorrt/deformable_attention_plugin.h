// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"

#include "../kernels/deformable_attention.h"

namespace freqfusion::tensorrt {

struct DeformableAttentionAttributes {
    static constexpr char const* kOperator = "DeformableAttention";

    int32_t levels{1};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Attention to a few places beside each pixel of a pyramid: value (N, T, M, D), offsets (N, T, M, L * P * 2), logits
//! (N, T, M, L * P), sizes (2 * L,) int64 -> (N, T, M, D).
//!
//! `sizes` is a shape input whose values come back as extents of further outputs: see shape_input.h.
class DeformableAttentionPlugin final
    : public OperatorPlugin<DeformableAttentionPlugin, DeformableAttentionAttributes> {
  public:
    using OperatorPlugin::OperatorPlugin;

    // IPluginV3OneBuild
    int32_t getNbOutputs() const noexcept override { return 1 + 2 * mAttributes.levels; }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t outputCount,
        nvinfer1::DataType const* inputTypes, int32_t) const noexcept override;
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
    enum Input { kValue, kOffsets, kLogits, kInputCount };
    enum Output { kAttended, kFirstSize };

    DeformableAttentionShape shapeOf(
        nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const* outputs) const noexcept;
};

} // namespace freqfusion::tensorrt
