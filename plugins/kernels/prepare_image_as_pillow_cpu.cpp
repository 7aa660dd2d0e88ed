// SPDX-License-Identifier: Apache-2.0
//! A task makes a tile of the result, all three channels. It walks down the picture: a source row is resized along x,
//! rounded to 8 bits, and added with its weights to the sums of the few rows of the result that it reaches. A pixel is
//! four 32-bit lanes, the last of them idle, since its three bytes and one more are loaded at once.
#include "pillow_taps.h"
#include "prepare_image.h"
#include "simd.h"

#include <stdlib.h>

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kColumns = 128; // a tile's sums, 64 KB, stay in the second-level cache
constexpr int32_t kRows = 32;
constexpr int32_t kPixelLanes = 4;
constexpr int32_t kRowLanes = kColumns * kPixelLanes;

typedef int32_t PixelVec __attribute__((vector_size(16)));
typedef uint8_t PixelBytes __attribute__((vector_size(4)));

//! What a task writes before it reads it.
struct Scratch {
    PillowTaps rows[kRows];
    alignas(64) int32_t sums[kRows][kRowLanes];
    alignas(64) int32_t levels[kRowLanes]; //!< one source row, resized along x
    int64_t firstTap[kColumns];
    int32_t tapCount[kColumns];
};

//! One tile: `rows` rows from y0 on and `columns` columns from x0 on of one image.
struct PillowTile {
    PrepareImageShape const& shape;
    PrepareImageSizes const& sizes;
    LevelScale const& scale;
    uint8_t const* picture;
    Scratch& scratch;
    int32_t* weights; //!< (columns, taps)
    int64_t taps;     //!< room for each column's

    void findColumns(int64_t x0, int32_t columns)
    {
        for (int32_t x = 0; x < columns; ++x) {
            PillowTaps const at{x0 + x, shape.width, sizes.scaledWidth};
            scratch.firstTap[x] = at.first();
            scratch.tapCount[x] = static_cast<int32_t>(at.end() - at.first());
            for (int64_t tap = at.first(); tap < at.end(); ++tap) {
                weights[x * taps + tap - at.first()] = at.weight(tap);
            }
        }
    }

    //! The levels of a pixel; the fourth lane holds anything.
    [[nodiscard]] PixelVec pixel(uint8_t const* from, bool isLast) const
    {
        PixelBytes bytes = {};
        __builtin_memcpy(&bytes, from, isLast ? 3 : 4); // nothing follows the picture's last
        return __builtin_convertvector(bytes, PixelVec);
    }

    void resizeAcross(int64_t y, int32_t columns)
    {
        uint8_t const* const row = picture + y * shape.width * 3;
        int64_t const last = y == shape.height - 1 ? shape.width - 1 : shape.width;
        for (int32_t x = 0; x < columns; ++x) {
            int64_t const first = scratch.firstTap[x];
            PixelVec sum = PixelVec{} + (1 << (kPillowBits - 1));
            for (int32_t tap = 0; tap < scratch.tapCount[x]; ++tap) {
                sum += pixel(row + (first + tap) * 3, first + tap == last) * weights[x * taps + tap];
            }
            sum >>= kPillowBits;
            __builtin_memcpy(scratch.levels + x * kPixelLanes, &sum, sizeof(sum));
        }
    }

    static void addRow(int32_t const* levels, int32_t weight, int32_t* sums, int32_t lanes)
    {
        for (int32_t i = 0; i < lanes; i += kLanes) {
            IntVec level;
            IntVec sum;
            __builtin_memcpy(&level, levels + i, sizeof(level));
            __builtin_memcpy(&sum, sums + i, sizeof(sum));
            sum += level * weight;
            __builtin_memcpy(sums + i, &sum, sizeof(sum));
        }
    }

    void sumRows(int64_t y0, int32_t rows, int32_t columns)
    {
        int32_t const lanes = ceilDivide(columns * kPixelLanes, kLanes) * kLanes;
        for (int32_t y = 0; y < rows; ++y) {
            scratch.rows[y] = PillowTaps{y0 + y, shape.height, sizes.scaledHeight};
            for (int32_t i = 0; i < lanes; ++i) {
                scratch.sums[y][i] = 1 << (kPillowBits - 1);
            }
        }
        for (int32_t i = columns * kPixelLanes; i < lanes; ++i) {
            scratch.levels[i] = 0;
        }
        int32_t begin = 0; // the rows of the tile that a source row reaches
        int32_t end = 0;
        for (int64_t source = scratch.rows[0].first(); source < scratch.rows[rows - 1].end(); ++source) {
            while (scratch.rows[begin].end() <= source) {
                ++begin;
            }
            while (end < rows && scratch.rows[end].first() <= source) {
                ++end;
            }
            resizeAcross(source, columns);
            for (int32_t y = begin; y < end; ++y) {
                addRow(scratch.levels, scratch.rows[y].weight(source), scratch.sums[y], lanes);
            }
        }
    }

    void write(int32_t const* sums, int32_t columns, float* const (&to)[3]) const
    {
        for (int32_t c = 0; c < 3; ++c) {
            for (int32_t x = 0; x < columns; ++x) {
                float const level = static_cast<float>(sums[x * kPixelLanes + c] >> kPillowBits);
                to[c][x] = (level - scale.mean[c]) * scale.inverseStd[c];
            }
        }
    }

    void run(int64_t y0, int32_t rows, int64_t x0, int32_t columns, float* image)
    {
        findColumns(x0, columns);
        sumRows(y0, rows, columns);
        int64_t const plane = sizes.outHeight * sizes.outWidth;
        int64_t const red = shape.reversesChannels ? 2 * plane : 0;
        for (int32_t y = 0; y < rows; ++y) {
            float* const first = image + (y0 + y) * sizes.outWidth + x0;
            write(scratch.sums[y], columns, {first + red, first + plane, first + (2 * plane - red)});
        }
    }
};

} // namespace

bool prepareImageAsPillow(PrepareImageShape const& shape, PrepareImageSizes const& sizes, LevelScale const& scale,
    uint8_t const* pictures, float* images, ThreadPool const& pool) noexcept
{
    bool isDone = true;
    int64_t const columnTiles = ceilDivide<int64_t>(sizes.outWidth, kColumns);
    int64_t const rowTiles = ceilDivide<int64_t>(sizes.outHeight, kRows);
    int64_t const taps = mostPillowTaps(shape.width, sizes.scaledWidth);
    parallelFor(pool, shape.batch * rowTiles * columnTiles, [&](int64_t task) {
        int64_t const x0 = task % columnTiles * kColumns;
        int64_t const y0 = task / columnTiles % rowTiles * kRows;
        int64_t const n = task / columnTiles / rowTiles;
        int32_t const columns = static_cast<int32_t>(smaller<int64_t>(kColumns, sizes.outWidth - x0));
        void* const memory = aligned_alloc(alignof(Scratch), sizeof(Scratch));
        void* const weights = malloc(static_cast<size_t>(columns * taps) * sizeof(int32_t));
        if (memory == nullptr || weights == nullptr) {
            __atomic_store_n(&isDone, false, __ATOMIC_RELAXED);
        } else {
            PillowTile tile{shape, sizes, scale, pictures + n * shape.height * shape.width * 3,
                *static_cast<Scratch*>(memory), static_cast<int32_t*>(weights), taps};
            tile.run(y0, static_cast<int32_t>(smaller<int64_t>(kRows, sizes.outHeight - y0)), x0, columns,
                images + n * 3 * sizes.outHeight * sizes.outWidth);
        }
        free(weights);
        free(memory);
    });
    return isDone;
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
