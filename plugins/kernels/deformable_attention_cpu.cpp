// SPDX-License-Identifier: Apache-2.0
//! A task makes a narrow strip of one level's tokens from the top down. Their places lie near each other on every
//! level, so a second-level cache holds the rows that the strip's next tokens read, too: each row comes from farther
//! away about once. For each token the places of all heads are found first, as many at once as a vector has lanes
//! whatever the number of points is, then every head sums its channels there.
#include "deformable_attention_core.h"
#include "simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kColumns = 8;
constexpr int32_t kMostRows = 64;
constexpr int32_t kLeastRows = 8;
constexpr int32_t kPlaces = kMaxAttentionPlaces + kLanes; // vectors may reach over the last place
#if defined(__AVX512F__) || !defined(__AVX2__)
constexpr int32_t kMostVectors = 4;
#else
constexpr int32_t kMostVectors = 4; // two sums each, in 16 registers
#endif

//! The places that some heads read for one token, head after head.
struct Places {
    alignas(64) float weight[kPlaces]; //!< exponentials, whose sum over a head is not one yet
    alignas(64) float x[kPlaces];      //!< offsets
    alignas(64) float y[kPlaces];
    alignas(64) int32_t index[4][kPlaces]; //!< pixels: upper left, upper right, lower left, lower right
    alignas(64) float corner[4][kPlaces];  //!< what each weighs
    float share[kMaxAttentionPlaces];      //!< of each head: what its sums are to be multiplied by
};

//! What the level of every place in Places is like, seen from the level of the task's tokens.
struct PlaceLevels {
    alignas(64) float scaleX[kPlaces]; //!< pixels of the level to a pixel of the tokens' level
    alignas(64) float scaleY[kPlaces];
    alignas(64) int32_t height[kPlaces];
    alignas(64) int32_t width[kPlaces];
    alignas(64) int32_t start[kPlaces]; //!< the level's first pixel
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

//! One attention with all that its tasks share.
template <typename T>
struct Attention {
    DeformableAttentionShape const& shape;
    T const* value;
    T const* offsets;
    T const* logits;
    T* output;
    int64_t tokens;
    int32_t places; //!< of a head

    //! Weighs the places of a head: exponentials to `to`, with what their sum has to be divided by returned.
    float weigh(T const* from, float* to) const
    {
        Vec top = broadcast(-__builtin_huge_valf());
        for (int32_t i = 0; i < places; i += kLanes) {
            Vec const part = loadPart(from + i, places - i);
            store(to + i, part);
            top = maximum(top, laneIndex() < broadcastInt(places - i) ? part : top);
        }
        Vec const largest = broadcast(largestOf(top));
        Vec sum = {};
        for (int32_t i = 0; i < places; i += kLanes) {
            Vec const power = expOfNegative(load(to + i) - largest);
            store(to + i, power);
            sum += laneIndex() < broadcastInt(places - i) ? power : Vec{};
        }
        return sumOf(sum);
    }

    //! Fills in `levels` for `count` places, seen from the pixels of `level`.
    void findLevels(int32_t level, int32_t count, PlaceLevels& levels) const
    {
        int32_t start[kMaxAttentionLevels] = {};
        for (int32_t i = 1; i < shape.levels; ++i) {
            start[i] = start[i - 1] + shape.height[i - 1] * shape.width[i - 1];
        }
        for (int32_t i = 0; i < kPlaces; ++i) {
            int32_t const target = i < count ? i % places / shape.points : 0;
            levels.scaleX[i] = static_cast<float>(shape.width[target]) / static_cast<float>(shape.width[level]);
            levels.scaleY[i] = static_cast<float>(shape.height[target]) / static_cast<float>(shape.height[level]);
            levels.height[i] = shape.height[target];
            levels.width[i] = shape.width[target];
            levels.start[i] = start[target];
        }
    }

    //! Turns offsets into pixels and weights, for the token at (row, column) of its level.
    static void findPlaces(int32_t row, int32_t column, int32_t count, PlaceLevels const& levels, Places& found)
    {
        float const centreX = static_cast<float>(column) + 0.5F;
        float const centreY = static_cast<float>(row) + 0.5F;
        for (int32_t i = 0; i < count; ++i) {
            AttendedPixels const x = attendedPixels(centreX * levels.scaleX[i] + found.x[i] - 0.5F, levels.width[i]);
            AttendedPixels const y = attendedPixels(centreY * levels.scaleY[i] + found.y[i] - 0.5F, levels.height[i]);
            float const weight = found.weight[i];
            int32_t const upper = levels.start[i] + y.low * levels.width[i];
            int32_t const lower = levels.start[i] + y.high * levels.width[i];
            found.index[0][i] = upper + x.low;
            found.index[1][i] = upper + x.high;
            found.index[2][i] = lower + x.low;
            found.index[3][i] = lower + x.high;
            found.corner[0][i] = weight * y.lowShare * x.lowShare;
            found.corner[1][i] = weight * y.lowShare * x.highShare;
            found.corner[2][i] = weight * y.highShare * x.lowShare;
            found.corner[3][i] = weight * y.highShare * x.highShare;
        }
    }

    //! Sums kVectors vectors of a head's channels over its places, from `first` on; `from` is pixel 0's. The last
    //! vector has `left` channels if kIsPart.
    template <int kVectors, bool kIsPart>
    void sumPlaces(T const* from, Places const& found, int32_t first, float share, int32_t left, T* to) const
    {
        int64_t const pitch = int64_t{shape.heads} * shape.channels;
        Vec upper[kVectors] = {};
        Vec lower[kVectors] = {};
        for (int32_t i = first; i < first + places; ++i) {
            for (int corner = 0; corner < 4; ++corner) {
                T const* const pixel = from + found.index[corner][i] * pitch;
                Vec const weight = broadcast(found.corner[corner][i]);
                for (int v = 0; v < kVectors; ++v) {
                    bool const isPart = kIsPart && v == kVectors - 1;
                    Vec const channels = isPart ? loadPart(pixel + v * kLanes, left) : loadAs(pixel + v * kLanes);
                    (corner < 2 ? upper : lower)[v] += weight * channels;
                }
            }
        }
        for (int v = 0; v < kVectors; ++v) {
            Vec const sum = (upper[v] + lower[v]) * share;
            if (kIsPart && v == kVectors - 1) {
                storePart(to + v * kLanes, sum, left);
            } else {
                storeAs(to + v * kLanes, sum);
            }
        }
    }

    template <int kVectors>
    void sumUpTo(int32_t channels, T const* from, Places const& found, int32_t first, float share, T* to) const
    {
        if constexpr (kVectors > 1) {
            if (channels <= (kVectors - 1) * kLanes) {
                return sumUpTo<kVectors - 1>(channels, from, found, first, share, to);
            }
        }
        if (channels < kVectors * kLanes) {
            sumPlaces<kVectors, true>(from, found, first, share, channels - (kVectors - 1) * kLanes, to);
        } else {
            sumPlaces<kVectors, false>(from, found, first, share, kLanes, to);
        }
    }

    void attend(T const* from, Places const& found, int32_t first, float share, T* to) const
    {
        for (int32_t c = 0; c < shape.channels; c += kMostVectors * kLanes) {
            sumUpTo<kMostVectors>(shape.channels - c, from + c, found, first, share, to + c);
        }
    }

    //! Finds the places of heads [begin, end) of the token at (row, column) of its level; `firstHead` counts the heads
    //! of all tokens before it.
    void findToken(int64_t firstHead, int32_t row, int32_t column, int32_t begin, int32_t end,
        PlaceLevels const& levels, Places& found) const
    {
        int32_t const count = (end - begin) * places;
        for (int32_t head = begin; head < end; ++head) {
            int32_t const own = head - begin;
            found.share[own] = 1.0F / weigh(logits + (firstHead + head) * places, found.weight + own * places);
        }
        T const* const moves = offsets + (firstHead + begin) * 2 * places;
        for (int32_t i = 0; i < count; i += kLanes) {
            Vec x;
            Vec y;
            unzip(loadPart(moves + 2 * i, 2 * (count - i)), loadPart(moves + 2 * i + kLanes, 2 * (count - i) - kLanes),
                x, y);
            store(found.x + i, x);
            store(found.y + i, y);
        }
        findPlaces(row, column, count, levels, found);
    }

    //! Sums what heads [begin, end) of a token of image n read.
    void sumToken(int64_t n, int64_t firstHead, int32_t begin, int32_t end, Places const& found) const
    {
        for (int32_t head = begin; head < end; ++head) {
            T const* const from = value + (n * tokens * shape.heads + head) * shape.channels;
            attend(from, found, (head - begin) * places, found.share[head - begin],
                output + (firstHead + head) * shape.channels);
        }
    }

    //! Rows [y0, y1) and columns [x0, x1) of `level`, whose first token is `start`. Places are found one token ahead: a
    //! number that was stored as part of a vector cannot be read again, alone, before the vector has reached the cache.
    void runTile(int64_t n, int32_t level, int64_t start, int32_t y0, int32_t y1, int32_t x0, int32_t x1) const
    {
        Places found[2];
        PlaceLevels levels;
        int32_t const headsAtOnce = kMaxAttentionPlaces / places;
        findLevels(level, smaller(headsAtOnce, shape.heads) * places, levels);
        int32_t const columns = x1 - x0;
        int32_t const count = (y1 - y0) * columns;
        for (int32_t begin = 0; begin < shape.heads; begin += headsAtOnce) {
            int32_t const end = smaller(begin + headsAtOnce, shape.heads);
            int64_t before = 0;
            for (int32_t i = 0; i <= count; ++i) {
                int32_t const row = y0 + i / columns;
                int32_t const column = x0 + i % columns;
                int64_t const firstHead =
                    (n * tokens + start + int64_t{row} * shape.width[level] + column) * shape.heads;
                if (i < count) {
                    findToken(firstHead, row, column, begin, end, levels, found[i % 2]);
                }
                if (i > 0) {
                    sumToken(n, before, begin, end, found[(i - 1) % 2]);
                }
                before = firstHead;
            }
        }
    }
};

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

void deformableAttention(DeformableAttentionShape const& shape, DType dtype, void const* value, void const* offsets,
    void const* logits, void* output, ThreadPool const& pool) noexcept
{
    Tiles tiles{shape, kMostRows};
    while (tiles.rows > kLeastRows && shape.batch * tiles.ofImage < 8 * int64_t{pool.threads}) {
        tiles = Tiles{shape, tiles.rows / 2};
    }
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        Attention<T> const attention{shape, static_cast<T const*>(value), static_cast<T const*>(offsets),
            static_cast<T const*>(logits), static_cast<T*>(output), tokensOf(shape), shape.levels * shape.points};
        parallelFor(pool, shape.batch * tiles.ofImage, [&](int64_t task) {
            int64_t tile = task % tiles.ofImage;
            int64_t start = 0;
            int32_t level = 0;
            for (; tile >= tiles.count[level]; ++level) {
                tile -= tiles.count[level];
                start += int64_t{shape.height[level]} * shape.width[level];
            }
            int64_t const across = ceilDivide(shape.width[level], kColumns);
            int32_t const y0 = static_cast<int32_t>(tile / across) * tiles.rows;
            int32_t const x0 = static_cast<int32_t>(tile % across) * kColumns;
            attention.runTile(task / tiles.ofImage, level, start, y0, smaller(y0 + tiles.rows, shape.height[level]), x0,
                smaller(x0 + kColumns, shape.width[level]));
        });
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
