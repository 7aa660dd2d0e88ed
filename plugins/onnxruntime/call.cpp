// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <algorithm>
#include <limits>
#include <thread>

namespace freqfusion::ort {
namespace {

constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();

//! True if the call behind `status` went well; frees it.
bool isDone(OrtStatus* status)
{
    if (status == nullptr) {
        return true;
    }
    Ort::GetApi().ReleaseStatus(status);
    return false;
}

std::string listed(std::vector<int64_t> const& size)
{
    std::string text = "(";
    for (size_t i = 0; i < size.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(size[i]);
    }
    return text + ")";
}

//! One body for ONNX Runtime, which counts in size_t.
struct Body {
    void (*run)(void* context, int64_t index);
    void* context;
};

void parallelFor(void* pool, int64_t count, void (*run)(void*, int64_t), void* context)
{
    Body body{run, context};
    auto const runOne = [](void* raw, size_t index) {
        auto const* const self = static_cast<Body const*>(raw);
        self->run(self->context, static_cast<int64_t>(index));
    };
    if (count > 1) {
        // The last argument but one is a bound on batches; 0 lets ONNX Runtime hand out single indices.
        if (isDone(Ort::GetApi().KernelContext_ParallelFor(
                static_cast<OrtKernelContext*>(pool), runOne, static_cast<size_t>(count), 0, &body))) {
            return;
        }
    }
    for (int64_t i = 0; i < count; ++i) {
        run(context, i);
    }
}

} // namespace

int32_t Attributes::integer(char const* name, std::optional<int32_t> fallback) const
{
    int64_t value = 0;
    if (!isDone(Ort::GetApi().KernelInfoGetAttribute_int64(mInfo, name, &value))) {
        if (!fallback) {
            throw Refusal{std::string{"the node must have an integer attribute "} + name + ", got none"};
        }
        return *fallback;
    }
    if (value < std::numeric_limits<int32_t>::min() || value > kMaxExtent) {
        throw Refusal{std::string{"attribute "} + name + " must fit 32 bits, got " + std::to_string(value)};
    }
    return static_cast<int32_t>(value);
}

std::vector<float> Attributes::floats(char const* name) const
{
    size_t count = 0;
    std::vector<float> values;
    bool found = isDone(Ort::GetApi().KernelInfoGetAttributeArray_float(mInfo, name, nullptr, &count));
    if (found) {
        values.resize(count);
        found = isDone(Ort::GetApi().KernelInfoGetAttributeArray_float(mInfo, name, values.data(), &count));
    }
    if (!found) {
        throw Refusal{std::string{"the node must have an attribute "} + name + " of floats, got none"};
    }
    return values;
}

Ort::ConstValue Attributes::constant(size_t index, char const* name) const
{
    int isConstant = 0;
    OrtValue const* value = nullptr;
    if (!isDone(Ort::GetApi().KernelInfoGetConstantInput_tensor(mInfo, index, &isConstant, &value)) || isConstant == 0
        || value == nullptr) {
        throw Refusal{std::string{name} + " must be a constant of the model, got a value computed in it"};
    }
    return Ort::ConstValue{value};
}

size_t Attributes::inputs() const
{
    size_t count = 0;
    Ort::ThrowOnError(Ort::GetApi().KernelInfo_GetInputCount(mInfo, &count));
    return count;
}

std::optional<std::string> Attributes::text(char const* name) const
{
    size_t size = 0; // with the terminating zero
    if (!isDone(Ort::GetApi().KernelInfoGetAttribute_string(mInfo, name, nullptr, &size)) || size == 0) {
        return std::nullopt;
    }
    std::string value(size, '\0');
    if (!isDone(Ort::GetApi().KernelInfoGetAttribute_string(mInfo, name, value.data(), &size))) {
        return std::nullopt;
    }
    value.resize(size - 1);
    return value;
}

Input Call::input(size_t index, char const* name, size_t rank, std::string const& rankAndDimensions) const
{
    Ort::ConstValue const value = Ort::KernelContext{mContext}.GetInput(index);
    std::vector<int64_t> size = value.GetTensorTypeAndShapeInfo().GetShape();
    if (size.size() != rank) {
        throw Refusal{std::string{name} + " must have " + rankAndDimensions + ", got " + listed(size)};
    }
    if (*std::max_element(size.begin(), size.end()) > kMaxExtent) {
        throw Refusal{std::string{name} + " must have extents below 2^31, got " + listed(size)};
    }
    size.resize(4, 1);
    return {value.GetTensorRawData(), {size[0], size[1], size[2], size[3]}};
}

Input Call::input(size_t index, char const* name, char const* dimensions) const
{
    return input(index, name, 4, std::string{"four dimensions ("} + dimensions + ")");
}

Input Call::matrices(size_t index, char const* name, char const* dimensions) const
{
    return input(index, name, 3, std::string{"three dimensions ("} + dimensions + ")");
}

std::vector<int64_t> Call::sizes(size_t index, char const* name, size_t count) const
{
    Ort::ConstValue const value = Ort::KernelContext{mContext}.GetInput(index);
    std::vector<int64_t> const size = value.GetTensorTypeAndShapeInfo().GetShape();
    if (size != std::vector<int64_t>{static_cast<int64_t>(count)}) {
        throw Refusal{std::string{name} + " must have the shape (" + std::to_string(count) + "), got " + listed(size)};
    }
    int64_t const* const data = value.GetTensorData<int64_t>();
    std::vector<int64_t> numbers(data, data + count);
    if (!std::all_of(
            numbers.begin(), numbers.end(), [](int64_t extent) { return extent > 0 && extent <= kMaxExtent; })) {
        throw Refusal{std::string{name} + " must hold " + std::to_string(count)
                      + " numbers between 1 and 2^31 - 1, got " + listed(numbers)};
    }
    return numbers;
}

Boxes Call::boxes(size_t index, char const* name) const
{
    Ort::ConstValue const value = Ort::KernelContext{mContext}.GetInput(index);
    std::vector<int64_t> const size = value.GetTensorTypeAndShapeInfo().GetShape();
    if (size.size() != 3 || size[2] != 4 || size[0] > kMaxExtent || size[1] > kMaxExtent) {
        throw Refusal{std::string{name} + " must have the shape (N, M, 4), got " + listed(size)};
    }
    return {value.GetTensorData<float>(), static_cast<int32_t>(size[0]), static_cast<int32_t>(size[1])};
}

void* Call::output(std::vector<int64_t> const& size) const
{
    return Ort::KernelContext{mContext}.GetOutput(0, size).GetTensorMutableRawData();
}

ThreadPool Call::threads() const
{
    // The C API does not tell the size of the session's pool. More pieces than threads cost little, fewer leave some
    // idle, so the machine's number stands in for it.
    static int32_t const hardware = std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
    return {&parallelFor, mContext, hardware};
}

#if FREQFUSION_CUDA
cudaStream_t Call::stream() const
{
    return static_cast<cudaStream_t>(Ort::KernelContext{mContext}.GetGPUComputeStream());
}
#endif

} // namespace freqfusion::ort
