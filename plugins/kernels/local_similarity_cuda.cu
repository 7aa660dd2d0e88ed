// SPDX-License-Identifier: Apache-2.0
//! Local similarity: out[n, t, y, x] = u.v / (max(|u|, 1e-8) max(|v|, 1e-8)) for u at (y, x) and v at neighbour t; zero
//! where the neighbour lies outside the image. Dot products and norms are fp32. Neighbours are taken eight at a time:
//! K*K - 1 is a multiple of eight for every odd K, so that neither loop has a remainder and no pixel has padding.
//!
//! At K = 3 each feature element meets 17 multiply-adds, 8.5 per byte of fp16: at 2.8 TB/s that is 24 T/s of the 29 an
//! H100 has on its fp32 units, so that both roofs are near.
#include "device.cuh"
#include "local_similarity_core.h"

namespace freqfusion {
namespace {

constexpr int32_t kBatch = 8; // neighbours
constexpr int32_t kWarps = 8; // share the channels of 32 threads' pixels: maps of 16 x 16 still fill a device
constexpr int32_t kSums = 2 * kBatch + 1;

template <typename T>
struct Similarity {
    T const* features;
    T* output;
    Strides featureStrides;
    Strides outputStrides;
    LocalSimilarityShape shape;
};

__device__ __forceinline__ float cosine(float dot, float ownSquare, float otherSquare)
{
    return dot / (fmaxf(sqrtf(ownSquare), kMinNorm) * fmaxf(sqrtf(otherSquare), kMinNorm));
}

//! Grid: x runs of 32 * kPixels pixels of a row, y batches of neighbours, z images. Threads: 32 runs of kPixels pixels
//! x kWarps shares of the channels. kPixels = 2 needs an even width and dilation: then pairs lie inside or outside
//! whole.
template <typename T, int kPixels>
__global__ void __launch_bounds__(kWarp* kWarps) similarityOfPlanes(Similarity<T> const call, Work const work)
{
    float* const shared = &sharedMemory<float>(); // [warp][sum][pixel]
    constexpr int32_t kRun = kWarp * kPixels;
    LocalSimilarityShape const& shape = call.shape;
    auto const lane = static_cast<int32_t>(threadIdx.x);
    auto const warp = static_cast<int32_t>(threadIdx.y);
    int64_t const runsPerRow = ceilDiv(shape.width, kRun);
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t batch = blockIdx.y; batch < work.y; batch += gridDim.y) {
            for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
                int64_t const y = run / runsPerRow;
                int64_t const x = run % runsPerRow * kRun + lane * kPixels;
                float dots[kBatch][kPixels] = {};
                float squares[kBatch][kPixels] = {};
                float own[kPixels] = {};
                int64_t offsets[kBatch];
                bool inside[kBatch];
#pragma unroll
                for (int32_t i = 0; i < kBatch; ++i) {
                    NeighbourOffset const offset =
                        neighbourOffset(static_cast<int32_t>(batch) * kBatch + i, shape.kernelSize, shape.dilation);
                    offsets[i] = offset.dy * call.featureStrides.row + offset.dx;
                    inside[i] = y + offset.dy >= 0 && y + offset.dy < shape.height && x + offset.dx >= 0
                                && x + offset.dx < shape.width;
                }
                if (x < shape.width) {
                    T const* centre = call.features + n * call.featureStrides.batch + y * call.featureStrides.row + x
                                      + warp * call.featureStrides.channel;
                    for (int32_t c = warp; c < shape.channels; c += kWarps) {
                        Pack<T, kPixels> const u = loadPack<kPixels>(centre);
#pragma unroll
                        for (int32_t i = 0; i < kBatch; ++i) {
                            if (inside[i]) {
                                Pack<T, kPixels> const v = loadPack<kPixels>(centre + offsets[i]);
#pragma unroll
                                for (int32_t p = 0; p < kPixels; ++p) {
                                    float const value = toFloat(v.value[p]);
                                    dots[i][p] += toFloat(u.value[p]) * value;
                                    squares[i][p] += value * value;
                                }
                            }
                        }
#pragma unroll
                        for (int32_t p = 0; p < kPixels; ++p) {
                            own[p] += toFloat(u.value[p]) * toFloat(u.value[p]);
                        }
                        centre += kWarps * call.featureStrides.channel;
                    }
                }
                __syncthreads(); // the run before may still be read
                float* const sums = shared + warp * kSums * kRun + lane * kPixels;
#pragma unroll
                for (int32_t p = 0; p < kPixels; ++p) {
                    sums[2 * kBatch * kRun + p] = own[p];
#pragma unroll
                    for (int32_t i = 0; i < kBatch; ++i) {
                        sums[i * kRun + p] = dots[i][p];
                        sums[(kBatch + i) * kRun + p] = squares[i][p];
                    }
                }
                __syncthreads();
                // From here on a warp is a neighbour.
                if (x < shape.width) {
                    Pack<T, kPixels> result;
#pragma unroll
                    for (int32_t p = 0; p < kPixels; ++p) {
                        float dot = 0.0F;
                        float otherSquare = 0.0F;
                        float ownSquare = 0.0F;
#pragma unroll
                        for (int32_t share = 0; share < kWarps; ++share) {
                            float const* const part = shared + share * kSums * kRun + lane * kPixels + p;
                            dot += part[warp * kRun];
                            otherSquare += part[(kBatch + warp) * kRun];
                            ownSquare += part[2 * kBatch * kRun];
                        }
                        result.value[p] = fromFloat<T>(cosine(dot, ownSquare, otherSquare));
                    }
                    storePack(call.output + n * call.outputStrides.batch
                                  + (batch * kBatch + warp) * call.outputStrides.channel + y * call.outputStrides.row
                                  + x,
                        result);
                }
            }
        }
    }
}

constexpr int32_t kLanesPerPixel = 8; // also the neighbours of a batch: after the sums each lane finishes one
constexpr int32_t kPixelThreads = 128;
constexpr int32_t kPixelsPerBlock = kPixelThreads / kLanesPerPixel;
static_assert(kWarps == kBatch && kLanesPerPixel == kBatch, "a warp or lane finishes one neighbour of a batch");

//! kVector channels of a pixel, of which those from `count` on are padding and count as zero.
template <typename T>
__device__ __forceinline__ void readVector(T const* address, bool isWide, int32_t count, float (&values)[kVector])
{
    Pack<T, kVector> pack;
    if (isWide) {
        pack = loadPack<kVector>(address);
    }
#pragma unroll
    for (int32_t i = 0; i < kVector; ++i) {
        values[i] = i < count ? toFloat(isWide ? pack.value[i] : address[i]) : 0.0F;
    }
}

//! Grid: x runs of kPixelsPerBlock pixels of an image, y batches of neighbours, z images.
template <typename T>
__global__ void __launch_bounds__(kPixelThreads)
    similarityOfPixels(Similarity<T> const call, Work const work, bool const isWide)
{
    LocalSimilarityShape const& shape = call.shape;
    int64_t const pixels = int64_t{shape.height} * shape.width;
    auto const lane = static_cast<int32_t>(threadIdx.x) % kLanesPerPixel;
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        for (int64_t batch = blockIdx.y; batch < work.y; batch += gridDim.y) {
            for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
                int64_t const pixel = run * kPixelsPerBlock + static_cast<int32_t>(threadIdx.x) / kLanesPerPixel;
                // Lanes beyond the image go along: the exchange below needs whole warps.
                bool const isPixel = pixel < pixels;
                int64_t const y = isPixel ? pixel / shape.width : 0;
                int64_t const x = isPixel ? pixel % shape.width : 0;
                T const* const centre = call.features + n * call.featureStrides.batch + y * call.featureStrides.row
                                        + x * call.featureStrides.column;
                float sums[kSums] = {};
                for (int32_t c = lane * kVector; isPixel && c < shape.channels; c += kLanesPerPixel * kVector) {
                    float u[kVector];
                    readVector(centre + c, isWide, shape.channels - c, u);
#pragma unroll
                    for (int32_t i = 0; i < kVector; ++i) {
                        sums[2 * kBatch] += u[i] * u[i];
                    }
#pragma unroll
                    for (int32_t t = 0; t < kBatch; ++t) {
                        NeighbourOffset const offset =
                            neighbourOffset(static_cast<int32_t>(batch) * kBatch + t, shape.kernelSize, shape.dilation);
                        if (y + offset.dy < 0 || y + offset.dy >= shape.height || x + offset.dx < 0
                            || x + offset.dx >= shape.width) {
                            continue;
                        }
                        float v[kVector];
                        readVector(
                            centre + c + offset.dy * call.featureStrides.row + offset.dx * call.featureStrides.column,
                            isWide, shape.channels - c, v);
#pragma unroll
                        for (int32_t i = 0; i < kVector; ++i) {
                            sums[t] += u[i] * v[i];
                            sums[kBatch + t] += v[i] * v[i];
                        }
                    }
                }
#pragma unroll
                for (int32_t i = 0; i < kSums; ++i) {
#pragma unroll
                    for (int32_t distance = kLanesPerPixel / 2; distance > 0; distance /= 2) {
                        sums[i] += __shfl_xor_sync(0xffffffffU, sums[i], distance);
                    }
                }
                float dot = 0.0F;
                float square = 0.0F;
#pragma unroll
                for (int32_t t = 0; t < kBatch; ++t) {
                    dot = t == lane ? sums[t] : dot;
                    square = t == lane ? sums[kBatch + t] : square;
                }
                if (isPixel) {
                    call.output[n * call.outputStrides.batch + y * call.outputStrides.row
                                + x * call.outputStrides.column + batch * kBatch + lane] =
                        fromFloat<T>(cosine(dot, sums[2 * kBatch], square));
                }
            }
        }
    }
}

template <typename T>
cudaError_t launch(
    LocalSimilarityShape const& shape, Layout layout, void const* features, void* output, cudaStream_t stream)
{
    int64_t const neighbours = int64_t{shape.kernelSize} * shape.kernelSize - 1;
    Similarity<T> const call{static_cast<T const*>(features), static_cast<T*>(output),
        stridesOf(layout, shape.channels, shape.height, shape.width),
        stridesOf(layout, neighbours, shape.height, shape.width), shape};
    int64_t const batches = neighbours / kBatch;
    if (layout == Layout::kNHWC) {
        Work const work{ceilDiv(int64_t{shape.height} * shape.width, kPixelsPerBlock), batches, shape.batch};
        return launchKernel(
            &similarityOfPixels<T>, work, dim3(kPixelThreads), 0, stream, call, work, isAligned<T>(features, kVector));
    }
    bool const arePairs =
        shape.width % 2 == 0 && shape.dilation % 2 == 0 && isAligned<T>(features, 2) && isAligned<T>(output, 2);
    int32_t const run = kWarp * (arePairs ? 2 : 1);
    Work const work{ceilDiv(shape.width, run) * shape.height, batches, shape.batch};
    std::size_t const sharedBytes = sizeof(float) * kWarps * kSums * static_cast<std::size_t>(run);
    return arePairs
               ? launchKernel(&similarityOfPlanes<T, 2>, work, dim3(kWarp, kWarps), sharedBytes, stream, call, work)
               : launchKernel(&similarityOfPlanes<T, 1>, work, dim3(kWarp, kWarps), sharedBytes, stream, call, work);
}

} // namespace

cudaError_t launchLocalSimilarity(LocalSimilarityShape const& shape, DType dtype, Layout layout, void const* features,
    void* output, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    return withElementType(
        dtype, [&](auto element) { return launch<decltype(element)>(shape, layout, features, output, stream); });
}

} // namespace freqfusion
