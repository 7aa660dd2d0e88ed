// SPDX-License-Identifier: Apache-2.0
//! TensorRT's tensor descriptions in the kernels' words.
#pragma once

#include "../kernels/tensor.h"

#include <NvInferRuntime.h>

#include <cstdint>

namespace freqfusion::tensorrt {

//! Whether the kernels read and write such a tensor: NCHW in all three types, channels-last in the two that TensorRT
//! defines kHWC8 for.
[[nodiscard]] inline bool isFeatureTensor(nvinfer1::PluginTensorDesc const& tensor) noexcept
{
    using nvinfer1::DataType;
    bool const isSixteenBit = tensor.type == DataType::kHALF || tensor.type == DataType::kBF16;
    switch (tensor.format) {
    case nvinfer1::TensorFormat::kLINEAR:
        return isSixteenBit || tensor.type == DataType::kFLOAT;
    case nvinfer1::TensorFormat::kHWC8:
        return isSixteenBit;
    default:
        return false;
    }
}

//! Whether `tensors[position]` is a feature tensor like the first: one type and one layout per call.
[[nodiscard]] inline bool matchesFirst(nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t position) noexcept
{
    nvinfer1::PluginTensorDesc const& first = tensors[0].desc;
    nvinfer1::PluginTensorDesc const& tensor = tensors[position].desc;
    return isFeatureTensor(tensor) && tensor.type == first.type && tensor.format == first.format;
}

[[nodiscard]] inline DType dtypeOf(nvinfer1::PluginTensorDesc const& tensor) noexcept
{
    switch (tensor.type) {
    case nvinfer1::DataType::kHALF:
        return DType::kFloat16;
    case nvinfer1::DataType::kBF16:
        return DType::kBFloat16;
    default:
        return DType::kFloat32;
    }
}

[[nodiscard]] inline Layout layoutOf(nvinfer1::PluginTensorDesc const& tensor) noexcept
{
    return tensor.format == nvinfer1::TensorFormat::kHWC8 ? Layout::kNHWC : Layout::kNCHW;
}

//! Size along `axis`; -1, which no kernel accepts, if the tensor has no such axis or it does not fit 31 bits.
[[nodiscard]] inline int32_t extent(nvinfer1::Dims const& dims, int32_t axis) noexcept
{
    bool const fits = axis < dims.nbDims && dims.d[axis] >= 0 && dims.d[axis] <= INT32_MAX;
    return fits ? static_cast<int32_t>(dims.d[axis]) : -1;
}

} // namespace freqfusion::tensorrt
