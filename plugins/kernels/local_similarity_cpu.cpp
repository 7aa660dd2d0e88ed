// SPDX-License-Identifier: Apache-2.0
//! A dot product serves both of its pixels: neighbour `tap` of one is neighbour K*K-2-tap of the other. So only the
//! K*K/2 neighbours that follow a pixel are computed, four at a time, and each cosine is written to two places. A task
//! makes a block of rows: it adds channel after channel into dot products and squared norms held in its scratch memory.
#include "local_similarity_core.h"
#include "patch_simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kMaxRows = 16;
constexpr int32_t kColumns = 64;
constexpr int32_t kDirections = 4; // divides K*K/2 for every odd K
constexpr int32_t kChannelBlock = 4;
constexpr int32_t kMargin = kMaxSimilarityReach; //!< columns kept on either side of a row; a multiple of kLanes
constexpr int32_t kPitch = kColumns + 2 * kMargin + kLanes;
constexpr int32_t kWindowRows = kMaxRows + kMaxSimilarityReach;
constexpr int32_t kPatchFloats = (kMaxRows + 2) * kChannelBlock * kPitch; // FreqFusion's reach is 2

//! Where a block of channels of a task's window lies. Row 0 is the task's first row, column 0 its first column.
struct Window {
    float const* origin;
    int64_t rowPitch;
    int64_t channelPitch;
};

//! sums[x] += sum over channels of value[x]^2, for x in [0, columns).
template <int kChannels>
void addSquares(float const* row, int64_t channelPitch, int32_t columns, float* sums)
{
    for (int32_t x = 0; x < columns; x += kLanes) {
        Vec sum = load(sums + x);
        for (int32_t c = 0; c < kChannels; ++c) {
            Vec const value = load(row + c * channelPitch + x);
            sum += value * value;
        }
        store(sums + x, sum);
    }
}

//! dots[d][x] += sum over channels of value[x] * value[x + offsets[d]], for x in [0, columns). Adds the squares, too,
//! if `squares` is not null.
template <int kChannels>
void addProducts(float const* row, int64_t channelPitch, int64_t const (&offsets)[kDirections], int32_t columns,
    float* dots, float* squares)
{
    for (int32_t x = 0; x < columns; x += kLanes) {
        Vec sum[kDirections];
        Vec square = squares != nullptr ? load(squares + x) : Vec{};
        for (int32_t d = 0; d < kDirections; ++d) {
            sum[d] = load(dots + d * kColumns + x);
        }
        for (int32_t c = 0; c < kChannels; ++c) {
            float const* const at = row + c * channelPitch + x;
            Vec const value = load(at);
            square += value * value;
            for (int32_t d = 0; d < kDirections; ++d) {
                sum[d] += value * load(at + offsets[d]);
            }
        }
        for (int32_t d = 0; d < kDirections; ++d) {
            store(dots + d * kColumns + x, sum[d]);
        }
        if (squares != nullptr) {
            store(squares + x, square);
        }
    }
}

template <typename T>
void fillZero(T* to, int32_t begin, int32_t end)
{
    for (int32_t x = begin; x < end; ++x) {
        to[x] = T{};
    }
}

//! One task: rows [y0, y1) and columns [x0, x1) of one image.
template <typename T>
struct Similarity {
    LocalSimilarityShape const& shape;
    T const* features; //!< of the whole batch
    int64_t image;
    int32_t y0;
    int32_t y1;
    int32_t x0;
    int32_t x1;
    float* patch;
    float* norms; //!< [row from y0][column from x0 - kMargin]: squared norms, later their inverse square roots
    float* dots;  //!< [row from y0][direction][column from x0]

    [[nodiscard]] int32_t reach() const { return shape.kernelSize / 2 * shape.dilation; }
    [[nodiscard]] int32_t windowEnd() const { return smaller(y1 + reach(), shape.height); }

    //! Whether `count` channels from `channel` on can be read where they are: as fp32, past the rows' ends, too.
    [[nodiscard]] bool isReadable(int32_t channel, int32_t count) const
    {
        int64_t const mapSize = int64_t{shape.height} * shape.width;
        int64_t const first = (image * shape.channels + channel) * mapSize;
        int64_t const begin = first + int64_t{y0} * shape.width + x0 - kMargin;
        int64_t const end =
            first + (count - 1) * mapSize + int64_t{windowEnd() - 1} * shape.width + x1 + reach() + kLanes;
        return sizeof(T) == sizeof(float) && begin >= 0 && end <= shape.batch * shape.channels * mapSize;
    }

    //! The window's channels from `channel` on.
    template <int kChannels>
    Window windowOf(int32_t channel) const
    {
        int64_t const mapSize = int64_t{shape.height} * shape.width;
        int64_t const first = (image * shape.channels + channel) * mapSize;
        if (isReadable(channel, kChannels)) {
            float const* const origin = reinterpret_cast<float const*>(features) + first;
            return {origin + int64_t{y0} * shape.width + x0, shape.width, mapSize};
        }
        int32_t const rows = windowEnd() - y0;
        for (int32_t c = 0; c < kChannels; ++c) {
            copyWindow(features + first + c * mapSize, shape.height, shape.width, y0, rows, x0 - kMargin,
                kColumns + 2 * kMargin, kPitch, patch + int64_t{c} * rows * kPitch);
        }
        return {patch + kMargin, kPitch, int64_t{rows} * kPitch};
    }

    template <int kChannels>
    void addChannels(int32_t channel, int32_t firstTap) const
    {
        Window const window = windowOf<kChannels>(channel);
        bool const isFirst = firstTap == firstOfFollowing();
        for (int32_t y = y0; y < y1; ++y) {
            int64_t offsets[kDirections];
            for (int32_t d = 0; d < kDirections; ++d) {
                NeighbourOffset const to = neighbourOffset(firstTap + d, shape.kernelSize, shape.dilation);
                offsets[d] = y + to.dy < shape.height ? to.dy * window.rowPitch + to.dx : 0; // 0: never used
            }
            addProducts<kChannels>(window.origin + (y - y0) * window.rowPitch, window.channelPitch, offsets, x1 - x0,
                dots + int64_t{y - y0} * kDirections * kColumns, isFirst ? normsOf(y) : nullptr);
        }
        if (isFirst) {
            addOuterSquares<kChannels>(window);
        }
    }

    //! Squares of the pixels that the task's own pixels reach: to the left, to the right and below. Whole vectors,
    //! which must not touch the task's own norms.
    template <int kChannels>
    void addOuterSquares(Window const& window) const
    {
        int32_t const left = x0 > 0 ? ceilDivide(reach(), kLanes) * kLanes : 0;
        int32_t const right = smaller(x1 + reach(), shape.width) - x1;
        for (int32_t y = y0; y < windowEnd(); ++y) {
            float const* const row = window.origin + (y - y0) * window.rowPitch;
            addSquares<kChannels>(row - left, window.channelPitch, left, normsOf(y) - left);
            int32_t const begin = y < y1 ? x1 - x0 : 0;
            addSquares<kChannels>(row + begin, window.channelPitch, x1 - x0 + right - begin, normsOf(y) + begin);
        }
    }

    [[nodiscard]] int32_t firstOfFollowing() const { return shape.kernelSize * shape.kernelSize / 2; }

    //! Norms of row y from column x0 on; columns before it have negative indices.
    [[nodiscard]] float* normsOf(int32_t y) const { return norms + int64_t{y - y0} * kPitch + kMargin; }

    void invertNorms() const
    {
        int32_t const count = (windowEnd() - y0) * kPitch;
        for (int32_t i = 0; i < count; ++i) {
            float const norm = __builtin_sqrtf(norms[i]);
            norms[i] = 1.0F / (norm > kMinNorm ? norm : kMinNorm);
        }
    }

    [[nodiscard]] T* outputRow(T* output, int32_t tap, int32_t y) const
    {
        int64_t const taps = int64_t{shape.kernelSize} * shape.kernelSize - 1;
        return output + ((image * taps + tap) * shape.height + y) * shape.width;
    }

    //! Writes the cosines of pixels y, [x0, x1) with neighbour `tap`, to both pixels of each pair, and zero for those
    //! pixels of the row that have no such neighbour, or none opposite.
    void writeCosines(T* output, int32_t y, int32_t tap, float const* dot) const
    {
        NeighbourOffset const to = neighbourOffset(tap, shape.kernelSize, shape.dilation);
        int32_t const oppositeTap = shape.kernelSize * shape.kernelSize - 2 - tap;
        T* const here = outputRow(output, tap, y);
        T* const opposite = outputRow(output, oppositeTap, y);
        bool const hasRow = y + to.dy < shape.height;
        int32_t const begin = hasRow ? smaller(larger(x0, -to.dx), x1) : x1;
        int32_t const end = hasRow ? larger(smaller(x1, shape.width - to.dx), begin) : x1;
        fillZero(here, x0, begin);
        fillZero(here, end, x1);
        if (y < to.dy) {
            fillZero(opposite, x0, x1);
        } else {
            fillZero(opposite, x0, smaller(to.dx, x1));
            fillZero(opposite, larger(x0, shape.width + to.dx), x1);
        }
        if (begin >= end) {
            return;
        }
        float const* const norm = normsOf(y) - x0;
        float const* const otherNorm = normsOf(y + to.dy) - x0 + to.dx;
        T* const there = outputRow(output, oppositeTap, y + to.dy) + to.dx;
        for (int32_t x = begin; x < end; x += kLanes) {
            Vec const cosine = load(dot + x - x0) * load(norm + x) * load(otherNorm + x);
            storePart(here + x, cosine, end - x);
            storePart(there + x, cosine, end - x);
        }
    }

    void run(T* output) const
    {
        int32_t const taps = shape.kernelSize * shape.kernelSize - 1;
        int32_t const rows = y1 - y0;
        clear(patch, kPatchFloats);
        clear(norms, (windowEnd() - y0) * kPitch);
        bool const blockFits = kChannelBlock * (windowEnd() - y0) * kPitch <= kPatchFloats;
        for (int32_t tap = firstOfFollowing(); tap < taps; tap += kDirections) {
            clear(dots, rows * kDirections * kColumns);
            int32_t c = 0;
            while (c < shape.channels) {
                bool const isBlock = c + kChannelBlock <= shape.channels && (blockFits || isReadable(c, kChannelBlock));
                if (isBlock) {
                    addChannels<kChannelBlock>(c, tap);
                } else {
                    addChannels<1>(c, tap);
                }
                c += isBlock ? kChannelBlock : 1;
            }
            if (tap == firstOfFollowing()) {
                invertNorms();
            }
            for (int32_t y = y0; y < y1; ++y) {
                for (int32_t d = 0; d < kDirections; ++d) {
                    writeCosines(output, y, tap + d, dots + int64_t{(y - y0) * kDirections + d} * kColumns);
                }
            }
        }
    }
};

} // namespace

void localSimilarity(
    LocalSimilarityShape const& shape, DType dtype, void const* features, void* output, ThreadPool const& pool) noexcept
{
    int64_t const columnTiles = ceilDivide(shape.width, kColumns);
    int32_t rows = kMaxRows;
    while (rows > 2 && shape.batch * columnTiles * ceilDivide(shape.height, rows) < 2 * int64_t{pool.threads}) {
        rows /= 2;
    }
    int64_t const rowTiles = ceilDivide(shape.height, rows);
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        parallelFor(pool, shape.batch * rowTiles * columnTiles, [&](int64_t task) {
            alignas(64) float patch[kPatchFloats];
            alignas(64) float norms[kWindowRows * kPitch];
            alignas(64) float dots[kMaxRows * kDirections * kColumns + kLanes];
            int32_t const x0 = static_cast<int32_t>(task % columnTiles) * kColumns;
            int32_t const y0 = static_cast<int32_t>(task / columnTiles % rowTiles) * rows;
            Similarity<T> const similarity{shape, static_cast<T const*>(features), task / columnTiles / rowTiles, y0,
                smaller(y0 + rows, shape.height), x0, smaller(x0 + kColumns, shape.width), patch, norms, dots};
            similarity.run(static_cast<T*>(output));
        });
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
