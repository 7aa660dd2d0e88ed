// SPDX-License-Identifier: Apache-2.0
//! What the plugins share: identity, capabilities, cloning, fields and reports. Each adds its shapes and its
//! kernel.
#pragma once

#include "fields.h"
#include "report.h"
#include "tensors.h"

#include <NvInferRuntime.h>

#include <array>
#include <new>

namespace freqfusion::tensorrt {

constexpr int32_t kMaxGroups = 65536; //!< far beyond any model; keeps groups * taps within 32 bits

//! Base of `Plugin`, whose state is one `Attributes`, and TensorRT's choice of kernel where there are several: sizes
//! are read from the descriptors, so a clone is a copy.
//!
//! `Attributes` is a copyable struct with
//!   static constexpr char const* kOperator       ONNX op type
//!   FieldTable fields() noexcept                 its own members as a table
//!   bool fitTogether(Subject const&) const       rules that join attributes; reports what is broken
template <typename Plugin, typename Attributes>
class OperatorPlugin : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
  public:
    using AttributesType = Attributes;

    explicit OperatorPlugin(Attributes const& attributes) noexcept : mAttributes{attributes}
    {
        describe(Attributes::kOperator, mAttributes.fields(), mDescription.data(), mDescription.size());
    }

    // IPluginV3

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final
    {
        switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept final { return new (std::nothrow) Plugin{static_cast<Plugin const&>(*this)}; }

    // IPluginV3OneCore

    char const* getPluginName() const noexcept final { return Attributes::kOperator; }
    char const* getPluginVersion() const noexcept final { return kPluginVersion; }
    char const* getPluginNamespace() const noexcept final { return kPluginNamespace; }

    // IPluginV3OneBuild: one output, of the type and format of all inputs, unless the plugin says otherwise

    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t getOutputDataTypes(
        nvinfer1::DataType* outputTypes, int32_t, nvinfer1::DataType const* inputTypes, int32_t) const noexcept override
    {
        outputTypes[0] = inputTypes[0];
        return 0;
    }

    bool supportsFormatCombination(
        int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t, int32_t) noexcept override
    {
        return matchesFirst(tensors, position);
    }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const*, int32_t, nvinfer1::DynamicPluginTensorDesc const*,
        int32_t) noexcept override
    {
        return 0;
    }

    //! The attributes alone: TensorRT adds shapes and formats, so that ten equal layers are timed once.
    char const* getTimingCacheID() noexcept final { return mDescription.data(); }
    char const* getMetadataString() noexcept final { return mDescription.data(); }

    // IPluginV3OneRuntime

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }

    //! Filled at each call: the fields point at this object's own members, never at those of the one it was cloned
    //! from.
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept final
    {
        mCollection = {writeFields(mAttributes.fields(), mFields), mFields.data()};
        return &mCollection;
    }

  protected:
    //! Reports `reason` and returns TensorRT's status for a failed callback.
    static int32_t fail(char const* reason) noexcept
    {
        report({Attributes::kOperator, nullptr}, "%s.", reason);
        return -1;
    }

    //! 0 if there is nothing wrong, else as above.
    static int32_t statusOf(char const* reason) noexcept { return reason == nullptr ? 0 : fail(reason); }

    static int32_t statusOf(cudaError_t status) noexcept
    {
        if (status != cudaSuccess) {
            report({Attributes::kOperator, nullptr}, "the kernel did not start: %s. See docs/tensorrt-plugin.md.",
                cudaGetErrorString(status));
        }
        return status == cudaSuccess ? 0 : -1;
    }

    //! 0 if there are as many inputs and outputs as expected, and each input has four dimensions, else as above.
    static int32_t statusOfArity(nvinfer1::DimsExprs const* inputs, int32_t inputCount, int32_t expectedInputs,
        int32_t outputCount, int32_t expectedOutputs) noexcept
    {
        if (inputCount != expectedInputs || outputCount != expectedOutputs) {
            report({Attributes::kOperator, nullptr},
                "got %d inputs and %d outputs, expected %d and %d. Export the model again.", inputCount, outputCount,
                expectedInputs, expectedOutputs);
            return -1;
        }
        for (int32_t i = 0; i < inputCount; ++i) {
            if (inputs[i].nbDims != 4) {
                report({Attributes::kOperator, nullptr},
                    "input %d has %d dimensions, expected 4: batch, channels, height, width. Export the model again.",
                    i, inputs[i].nbDims);
                return -1;
            }
        }
        return 0;
    }

    Attributes mAttributes;

  private:
    std::array<char, 256> mDescription{};
    std::array<nvinfer1::PluginField, FieldTable::kMaxFields> mFields{};
    nvinfer1::PluginFieldCollection mCollection{};
};

//! Makes `Plugin`s from fields; returns nullptr, having reported why, for any it cannot run.
template <typename Plugin>
class OperatorCreator final : public nvinfer1::IPluginCreatorV3One {
    using Attributes = typename Plugin::AttributesType;

  public:
    OperatorCreator() noexcept
    {
        Attributes attributes;
        mCollection = {writeFields(attributes.fields(), mFields), mFields.data()};
        for (nvinfer1::PluginField& field : mFields) {
            field.data = nullptr; // names and types are all a creator announces
        }
    }

    nvinfer1::IPluginV3* createPlugin(char const* layerName, nvinfer1::PluginFieldCollection const* collection,
        nvinfer1::TensorRTPhase) noexcept override
    {
        Subject const subject{Attributes::kOperator, layerName};
        Attributes attributes;
        if (!readFields(attributes.fields(), collection, subject) || !attributes.fitTogether(subject)) {
            return nullptr;
        }
        auto* const plugin = new (std::nothrow) Plugin{attributes};
        if (plugin == nullptr) {
            report(subject, "no memory for the plugin.");
        }
        return plugin;
    }

    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &mCollection; }
    char const* getPluginName() const noexcept override { return Attributes::kOperator; }
    char const* getPluginVersion() const noexcept override { return kPluginVersion; }
    char const* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  private:
    std::array<nvinfer1::PluginField, FieldTable::kMaxFields> mFields{};
    nvinfer1::PluginFieldCollection mCollection{};
};

} // namespace freqfusion::tensorrt
