// SPDX-License-Identifier: Apache-2.0
//! The pixels of each head are copied beside each other first, as fp32: between those of all heads, as values come, a
//! head's own fill a few sets of every cache only, and gathering took twice as long (8 heads of 32 channels, AVX-512,
//! 2026-11). Then a task makes a narrow strip of one level's tokens from the top down, a few rows at a time: it finds
//! the places of all heads, as many at once as vectors have lanes whatever the number of points is, and then lets one
//! head after the other sum its channels there. What lies around a token is in the first-level cache when the next
//! token reads it, and what lies around these rows in the second-level cache when the next rows do.
#include "deformable_attention_core.h"
#include "simd.h"

#include <stdlib.h>

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kColumns = 8;
constexpr int32_t kMostRows = 64;
constexpr int32_t kLeastRows = 8;
constexpr int32_t kCopied = 64;     //!< tokens copied by a task
constexpr int32_t kStaged = 3072;   //!< places found before any is read: 4 rows of 8 heads with 12 each, 60 KB
constexpr int32_t kMostVectors = 4; //!< of channels summed at once, in two sums each
constexpr int32_t kPlaces = kMaxAttentionPlaces + kLanes; // vectors may reach over the last place

//! Where some heads read for one token, head after head.
struct Positions {
    alignas(64) float weight[kPlaces]; //!< exponentials of logits
    alignas(64) float x[kPlaces];
    alignas(64) float y[kPlaces];
};

//! What some tokens read, token after token and head after head.
struct Places {
    alignas(64) int32_t index[kStaged];   //!< the upper left pixel of four, in all levels
    alignas(64) float corner[4][kStaged]; //!< what each weighs: upper left, upper right, lower left, lower right
    float sum[kStaged];                   //!< of each token and head: of its exponentials
};

//! The level of every place in Positions.
struct PlaceLevels {
    alignas(64) float scaleX[kPlaces]; //!< its pixels to a pixel of the tokens' level
    alignas(64) float scaleY[kPlaces];
    alignas(64) int32_t height[kPlaces];
    alignas(64) int32_t width[kPlaces];
    alignas(64) int32_t start[kPlaces]; //!< its first pixel, counted in all levels
};

FREQFUSION_INLINE IntVec laneIndex()
{
    IntVec index;
    for (int32_t i = 0; i < kLanes; ++i) {
        index[i] = i;
    }
    return index;
}

FREQFUSION_INLINE float largestOf(Vec value)
{
    for (int32_t distance = kLanes / 2; distance > 0; distance /= 2) {
        value = maximum(value, permute(value, laneIndex() ^ distance));
    }
    return value[0];
}

FREQFUSION_INLINE float sumOf(Vec value)
{
    for (int32_t distance = kLanes / 2; distance > 0; distance /= 2) {
        value += permute(value, laneIndex() ^ distance);
    }
    return value[0];
}

//! Writes the exponentials of `count` logits to `to`, up to a vector's length beyond, and returns their sum.
template <typename T>
FREQFUSION_INLINE float weigh(T const* logits, int32_t count, float* to)
{
    Vec top = broadcast(-__builtin_huge_valf());
    for (int32_t i = 0; i < count; i += kLanes) {
        Vec const part = loadPart(logits + i, count - i);
        store(to + i, part);
        top = maximum(top, laneIndex() < broadcastInt(count - i) ? part : top);
    }
    Vec const largest = broadcast(largestOf(top));
    Vec sum = {};
    for (int32_t i = 0; i < count; i += kLanes) {
        Vec const power = expOfNegative(load(to + i) - largest);
        store(to + i, power);
        sum += laneIndex() < broadcastInt(count - i) ? power : Vec{};
    }
    return sumOf(sum);
}

//! Turns positions and weights into pixels and what each weighs, from place `first` on.
void findPixels(int32_t count, PlaceLevels const& levels, Positions const& positions, int32_t first, Places& found)
{
    for (int32_t i = 0; i < count; ++i) {
        AttendedPixels const x = attendedPixels(positions.x[i], levels.width[i]);
        AttendedPixels const y = attendedPixels(positions.y[i], levels.height[i]);
        float const upper = positions.weight[i] * y.firstShare;
        float const lower = positions.weight[i] * y.secondShare;
        found.index[first + i] = levels.start[i] + y.first * levels.width[i] + x.first;
        found.corner[0][first + i] = upper * x.firstShare;
        found.corner[1][first + i] = upper * x.secondShare;
        found.corner[2][first + i] = lower * x.firstShare;
        found.corner[3][first + i] = lower * x.secondShare;
    }
}

//! The attention of one image with all that its tasks share.
template <typename T>
struct Attention {
    DeformableAttentionShape const& shape;
    T const* offsets;
    T const* logits;
    T* output;
    int64_t tokens;
    int32_t places; //!< of a token
    int32_t pitch;  //!< channels of a head, rounded up to vectors
    float* copied;  //!< (M, T, pitch)

    //! Copies all heads of tokens [begin, end).
    void copy(T const* value, int64_t begin, int64_t end) const
    {
        for (int64_t token = begin; token < end; ++token) {
            for (int32_t head = 0; head < shape.heads; ++head) {
                T const* const from = value + (token * shape.heads + head) * shape.channels;
                float* const to = copied + (head * tokens + token) * pitch;
                for (int32_t c = 0; c < shape.channels; c += kLanes) {
                    store(to + c, loadPart(from + c, shape.channels - c));
                }
            }
        }
    }

    //! Fills in `levels` for `count` places, seen from the pixels of `own`.
    void findLevels(int32_t own, int32_t count, PlaceLevels& levels) const
    {
        for (int32_t i = 0; i < count; ++i) {
            int32_t const target = i % places / shape.points;
            levels.scaleX[i] = static_cast<float>(shape.width[target]) / static_cast<float>(shape.width[own]);
            levels.scaleY[i] = static_cast<float>(shape.height[target]) / static_cast<float>(shape.height[own]);
            levels.height[i] = shape.height[target];
            levels.width[i] = shape.width[target];
            levels.start[i] = 0;
            for (int32_t level = 0; level < target; ++level) {
                levels.start[i] += shape.height[level] * shape.width[level];
            }
        }
    }

    //! Finds what heads [begin, end) read for the token at (row, column) of its level, as the `staged`-th of Places.
    void findPlaces(int64_t token, int32_t row, int32_t column, int32_t begin, int32_t end, PlaceLevels const& levels,
        Positions& positions, int32_t staged, Places& found) const
    {
        int64_t const firstPair = token * shape.heads + begin;
        int32_t const heads = end - begin;
        for (int32_t head = 0; head < heads; ++head) {
            found.sum[staged * heads + head] =
                weigh(logits + (firstPair + head) * places, places, positions.weight + head * places);
        }
        Vec const centreX = broadcast(static_cast<float>(column) + 0.5F);
        Vec const centreY = broadcast(static_cast<float>(row) + 0.5F);
        T const* const moves = offsets + firstPair * 2 * places;
        int32_t const count = heads * places;
        for (int32_t i = 0; i < count; i += kLanes) {
            Vec x;
            Vec y;
            unzip(loadPart(moves + 2 * i, 2 * (count - i)), loadPart(moves + 2 * i + kLanes, 2 * (count - i) - kLanes),
                x, y);
            store(positions.x + i, centreX * load(levels.scaleX + i) + x - 0.5F);
            store(positions.y + i, centreY * load(levels.scaleY + i) + y - 0.5F);
        }
        findPixels(count, levels, positions, staged * count, found);
    }

    //! Sums kVectors vectors of channels over the places of `pair`, a token and a head of Places; `from` is pixel 0's.
    template <int kVectors>
    void sumPlaces(float const* from, Places const& found, int32_t pair, int32_t channels, T* to) const
    {
        Vec upper[kVectors] = {};
        Vec lower[kVectors] = {};
        int32_t i = pair * places;
        for (int32_t level = 0; level < shape.levels; ++level) {
            // Where there is no pixel at the right or below, it weighs nothing and need only be readable.
            int64_t const right = shape.width[level] > 1 ? pitch : 0;
            int64_t const below = shape.height[level] > 1 ? int64_t{shape.width[level]} * pitch : 0;
            for (int32_t const end = i + shape.points; i < end; ++i) {
                float const* const pixel = from + int64_t{found.index[i]} * pitch;
                for (int corner = 0; corner < 4; ++corner) {
                    float const* const own = pixel + (corner % 2 == 1 ? right : 0) + (corner > 1 ? below : 0);
                    Vec const weight = broadcast(found.corner[corner][i]);
                    for (int v = 0; v < kVectors; ++v) {
                        (corner < 2 ? upper : lower)[v] += weight * load(own + v * kLanes);
                    }
                }
            }
        }
        float const share = 1.0F / found.sum[pair];
        for (int v = 0; v < kVectors; ++v) {
            storePart(to + v * kLanes, (upper[v] + lower[v]) * share, channels - v * kLanes);
        }
    }

    template <int kVectors>
    void sumUpTo(float const* from, Places const& found, int32_t pair, int32_t channels, T* to) const
    {
        if constexpr (kVectors > 1) {
            if (channels <= (kVectors - 1) * kLanes) {
                return sumUpTo<kVectors - 1>(from, found, pair, channels, to);
            }
        }
        sumPlaces<kVectors>(from, found, pair, channels, to);
    }

    //! Heads [begin, end) of rows [y0, y1) and columns [x0, x1) of `level`, whose first token is `start`.
    void runRows(int32_t level, int64_t start, int32_t y0, int32_t y1, int32_t x0, int32_t x1, int32_t begin,
        int32_t end, PlaceLevels const& levels, Places& found) const
    {
        Positions positions;
        int32_t const columns = x1 - x0;
        int32_t const count = (y1 - y0) * columns;
        auto const tokenAt = [&](int32_t i) {
            return start + int64_t{y0 + i / columns} * shape.width[level] + x0 + i % columns;
        };
        for (int32_t i = 0; i < count; ++i) {
            findPlaces(tokenAt(i), y0 + i / columns, x0 + i % columns, begin, end, levels, positions, i, found);
        }
        for (int32_t head = begin; head < end; ++head) {
            float const* const from = copied + head * tokens * pitch;
            for (int32_t i = 0; i < count; ++i) {
                T* const to = output + (tokenAt(i) * shape.heads + head) * shape.channels;
                int32_t const pair = i * (end - begin) + head - begin;
                for (int32_t c = 0; c < shape.channels; c += kMostVectors * kLanes) {
                    sumUpTo<kMostVectors>(from + c, found, pair, shape.channels - c, to + c);
                }
            }
        }
    }

    //! Rows [y0, y1) and columns [x0, x1) of `level`, whose first token is `start`.
    void runTile(int32_t level, int64_t start, int32_t y0, int32_t y1, int32_t x0, int32_t x1) const
    {
        Places found;
        PlaceLevels levels;
        int32_t const headsAtOnce = smaller(kMaxAttentionPlaces / places, shape.heads);
        int32_t const rowsAtOnce = larger(1, kStaged / (headsAtOnce * places * kColumns));
        findLevels(level, headsAtOnce * places, levels);
        for (int32_t y = y0; y < y1; y += rowsAtOnce) {
            for (int32_t head = 0; head < shape.heads; head += headsAtOnce) {
                runRows(level, start, y, smaller(y + rowsAtOnce, y1), x0, x1, head,
                    smaller(head + headsAtOnce, shape.heads), levels, found);
            }
        }
    }
};
static_assert(kMaxAttentionPlaces * kColumns <= kStaged, "a row of a strip is found at once");

//! How each level is cut into tiles.
struct Tiles {
    int32_t rows;
    int64_t count[kMaxAttentionLevels];
    int64_t ofImage;

    Tiles(DeformableAttentionShape const& shape, int32_t tileRows) : rows(tileRows), count{}, ofImage(0)
    {
        for (int32_t level = 0; level < shape.levels; ++level) {
            count[level] = int64_t{ceilDivide(shape.height[level], rows)} * ceilDivide(shape.width[level], kColumns);
            ofImage += count[level];
        }
    }
};

} // namespace

bool deformableAttention(DeformableAttentionShape const& shape, DType dtype, void const* value, void const* offsets,
    void const* logits, void* output, ThreadPool const& pool) noexcept
{
    int64_t const tokens = tokensOf(shape);
    int32_t const places = shape.levels * shape.points;
    int32_t const pitch = ceilDivide(shape.channels, kLanes) * kLanes;
    size_t const bytes = static_cast<size_t>(tokens * shape.heads * pitch) * sizeof(float);
    constexpr size_t kLine = 64;
    auto* const copied = static_cast<float*>(aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine));
    if (copied == nullptr) {
        return false;
    }
    Tiles tiles{shape, kMostRows};
    while (tiles.rows > kLeastRows && tiles.ofImage < 8 * int64_t{pool.threads}) {
        tiles = Tiles{shape, tiles.rows / 2};
    }
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        int64_t const copies = ceilDivide<int64_t>(tokens, kCopied);
        for (int64_t n = 0; n < shape.batch; ++n) {
            int64_t const firstPair = n * tokens * shape.heads;
            T const* const own = static_cast<T const*>(value) + firstPair * shape.channels;
            Attention<T> const attention{shape, static_cast<T const*>(offsets) + firstPair * 2 * places,
                static_cast<T const*>(logits) + firstPair * places,
                static_cast<T*>(output) + firstPair * shape.channels, tokens, places, pitch, copied};
            parallelFor(pool, copies,
                [&](int64_t task) { attention.copy(own, task * kCopied, smaller((task + 1) * kCopied, tokens)); });
            parallelFor(pool, tiles.ofImage, [&](int64_t tile) {
                int64_t start = 0;
                int32_t level = 0;
                for (; tile >= tiles.count[level]; ++level) {
                    tile -= tiles.count[level];
                    start += int64_t{shape.height[level]} * shape.width[level];
                }
                int64_t const across = ceilDivide(shape.width[level], kColumns);
                int32_t const y0 = static_cast<int32_t>(tile / across) * tiles.rows;
                int32_t const x0 = static_cast<int32_t>(tile % across) * kColumns;
                attention.runTile(level, start, y0, smaller(y0 + tiles.rows, shape.height[level]), x0,
                    smaller(x0 + kColumns, shape.width[level]));
            });
        }
    });
    free(copied);
    return true;
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
