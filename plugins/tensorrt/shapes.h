// SPDX-License-Identifier: Apache-2.0
//! Symbolic output shapes, and the kernels' verdict on attributes alone.
#pragma once

#include "report.h"

#include <NvInferRuntime.h>

namespace freqfusion::tensorrt {

//! (N, C, S*H, S*W) for (N, C, H, W).
[[nodiscard]] inline nvinfer1::DimsExprs enlarged(
    nvinfer1::DimsExprs const& shape, int32_t scale, nvinfer1::IExprBuilder& builder) noexcept
{
    nvinfer1::DimsExprs result = shape;
    nvinfer1::IDimensionExpr const* const factor = builder.constant(scale);
    for (int32_t const axis : {2, 3}) {
        if (scale != 1 && factor != nullptr) {
            result.d[axis] = builder.operation(nvinfer1::DimensionOperation::kPROD, *shape.d[axis], *factor);
        }
    }
    return result;
}

//! Whether the kernel takes such a call at all; reports its reason if not. For attributes without a picture yet,
//! `shape` is the smallest they allow: one pixel, one channel a group.
template <typename Shape>
[[nodiscard]] bool isRunnable(Shape const& shape, Subject const& subject) noexcept
{
    char const* const reason = whyNotRunnable(shape);
    if (reason != nullptr) {
        report(subject, "%s.", reason);
    }
    return reason == nullptr;
}

} // namespace freqfusion::tensorrt
