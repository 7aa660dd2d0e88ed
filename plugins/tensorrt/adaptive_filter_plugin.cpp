// SPDX-License-Identifier: Apache-2.0
#include "adaptive_filter_plugin.h"

#include "shapes.h"

#include <algorithm>

namespace freqfusion::tensorrt {

using namespace nvinfer1;

FieldTable AdaptiveFilterAttributes::fields() noexcept
{
    return {{{{"kernel_size", &kernelSize, 1, kMaxKernelSize, true}, {"group_size", &groups, 1, kMaxGroups, false},
                {"scale_factor", &scale, 1, kMaxScale, false},
                {"mode", &mode, static_cast<int32_t>(FilterMode::kLowpass), static_cast<int32_t>(FilterMode::kSharpen),
                    false},
                {"padding", &padding, static_cast<int32_t>(Padding::kZeros), static_cast<int32_t>(Padding::kReflect),
                    false, true}}},
        5, {"window", window.data(), &windowCount, static_cast<int32_t>(window.size())}};
}

bool AdaptiveFilterAttributes::fitTogether(Subject const& subject) const noexcept
{
    if (windowCount != kernelSize * kernelSize) {
        report(subject,
            "attribute window has %d values, expected kernel_size squared, %d. Correct the node's attributes or export "
            "the model again.",
            windowCount, kernelSize * kernelSize);
        return false;
    }
    if (std::all_of(window.begin(), window.begin() + windowCount, [](float tap) { return tap == 0.0F; })) {
        report(subject,
            "attribute window has %d values, all zero, expected at least one above zero. Correct the node's "
            "attributes or export the model again.",
            windowCount);
        return false;
    }
    if (mode != static_cast<int32_t>(FilterMode::kLowpass) && scale != 1) {
        report(subject,
            "attribute scale_factor is %d, expected 1 for mode %d. Only mode 0, the low-pass filter, enlarges.", scale,
            mode);
        return false;
    }
    return isRunnable(AdaptiveFilterShape{smallestShape(kernelSize, groups, scale, static_cast<Padding>(padding)),
                          static_cast<FilterMode>(mode)},
        subject);
}

int32_t AdaptiveFilterPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const*, int32_t,
    DimsExprs* outputs, int32_t outputCount, IExprBuilder& builder) noexcept
{
    if (int32_t const status = statusOfArity(inputs, inputCount, kInputCount, outputCount, 1)) {
        return status;
    }
    outputs[0] = enlarged(inputs[kFeatures], mAttributes.scale, builder);
    return 0;
}

int32_t AdaptiveFilterPlugin::configurePlugin(
    DynamicPluginTensorDesc const* inputs, int32_t, DynamicPluginTensorDesc const*, int32_t) noexcept
{
    DynamicPluginTensorDesc const& features = inputs[kFeatures];
    mTactics.offer(
        {shapeOf(features.min).reassembly, shapeOf(features.opt).reassembly, shapeOf(features.max).reassembly},
        dtypeOf(features.desc), layoutOf(features.desc));
    return 0;
}

int32_t AdaptiveFilterPlugin::getValidTactics(int32_t* tactics, int32_t tacticCount) noexcept
{
    mTactics.copyTo(tactics, tacticCount);
    return 0;
}

int32_t AdaptiveFilterPlugin::setTactic(int32_t tactic) noexcept
{
    return mTactics.choose(tactic, {AdaptiveFilterAttributes::kOperator, nullptr}) ? 0 : -1;
}

int32_t AdaptiveFilterPlugin::onShapeChange(
    PluginTensorDesc const* inputs, int32_t, PluginTensorDesc const*, int32_t) noexcept
{
    return statusOf(whyNotRunnable(shapeOf(inputs[kFeatures].dims), inputs[kLogits].dims.d, mAttributes.windowCount));
}

int32_t AdaptiveFilterPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    PluginTensorDesc const& features = inputDesc[kFeatures];
    return statusOf(mTactics.run([&](ReassemblyTactic tactic) {
        return launchAdaptiveFilter(shapeOf(features.dims), dtypeOf(features), layoutOf(features), inputs[kFeatures],
            inputs[kLogits], mAttributes.window.data(), outputs[0], tactic, stream);
    }));
}

AdaptiveFilterShape AdaptiveFilterPlugin::shapeOf(Dims const& features) const noexcept
{
    return {{extent(features, 0), extent(features, 1), extent(features, 2), extent(features, 3), mAttributes.kernelSize,
                mAttributes.groups, mAttributes.scale, static_cast<Padding>(mAttributes.padding)},
        static_cast<FilterMode>(mAttributes.mode)};
}

} // namespace freqfusion::tensorrt
