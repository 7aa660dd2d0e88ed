// SPDX-License-Identifier: Apache-2.0
//! Checks of tensor sizes that every operator makes before it runs.
#pragma once

#include "tensor.h"

#include <initializer_list>

namespace freqfusion {

//! Why `isAddressable` is false.
constexpr char const* kNotAddressable =
    "every size must be from 0 to 2^30, and a tensor must have at most 2^60 elements";

//! Whether every size is from 0 to 2^30 and their product, zeros left out, at most 2^60, so that no index or byte count
//! made of them overflows.
[[nodiscard]] inline bool isAddressable(std::initializer_list<int64_t> sizes) noexcept
{
    constexpr int64_t kMaxSize = int64_t{1} << 30;
    constexpr int64_t kMaxElements = int64_t{1} << 60;
    int64_t product = 1;
    for (int64_t const size : sizes) {
        if (size < 0 || size > kMaxSize) {
            return false;
        }
        if (size > 0) {
            if (product > kMaxElements / size) {
                return false;
            }
            product *= size;
        }
    }
    return true;
}

constexpr char const* kUnknownDType = "the element type must be float32, float16 or bfloat16";

[[nodiscard]] inline bool isKnown(DType dtype) noexcept
{
    return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

} // namespace freqfusion
