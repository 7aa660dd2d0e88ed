// SPDX-License-Identifier: Apache-2.0
//! Average of a pyramid over boxes: one thread for each output cell of a channel, over all its samples. Threads of a
//! warp read neighbouring cells of one box and channel, whose samples lie in a few rows of one plane.
#include "device.cuh"
#include "pyramid_roi_align_core.h"

namespace freqfusion {
namespace {

constexpr int32_t kThreads = 256;

template <typename T>
struct PyramidAverage {
    PyramidRoiAlignShape shape;
    T const* maps[kPyramidLevels];
    float const* boxes;
    T* output;
    int64_t count; //!< of output elements
};

template <typename T>
__device__ __forceinline__ float rowSample(T const* row, SamplePoint const& x)
{
    return toFloat(row[x.low]) * (1.0F - x.share) + toFloat(row[x.high]) * x.share;
}

template <typename T>
__device__ __forceinline__ float cellAverage(PyramidAverage<T> const& call, int64_t index)
{
    PyramidRoiAlignShape const& shape = call.shape;
    int32_t const column = static_cast<int32_t>(index % shape.outputSize);
    index /= shape.outputSize;
    int32_t const row = static_cast<int32_t>(index % shape.outputSize);
    index /= shape.outputSize;
    int64_t const channel = index % shape.channels;
    int64_t const roi = index / shape.channels;
    float const* const box = call.boxes + roi * 4;
    int32_t const level = pyramidLevel(box, shape.finestScale);
    int32_t const height = shape.height[level];
    int32_t const width = shape.width[level];
    float const stride = static_cast<float>(shape.finestStride) * static_cast<float>(1 << level);
    SampleAxis const vertical = sampleAxis(box[1], box[3], stride, height, shape.outputSize);
    SampleAxis const horizontal = sampleAxis(box[0], box[2], stride, width, shape.outputSize);
    if (vertical.samples == 0 || horizontal.samples == 0) {
        return 0.0F;
    }
    int64_t const planeSize = int64_t{height} * width;
    T const* const plane = call.maps[level] + (roi / shape.boxes * shape.channels + channel) * planeSize;
    SampleRange const rows = samplesNearMap(vertical, row);
    SampleRange const columns = samplesNearMap(horizontal, column);
    float total = 0.0F;
    for (int32_t i = rows.first; i < rows.end; ++i) {
        SamplePoint const y = samplePoint(vertical, row, i);
        if (!y.isInside) {
            continue;
        }
        T const* const upper = plane + int64_t{y.low} * width;
        T const* const lower = plane + int64_t{y.high} * width;
        for (int32_t j = columns.first; j < columns.end; ++j) {
            SamplePoint const x = samplePoint(horizontal, column, j);
            if (x.isInside) {
                total += rowSample(upper, x) * (1.0F - y.share) + rowSample(lower, x) * y.share;
            }
        }
    }
    return total / (static_cast<float>(vertical.samples) * static_cast<float>(horizontal.samples));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) averagePyramid(PyramidAverage<T> const call)
{
    int64_t const step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < call.count; i += step) {
        call.output[i] = fromFloat<T>(cellAverage(call, i));
    }
}

template <typename T>
cudaError_t launch(
    PyramidRoiAlignShape const& shape, void const* const* maps, float const* boxes, void* output, cudaStream_t stream)
{
    PyramidAverage<T> call{shape, {}, boxes, static_cast<T*>(output),
        int64_t{shape.batch} * shape.boxes * shape.channels * shape.outputSize * shape.outputSize};
    for (int32_t level = 0; level < kPyramidLevels; ++level) {
        call.maps[level] = static_cast<T const*>(maps[level]);
    }
    Work const work{ceilDiv(call.count, kThreads), 1, 1};
    return launchKernel(&averagePyramid<T>, work, dim3(kThreads), 0, stream, call);
}

} // namespace

cudaError_t launchPyramidRoiAlign(PyramidRoiAlignShape const& shape, DType dtype, void const* const* maps,
    float const* boxes, void* output, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    return withElementType(
        dtype, [&](auto element) { return launch<decltype(element)>(shape, maps, boxes, output, stream); });
}

} // namespace freqfusion
