// SPDX-License-Identifier: Apache-2.0
//! Numbers that a plugin needs when it runs, from a shape input: TensorRT shows its values to `getOutputShapes` alone,
//! never to `enqueue`. They come back as extents of outputs: where no output has such an extent, of one that is made
//! for it, a few KiB that nobody writes or reads. ONNX's parser takes the first output and leaves the others unnamed.
#pragma once

#include "report.h"

#include <NvInferRuntime.h>

namespace freqfusion::tensorrt {

//! A plugin's one shape input, `sizes`.
struct ShapeInput {
    char const* operatorName;
    int32_t index; //!< among the ONNX node's inputs
    int32_t count; //!< of its values
};

//! Whether TensorRT gave this shape input; reports what it gave if not.
[[nodiscard]] inline bool isShapeInput(
    nvinfer1::DimsExprs const* shapeInputs, int32_t shapeInputCount, ShapeInput const& wanted) noexcept
{
    if (shapeInputCount != 1) {
        report({wanted.operatorName, nullptr},
            "got %d shape inputs, expected 1, the sizes. Give the ONNX node the attribute "
            "tensorrt_plugin_shape_input_indices=[%d], or export the model again.",
            shapeInputCount, wanted.index);
        return false;
    }
    if (shapeInputs[0].nbDims != wanted.count) {
        report({wanted.operatorName, nullptr}, "sizes has %d values, expected %d. Export the model again.",
            shapeInputs[0].nbDims, wanted.count);
        return false;
    }
    return true;
}

//! Makes outputs of one dimension each of values [begin, end) of a shape input.
inline void carryAsExtents(
    nvinfer1::DimsExprs const& shapeInput, int32_t begin, int32_t end, nvinfer1::DimsExprs* outputs) noexcept
{
    for (int32_t i = begin; i < end; ++i) {
        outputs[i - begin].nbDims = 1;
        outputs[i - begin].d[0] = shapeInput.d[i];
    }
}

//! Whether such an output, or the shape input itself, may be stored like this. TensorRT asks about the latter only
//! where it counts it among the inputs.
[[nodiscard]] inline bool isCarried(nvinfer1::PluginTensorDesc const& tensor, bool isInput) noexcept
{
    return tensor.format == nvinfer1::TensorFormat::kLINEAR
           && (tensor.type == nvinfer1::DataType::kINT32 || (isInput && tensor.type == nvinfer1::DataType::kINT64));
}

} // namespace freqfusion::tensorrt
