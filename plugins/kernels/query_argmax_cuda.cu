// SPDX-License-Identifier: Apache-2.0
//! Label maps from queries. A block makes a tile of the label map, which reads at most kPixels pixels of the padded
//! image (kPixels / 4 output pixels in the worst case). The scores of kClasses classes at those pixels are a product of
//! matrices, summed over the queries in registers, kStagedQueries of them at a time in shared memory: the sigmoid of
//! the resized masks, and the classes' shares. Then they replace those in shared memory, and each thread mixes the
//! scores of its own output pixel there. All sums are fp32; class maps exist for a tile only.
#include "device.cuh"
#include "query_argmax.h"
#include "resize_argmax_core.h"

namespace freqfusion {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kPixels = 64;
constexpr int32_t kClasses = 160; // ADE20K's 150 in one turn; 40 KB of scores
constexpr int32_t kStagedQueries = 16;
constexpr int32_t kThreadPixels = 4;
constexpr int32_t kThreadClasses = 10;
constexpr int32_t kMostSide = 32; // of a tile, in output pixels; kThreads of them at most in all
static_assert(kPixels / kThreadPixels * (kClasses / kThreadClasses) == kThreads, "each thread sums one block");

//! How the label map is cut up. `rows * columns` output pixels read at most kPixels pixels.
struct Tiles {
    int32_t rows;
    int32_t columns;
    int64_t down;
    int64_t across;
};

template <typename T>
struct Queries {
    QueryArgmaxShape shape;
    T const* masks;
    T const* classes;
    int32_t* labels;
    Tiles tiles;
};

//! Which pixels of the padded image the output pixels of a tile read along one axis: distinct ones, ascending.
struct Axis {
    int32_t count;
    int32_t pixel[kPixels];
    int32_t first[kMostSide]; //!< index among `pixel`, of every output pixel
    int32_t second[kMostSide];
    float share[kMostSide];
};

struct Softmax {
    float largest;
    float sum;
};

struct Shared {
    Axis rows;
    Axis columns;
    union {
        struct {
            float masks[kStagedQueries][kPixels];
            float shares[kStagedQueries][kClasses];
        } staged;
        float scores[kClasses][kPixels];
    };
};
static_assert(sizeof(Shared) + kMaxQueries * sizeof(Softmax) <= 48 * 1024, "what every device grants without asking");

__device__ __forceinline__ void findAxis(Axis& axis, int32_t begin, int32_t count, int32_t keptSize, int32_t outSize)
{
    axis.count = 0;
    for (int32_t i = 0; i < count; ++i) {
        // Positions never decrease along an axis, so a pixel met before is the last or the last but one.
        ResizePair const pair = resizePair(begin + i, keptSize, outSize, false);
        int32_t found[2];
        for (int32_t end = 0; end < 2; ++end) {
            int32_t const wanted = end == 0 ? pair.first : pair.second;
            if (axis.count == 0 || axis.pixel[axis.count - 1] < wanted) {
                axis.pixel[axis.count++] = wanted;
            }
            found[end] = axis.pixel[axis.count - 1] == wanted ? axis.count - 1 : axis.count - 2;
        }
        axis.first[i] = found[0];
        axis.second[i] = found[1];
        axis.share[i] = pair.share;
    }
}

//! The sigmoid of query `q`'s mask at pixel (y, x) of the padded image.
template <typename T>
__device__ __forceinline__ float maskAt(Queries<T> const& call, int64_t n, int32_t q, int32_t y, int32_t x)
{
    QueryArgmaxShape const& shape = call.shape;
    ResizePair const rows = resizePair(y, shape.height, shape.paddedHeight, false);
    ResizePair const columns = resizePair(x, shape.width, shape.paddedWidth, false);
    T const* const map = call.masks + (n * shape.queries + q) * shape.height * int64_t{shape.width};
    T const* const upper = map + int64_t{rows.first} * shape.width;
    T const* const lower = map + int64_t{rows.second} * shape.width;
    float const left = toFloat(upper[columns.first]) * (1.0F - rows.share) + toFloat(lower[columns.first]) * rows.share;
    float const right =
        toFloat(upper[columns.second]) * (1.0F - rows.share) + toFloat(lower[columns.second]) * rows.share;
    float const logit = left + (right - left) * columns.share;
    return 1.0F / (1.0F + expf(-logit));
}

//! Softmax's constants of a query's class logits, "no object" included.
template <typename T>
__device__ __forceinline__ Softmax softmaxOf(T const* logits, int32_t count)
{
    Softmax softmax{toFloat(logits[0]), 0.0F};
    for (int32_t c = 1; c < count; ++c) {
        softmax.largest = fmaxf(softmax.largest, toFloat(logits[c]));
    }
    for (int32_t c = 0; c < count; ++c) {
        softmax.sum += expf(toFloat(logits[c]) - softmax.largest);
    }
    return softmax;
}

//! Grid: x tiles of an image, z images. Shared memory: Shared, then a Softmax for each query.
template <typename T>
__global__ void __launch_bounds__(kThreads) labelTiles(Queries<T> const call, Work const work)
{
    QueryArgmaxShape const& shape = call.shape;
    Shared& shared = sharedMemory<Shared>();
    Softmax* const softmax = reinterpret_cast<Softmax*>(&shared + 1);
    auto const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const ownPixel = thread % (kPixels / kThreadPixels) * kThreadPixels;
    int32_t const ownClass = thread / (kPixels / kThreadPixels) * kThreadClasses;
    for (int64_t n = blockIdx.z; n < work.z; n += gridDim.z) {
        T const* const classes = call.classes + n * shape.queries * (int64_t{shape.classes} + 1);
        __syncthreads(); // the image before may still be read
        for (int32_t q = thread; q < shape.queries; q += kThreads) {
            softmax[q] = softmaxOf(classes + q * (int64_t{shape.classes} + 1), shape.classes + 1);
        }
        for (int64_t tile = blockIdx.x; tile < work.x; tile += gridDim.x) {
            auto const y0 = static_cast<int32_t>(tile / call.tiles.across * call.tiles.rows);
            auto const x0 = static_cast<int32_t>(tile % call.tiles.across * call.tiles.columns);
            int32_t const rowsLeft = shape.outHeight - y0;
            int32_t const columnsLeft = shape.outWidth - x0;
            int32_t const rows = rowsLeft < call.tiles.rows ? rowsLeft : call.tiles.rows;
            int32_t const columns = columnsLeft < call.tiles.columns ? columnsLeft : call.tiles.columns;
            __syncthreads(); // the tile before may still be read
            if (thread == 0) {
                findAxis(shared.rows, y0, rows, shape.keptHeight, shape.outHeight);
            } else if (thread == kWarp) {
                findAxis(shared.columns, x0, columns, shape.keptWidth, shape.outWidth);
            }
            __syncthreads();
            int32_t const across = shared.columns.count;
            int32_t const pixels = shared.rows.count * across;
            float best = -1.0F; // sums of products of shares and sigmoids are not negative
            int32_t label = 0;
            for (int32_t firstClass = 0; firstClass < shape.classes; firstClass += kClasses) {
                float sum[kThreadClasses][kThreadPixels] = {};
                for (int32_t firstQuery = 0; firstQuery < shape.queries; firstQuery += kStagedQueries) {
                    __syncthreads(); // what was staged before, or the scores, may still be read
                    for (int32_t i = thread; i < kStagedQueries * kPixels; i += kThreads) {
                        int32_t const q = firstQuery + i / kPixels;
                        int32_t const pixel = i % kPixels;
                        shared.staged.masks[i / kPixels][pixel] =
                            q < shape.queries && pixel < pixels ? maskAt(call, n, q, shared.rows.pixel[pixel / across],
                                                                      shared.columns.pixel[pixel % across])
                                                                : 0.0F;
                    }
                    for (int32_t i = thread; i < kStagedQueries * kClasses; i += kThreads) {
                        int32_t const q = firstQuery + i / kClasses;
                        int32_t const c = firstClass + i % kClasses;
                        shared.staged.shares[i / kClasses][i % kClasses] =
                            q < shape.queries && c < shape.classes
                                ? expf(toFloat(classes[q * (int64_t{shape.classes} + 1) + c]) - softmax[q].largest)
                                      / softmax[q].sum
                                : 0.0F;
                    }
                    __syncthreads();
                    for (int32_t q = 0; q < kStagedQueries; ++q) {
#pragma unroll
                        for (int32_t c = 0; c < kThreadClasses; ++c) {
                            float const share = shared.staged.shares[q][ownClass + c];
#pragma unroll
                            for (int32_t p = 0; p < kThreadPixels; ++p) {
                                sum[c][p] += share * shared.staged.masks[q][ownPixel + p];
                            }
                        }
                    }
                }
                __syncthreads();
#pragma unroll
                for (int32_t c = 0; c < kThreadClasses; ++c) {
#pragma unroll
                    for (int32_t p = 0; p < kThreadPixels; ++p) {
                        shared.scores[ownClass + c][ownPixel + p] = sum[c][p];
                    }
                }
                __syncthreads();
                if (thread < rows * columns) {
                    int32_t const row = thread / columns;
                    int32_t const column = thread % columns;
                    int32_t const upper = shared.rows.first[row] * across;
                    int32_t const lower = shared.rows.second[row] * across;
                    int32_t const left = shared.columns.first[column];
                    int32_t const right = shared.columns.second[column];
                    float const down = shared.rows.share[row];
                    float const aside = shared.columns.share[column];
                    int32_t const classesLeft = shape.classes - firstClass;
                    int32_t const count = classesLeft < kClasses ? classesLeft : kClasses;
                    for (int32_t c = 0; c < count; ++c) {
                        float const* const scores = shared.scores[c];
                        float const top = scores[upper + left] + (scores[upper + right] - scores[upper + left]) * aside;
                        float const bottom =
                            scores[lower + left] + (scores[lower + right] - scores[lower + left]) * aside;
                        float const score = top + (bottom - top) * down;
                        if (score > best) {
                            best = score;
                            label = firstClass + c;
                        }
                    }
                }
            }
            if (thread < rows * columns) {
                int64_t const row = n * shape.outHeight + y0 + thread / columns;
                call.labels[row * shape.outWidth + x0 + thread % columns] = label;
            }
        }
    }
}

//! Bound on the pixels that `count` neighbouring output pixels read along an axis.
int32_t mostRead(int32_t count, int32_t keptSize, int32_t outSize)
{
    if (keptSize == outSize) {
        return count;
    }
    int64_t const apart = ceilDiv((count - 1) * int64_t{keptSize}, outSize) + 3; // the last two, and one for rounding
    return static_cast<int32_t>(std::min<int64_t>(2 * int64_t{count}, apart));
}

//! The largest tile, nearly square, that fits.
Tiles tilesOf(QueryArgmaxShape const& shape)
{
    Tiles tiles{1, 1, 0, 0};
    auto const fits = [&](int32_t rows, int32_t columns) {
        return rows * columns <= kThreads && rows <= kMostSide && columns <= kMostSide
               && mostRead(rows, shape.keptHeight, shape.outHeight) * mostRead(columns, shape.keptWidth, shape.outWidth)
                      <= kPixels;
    };
    for (bool hasGrown = true; hasGrown;) {
        hasGrown = false;
        if (fits(tiles.rows, tiles.columns + 1)) {
            ++tiles.columns;
            hasGrown = true;
        }
        if (fits(tiles.rows + 1, tiles.columns)) {
            ++tiles.rows;
            hasGrown = true;
        }
    }
    tiles.down = ceilDiv(shape.outHeight, tiles.rows);
    tiles.across = ceilDiv(shape.outWidth, tiles.columns);
    return tiles;
}

template <typename T>
cudaError_t launch(
    QueryArgmaxShape const& shape, void const* masks, void const* classes, int32_t* labels, cudaStream_t stream)
{
    Queries<T> const call{shape, static_cast<T const*>(masks), static_cast<T const*>(classes), labels, tilesOf(shape)};
    Work const work{call.tiles.down * call.tiles.across, 1, shape.batch};
    std::size_t const sharedBytes = sizeof(Shared) + sizeof(Softmax) * static_cast<std::size_t>(shape.queries);
    return launchKernel(&labelTiles<T>, work, dim3(kThreads), sharedBytes, stream, call, work);
}

} // namespace

cudaError_t launchQueryArgmax(QueryArgmaxShape const& shape, DType dtype, void const* masks, void const* classes,
    int32_t* labels, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    return withElementType(
        dtype, [&](auto element) { return launch<decltype(element)>(shape, masks, classes, labels, stream); });
}

} // namespace freqfusion
