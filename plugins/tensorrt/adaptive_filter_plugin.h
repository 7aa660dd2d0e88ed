// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"
#include "reassembly_tactics.h"

#include "../kernels/adaptive_filter.h"
#include "../kernels/carafe_core.h"

namespace freqfusion::tensorrt {

struct AdaptiveFilterAttributes {
    static constexpr char const* kOperator = "AdaptiveFilter";

    int32_t kernelSize{0};
    int32_t groups{0};
    int32_t scale{0};
    int32_t mode{0};
    int32_t padding{0};
    int32_t windowCount{0};
    std::array<float, kMaxKernelSize * kMaxKernelSize> window{};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Predicted filter from logits to filtered map: features (N, C, H, W), logits (N, G*K*K, S*H, S*W) ->
//! (N, C, S*H, S*W).
class AdaptiveFilterPlugin final : public OperatorPlugin<AdaptiveFilterPlugin, AdaptiveFilterAttributes> {
  public:
    using OperatorPlugin::OperatorPlugin;

    // IPluginV3OneBuild
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t inputCount, nvinfer1::DimsExprs const*, int32_t,
        nvinfer1::DimsExprs* outputs, int32_t outputCount, nvinfer1::IExprBuilder& builder) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t,
        nvinfer1::DynamicPluginTensorDesc const*, int32_t) noexcept override;
    int32_t getNbTactics() noexcept override { return mTactics.count(); }
    int32_t getValidTactics(int32_t* tactics, int32_t tacticCount) noexcept override;

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept override;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t, nvinfer1::PluginTensorDesc const*,
        int32_t) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const*,
        void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept override;

  private:
    enum Input { kFeatures, kLogits, kInputCount };

    AdaptiveFilterShape shapeOf(nvinfer1::Dims const& features) const noexcept;

    ReassemblyTactics mTactics;
};

} // namespace freqfusion::tensorrt
