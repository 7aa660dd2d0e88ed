// SPDX-License-Identifier: Apache-2.0
//! Both resizes together read at most four pixels along each axis, mostly two. A task makes a tile of the label map for
//! one block of classes after the other. It resizes the source rows that it needs along x, once each, into a store of
//! four rows; all output rows that lie between the same two source rows are then mixed from them at once, each keeping
//! its best score and label in registers while the classes go by. (Passing over a class whose ends both lie below every
//! best so far was slower, by 1.3 with one clear winner and by 2 without: the branch is not predictable.)
//!
//! A score of -inf loses against any number, as does NaN; where no class has a larger score, the label is 0.
#include "resize_argmax_core.h"
#include "simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kTileVectors = 4;
constexpr int32_t kColumns = kTileVectors * kLanes;
constexpr int32_t kRows = 64;
constexpr int32_t kClasses = 32; // the stored rows, 4 x 32 x kColumns floats, are 32 KB with the widest vectors
constexpr int32_t kStoredRows = kMaxResizeTaps;
#if defined(__SSE2__) && !defined(__AVX512F__)
constexpr int32_t kMixedRows = 4; // a best score and a label each, in 16 registers
#else
constexpr int32_t kMixedRows = 8;
#endif

//! Along x: the source pixels of one vector of output pixels.
struct ColumnTaps {
    int32_t count;
    int32_t base;    //!< first source pixel that any lane reads, moved left if needed so that a vector fits the row
    bool fitsVector; //!< whether one vector from `base` on holds all that the lanes read
    alignas(64) int32_t index[kMaxResizeTaps][kLanes]; //!< from `base`
    alignas(64) float weight[kMaxResizeTaps][kLanes];
};

//! Along y: the source rows of one output row. With at most two, `low` and `high` mix with the share of `high`.
struct RowTaps {
    ResizeTaps taps;
    int32_t low;
    int32_t high;
    float share;
};

RowTaps rowTapsOf(ResizeTaps const& taps)
{
    RowTaps row{taps, taps.index[0], taps.index[0], 0.0F};
    if (taps.count == 2) {
        bool const isAscending = taps.index[0] < taps.index[1];
        row.low = taps.index[isAscending ? 0 : 1];
        row.high = taps.index[isAscending ? 1 : 0];
        row.share = taps.weight[isAscending ? 1 : 0];
    }
    return row;
}

//! A task's best scores and labels so far.
struct Best {
    alignas(64) float score[kRows * kColumns];
    alignas(64) int32_t label[kRows * kColumns];
};

//! The stored rows: resized along x, [class][column]; `source` tells which.
struct RowStore {
    alignas(64) float rows[kStoredRows][kClasses * kColumns];
    int32_t source[kStoredRows];
};

FREQFUSION_INLINE void keepBetter(Vec score, IntVec label, Vec& bestScore, IntVec& bestLabel)
{
    IntVec const isBetter = score > bestScore;
    bestScore = isBetter ? score : bestScore;
    bestLabel = isBetter ? label : bestLabel;
}

//! Mixes kCount output rows from the same two stored rows and keeps the better scores. `score` and `label` point at the
//! first row's best, the next rows' lie kColumns further each.
template <int kCount>
void mixRows(float const* low, float const* high, RowTaps const* rows, int32_t firstClass, int32_t classes,
    float* score, int32_t* label)
{
    Vec best[kCount];
    Vec share[kCount];
    IntVec bestLabel[kCount];
    for (int32_t r = 0; r < kCount; ++r) {
        best[r] = load(score + r * kColumns);
        __builtin_memcpy(&bestLabel[r], label + r * kColumns, sizeof(IntVec));
        share[r] = broadcast(rows[r].share);
    }
    IntVec current = broadcastInt(firstClass);
    for (int32_t c = 0; c < classes; ++c) {
        Vec const from = load(low + c * kColumns);
        Vec const difference = load(high + c * kColumns) - from;
        for (int32_t r = 0; r < kCount; ++r) {
            keepBetter(from + difference * share[r], current, best[r], bestLabel[r]);
        }
        current += 1;
    }
    for (int32_t r = 0; r < kCount; ++r) {
        store(score + r * kColumns, best[r]);
        __builtin_memcpy(label + r * kColumns, &bestLabel[r], sizeof(IntVec));
    }
}

template <int kCount>
void mixRowsUpTo(int32_t count, float const* low, float const* high, RowTaps const* rows, int32_t firstClass,
    int32_t classes, float* score, int32_t* label)
{
    if constexpr (kCount > 1) {
        if (count < kCount) {
            return mixRowsUpTo<kCount - 1>(count, low, high, rows, firstClass, classes, score, label);
        }
    }
    mixRows<kCount>(low, high, rows, firstClass, classes, score, label);
}

//! One tile of the label map: rows [y0, y0 + rows), columns [x0, x0 + columns) of image n.
template <typename T>
struct LabelTile {
    ResizeArgmaxShape const& shape;
    T const* image;
    int32_t rows;
    int32_t columns;
    RowTaps rowTaps[kRows];
    ColumnTaps columnTaps[kTileVectors];
    bool isShared = false;   //!< whether all columnTaps have the same base
    int32_t firstSource = 0; //!< the source rows of the first and the last output row
    int32_t lastSource = 0;
    RowStore stored;
    Best best;

    //! Leaves the scratch memory unwritten, which an aggregate's initialization would not.
    LabelTile(ResizeArgmaxShape const& ofShape, T const* ofImage, int32_t tileRows, int32_t tileColumns)
        : shape(ofShape), image(ofImage), rows(tileRows), columns(tileColumns)
    {
    }

    void findTaps(int32_t y0, int32_t x0)
    {
        for (int32_t r = 0; r < rows; ++r) {
            rowTaps[r] =
                rowTapsOf(resizeTaps(y0 + r, shape.height, shape.stepHeight, shape.outHeight, shape.alignCorners));
        }
        for (int32_t v = 0; v * kLanes < columns; ++v) {
            findColumnTaps(x0 + v * kLanes, columnTaps[v]);
        }
        shareBase();
        firstSource = rowTaps[0].low;
        lastSource = rowTaps[rows - 1].high;
    }

    //! Lets all vectors of a tile of full width begin at the same source pixel, if one vector from there on holds all
    //! that they read.
    void shareBase()
    {
        if (columns <= (kTileVectors - 1) * kLanes) {
            return;
        }
        int32_t base = shape.width;
        int32_t last = 0;
        for (ColumnTaps const& taps : columnTaps) {
            base = smaller(base, taps.base);
            for (auto const& indices : taps.index) {
                for (int32_t const index : indices) {
                    last = larger(last, taps.base + index);
                }
            }
        }
        isShared = last - base < kLanes;
        if (!isShared) {
            return;
        }
        for (ColumnTaps& taps : columnTaps) {
            for (auto& indices : taps.index) {
                for (int32_t& index : indices) {
                    index += taps.base - base;
                }
            }
            taps.base = base;
        }
    }

    void findColumnTaps(int32_t x, ColumnTaps& taps) const
    {
        taps = ColumnTaps{};
        int32_t first = shape.width;
        int32_t last = 0;
        for (int32_t lane = 0; lane < kLanes; ++lane) {
            // Lanes beyond the map repeat its last column.
            ResizeTaps const pixel = resizeTaps(smaller(x + lane, shape.outWidth - 1), shape.width, shape.stepWidth,
                shape.outWidth, shape.alignCorners);
            taps.count = larger(taps.count, pixel.count);
            for (int32_t t = 0; t < kMaxResizeTaps; ++t) {
                int32_t const index = t < pixel.count ? pixel.index[t] : pixel.index[0];
                taps.index[t][lane] = index;
                taps.weight[t][lane] = t < pixel.count ? pixel.weight[t] : 0.0F;
                first = smaller(first, index);
                last = larger(last, index);
            }
        }
        taps.base = larger(smaller(first, shape.width - kLanes), 0);
        taps.fitsVector = last - taps.base < kLanes;
        for (auto& indices : taps.index) {
            for (int32_t& index : indices) {
                index -= taps.base;
            }
        }
    }

    //! Resizes a row of each class along x, for kVectors vectors of output pixels at once: the rows of different
    //! classes often lie a power of two apart, where few fit into the first-level cache together. `row` is the first
    //! class's. Fetches the row that comes `ahead` pixels later, since no hardware follows steps of a whole map:
    //! without that, waiting for the source took a seventh of the time (150 x 64 x 64 to 512 x 512, AVX-512, 2026-11).
    template <int kVectors, int kTaps, bool kIsShared>
    void resizeFitting(T const* row, ColumnTaps const* taps, int64_t ahead, int32_t classes, float* to) const
    {
        int64_t const mapSize = int64_t{shape.height} * shape.width;
        int32_t const width = shape.width;
        IntVec lanes[kVectors][kTaps];
        Vec weight[kVectors][kTaps];
        int32_t base[kVectors];
        for (int32_t v = 0; v < kVectors; ++v) {
            base[v] = taps[v].base;
            for (int32_t t = 0; t < kTaps; ++t) {
                __builtin_memcpy(&lanes[v][t], taps[v].index[t], sizeof(IntVec));
                weight[v][t] = load(taps[v].weight[t]);
            }
        }
        for (int32_t c = 0; c < classes; ++c) {
            __builtin_prefetch(row + base[0] + ahead, 0, 2);
            __builtin_prefetch(row + base[kVectors - 1] + kLanes - 1 + ahead, 0, 2);
            Vec pixels = loadPart(row + base[0], width - base[0]);
            for (int32_t v = 0; v < kVectors; ++v) {
                if (v > 0 && !kIsShared) {
                    pixels = loadPart(row + base[v], width - base[v]);
                }
                Vec sum = permute(pixels, lanes[v][0]) * weight[v][0];
                for (int32_t t = 1; t < kTaps; ++t) {
                    sum += permute(pixels, lanes[v][t]) * weight[v][t];
                }
                store(to + c * kColumns + v * kLanes, sum);
            }
            row += mapSize;
        }
    }

    template <int kVectors, bool kIsShared>
    void resizeFittingTaps(
        int32_t count, T const* row, ColumnTaps const* taps, int64_t ahead, int32_t classes, float* to) const
    {
        if (count <= 2) {
            resizeFitting<kVectors, 2, kIsShared>(row, taps, ahead, classes, to);
        } else if (count == 3) {
            resizeFitting<kVectors, 3, kIsShared>(row, taps, ahead, classes, to);
        } else {
            resizeFitting<kVectors, 4, kIsShared>(row, taps, ahead, classes, to);
        }
    }

    template <int kVectors>
    void resizeVectors(T const* row, ColumnTaps const* taps, int64_t ahead, int32_t classes, float* to) const
    {
        int32_t count = 0;
        bool fits = true;
        for (int32_t v = 0; v < kVectors; ++v) {
            count = larger(count, taps[v].count);
            fits = fits && taps[v].fitsVector;
        }
        if (!fits) {
            for (int32_t v = 0; v < kVectors; ++v) {
                resizeScattered(row, taps[v], classes, to + v * kLanes);
            }
        } else if (kVectors > 1 && isShared) {
            resizeFittingTaps<kVectors, (kVectors > 1)>(count, row, taps, ahead, classes, to);
        } else {
            resizeFittingTaps<kVectors, false>(count, row, taps, ahead, classes, to);
        }
    }

    //! The same where the source pixels lie too far apart for one vector.
    void resizeScattered(T const* row, ColumnTaps const& taps, int32_t classes, float* to) const
    {
        int64_t const mapSize = int64_t{shape.height} * shape.width;
        for (int32_t c = 0; c < classes; ++c) {
            T const* const from = row + c * mapSize + taps.base;
            Vec sum = {};
            for (int32_t t = 0; t < taps.count; ++t) {
                T pixels[kLanes];
                for (int32_t lane = 0; lane < kLanes; ++lane) {
                    pixels[lane] = from[taps.index[t][lane]];
                }
                sum += loadAs(pixels) * load(taps.weight[t]);
            }
            store(to + c * kColumns, sum);
        }
    }

    void resizeRow(int32_t source, int32_t firstClass, int32_t classes, float* to) const
    {
        T const* const row = image + int64_t{firstClass} * shape.height * shape.width + int64_t{source} * shape.width;
        // After the tile's last row comes its first one of the next classes.
        int64_t const rowsAhead =
            source == lastSource ? int64_t{kClasses} * shape.height + firstSource - lastSource : int64_t{1};
        int64_t const ahead = rowsAhead * shape.width;
        if (columns > (kTileVectors - 1) * kLanes) {
            return resizeVectors<kTileVectors>(row, columnTaps, ahead, classes, to);
        }
        for (int32_t v = 0; v * kLanes < columns; ++v) {
            resizeVectors<1>(row, columnTaps + v, ahead, classes, to + v * kLanes);
        }
    }

    //! Which of the stored rows holds each row of `taps`, after resizing those that none held.
    void storeRows(ResizeTaps const& taps, int32_t firstClass, int32_t classes, int32_t (&slots)[kMaxResizeTaps])
    {
        bool isNeeded[kStoredRows] = {};
        for (int32_t t = 0; t < taps.count; ++t) {
            slots[t] = -1;
            for (int32_t s = 0; s < kStoredRows; ++s) {
                if (stored.source[s] == taps.index[t]) {
                    slots[t] = s;
                    isNeeded[s] = true;
                }
            }
        }
        for (int32_t t = 0; t < taps.count; ++t) {
            if (slots[t] >= 0) {
                continue;
            }
            int32_t s = 0;
            while (isNeeded[s]) {
                ++s;
            }
            isNeeded[s] = true;
            slots[t] = s;
            stored.source[s] = taps.index[t];
            resizeRow(taps.index[t], firstClass, classes, stored.rows[s]);
        }
    }

    //! One vector of an output row made of three or four stored rows; `at` is its place among the best.
    template <int kTaps>
    void mixMany(
        ResizeTaps const& taps, int32_t const (&slots)[kMaxResizeTaps], int32_t firstClass, int32_t classes, int32_t at)
    {
        float const* row[kTaps];
        Vec weight[kTaps];
        for (int32_t t = 0; t < kTaps; ++t) {
            row[t] = stored.rows[slots[t]] + at % kColumns;
            weight[t] = broadcast(taps.weight[t]);
        }
        Vec score = load(best.score + at);
        IntVec label;
        __builtin_memcpy(&label, best.label + at, sizeof(label));
        IntVec current = broadcastInt(firstClass);
        for (int32_t c = 0; c < classes; ++c) {
            Vec sum = load(row[0] + c * kColumns) * weight[0];
            for (int32_t t = 1; t < kTaps; ++t) {
                sum += load(row[t] + c * kColumns) * weight[t];
            }
            keepBetter(sum, current, score, label);
            current += 1;
        }
        store(best.score + at, score);
        __builtin_memcpy(best.label + at, &label, sizeof(label));
    }

    void addClasses(int32_t firstClass, int32_t classes)
    {
        for (int32_t& source : stored.source) {
            source = -1;
        }
        for (int32_t r = 0; r < rows;) {
            RowTaps const& first = rowTaps[r];
            int32_t slots[kMaxResizeTaps];
            storeRows(first.taps, firstClass, classes, slots);
            int32_t count = 1;
            if (first.taps.count > 2) {
                for (int32_t x = 0; x < columns; x += kLanes) {
                    if (first.taps.count == 3) {
                        mixMany<3>(first.taps, slots, firstClass, classes, r * kColumns + x);
                    } else {
                        mixMany<4>(first.taps, slots, firstClass, classes, r * kColumns + x);
                    }
                }
            } else {
                while (count < kMixedRows && r + count < rows && rowTaps[r + count].taps.count <= 2
                       && rowTaps[r + count].low == first.low && rowTaps[r + count].high == first.high) {
                    ++count;
                }
                float const* const low = stored.rows[slots[first.taps.index[0] == first.low ? 0 : 1]];
                float const* const high = stored.rows[slots[first.taps.index[0] == first.high ? 0 : 1]];
                for (int32_t x = 0; x < columns; x += kLanes) {
                    int32_t const at = r * kColumns + x;
                    mixRowsUpTo<kMixedRows>(
                        count, low + x, high + x, rowTaps + r, firstClass, classes, best.score + at, best.label + at);
                }
            }
            r += count;
        }
    }

    void run(int32_t y0, int32_t x0, int32_t* labels)
    {
        findTaps(y0, x0);
        for (int32_t i = 0; i < rows * kColumns; ++i) {
            best.score[i] = -__builtin_inff();
            best.label[i] = 0;
        }
        for (int32_t c = 0; c < shape.classes; c += kClasses) {
            addClasses(c, smaller(kClasses, shape.classes - c));
        }
        for (int32_t r = 0; r < rows; ++r) {
            __builtin_memcpy(labels + (int64_t{y0} + r) * shape.outWidth + x0, best.label + r * kColumns,
                static_cast<unsigned long>(columns) * sizeof(int32_t));
        }
    }
};

} // namespace

void resizeArgmax(
    ResizeArgmaxShape const& shape, DType dtype, void const* scores, int32_t* labels, ThreadPool const& pool) noexcept
{
    int64_t const columnTiles = ceilDivide(shape.outWidth, kColumns);
    int32_t rows = kRows;
    while (rows > 16 && shape.batch * columnTiles * ceilDivide(shape.outHeight, rows) < 4 * int64_t{pool.threads}) {
        rows /= 2;
    }
    int64_t const rowTiles = ceilDivide(shape.outHeight, rows);
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        parallelFor(pool, shape.batch * rowTiles * columnTiles, [&](int64_t task) {
            int32_t const x0 = static_cast<int32_t>(task % columnTiles) * kColumns;
            int32_t const y0 = static_cast<int32_t>(task / columnTiles % rowTiles) * rows;
            int64_t const n = task / columnTiles / rowTiles;
            LabelTile<T> tile{shape, static_cast<T const*>(scores) + n * shape.classes * shape.height * shape.width,
                smaller(rows, shape.outHeight - y0), smaller(kColumns, shape.outWidth - x0)};
            tile.run(y0, x0, labels + n * shape.outHeight * shape.outWidth);
        });
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
