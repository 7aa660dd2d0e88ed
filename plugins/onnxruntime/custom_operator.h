// SPDX-License-Identifier: Apache-2.0
//! From a class that computes to a custom operator that ONNX Runtime can register.
//!
//! `Op` has `kName`, `kAttributes` (the names of all that it reads, with blanks between them), `kInputs` (their
//! number), a constructor from `Attributes` that throws Refusal for attributes it cannot run with, `run(Call const&)`,
//! and `inferSize`, which returns the output's size, or nothing where that depends on values. `kElements` says what its
//! tensors hold.
#pragma once

#include "call.h"
#include "plugin_identity.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <string>

namespace freqfusion::ort {

//! An extent as far as it is known before a run: a number, a name such as "height", or (negative, "") for neither.
struct Extent {
    int64_t value;
    std::string name;

    [[nodiscard]] bool isKnown() const { return value >= 0 || !name.empty(); }

    //! Twice "height" is "2*height", so that equal names go on meaning equal numbers. Files hold any extent and any
    //! factor: a product that is no extent is an unknown one, and the kernel says why it cannot run.
    [[nodiscard]] Extent times(int64_t factor) const
    {
        if (factor == 1 || !isKnown()) {
            return *this;
        }
        if (factor < 0 || (factor > 0 && value > std::numeric_limits<int64_t>::max() / factor)) {
            return {-1, ""};
        }
        return name.empty() ? Extent{value * factor, ""} : Extent{-1, std::to_string(factor) + "*" + name};
    }
};

//! A node as far as it is known before a run, with attributes that need not be there.
class NodeBeforeRun : public Ort::ShapeInferContext {
  public:
    explicit NodeBeforeRun(OrtShapeInferContext* node) : Ort::ShapeInferContext{&Ort::GetApi(), node}, mNode{node} {}

    //! An integer attribute, or `absent` where there is none: GetAttrInt would throw, once for each such node.
    [[nodiscard]] int64_t integer(char const* name, int64_t absent) const
    {
        OrtOpAttr const* attribute = nullptr;
        int64_t value = 0;
        size_t bytes = 0;
        Ort::Status const found{Ort::GetApi().ShapeInferContext_GetAttribute(mNode, name, &attribute)};
        if (!found.IsOK()) {
            return absent;
        }
        Ort::Status const read{Ort::GetApi().ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof(value), &bytes)};
        return read.IsOK() ? value : absent;
    }

  private:
    OrtShapeInferContext* mNode;
};

//! What an operator's tensors hold: all the placement's type; or that, with int64 sizes in host memory as the last
//! input; or that and an int32 output; or that type, with fp32 boxes as the last input; or uint8 in and fp32 out; or
//! all that type, where the last input may be left out.
enum class Elements { kSame, kSized, kLabels, kBoxes, kPictures, kBiased };

//! Counts one more kernel made by this thread, for `freqfusion_onnxruntime_kernel_counts`.
void countKernel(char const* name, bool onCuda);

//! Runs `body`; what it throws becomes a status that names the operator.
template <typename Op, typename Body>
OrtStatusPtr guarded(Body const& body) noexcept
{
    try {
        body();
        return nullptr;
    } catch (std::exception const& error) {
        std::string const message = std::string{kDomain} + "::" + Op::kName + ": " + error.what();
        return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, message.c_str());
    }
}

//! A node's kernel: the operator and where it runs.
template <typename Op>
class Kernel {
  public:
    Kernel(Attributes const& attributes, Placement placement) : mOperator{attributes}, mPlacement{placement} {}

    OrtStatusPtr ComputeV2(OrtKernelContext* context) const noexcept // ONNX Runtime's C++ API looks this name up
    {
        return guarded<Op>([this, context] { mOperator.run(Call{context, mPlacement}); });
    }

  private:
    Op mOperator;
    Placement mPlacement;
};

//! An entry of the domain: one operator for one element type on one device.
template <typename Op>
class CustomOperator final : public Ort::CustomOpBase<CustomOperator<Op>, Kernel<Op>, true> {
  public:
    explicit CustomOperator(Placement placement) : mPlacement{placement}
    {
        OrtCustomOp::version = kApiVersion;
        OrtCustomOp::InferOutputShapeFn = &inferSize;
    }

    OrtStatusPtr CreateKernelV2(OrtApi const&, OrtKernelInfo const* info, void** kernel) const noexcept
    {
        return guarded<Op>([this, info, kernel] {
            Attributes const attributes{info};
            std::optional<std::string> const wanted = attributes.text("plugin_version");
            if (wanted && *wanted != kPluginVersion) {
                throw Refusal{"the node was exported for version " + *wanted + " of the operator, this library has "
                              + kPluginVersion + "; use the library of the freqfusion release that exported the file"};
            }
            *kernel = new Kernel<Op>{attributes, mPlacement};
            countKernel(Op::kName, mPlacement.onCuda);
        });
    }

    [[nodiscard]] char const* GetName() const { return Op::kName; }

    [[nodiscard]] char const* GetExecutionProviderType() const
    {
        return mPlacement.onCuda ? "CUDAExecutionProvider" : nullptr;
    }

    [[nodiscard]] size_t GetInputTypeCount() const { return Op::kInputs; }

    [[nodiscard]] ONNXTensorElementDataType GetInputType(size_t index) const
    {
        if (Op::kElements == Elements::kPictures) {
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        }
        if (Op::kElements == Elements::kBoxes && index + 1 == Op::kInputs) {
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        }
        return isSizes(index) ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : elementType();
    }

    [[nodiscard]] OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(size_t index) const
    {
        return Op::kElements == Elements::kBiased && index + 1 == Op::kInputs ? INPUT_OUTPUT_OPTIONAL
                                                                              : INPUT_OUTPUT_REQUIRED;
    }

    [[nodiscard]] OrtMemType GetInputMemoryType(size_t index) const
    {
        return isSizes(index) ? OrtMemTypeCPUInput : OrtMemTypeDefault;
    }

    [[nodiscard]] size_t GetOutputTypeCount() const { return 1; }

    [[nodiscard]] ONNXTensorElementDataType GetOutputType(size_t) const
    {
        return Op::kElements == Elements::kLabels ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : elementType();
    }

  private:
    [[nodiscard]] static bool isSizes(size_t index)
    {
        return (Op::kElements == Elements::kSized || Op::kElements == Elements::kLabels) && index + 1 == Op::kInputs;
    }

    [[nodiscard]] ONNXTensorElementDataType elementType() const
    {
        switch (mPlacement.dtype) {
        case DType::kFloat16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case DType::kBFloat16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
        case DType::kFloat32:
            break;
        }
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }

    //! Serves all element types of `Op`: ONNX Runtime asks the first registered for every node of that name.
    static OrtStatusPtr inferSize(OrtCustomOp const*, OrtShapeInferContext* raw) noexcept
    {
        try {
            OrtTensorTypeAndShapeInfo* info = nullptr;
            Ort::ThrowOnError(Ort::GetApi().ShapeInferContext_GetInputTypeShape(raw, 0, &info)); // stays ONNX Runtime's
            ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
            Ort::ThrowOnError(Ort::GetApi().GetTensorElementType(info, &type));
            if (Op::kElements == Elements::kPictures) {
                type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            }
            NodeBeforeRun context{raw};
            std::vector<Extent> first;
            for (auto const& extent : context.GetInputShape(0)) {
                first.push_back(extent.IsInt() ? Extent{extent.AsInt(), ""} : Extent{-1, extent.AsSym()});
            }
            if (first.size() != 4) {
                return nullptr;
            }
            std::vector<Extent> const size = Op::inferSize(first, context);
            auto const isKnown = [](Extent const& extent) { return extent.isKnown(); };
            if (!size.empty() && std::all_of(size.begin(), size.end(), isKnown)) {
                setOutputSize(raw, size, type); // the API has no word for one unknown extent among known ones
            }
        } catch (std::exception const&) {
            // Attributes that are missing or nonsense are reported when the kernel is made, with their names.
        }
        return nullptr;
    }

    //! Ort::ShapeInferContext::SetOutputShape of 1.21 writes -2 for a named extent, which ONNX Runtime 1.32 refuses.
    static void setOutputSize(
        OrtShapeInferContext* raw, std::vector<Extent> const& size, ONNXTensorElementDataType type)
    {
        std::vector<int64_t> values;
        std::vector<char const*> names;
        for (Extent const& extent : size) {
            values.push_back(extent.name.empty() ? extent.value : -1);
            names.push_back(extent.name.c_str());
        }
        OrtApi const& api = Ort::GetApi();
        OrtTensorTypeAndShapeInfo* made = nullptr;
        Ort::ThrowOnError(api.CreateTensorTypeAndShapeInfo(&made));
        Ort::TensorTypeAndShapeInfo const info{made}; // frees it
        Ort::ThrowOnError(api.SetTensorElementType(made, type));
        Ort::ThrowOnError(api.SetDimensions(made, values.data(), values.size()));
        Ort::ThrowOnError(api.SetSymbolicDimensions(made, names.data(), names.size()));
        Ort::ThrowOnError(api.ShapeInferContext_SetOutputTypeShape(raw, 0, made));
    }

    Placement mPlacement;
};

} // namespace freqfusion::ort
