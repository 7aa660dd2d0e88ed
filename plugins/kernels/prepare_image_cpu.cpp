// SPDX-License-Identifier: Apache-2.0
//! A task makes a tile of the result, all three channels. Row by row it mixes the two scaled rows that an output row
//! lies between; a scaled row is mixed of two source rows in the same way when it is first needed. Rows are resized
//! along x first, once each, into stores of two rows, in the order of OpenCV's sums. Along x the pixels of one vector
//! lie anywhere in the row: a scalar loop collects the eight bytes at each pair of pixels, vectors do the rest. (Gather
//! instructions are slow on processors with the mitigation of Gather Data Sampling.)
//!
//! Levels resized along x have 15 bits, so a 32-bit lane holds one, and the multiplication of 16-bit pairs that every
//! x86 has serves both directions. A resize that changes no size is the identity and is left out.
#include "prepare_image_core.h"
#include "simd.h"

#if defined(__SSE2__) && !defined(__AVX2__)
#include <emmintrin.h>
#endif

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kColumns = 256; // a tile's scratch, 22 KB, stays in the first-level cache
constexpr int32_t kRows = 64;
constexpr int32_t kMinRows = 16;
// A tile reads at most one scaled column more than it makes; vectors read and write up to two of them beyond.
constexpr int32_t kScratchColumns = kColumns + 2 * kLanes;

//! Multiplies 16-bit halves and adds both products of each lane.
FREQFUSION_INLINE IntVec addProducts(UintVec a, UintVec b)
{
#if defined(__AVX512BW__)
    return (IntVec)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (IntVec)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (IntVec)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return (IntVec)((a & 0xffffU) * (b & 0xffffU) + (a >> 16) * (b >> 16));
#endif
}

template <typename To>
FREQFUSION_INLINE To loadBits(void const* from)
{
    To to;
    __builtin_memcpy(&to, from, sizeof(to));
    return to;
}

FREQFUSION_INLINE void storeBits(void* to, UintVec value)
{
    __builtin_memcpy(to, &value, sizeof(value));
}

//! The pixels that a stretch of columns mixes along x.
struct ColumnPairs {
    int32_t count;                                 //!< columns
    int32_t vectors;                               //!< that hold them
    uint32_t low[kScratchColumns];                 //!< left pixel, counted from the stretch's first source pixel
    alignas(64) uint32_t weights[kScratchColumns]; //!< of the left pixel in the lower half, of the right in the upper
};

//! One row resized along x, by channel.
struct AcrossRow {
    int32_t source; //!< -1: none
    alignas(64) uint32_t levels[3][kScratchColumns];
};

//! The two rows, resized along x, that a row mixes along y.
struct RowStore {
    AcrossRow rows[2];

    void clear() { rows[0].source = rows[1].source = -1; }

    //! The slot of row `source`, made by `fill` unless it is there; `kept` is another row that must stay.
    template <typename Fill>
    AcrossRow const& row(int32_t source, int32_t kept, Fill const& fill)
    {
        for (AcrossRow const& row : rows) {
            if (row.source == source) {
                return row;
            }
        }
        AcrossRow& free = rows[rows[0].source == kept ? 1 : 0];
        free.source = source;
        fill(source, free);
        return free;
    }
};

//! One tile: `rows` rows from y0 on and `columns` columns from x0 on of one image.
struct ImageTile {
    PrepareImageShape const& shape;
    PrepareImageSizes const& sizes;
    LevelScale const& scale;
    uint8_t const* picture;
    bool scales;         //!< whether the first resize changes anything
    bool stretches;      //!< whether the second does
    int64_t scaledFirst; //!< first scaled column read
    int64_t sourceFirst; //!< first source column read
    ColumnPairs scalePairs;
    ColumnPairs stretchPairs;
    RowStore scaleRows;
    RowStore stretchRows;
    alignas(64) uint32_t pixels[kScratchColumns]; //!< one scaled row: red, green and blue from the lowest byte on
    alignas(64) uint64_t bytes[kScratchColumns];

    //! Leaves the scratch memory unwritten, which an aggregate's initialization would not.
    ImageTile(PrepareImageShape const& ofShape, PrepareImageSizes const& ofSizes, LevelScale const& ofScale,
        uint8_t const* ofPicture)
        : shape(ofShape), sizes(ofSizes), scale(ofScale), picture(ofPicture),
          scales(sizes.scaledHeight != shape.height || sizes.scaledWidth != shape.width),
          stretches(sizes.outHeight != sizes.scaledHeight || sizes.outWidth != sizes.scaledWidth)
    {
    }

    //! Fills `pairs` for columns [first, first + count) of a resize; returns the first source column.
    static int64_t findPairs(ColumnPairs& pairs, int64_t first, int32_t count, int64_t source, int64_t target)
    {
        pairs.count = count;
        pairs.vectors = ceilDivide(count, kLanes);
        AxisSteps at{first, source, target};
        int64_t const base = columnPair(at, source).low;
        for (int32_t x = 0; x < count; ++x) {
            FixedPair const pair = columnPair(at, source);
            pairs.low[x] = static_cast<uint32_t>(pair.low - base);
            pairs.weights[x] = static_cast<uint32_t>(pair.lowWeight | pair.highWeight << 16);
            at.advance();
        }
        for (int32_t x = count; x < pairs.vectors * kLanes; ++x) {
            pairs.low[x] = pairs.low[count - 1];
            pairs.weights[x] = 0;
        }
        return base;
    }

    void findColumns(int64_t x0, int32_t columns)
    {
        scaledFirst = x0;
        int32_t count = columns;
        if (stretches) {
            scaledFirst = findPairs(stretchPairs, x0, columns, sizes.scaledWidth, sizes.outWidth);
            count = static_cast<int32_t>(
                smaller<int64_t>(stretchPairs.low[columns - 1] + int64_t{2}, sizes.scaledWidth - scaledFirst));
        }
        sourceFirst = scaledFirst;
        if (scales) {
            sourceFirst = findPairs(scalePairs, scaledFirst, count, shape.width, sizes.scaledWidth);
        } else {
            scalePairs.count = count;
        }
    }

    //! Resizes source row `y` along x.
    void scaleAcross(int32_t y, AcrossRow& to)
    {
        uint8_t const* const row = picture + (int64_t{y} * shape.width + sourceFirst) * 3;
        int64_t const rest = shape.width - sourceFirst;
        // Eight bytes at the row's last pair would end behind it; the pair's columns come last.
        int32_t x = 0;
        for (; x < scalePairs.count && scalePairs.low[x] + int64_t{2} < rest; ++x) {
            bytes[x] = loadBits<uint64_t>(row + uint64_t{3} * scalePairs.low[x]);
        }
        if (x < scalePairs.vectors * kLanes) {
            uint64_t pair = 0;
            uint64_t const low = scalePairs.low[scalePairs.count - 1];
            if (x == scalePairs.count) {
                pair = bytes[x - 1];
            } else {
                __builtin_memcpy(&pair, row + 3 * low, rest == 1 ? 3 : 6);
            }
            for (; x < scalePairs.vectors * kLanes; ++x) {
                bytes[x] = pair;
            }
        }
        for (int32_t v = 0; v < scalePairs.vectors; ++v) {
            UintVec first;
            UintVec second;
            takeBytes(v, first, second);
            UintVec const weights = loadBits<UintVec>(scalePairs.weights + v * kLanes);
            storeAcross(to, v, weights, (first & 0xffU) | (first >> 8 & 0xff0000U),
                (first >> 8 & 0xffU) | (second & 0xffU) << 16, (first >> 16 & 0xffU) | (second << 8 & 0xff0000U));
        }
    }

    //! Resizes the row in `pixels` along x.
    void stretchAcross(AcrossRow& to)
    {
        for (int32_t x = 0; x < stretchPairs.vectors * kLanes; ++x) {
            bytes[x] = loadBits<uint64_t>(pixels + stretchPairs.low[x]);
        }
        for (int32_t v = 0; v < stretchPairs.vectors; ++v) {
            UintVec first;
            UintVec second;
            takeBytes(v, first, second);
            UintVec const weights = loadBits<UintVec>(stretchPairs.weights + v * kLanes);
            storeAcross(to, v, weights, (first & 0xffU) | (second & 0xffU) << 16,
                (first >> 8 & 0xffU) | (second << 8 & 0xff0000U), (first >> 16 & 0xffU) | (second & 0xff0000U));
        }
    }

    //! The lower and the upper four of the eight bytes collected for each column of vector `v`.
    void takeBytes(int32_t v, UintVec& lower, UintVec& upper) const
    {
        Vec even;
        Vec odd;
        unzip(loadBits<Vec>(bytes + v * kLanes), loadBits<Vec>(bytes + v * kLanes + kLanes / 2), even, odd);
        lower = (UintVec)even;
        upper = (UintVec)odd;
    }

    static void storeAcross(AcrossRow& to, int32_t v, UintVec weights, UintVec red, UintVec green, UintVec blue)
    {
        storeBits(to.levels[0] + v * kLanes, (UintVec)addProducts(red, weights) >> 4);
        storeBits(to.levels[1] + v * kLanes, (UintVec)addProducts(green, weights) >> 4);
        storeBits(to.levels[2] + v * kLanes, (UintVec)addProducts(blue, weights) >> 4);
    }

    //! Mixes vector `v` of a channel of two rows along y: levels from 0 to 255.
    static UintVec mixRows(AcrossRow const& above, AcrossRow const& below, RowPair const& pair, int32_t c, int32_t v)
    {
        UintVec const aboveWeight = (UintVec)broadcastInt(pair.aboveWeight);
        UintVec const belowWeight = (UintVec)broadcastInt(pair.belowWeight);
        UintVec const upper = (UintVec)addProducts(loadBits<UintVec>(above.levels[c] + v * kLanes), aboveWeight) >> 16;
        UintVec const lower = (UintVec)addProducts(loadBits<UintVec>(below.levels[c] + v * kLanes), belowWeight) >> 16;
        return (upper + lower + 2U) >> 2;
    }

    //! Makes scaled row `y` in `pixels`.
    void makeScaledRow(int64_t y)
    {
        if (!scales) {
            return copyRow(y);
        }
        auto const fill = [this](int32_t source, AcrossRow& to) { scaleAcross(source, to); };
        RowPair const pair = rowPair(y, shape.height, sizes.scaledHeight);
        AcrossRow const& above = scaleRows.row(pair.above, pair.below, fill);
        AcrossRow const& below = scaleRows.row(pair.below, pair.above, fill);
        for (int32_t v = 0; v < scalePairs.vectors; ++v) {
            storeBits(pixels + v * kLanes, mixRows(above, below, pair, 0, v) | mixRows(above, below, pair, 1, v) << 8
                                               | mixRows(above, below, pair, 2, v) << 16);
        }
    }

    void copyRow(int64_t y)
    {
        uint8_t const* const row = picture + (y * shape.width + sourceFirst) * 3;
        int32_t const last = scalePairs.count - 1;
        for (int32_t x = 0; x < last; ++x) {
            pixels[x] = loadBits<uint32_t>(row + 3 * x); // the fourth byte, of the next pixel, is never looked at
        }
        pixels[last] = pixels[last + 1] = 0;
        __builtin_memcpy(pixels + last, row + 3 * last, 3);
    }

    //! Stores the first `count` lanes of the levels' numbers.
    void storeLevels(int32_t c, UintVec levels, float* to, int32_t count) const
    {
        Vec const numbers = __builtin_convertvector((IntVec)levels, Vec);
        storePart(to, (numbers - scale.mean[c]) * scale.inverseStd[c], count);
    }

    void writeStretchedRow(int64_t y, int32_t columns, float* const (&to)[3])
    {
        auto const fill = [this](int32_t source, AcrossRow& row) {
            makeScaledRow(source);
            stretchAcross(row);
        };
        RowPair const pair = rowPair(y, sizes.scaledHeight, sizes.outHeight);
        AcrossRow const& above = stretchRows.row(pair.above, pair.below, fill);
        AcrossRow const& below = stretchRows.row(pair.below, pair.above, fill);
        for (int32_t c = 0; c < 3; ++c) {
            for (int32_t v = 0; v < stretchPairs.vectors; ++v) {
                storeLevels(c, mixRows(above, below, pair, c, v), to[c] + v * kLanes, columns - v * kLanes);
            }
        }
    }

    void writeScaledRow(int64_t y, int32_t columns, float* const (&to)[3])
    {
        makeScaledRow(y);
        for (int32_t x = 0; x < columns; x += kLanes) {
            UintVec const levels = loadBits<UintVec>(pixels + x);
            for (int32_t c = 0; c < 3; ++c) {
                storeLevels(c, levels >> (8 * c) & 0xffU, to[c] + x, columns - x);
            }
        }
    }

    void run(int64_t y0, int32_t rows, int64_t x0, int32_t columns, float* image)
    {
        findColumns(x0, columns);
        scaleRows.clear();
        stretchRows.clear();
        int64_t const plane = sizes.outHeight * sizes.outWidth;
        for (int64_t y = y0; y < y0 + rows; ++y) {
            float* const first = image + y * sizes.outWidth + x0;
            int64_t const red = shape.reversesChannels ? 2 * plane : 0;
            float* const to[3] = {first + red, first + plane, first + (2 * plane - red)};
            if (stretches) {
                writeStretchedRow(y, columns, to);
            } else {
                writeScaledRow(y, columns, to);
            }
        }
    }
};

} // namespace

void prepareImage(PrepareImageShape const& shape, PrepareImageSizes const& sizes, LevelScale const& scale,
    uint8_t const* pictures, float* images, ThreadPool const& pool) noexcept
{
    int64_t const columnTiles = ceilDivide<int64_t>(sizes.outWidth, kColumns);
    int32_t rows = kRows;
    while (rows > kMinRows
           && shape.batch * columnTiles * ceilDivide<int64_t>(sizes.outHeight, rows) < 4 * int64_t{pool.threads}) {
        rows /= 2;
    }
    int64_t const rowTiles = ceilDivide<int64_t>(sizes.outHeight, rows);
    parallelFor(pool, shape.batch * rowTiles * columnTiles, [&](int64_t task) {
        int64_t const x0 = task % columnTiles * kColumns;
        int64_t const y0 = task / columnTiles % rowTiles * rows;
        int64_t const n = task / columnTiles / rowTiles;
        ImageTile tile{shape, sizes, scale, pictures + n * shape.height * shape.width * 3};
        tile.run(y0, static_cast<int32_t>(smaller<int64_t>(rows, sizes.outHeight - y0)), x0,
            static_cast<int32_t>(smaller<int64_t>(kColumns, sizes.outWidth - x0)),
            images + n * 3 * sizes.outHeight * sizes.outWidth);
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
