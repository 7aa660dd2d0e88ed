// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "operator_plugin.h"
#include "reassembly_tactics.h"

#include "../kernels/carafe.h"

namespace freqfusion::tensorrt {

struct CarafeAttributes {
    static constexpr char const* kOperator = "Carafe";

    int32_t kernelSize{0};
    int32_t groups{0};
    int32_t scale{0};
    int32_t padding{0};

    FieldTable fields() noexcept;
    [[nodiscard]] bool fitTogether(Subject const& subject) const noexcept;
};

//! Content-aware reassembly: features (N, C, H, W), mask (N, G*K*K, S*H, S*W) -> (N, C, S*H, S*W).
class CarafePlugin final : public OperatorPlugin<CarafePlugin, CarafeAttributes> {
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
    enum Input { kFeatures, kMask, kInputCount };

    CarafeShape shapeOf(nvinfer1::Dims const& features) const noexcept;

    ReassemblyTactics mTactics;
};

} // namespace freqfusion::tensorrt
