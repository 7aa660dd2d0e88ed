// SPDX-License-Identifier: Apache-2.0
//! Resize and argmax: label[n, Y, X] = argmax over c of sum over (i, j) of row weight i * column weight j *
//! scores[n, c, row i, column j], with up to four rows and columns (two bilinear steps of two pixels each, see
//! resizeTaps). Sums are fp32. The lowest class wins a tie; scores at the output's size exist in registers only.
//!
//! Planes are reduced along rows first: a block takes part of an output row, works out that row's values at the source
//! columns it needs for 16 classes in shared memory, once for all its pixels, and each thread finishes its own pixel
//! from there. Where the source is so wide that these columns do not fit, each thread reads all its source pixels.
#include "device.cuh"
#include "resize_argmax_core.h"

namespace freqfusion {
namespace {

constexpr int32_t kThreads = 256;                  // output pixels of a block
constexpr int32_t kStagedClasses = 16;             // three columns of 150 classes: ten turns of two barriers each
constexpr std::size_t kMaxSharedBytes = 48 * 1024; // what every device grants without asking

template <typename T>
struct Resize {
    T const* scores;
    int32_t* labels;
    Strides strides;
    ResizeArgmaxShape shape;
};

template <typename T>
__device__ __forceinline__ ResizeTaps rowTaps(Resize<T> const& call, int32_t outY)
{
    return resizeTaps(outY, call.shape.height, call.shape.stepHeight, call.shape.outHeight, call.shape.alignCorners);
}

template <typename T>
__device__ __forceinline__ ResizeTaps columnTaps(Resize<T> const& call, int32_t outX)
{
    return resizeTaps(outX, call.shape.width, call.shape.stepWidth, call.shape.outWidth, call.shape.alignCorners);
}

//! The largest score so far. Like torch.argmax it prefers the first NaN to any number.
struct Best {
    float score;
    int32_t label;

    __device__ __forceinline__ void meet(float other, int32_t otherLabel)
    {
        if (otherLabel == 0 || other > score || (other != other && score == score)) {
            score = other;
            label = otherLabel;
        }
    }
};

//! First and last source column that output columns `first` to `last` read.
struct Span {
    int32_t first;
    int32_t last;
};

FREQFUSION_HOST_DEVICE static inline Span sourceSpan(ResizeArgmaxShape const& shape, int32_t first, int32_t last)
{
    // Positions never decrease along an axis, whatever the rounding.
    int32_t const stepFirst = resizePair(first, shape.stepWidth, shape.outWidth, shape.alignCorners).first;
    int32_t const stepLast = resizePair(last, shape.stepWidth, shape.outWidth, shape.alignCorners).second;
    return {resizePair(stepFirst, shape.width, shape.stepWidth, shape.alignCorners).first,
        resizePair(stepLast, shape.width, shape.stepWidth, shape.alignCorners).second};
}

FREQFUSION_HOST_DEVICE static inline int32_t runEnd(int64_t first, int32_t outWidth)
{
    return static_cast<int32_t>(first + kThreads < outWidth ? first + kThreads : outWidth) - 1;
}

//! Grid: x runs of kThreads output pixels of a row, z images. Shared memory: [class][source column], `pitch` columns.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    labelStagedPlanes(Resize<T> const call, Work const work, int32_t const pitch)
{
    float* const shared = &sharedMemory<float>();
    ResizeArgmaxShape const& shape = call.shape;
    int64_t const runsPerRow = ceilDiv(shape.outWidth, kThreads);
    auto const thread = static_cast<int32_t>(threadIdx.x);
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
            auto const outY = static_cast<int32_t>(run / runsPerRow);
            int64_t const firstX = run % runsPerRow * kThreads;
            int32_t const lastX = runEnd(firstX, shape.outWidth);
            Span const span = sourceSpan(shape, static_cast<int32_t>(firstX), lastX);
            int32_t const columns = span.last - span.first + 1;
            ResizeTaps const vertical = rowTaps(call, outY);
            // A thread beyond the row works on its last pixel and stores nothing.
            bool const isPixel = firstX + thread <= lastX;
            int32_t const outX = isPixel ? static_cast<int32_t>(firstX) + thread : lastX;
            ResizeTaps horizontal = columnTaps(call, outX);
            for (int32_t tap = 0; tap < horizontal.count; ++tap) {
                horizontal.index[tap] -= span.first;
            }
            T const* const image = call.scores + n * call.strides.batch + span.first;
            Best best{0.0F, 0};
            for (int32_t firstClass = 0; firstClass < shape.classes; firstClass += kStagedClasses) {
                int32_t const left = shape.classes - firstClass;
                int32_t const classes = left < kStagedClasses ? left : kStagedClasses;
                __syncthreads(); // the classes before may still be read
                for (int32_t i = thread; i < classes * columns; i += kThreads) {
                    int32_t const inStage = i / columns;
                    int32_t const column = i % columns;
                    T const* const plane = image + (firstClass + inStage) * call.strides.channel + column;
                    float value = 0.0F;
#pragma unroll
                    for (int32_t tap = 0; tap < kMaxResizeTaps; ++tap) {
                        if (tap < vertical.count) {
                            value += vertical.weight[tap] * toFloat(plane[vertical.index[tap] * call.strides.row]);
                        }
                    }
                    shared[inStage * pitch + column] = value;
                }
                __syncthreads();
                for (int32_t inStage = 0; inStage < classes; ++inStage) {
                    float const* const row = shared + inStage * pitch;
                    float value = 0.0F;
#pragma unroll
                    for (int32_t tap = 0; tap < kMaxResizeTaps; ++tap) {
                        if (tap < horizontal.count) {
                            value += horizontal.weight[tap] * row[horizontal.index[tap]];
                        }
                    }
                    best.meet(value, firstClass + inStage);
                }
            }
            if (isPixel) {
                call.labels[(n * shape.outHeight + outY) * shape.outWidth + outX] = best.label;
            }
        }
    }
}

//! Grid: x runs of kThreads output pixels of an image, z images. kClasses are read at once: kVector of a channels-last
//! tensor whose pixels are aligned, else one.
template <typename T, int kClasses>
__global__ void __launch_bounds__(kThreads) labelPixels(Resize<T> const call, Work const work)
{
    ResizeArgmaxShape const& shape = call.shape;
    int64_t const pixels = int64_t{shape.outHeight} * shape.outWidth;
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
            int64_t const pixel = run * kThreads + static_cast<int32_t>(threadIdx.x);
            if (pixel >= pixels) {
                continue;
            }
            ResizeTaps const vertical = rowTaps(call, static_cast<int32_t>(pixel / shape.outWidth));
            ResizeTaps const horizontal = columnTaps(call, static_cast<int32_t>(pixel % shape.outWidth));
            T const* scores = call.scores + n * call.strides.batch;
            Best best{0.0F, 0};
            for (int32_t c = 0; c < shape.classes; c += kClasses) {
                float values[kClasses] = {};
#pragma unroll
                for (int32_t i = 0; i < kMaxResizeTaps; ++i) {
                    if (i >= vertical.count) {
                        continue;
                    }
#pragma unroll
                    for (int32_t j = 0; j < kMaxResizeTaps; ++j) {
                        if (j >= horizontal.count) {
                            continue;
                        }
                        float const weight = vertical.weight[i] * horizontal.weight[j];
                        Pack<T, kClasses> const pack = loadPack<kClasses>(
                            scores + vertical.index[i] * call.strides.row + horizontal.index[j] * call.strides.column);
#pragma unroll
                        for (int32_t k = 0; k < kClasses; ++k) {
                            values[k] += weight * toFloat(pack.value[k]);
                        }
                    }
                }
#pragma unroll
                for (int32_t k = 0; k < kClasses; ++k) {
                    if (c + k < shape.classes) {
                        best.meet(values[k], c + k);
                    }
                }
                scores += kClasses * call.strides.channel;
            }
            call.labels[n * pixels + pixel] = best.label;
        }
    }
}

//! Source columns of the widest run of kThreads output pixels.
int32_t widestSpan(ResizeArgmaxShape const& shape)
{
    int32_t widest = 0;
    for (int64_t first = 0; first < shape.outWidth; first += kThreads) {
        Span const span = sourceSpan(shape, static_cast<int32_t>(first), runEnd(first, shape.outWidth));
        widest = std::max(widest, span.last - span.first + 1);
    }
    return widest;
}

template <typename T>
cudaError_t launch(
    ResizeArgmaxShape const& shape, Layout layout, void const* scores, int32_t* labels, cudaStream_t stream)
{
    Resize<T> const call{
        static_cast<T const*>(scores), labels, stridesOf(layout, shape.classes, shape.height, shape.width), shape};
    Work const pixels{ceilDiv(int64_t{shape.outHeight} * shape.outWidth, kThreads), 1, shape.batch};
    if (layout == Layout::kNHWC) {
        return isAligned<T>(scores, kVector)
                   ? launchKernel(&labelPixels<T, kVector>, pixels, dim3(kThreads), 0, stream, call, pixels)
                   : launchKernel(&labelPixels<T, 1>, pixels, dim3(kThreads), 0, stream, call, pixels);
    }
    int32_t const pitch = widestSpan(shape);
    std::size_t const sharedBytes = sizeof(float) * kStagedClasses * static_cast<std::size_t>(pitch);
    if (sharedBytes > kMaxSharedBytes) {
        return launchKernel(&labelPixels<T, 1>, pixels, dim3(kThreads), 0, stream, call, pixels);
    }
    Work const rows{ceilDiv(shape.outWidth, kThreads) * shape.outHeight, 1, shape.batch};
    return launchKernel(&labelStagedPlanes<T>, rows, dim3(kThreads), sharedBytes, stream, call, rows, pitch);
}

} // namespace

cudaError_t launchResizeArgmax(ResizeArgmaxShape const& shape, DType dtype, Layout layout, void const* scores,
    int32_t* labels, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    return withElementType(
        dtype, [&](auto element) { return launch<decltype(element)>(shape, layout, scores, labels, stream); });
}

} // namespace freqfusion
