// SPDX-License-Identifier: Apache-2.0
//! Scores are a product of matrices: what classes a query stands for, times where it is. A task makes a tile of the
//! label map from the top down. It keeps the scores of two rows of the padded image, at those columns alone that the
//! tile reads, and makes each row once: the mask logits are resized, their sigmoid taken, and blocks of kClasses
//! classes by kPanelVectors vectors of pixels summed in registers over the queries. Output rows are mixed from the two,
//! class after class, with the best score and its label in registers.
//!
//! A score that is NaN loses against any number, and where no class has a larger score the label is 0.
#include "query_argmax.h"
#include "resize_argmax_core.h"
#include "simd.h"

#include <stdlib.h>

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kPixels = 64; //!< columns of the padded image in a tile
constexpr int32_t kMostOutColumns = 256;
constexpr int32_t kMostRows = 32;
constexpr int32_t kClasses = 6;
#if defined(__AVX512F__)
constexpr int32_t kPanelVectors = 4; // 24 sums in 32 registers
#else
constexpr int32_t kPanelVectors = 2; // 12 in 16
#endif
constexpr int32_t kPanel = kPanelVectors * kLanes;
constexpr int32_t kVectors = kPixels / kLanes;

//! Lane i is lane `lanes[i]` of `low` and `high` laid end to end.
FREQFUSION_INLINE Vec permutePair(Vec low, Vec high, IntVec lanes)
{
#if defined(__AVX512F__)
    return (Vec)_mm512_permutex2var_ps((__m512)low, (__m512i)lanes, (__m512)high);
#elif defined(__AVX2__)
    return lanes < kLanes ? permute(low, lanes) : permute(high, lanes);
#else
    Vec to;
    for (int32_t i = 0; i < kLanes; ++i) {
        to[i] = lanes[i] < kLanes ? low[lanes[i]] : high[lanes[i] - kLanes];
    }
    return to;
#endif
}

FREQFUSION_INLINE Vec sigmoid(Vec x)
{
    IntVec const isPositive = x > 0.0F;
    Vec const power = expOfNegative(isPositive ? -x : x);
    return (isPositive ? broadcast(1.0F) : power) / (power + 1.0F);
}

//! Two pixels for each lane, near each other in a row, and the share of the second.
struct LanePairs {
    int32_t base; //!< of the row; the lanes' indices begin there
    bool isNear;  //!< whether two vectors from `base` on hold all that the lanes read
    alignas(64) int32_t first[kLanes];
    alignas(64) int32_t second[kLanes];
    alignas(64) float share[kLanes];
};

//! Makes `pairs` of kLanes indices that count from the row's begin.
void shiftToBase(LanePairs& pairs)
{
    pairs.base = pairs.first[0];
    pairs.isNear = true;
    for (int32_t i = 0; i < kLanes; ++i) {
        pairs.first[i] -= pairs.base;
        pairs.second[i] -= pairs.base;
        pairs.isNear = pairs.isNear && pairs.second[i] < 2 * kLanes;
    }
}

FREQFUSION_INLINE Vec mixLanes(float const* row, LanePairs const& pairs)
{
    Vec first;
    Vec second;
    if (pairs.isNear) {
        Vec const low = load(row + pairs.base);
        Vec const high = load(row + pairs.base + kLanes);
        IntVec lanes;
        __builtin_memcpy(&lanes, pairs.first, sizeof(lanes));
        first = permutePair(low, high, lanes);
        __builtin_memcpy(&lanes, pairs.second, sizeof(lanes));
        second = permutePair(low, high, lanes);
    } else {
        for (int32_t i = 0; i < kLanes; ++i) {
            first[i] = row[pairs.base + pairs.first[i]];
            second[i] = row[pairs.base + pairs.second[i]];
        }
    }
    return first + (second - first) * load(pairs.share);
}

//! Softmax of every query's logits without the last, as blocks of kClasses classes: [block][query][class]; classes that
//! fill up the last block weigh nothing.
template <typename T>
void packShares(QueryArgmaxShape const& shape, T const* logits, float* row, float* packed)
{
    int32_t const count = shape.classes + 1;
    int32_t const blocks = ceilDivide(shape.classes, kClasses);
    for (int32_t q = 0; q < shape.queries; ++q, logits += count) {
        float largest = -__builtin_huge_valf();
        for (int32_t c = 0; c < count; c += kLanes) {
            Vec const part = loadPart(logits + c, count - c);
            store(row + c, part);
            for (int32_t i = 0; i < smaller(kLanes, count - c); ++i) {
                largest = part[i] > largest ? part[i] : largest;
            }
        }
        float sum = 0.0F;
        for (int32_t c = 0; c < count; c += kLanes) {
            store(row + c, expOfNegative(load(row + c) - largest));
            for (int32_t i = 0; i < smaller(kLanes, count - c); ++i) {
                sum += row[c + i];
            }
        }
        for (int32_t c = 0; c < blocks * kClasses; ++c) {
            int64_t const at = (int64_t{c / kClasses} * shape.queries + q) * kClasses + c % kClasses;
            packed[at] = c < shape.classes ? row[c] / sum : 0.0F;
        }
    }
}

//! Adds up kClasses classes at kPanel pixels over the queries.
void sumQueries(float const* shares, float const* masks, int32_t queries, float* to)
{
    Vec sum[kClasses][kPanelVectors] = {};
    for (int32_t q = 0; q < queries; ++q) {
        Vec mask[kPanelVectors];
        for (int32_t v = 0; v < kPanelVectors; ++v) {
            mask[v] = load(masks + v * kLanes);
        }
        for (int32_t c = 0; c < kClasses; ++c) {
            Vec const share = broadcast(shares[c]);
            for (int32_t v = 0; v < kPanelVectors; ++v) {
                sum[c][v] += share * mask[v];
            }
        }
        shares += kClasses;
        masks += kPixels;
    }
    for (int32_t c = 0; c < kClasses; ++c) {
        for (int32_t v = 0; v < kPanelVectors; ++v) {
            store(to + c * kPixels + v * kLanes, sum[c][v]);
        }
    }
}

//! What a task writes to, in memory of its own.
struct Scratch {
    float* masks;     //!< (Q, kPixels): sigmoids
    float* scores[2]; //!< (C, kPixels) of a row of the padded image each; C rounded up to blocks
    float* row;       //!< a row of mask logits

    static int64_t scoreCount(QueryArgmaxShape const& shape)
    {
        return int64_t{ceilDivide(shape.classes, kClasses)} * kClasses * kPixels;
    }

    //! Vectors are read from up to two vectors' length behind scores and row.
    static int64_t count(QueryArgmaxShape const& shape)
    {
        return int64_t{shape.queries} * kPixels + 2 * scoreCount(shape) + shape.width + 4 * kLanes;
    }

    Scratch(QueryArgmaxShape const& shape, float* memory)
        : masks(memory), scores{memory + int64_t{shape.queries} * kPixels, nullptr}, row(nullptr)
    {
        scores[1] = scores[0] + scoreCount(shape);
        row = scores[1] + scoreCount(shape) + 2 * kLanes;
    }
};

//! One tile of the label map: rows [y0, y0 + rows), columns [x0, x0 + columns) of an image.
template <typename T>
struct QueryTile {
    QueryArgmaxShape const& shape;
    T const* masks;      //!< of the image
    float const* shares; //!< of the image, packed
    Scratch scratch;
    int32_t columns = 0;
    int32_t pixels = 0;                              //!< columns of the padded image that are read
    int32_t storedRow[2] = {-1, -1};                 //!< whose scores are in scratch
    LanePairs resized[kVectors];                     //!< the mask pixels of every read column
    LanePairs outputs[kMostOutColumns / kLanes + 1]; //!< the read columns of every output column

    //! Leaves most unwritten, which an aggregate's initialization would not.
    QueryTile(QueryArgmaxShape const& ofShape, T const* ofMasks, float const* ofShares, Scratch const& ofScratch)
        : shape(ofShape), masks(ofMasks), shares(ofShares), scratch(ofScratch)
    {
    }

    void findColumns(int32_t x0)
    {
        int32_t source[kPixels]; // positions never decrease along an axis, whatever the rounding
        pixels = 0;
        auto const indexOf = [&](int32_t column) {
            if (pixels == 0 || source[pixels - 1] < column) {
                source[pixels++] = column;
            }
            int32_t index = pixels - 1;
            while (source[index] > column) {
                --index;
            }
            return index;
        };
        int32_t const outVectors = ceilDivide(columns, kLanes);
        for (int32_t x = 0; x < outVectors * kLanes; ++x) {
            // Lanes beyond the tile repeat its last column.
            ResizePair const pair =
                resizePair(x0 + smaller(x, columns - 1), shape.keptWidth, shape.outWidth, /*alignCorners=*/false);
            LanePairs& vector = outputs[x / kLanes];
            vector.first[x % kLanes] = indexOf(pair.first);
            vector.second[x % kLanes] = indexOf(pair.second);
            vector.share[x % kLanes] = pair.share;
        }
        for (int32_t v = 0; v < outVectors; ++v) {
            shiftToBase(outputs[v]);
        }
        int32_t const vectors = ceilDivide(pixels, kPanel) * kPanelVectors;
        for (int32_t i = 0; i < vectors * kLanes; ++i) {
            ResizePair const pair =
                resizePair(source[smaller(i, pixels - 1)], shape.width, shape.paddedWidth, /*alignCorners=*/false);
            LanePairs& vector = resized[i / kLanes];
            vector.first[i % kLanes] = pair.first;
            vector.second[i % kLanes] = pair.second;
            vector.share[i % kLanes] = pair.share;
        }
        for (int32_t v = 0; v < vectors; ++v) {
            shiftToBase(resized[v]);
        }
    }

    //! Makes the scores of row `y` of the padded image.
    void scoreRow(int32_t y, float* scores)
    {
        int32_t const panels = ceilDivide(pixels, kPanel);
        ResizePair const rows = resizePair(y, shape.height, shape.paddedHeight, /*alignCorners=*/false);
        int32_t const begin = resized[0].base;
        LanePairs const& last = resized[panels * kPanelVectors - 1];
        int32_t const end = last.base + last.second[kLanes - 1] + 1;
        for (int32_t q = 0; q < shape.queries; ++q) {
            T const* const map = masks + int64_t{q} * shape.height * shape.width;
            T const* const upper = map + int64_t{rows.first} * shape.width;
            T const* const lower = map + int64_t{rows.second} * shape.width;
            for (int32_t x = begin; x < end; x += kLanes) {
                Vec const from = loadPart(upper + x, shape.width - x);
                Vec const to = loadPart(lower + x, shape.width - x);
                store(scratch.row + x, from + (to - from) * rows.share);
            }
            for (int32_t v = 0; v < panels * kPanelVectors; ++v) {
                store(scratch.masks + q * kPixels + v * kLanes, sigmoid(mixLanes(scratch.row, resized[v])));
            }
        }
        int32_t const blocks = ceilDivide(shape.classes, kClasses);
        for (int32_t panel = 0; panel < panels; ++panel) {
            for (int32_t block = 0; block < blocks; ++block) {
                sumQueries(shares + int64_t{block} * shape.queries * kClasses, scratch.masks + panel * kPanel,
                    shape.queries, scores + block * kClasses * kPixels + panel * kPanel);
            }
        }
    }

    //! Which of the two stored rows is row `y`, after making it if none was; it does not replace row `other`.
    int32_t slotOf(int32_t y, int32_t other)
    {
        for (int32_t slot = 0; slot < 2; ++slot) {
            if (storedRow[slot] == y) {
                return slot;
            }
        }
        int32_t const slot = storedRow[0] == other ? 1 : 0;
        scoreRow(y, scratch.scores[slot]);
        storedRow[slot] = y;
        return slot;
    }

    //! Chooses the classes of a row of output pixels, mixed from two rows of scores.
    template <bool kMixesRows, bool kMixesColumns>
    void chooseRow(float const* upper, float const* lower, float share, int32_t* to) const
    {
        auto const mixed = [&](int32_t at) {
            Vec const from = load(upper + at);
            return kMixesRows ? from + (load(lower + at) - from) * share : from;
        };
        for (int32_t v = 0; v * kLanes < columns; ++v) {
            LanePairs const& pairs = outputs[v];
            IntVec first;
            IntVec second;
            __builtin_memcpy(&first, pairs.first, sizeof(first));
            __builtin_memcpy(&second, pairs.second, sizeof(second));
            Vec const weight = load(pairs.share);
            Vec best = broadcast(-__builtin_huge_valf());
            IntVec label = {};
            for (int32_t c = 0; c < shape.classes; ++c) {
                Vec score = mixed(c * kPixels + pairs.base);
                if (kMixesColumns) {
                    Vec const high = mixed(c * kPixels + pairs.base + kLanes);
                    Vec const left = permutePair(score, high, first);
                    score = left + (permutePair(score, high, second) - left) * weight;
                }
                IntVec const isBetter = score > best;
                best = isBetter ? score : best;
                label = isBetter ? broadcastInt(c) : label;
            }
            for (int32_t i = 0; i < smaller(kLanes, columns - v * kLanes); ++i) {
                to[v * kLanes + i] = label[i];
            }
        }
    }

    void run(int32_t y0, int32_t rows, int32_t x0, int32_t count, int32_t* labels)
    {
        columns = count;
        findColumns(x0);
        bool const mixesColumns = shape.keptWidth != shape.outWidth;
        for (int32_t y = y0; y < y0 + rows; ++y) {
            ResizePair const pair = resizePair(y, shape.keptHeight, shape.outHeight, /*alignCorners=*/false);
            float const* const upper = scratch.scores[slotOf(pair.first, pair.second)];
            float const* const lower = scratch.scores[slotOf(pair.second, pair.first)];
            int32_t* const to = labels + int64_t{y} * shape.outWidth + x0;
            if (pair.share == 0.0F) {
                mixesColumns ? chooseRow<false, true>(upper, upper, 0.0F, to)
                             : chooseRow<false, false>(upper, upper, 0.0F, to);
            } else {
                mixesColumns ? chooseRow<true, true>(upper, lower, pair.share, to)
                             : chooseRow<true, false>(upper, lower, pair.share, to);
            }
        }
    }
};

//! How many output columns read at most kPixels columns of the padded image, wherever they begin.
int32_t outColumnsOfTile(QueryArgmaxShape const& shape)
{
    if (shape.keptWidth == shape.outWidth) {
        return kPixels;
    }
    float const scale = static_cast<float>(shape.keptWidth) / static_cast<float>(shape.outWidth);
    // Neighbours' positions are `scale` apart and each reads two columns; one more for rounding.
    float const wanted = (static_cast<float>(kPixels) - 4.0F) / scale;
    int32_t const fitting =
        wanted < static_cast<float>(kMostOutColumns) ? static_cast<int32_t>(wanted) : kMostOutColumns;
    return larger(kPixels / 2, fitting);
}

} // namespace

bool queryArgmax(QueryArgmaxShape const& shape, DType dtype, void const* masks, void const* classes, int32_t* labels,
    ThreadPool const& pool) noexcept
{
    int64_t const blockCount = int64_t{ceilDivide(shape.classes, kClasses)} * shape.queries * kClasses;
    int64_t const rowCount = shape.classes + 1 + kLanes;
    auto* const packed =
        static_cast<float*>(malloc(static_cast<size_t>(blockCount * shape.batch + rowCount) * sizeof(float)));
    if (packed == nullptr) {
        return false;
    }
    int32_t const columns = outColumnsOfTile(shape);
    int64_t const columnTiles = ceilDivide(shape.outWidth, columns);
    int32_t rows = kMostRows;
    while (rows > 8 && shape.batch * columnTiles * ceilDivide(shape.outHeight, rows) < 4 * int64_t{pool.threads}) {
        rows /= 2;
    }
    int64_t const rowTiles = ceilDivide(shape.outHeight, rows);
    bool isDone = true;
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        for (int64_t n = 0; n < shape.batch; ++n) {
            packShares(shape, static_cast<T const*>(classes) + n * shape.queries * (shape.classes + 1),
                packed + blockCount * shape.batch, packed + n * blockCount);
        }
        parallelFor(pool, shape.batch * rowTiles * columnTiles, [&](int64_t task) {
            auto* const memory =
                static_cast<float*>(malloc(static_cast<size_t>(Scratch::count(shape)) * sizeof(float)));
            if (memory == nullptr) {
                __atomic_store_n(&isDone, false, __ATOMIC_RELAXED);
                return;
            }
            int32_t const x0 = static_cast<int32_t>(task % columnTiles) * columns;
            int32_t const y0 = static_cast<int32_t>(task / columnTiles % rowTiles) * rows;
            int64_t const n = task / columnTiles / rowTiles;
            QueryTile<T> tile{shape, static_cast<T const*>(masks) + n * shape.queries * shape.height * shape.width,
                packed + n * blockCount, Scratch{shape, memory}};
            tile.run(y0, smaller(rows, shape.outHeight - y0), x0, smaller(columns, shape.outWidth - x0),
                labels + n * shape.outHeight * shape.outWidth);
            free(memory);
        });
    });
    free(packed);
    return isDone;
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
