// SPDX-License-Identifier: Apache-2.0
#include "carafe_plugin.h"

#include "shapes.h"

#include "../kernels/carafe_core.h"

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable CarafeAttributes::fields() noexcept
{
    return {{{{"kernel_size", &kernelSize, 1, kMaxKernelSize, true}, {"group_size", &groups, 1, kMaxGroups, false},
                {"scale_factor", &scale, 1, kMaxScale, false},
                {"padding", &padding, static_cast<int32_t>(Padding::kZeros), static_cast<int32_t>(Padding::kReflect),
                    false, true}}},
        4, {}};
}

bool CarafeAttributes::fitTogether(Subject const& subject) const noexcept
{
    return isRunnable(smallestShape(kernelSize, groups, scale, static_cast<Padding>(padding)), subject);
}

int32_t CarafePlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t outputCount, IExprBuilder& builder) noexcept
{
    if (int32_t const status = statusOfArity(inputs, inputCount, kInputCount, outputCount, 1)) {
        return status;
    }
    outputs[0] = enlarged(inputs[kFeatures], mAttributes.scale, builder);
    return 0;
}

int32_t CarafePlugin::configurePlugin(
    DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*, int32_t) noexcept
{
    DynamicPluginTensorDesc const& features = inputs[kFeatures];
    mTactics.offer({shapeOf(features.min), shapeOf(features.opt), shapeOf(features.max)}, dtypeOf(features.desc),
        layoutOf(features.desc));
    return 0;
}

int32_t CarafePlugin::getValidTactics(int32_t* tactics, int32_t tacticCount) noexcept
{
    mTactics.copyTo(tactics, tacticCount);
    return 0;
}

int32_t CarafePlugin::setTactic(int32_t tactic) noexcept
{
    return mTactics.choose(tactic, {CarafeAttributes::kOperator, nullptr}) ? 0 : -1;
}

int32_t CarafePlugin::onShapeChange(PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs[kFeatures].dims), inputs[kMask].dims.d));
}

int32_t CarafePlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*, void const* const* inputs,
    void* const* outputs, void*, cudaStream_t stream) noexcept
{
    PluginTensorDesc const& features = inputDesc[kFeatures];
    return statusOf(mTactics.run([&](ReassemblyTactic tactic) {
        return launchCarafe(shapeOf(features.dims), dtypeOf(features), layoutOf(features), inputs[kFeatures],
            inputs[kMask], outputs[0], tactic, stream);
    }));
}

CarafeShape CarafePlugin::shapeOf(Dims const& features) const noexcept
{
    return {extent(features, 0), extent(features, 1), extent(features, 2), extent(features, 3), mAttributes.kernelSize,
        mAttributes.groups, mAttributes.scale, static_cast<Padding>(mAttributes.padding)};
}

} // namespace freqfusion::tensorrt
