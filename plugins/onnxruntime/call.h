// SPDX-License-Identifier: Apache-2.0
//! What an operator sees of ONNX Runtime: its node's attributes when it is made, its tensors when it runs.
#pragma once

#include "kernels/tensor.h"

#include <onnxruntime_cxx_api.h>

#if FREQFUSION_CUDA
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace freqfusion::ort {

//! The oldest API that holds everything used here, so that one build serves every ONNX Runtime since 1.17, also those
//! older than the headers it was compiled with.
constexpr uint32_t kApiVersion = 17;

//! Why a node cannot be made or run, worded for the user; `Kernel` adds the operator's name.
class Refusal : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

//! Throws the reason, if there is one.
inline void refuse(char const* reason)
{
    if (reason != nullptr) {
        throw Refusal{reason};
    }
}

//! Where a kernel runs, and on which element type.
struct Placement {
    DType dtype;
    bool onCuda;
};

//! The attributes of one node.
class Attributes {
  public:
    explicit Attributes(OrtKernelInfo const* info) : mInfo{info} {}

    //! Throws Refusal for an attribute that is absent without a `fallback`, or does not fit 32 bits.
    [[nodiscard]] int32_t integer(char const* name, std::optional<int32_t> fallback = std::nullopt) const;

    [[nodiscard]] std::vector<float> floats(char const* name) const;

    //! Input `index`, called `name` in the message, whose value must be known before a run.
    [[nodiscard]] Ort::ConstValue constant(size_t index, char const* name) const;

    //! How many inputs the node has; those left out at the end do not count.
    [[nodiscard]] size_t inputs() const;

    //! nullopt if the node does not have it.
    [[nodiscard]] std::optional<std::string> text(char const* name) const;

  private:
    OrtKernelInfo const* mInfo;
};

using Size = std::array<int64_t, 4>; //!< N, C, H, W; of pictures N, H, W, C

struct Input {
    void const* data;
    Size size;
};

//! x1, y1, x2, y2 of `count` boxes in each image.
struct Boxes {
    float const* data;
    int32_t batch;
    int32_t count;
};

//! One run of a node.
class Call {
  public:
    Call(OrtKernelContext* context, Placement placement) : mContext{context}, mPlacement{placement} {}

    //! Throws Refusal unless input `index`, called `name` in the message, has four dimensions of at most 31 bits.
    [[nodiscard]] Input input(size_t index, char const* name, char const* dimensions = "N, C, H, W") const;

    //! The same of three dimensions, with a fourth of 1.
    [[nodiscard]] Input matrices(size_t index, char const* name, char const* dimensions) const;

    //! Throws Refusal unless input `index` is kCount int64 numbers in host memory, each positive and of at most 31
    //! bits.
    template <size_t kCount>
    [[nodiscard]] std::array<int32_t, kCount> sizes(size_t index, char const* name) const
    {
        std::array<int32_t, kCount> result{};
        std::vector<int64_t> const numbers = sizes(index, name, kCount);
        std::transform(numbers.begin(), numbers.end(), result.begin(),
            [](int64_t number) { return static_cast<int32_t>(number); });
        return result;
    }

    //! The same of `count` numbers.
    [[nodiscard]] std::vector<int64_t> sizes(size_t index, char const* name, size_t count) const;

    //! Throws Refusal unless input `index` has three dimensions (N, M, 4) of at most 31 bits.
    [[nodiscard]] Boxes boxes(size_t index, char const* name) const;

    [[nodiscard]] void* output(std::vector<int64_t> const& size) const;

    [[nodiscard]] DType dtype() const { return mPlacement.dtype; }

    [[nodiscard]] bool onCuda() const { return mPlacement.onCuda; }

    //! ONNX Runtime's own threads; valid while this object lives.
    [[nodiscard]] ThreadPool threads() const;

#if FREQFUSION_CUDA
    [[nodiscard]] cudaStream_t stream() const;
#endif

  private:
    [[nodiscard]] Input input(size_t index, char const* name, size_t rank, std::string const& rankAndDimensions) const;

    OrtKernelContext* mContext;
    Placement mPlacement;
};

#if FREQFUSION_CUDA
inline void refuse(cudaError_t status)
{
    if (status != cudaSuccess) {
        throw Refusal{cudaGetErrorString(status)};
    }
}
#endif

} // namespace freqfusion::ort
