// SPDX-License-Identifier: Apache-2.0
//! Reassembly on the CPU, for `Carafe` and `AdaptiveFilter`, which differ only in what they make of the mask.
//!
//! The output is made tile by tile, a tile being a few rows of a few segments, a segment kLanes input pixels of one
//! row. With scale S each segment has S*S planes, one for each place (i, j) in the S x S cell of output pixels that an
//! input pixel becomes; all planes of a segment read the same input, so up to four are summed at once from one load. A
//! tile's weights are brought once into order [row][segment][tap][plane][lane] as fp32 and serve all channels. Input is
//! read in place where the tile's window lies inside an fp32 map; elsewhere it is first copied into a patch, as fp32
//! and with zeros or reflections outside the image, so that the inner loop knows neither borders nor element types.
#pragma once

#include "carafe_core.h"
#include "patch_simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kMaxPlanes = 4;
// Scratch of a task, on its stack: a tile's weights and the patches of one channel block.
constexpr int32_t kWeightFloats = 25600;
constexpr int32_t kPatchFloats = 10240;
constexpr int32_t kMaxRows = 32;
// Weights of a tile are read again for every channel block, and a second-level cache supplies them fast enough: never
// moving on from the first segment's was faster by only 1.03. 50 KB beat 25 KB, which fit the first level, by 1.3, and
// 100 KB beat 50 KB by 1.15 (416 x 32 x 32, K 5, S 2, 2 threads, Xeon of family 6 model 167, 2026-11): larger tiles
// read and write longer runs of memory, and without its stores, as without its input, this shape takes a quarter less.
// 200 KB gained nothing more.
constexpr int32_t kCachedWeightFloats = 25600;
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int32_t kBlockOfPlanes = 3; // 4 planes x 3 channels of sums, 3 inputs and a weight fill 16 registers
constexpr int32_t kBlockOfOnePlane = 4;
#elif defined(__SSE2__) && !defined(__AVX512F__)
constexpr int32_t kBlockOfPlanes = 2;
constexpr int32_t kBlockOfOnePlane = 4;
#else
constexpr int32_t kBlockOfPlanes = 4;
constexpr int32_t kBlockOfOnePlane = 4;
#endif

// At least so many tiles for each thread before a tile grows beyond four rows. With fewer, channels are split and
// weights normalized more than once, which narrow vectors take longer for: K 3, S 1 at 64 x 64 x 64 is faster by 1.4
// with two tiles than with one on the baseline, 160 x 32 x 32 slower by 1.2 with AVX-512 (same machine).
#if defined(__AVX512F__)
constexpr int64_t kTilesOfThread = 1;
#else
constexpr int64_t kTilesOfThread = 2;
#endif

//! Size of the tiles a reassembly is cut into, and how many there are along each axis.
struct ReassemblyPlan {
    int32_t planes; //!< summed at once
    int32_t rows;
    int32_t segments;
    int32_t channels;
    int64_t rowTiles;
    int64_t columnTiles;
    int64_t channelTiles;
};

//! Columns that a patch holds on either side of its tile.
FREQFUSION_INLINE int32_t patchMargin(CarafeShape const& shape)
{
    return ceilDivide(shape.kernelSize / 2, kLanes) * kLanes;
}

FREQFUSION_INLINE int32_t patchPitch(CarafeShape const& shape, int32_t segments)
{
    return segments * kLanes + 2 * patchMargin(shape);
}

FREQFUSION_INLINE ReassemblyPlan planReassembly(CarafeShape const& shape, int32_t threads)
{
    ReassemblyPlan plan{};
    int32_t const segmentsOfRow = ceilDivide(shape.width, kLanes);
    int32_t const taps = shape.kernelSize * shape.kernelSize * kLanes;
    plan.planes = shape.scale > 1 && taps * kMaxPlanes <= kWeightFloats ? kMaxPlanes : 1;
    int32_t const weights = taps * plan.planes;
    int32_t const block = plan.planes > 1 ? kBlockOfPlanes : kBlockOfOnePlane;
    auto const weightsFit = [&](int32_t rows, int32_t segments) {
        return rows * segments * weights <= kCachedWeightFloats;
    };
    auto const patchFits = [&](int32_t rows, int32_t segments) {
        return (rows + shape.kernelSize - 1) * patchPitch(shape, segments) * block <= kPatchFloats;
    };
    // Four rows of as many segments as fit, then more rows as long as there are tiles for every thread.
    plan.rows = smaller(4, shape.height);
    plan.segments = 1;
    while (plan.rows > 1 && !(weightsFit(plan.rows, 1) && patchFits(plan.rows, 1))) {
        --plan.rows;
    }
    while (plan.segments < segmentsOfRow && weightsFit(plan.rows, plan.segments + 1)
           && patchFits(plan.rows, plan.segments + 1)) {
        ++plan.segments;
    }
    plan.columnTiles = ceilDivide(segmentsOfRow, plan.segments);
    int64_t const strips = int64_t{shape.batch} * shape.groups * plan.columnTiles;
    auto const occupiesThreads = [&](int32_t rows) {
        return strips * ceilDivide(shape.height, rows) >= kTilesOfThread * threads;
    };
    while (plan.rows < smaller(kMaxRows, shape.height) && occupiesThreads(plan.rows + 1)
           && weightsFit(plan.rows + 1, plan.segments) && patchFits(plan.rows + 1, plan.segments)) {
        ++plan.rows;
    }
    // Of equal height: 15 rows and 1 of a map of 16 would leave one thread idle.
    plan.rows = ceilDivide(shape.height, ceilDivide(shape.height, plan.rows));
    plan.rowTiles = ceilDivide(shape.height, plan.rows);
    // Channels are split only for want of other pieces: each piece normalizes the tile's weights again, which made
    // 25 x 32 x 32 slower by 1.3 with AVX2 where two tiles for each thread were there already.
    int32_t const channels = shape.channels / shape.groups;
    int64_t const pieces = strips * plan.rowTiles;
    bool const needsPieces = threads > 1 && pieces < 2 * int64_t{threads};
    int64_t const wanted = needsPieces ? ceilDivide<int64_t>(int64_t{threads} * 3, pieces) : 1;
    int64_t const most = larger(channels / (4 * block), 1);
    plan.channels = ceilDivide(ceilDivide(channels, static_cast<int32_t>(smaller(wanted, most))), block) * block;
    plan.channelTiles = ceilDivide(channels, plan.channels);
    return plan;
}

//! Writes the reflections of a map into the patch that copyWindow has filled, as far as windows reach: `radius` pixels
//! beyond each edge. What they reflect lies in the patch too, which holds a pixel of the map and its window.
FREQFUSION_INLINE void reflectEdges(
    int32_t height, int32_t width, int32_t radius, int32_t y0, int32_t rows, int32_t x0, int32_t pitch, float* patch)
{
    int32_t const endX = x0 + pitch;
    for (int32_t y = larger(y0, 0); y < smaller(y0 + rows, height); ++y) {
        float* const row = patch + int64_t{y - y0} * pitch - x0;
        for (int32_t d = 1; d <= radius; ++d) {
            if (-d >= x0) {
                row[-d] = row[d];
            }
            if (width - 1 + d < endX) {
                row[width - 1 + d] = row[width - 1 - d];
            }
        }
    }
    auto const copyRow = [&](int32_t to, int32_t from) {
        for (int32_t i = 0; i < pitch; i += kLanes) {
            store(patch + int64_t{to - y0} * pitch + i, load(patch + int64_t{from - y0} * pitch + i));
        }
    };
    for (int32_t y = y0; y < 0; ++y) {
        copyRow(y, -y);
    }
    for (int32_t y = height; y < y0 + rows; ++y) {
        copyRow(y, 2 * (height - 1) - y);
    }
}

//! Sums kChannels channels of one segment over the window: sum[plane][channel] += weight[tap][plane] * input[channel].
template <int kPlanes, int kChannels>
FREQFUSION_INLINE void sumWindow(float const* input, int64_t rowPitch, int64_t channelPitch, float const* weights,
    int32_t kernelSize, Vec (&sum)[kPlanes][kChannels])
{
    for (int32_t ky = 0; ky < kernelSize; ++ky) {
        float const* const row = input + ky * rowPitch;
        for (int32_t kx = 0; kx < kernelSize; ++kx) {
            Vec in[kChannels];
            for (int32_t c = 0; c < kChannels; ++c) {
                in[c] = load(row + kx + c * channelPitch);
            }
            for (int32_t p = 0; p < kPlanes; ++p) {
                Vec const weight = load(weights + p * kLanes);
                for (int32_t c = 0; c < kChannels; ++c) {
                    sum[p][c] += weight * in[c];
                }
            }
            weights += kPlanes * kLanes;
        }
    }
}

//! A number known when compiling, as an argument.
template <int kValue>
struct Constant {
    static constexpr int value = kValue;
};

//! One reassembly with all that its tasks share.
template <typename T, typename Finish>
struct Reassembly {
    CarafeShape const& shape;
    ReassemblyPlan const& plan;
    T const* features;
    T const* mask;
    T* output;
    Finish const& finish; //!< finish(weights, planes) turns a segment's mask values into weights, in place

    [[nodiscard]] int64_t outWidth() const { return int64_t{shape.width} * shape.scale; }
    [[nodiscard]] int64_t outPlane() const { return shape.height * shape.scale * outWidth(); }

    //! Reads a segment's mask values of planes [firstPlane, firstPlane + kPlanes) into [tap][plane][lane].
    template <int kPlanes, int kScale>
    void loadWeights(T const* group, int32_t y, int32_t x, int32_t firstPlane, float* weights) const
    {
        int32_t const taps = shape.kernelSize * shape.kernelSize;
        int32_t const scale = shape.scale;
        int32_t const count = smaller(kLanes, shape.width - x);
        for (int32_t t = 0; t < taps; ++t) {
            T const* const plane = group + t * outPlane() + y * scale * outWidth() + int64_t{x} * scale;
            float* const to = weights + t * kPlanes * kLanes;
            if constexpr (kScale == 1) {
                store(to, loadPart(plane, count));
            } else if constexpr (kScale == 2) {
                for (int32_t i = 0; i < 2; ++i) {
                    T const* const row = plane + i * outWidth();
                    Vec even;
                    Vec odd;
                    unzip(loadPart(row, 2 * count), loadPart(row + kLanes, 2 * count - kLanes), even, odd);
                    store(to + 2 * i * kLanes, even);
                    store(to + (2 * i + 1) * kLanes, odd);
                }
            } else {
                for (int32_t p = 0; p < kPlanes; ++p) {
                    T const* const from = plane + (firstPlane + p) / scale * outWidth() + (firstPlane + p) % scale;
                    T lanes[kLanes] = {};
                    for (int32_t i = 0; i < count; ++i) {
                        lanes[i] = from[int64_t{i} * scale];
                    }
                    store(to + p * kLanes, loadAs(lanes));
                }
            }
        }
        finish(weights, kPlanes);
    }

    //! Writes a segment's sums, of which `count` lanes are pixels, to their places. `to` is the first output pixel of
    //! the segment in the first channel.
    template <int kPlanes, int kChannels, int kScale>
    [[gnu::always_inline]] static void storeSegment(T* to, int64_t rowPitch, int64_t channelPitch, int32_t scale,
        int32_t firstPlane, int32_t count, Vec const (&sum)[kPlanes][kChannels])
    {
        for (int32_t c = 0; c < kChannels; ++c, to += channelPitch) {
            if constexpr (kScale == 1) {
                storePart(to, sum[0][c], count);
            } else if constexpr (kScale == 2) {
                for (int32_t i = 0; i < 2; ++i) {
                    Vec low;
                    Vec high;
                    zip(sum[2 * i][c], sum[2 * i + 1][c], low, high);
                    storePart(to + i * rowPitch, low, 2 * count);
                    storePart(to + i * rowPitch + kLanes, high, 2 * count - kLanes);
                }
            } else {
                for (int32_t p = 0; p < kPlanes; ++p) {
                    T lanes[kLanes];
                    storeAs(lanes, sum[p][c]);
                    int32_t const plane = firstPlane + p;
                    T* const row = to + plane / scale * rowPitch + plane % scale;
                    for (int32_t i = 0; i < count; ++i) {
                        row[int64_t{i} * scale] = lanes[i];
                    }
                }
            }
        }
    }

    //! Makes a tile of kChannels channels; `weights` are the tile's, and the patch is zero where outside the map unless
    //! reflections are to lie there.
    template <int kPlanes, int kChannels, int kScale>
    void reassembleBlock(T const* input, T* result, int32_t y0, int32_t rows, int32_t x0, int32_t segments,
        int32_t firstPlane, float const* weights, float* patch) const
    {
        // Copies, for the compiler cannot know that storing pixels leaves the shape as it is.
        int32_t const kernelSize = shape.kernelSize;
        int32_t const scale = kScale > 0 ? kScale : shape.scale;
        int32_t const width = shape.width;
        int64_t const outRowPitch = outWidth();
        int64_t const outChannelPitch = outPlane();
        int32_t const radius = kernelSize / 2;
        int32_t const segmentWeights = kernelSize * kernelSize * kPlanes * kLanes;
        int64_t const mapSize = int64_t{shape.height} * width;
        int64_t rowPitch = shape.width;
        int64_t channelPitch = mapSize;
        float const* window = nullptr;
        bool const isInside = y0 >= radius && y0 + rows + radius <= shape.height && x0 >= radius
                              && x0 + segments * kLanes + radius <= shape.width;
        if (isInside && sizeof(T) == sizeof(float)) {
            window = reinterpret_cast<float const*>(input) + (y0 - radius) * rowPitch + x0 - radius;
        } else {
            int32_t const margin = patchMargin(shape);
            int32_t const pitch = patchPitch(shape, segments);
            int32_t const patchRows = rows + 2 * radius;
            for (int32_t c = 0; c < kChannels; ++c) {
                float* const own = patch + int64_t{c} * patchRows * pitch;
                copyWindow(input + c * mapSize, shape.height, shape.width, y0 - radius, patchRows, x0 - margin, pitch,
                    pitch, own);
                if (shape.padding == Padding::kReflect) {
                    reflectEdges(shape.height, shape.width, radius, y0 - radius, patchRows, x0 - margin, pitch, own);
                }
            }
            rowPitch = pitch;
            channelPitch = int64_t{patchRows} * pitch;
            window = patch + margin - radius;
        }
        for (int32_t r = 0; r < rows; ++r) {
            T* const row = result + int64_t{y0 + r} * scale * outRowPitch;
            for (int32_t s = 0; s < segments; ++s) {
                Vec sum[kPlanes][kChannels];
                for (int32_t p = 0; p < kPlanes; ++p) {
                    for (int32_t c = 0; c < kChannels; ++c) {
                        sum[p][c] = Vec{};
                    }
                }
                float const* const from = window + r * rowPitch + s * kLanes;
                if (kernelSize == 5) {
                    sumWindow(from, rowPitch, channelPitch, weights, 5, sum);
                } else if (kernelSize == 3) {
                    sumWindow(from, rowPitch, channelPitch, weights, 3, sum);
                } else {
                    sumWindow(from, rowPitch, channelPitch, weights, kernelSize, sum);
                }
                int32_t const x = x0 + s * kLanes;
                storeSegment<kPlanes, kChannels, kScale>(row + int64_t{x} * scale, outRowPitch, outChannelPitch, scale,
                    firstPlane, smaller(kLanes, width - x), sum);
                weights += segmentWeights;
            }
        }
    }

    //! kScale: 1 or 2, or 0 for any.
    template <int kPlanes, int kBlock, int kScale>
    void reassembleTile(int64_t n, int64_t g, int32_t firstChannel, int32_t channels, int32_t y0, int32_t rows,
        int32_t x0, int32_t segments, int32_t firstPlane) const
    {
        alignas(64) float weights[kWeightFloats];
        alignas(64) float patch[kPatchFloats];
        int32_t const taps = shape.kernelSize * shape.kernelSize;
        T const* const group = mask + (n * shape.groups + g) * taps * outPlane();
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t s = 0; s < segments; ++s) {
                loadWeights<kPlanes, kScale>(group, y0 + r, x0 + s * kLanes, firstPlane,
                    weights + int64_t{r * segments + s} * taps * kPlanes * kLanes);
            }
        }
        int64_t const channel = n * shape.channels + g * (shape.channels / shape.groups) + firstChannel;
        T const* input = features + channel * shape.height * shape.width;
        T* result = output + channel * outPlane();
        int32_t const patchSize = (rows + shape.kernelSize - 1) * patchPitch(shape, segments);
        bool const blockFits = patchSize * kBlock <= kPatchFloats;
        clear(patch, blockFits ? patchSize * kBlock : patchSize);
        int32_t c = 0;
        for (; blockFits && c + kBlock <= channels; c += kBlock) {
            reassembleBlock<kPlanes, kBlock, kScale>(input, result, y0, rows, x0, segments, firstPlane, weights, patch);
            input += kBlock * int64_t{shape.height} * shape.width;
            result += kBlock * outPlane();
        }
        for (; c < channels; ++c) {
            reassembleBlock<kPlanes, 1, kScale>(input, result, y0, rows, x0, segments, firstPlane, weights, patch);
            input += int64_t{shape.height} * shape.width;
            result += outPlane();
        }
    }

    void runTask(int64_t task) const
    {
        int64_t const channelTile = task % plan.channelTiles;
        task /= plan.channelTiles;
        int64_t const columnTile = task % plan.columnTiles;
        task /= plan.columnTiles;
        int64_t const rowTile = task % plan.rowTiles;
        task /= plan.rowTiles;
        int64_t const g = task % shape.groups;
        int64_t const n = task / shape.groups;
        int32_t const firstChannel = static_cast<int32_t>(channelTile) * plan.channels;
        int32_t const channels = smaller(plan.channels, shape.channels / shape.groups - firstChannel);
        int32_t const y0 = static_cast<int32_t>(rowTile) * plan.rows;
        int32_t const rows = smaller(plan.rows, shape.height - y0);
        int32_t const x0 = static_cast<int32_t>(columnTile) * plan.segments * kLanes;
        int32_t const segments = smaller(plan.segments, ceilDivide(shape.width - x0, kLanes));
        auto const make = [&](auto planes, auto block, auto scale, int32_t plane) {
            reassembleTile<planes.value, block.value, scale.value>(
                n, g, firstChannel, channels, y0, rows, x0, segments, plane);
        };
        if (shape.scale == 1) {
            return make(Constant<1>{}, Constant<kBlockOfOnePlane>{}, Constant<1>{}, 0);
        }
        if (shape.scale == 2 && plan.planes == kMaxPlanes) {
            return make(Constant<kMaxPlanes>{}, Constant<kBlockOfPlanes>{}, Constant<2>{}, 0);
        }
        int32_t const planes = shape.scale * shape.scale;
        int32_t plane = 0;
        for (; plan.planes == kMaxPlanes && plane + kMaxPlanes <= planes; plane += kMaxPlanes) {
            make(Constant<kMaxPlanes>{}, Constant<kBlockOfPlanes>{}, Constant<0>{}, plane);
        }
        for (; plane < planes; ++plane) {
            make(Constant<1>{}, Constant<kBlockOfOnePlane>{}, Constant<0>{}, plane);
        }
    }
};

//! Runs a reassembly whose mask values `finish` turns into weights.
template <typename Finish>
void reassemble(CarafeShape const& shape, DType dtype, void const* features, void const* mask, void* output,
    ThreadPool const& pool, Finish const& finish)
{
    ReassemblyPlan const plan = planReassembly(shape, pool.threads);
    int64_t const tasks = int64_t{shape.batch} * shape.groups * plan.rowTiles * plan.columnTiles * plan.channelTiles;
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        Reassembly<T, Finish> const reassembly{
            shape, plan, static_cast<T const*>(features), static_cast<T const*>(mask), static_cast<T*>(output), finish};
        parallelFor(pool, tasks, [&](int64_t task) { reassembly.runTask(task); });
    });
}

} // namespace
} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
