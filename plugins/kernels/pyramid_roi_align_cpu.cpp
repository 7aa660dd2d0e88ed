// SPDX-License-Identifier: Apache-2.0
//! The samples of a cell form a grid, so its average is a product: weights of rows, times the map, times weights of
//! columns. Rows are summed first, by vectors of neighbouring columns; then each column of the sums is multiplied with
//! the weights that all cells of a row of cells give it, which are one or two vectors.
#include "pyramid_roi_align_core.h"
#include "simd.h"

#include <stdlib.h>
#include <string.h>

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kCellRows = 8; //!< rows of cells finished at once
constexpr int32_t kAhead = 2;    //!< planes that memory is given to send a box's pixels
constexpr int32_t kStrips = 4;   //!< vectors of columns summed at once

//! What the cells of a box weigh the pixels of one axis, cell by cell from the first pixel that weighs anything.
struct CellWeights {
    int32_t* first;
    int32_t* count;
    float* values; //!< `pitch` for each cell
    int32_t pitch;

    //! Returns whether any pixel weighs anything.
    bool fill(SampleAxis const& axis, int32_t cells) const
    {
        bool any = false;
        float const share = 1.0F / static_cast<float>(axis.samples);
        for (int32_t cell = 0; cell < cells; ++cell) {
            float* const weights = values + int64_t{cell} * pitch;
            first[cell] = 0;
            count[cell] = 0;
            SampleRange const range = samplesNearMap(axis, cell);
            for (int32_t i = range.first; i < range.end; ++i) {
                SamplePoint const point = samplePoint(axis, cell, i);
                if (!point.isInside) {
                    continue;
                }
                if (count[cell] == 0) {
                    first[cell] = point.low;
                }
                for (int32_t const end = point.high - first[cell] + 1; count[cell] < end; ++count[cell]) {
                    weights[count[cell]] = 0.0F;
                }
                weights[point.low - first[cell]] += share * (1.0F - point.share);
                weights[point.high - first[cell]] += share * point.share;
                any = true;
            }
        }
        return any;
    }
};

//! The pixels of an axis that some of the cells from `cell` on weigh.
struct Span {
    int32_t first;
    int32_t end;
};

FREQFUSION_INLINE Span spanOf(CellWeights const& weights, int32_t cell, int32_t cells)
{
    Span span{INT32_MAX, 0};
    for (int32_t end = cell + cells; cell < end; ++cell) {
        if (weights.count[cell] > 0) {
            span.first = smaller(span.first, weights.first[cell]);
            span.end = larger(span.end, weights.first[cell] + weights.count[cell]);
        }
    }
    span.first = smaller(span.first, span.end);
    return span;
}

//! One box on its level.
template <typename T>
struct BoxAverage {
    T const* map; //!< of channel 0
    int32_t height;
    int32_t width;
    int32_t cells;
    int32_t cellVectors;
    CellWeights rows;
    CellWeights columns;
    Span reach;  //!< columns read
    float* sums; //!< (cells, sumPitch): columns from reach.first on, summed over the rows of a row of cells
    int32_t sumPitch;
    float* shares; //!< (columns of the reach, cellVectors * kLanes): what each cell weighs the column

    //! Asks for what the box covers of a plane that is read soon: its rows lie too far apart for the processor to
    //! guess.
    void prefetch(T const* plane, Span rowReach) const
    {
        constexpr int32_t kLine = 64 / static_cast<int32_t>(sizeof(T));
        for (int32_t y = rowReach.first; y < rowReach.end; ++y) {
            T const* const row = plane + int64_t{y} * width;
            for (int32_t x = reach.first; x < reach.end + kLine - 1; x += kLine) {
                __builtin_prefetch(row + x);
            }
        }
    }

    void spreadColumnWeights() const
    {
        int32_t const pitch = cellVectors * kLanes;
        memset(shares, 0, static_cast<size_t>(reach.end - reach.first) * static_cast<size_t>(pitch) * sizeof(float));
        for (int32_t cell = 0; cell < cells; ++cell) {
            for (int32_t i = 0; i < columns.count[cell]; ++i) {
                shares[int64_t{columns.first[cell] - reach.first + i} * pitch + cell] =
                    columns.values[int64_t{cell} * columns.pitch + i];
            }
        }
    }

    template <int kVectors>
    void sumRows(T const* plane, int32_t cell, int32_t column) const
    {
        Vec total[kVectors] = {};
        float const* const weights = rows.values + int64_t{cell} * rows.pitch;
        T const* from = plane + int64_t{rows.first[cell]} * width + column;
        // A vector may reach over the row's end, but not over the plane's last.
        int32_t const left = width - column;
        for (int32_t i = 0; i < rows.count[cell]; ++i, from += width) {
            Vec const weight = broadcast(weights[i]);
            for (int v = 0; v < kVectors; ++v) {
                bool const isWhole = v + 1 < kVectors || left >= kVectors * kLanes;
                total[v] +=
                    weight * (isWhole ? loadAs(from + v * kLanes) : loadPart(from + v * kLanes, left - v * kLanes));
            }
        }
        for (int v = 0; v < kVectors; ++v) {
            store(sums + int64_t{cell} * sumPitch + (column - reach.first) + v * kLanes, total[v]);
        }
    }

    void sumRows(T const* plane) const
    {
        for (int32_t cell = 0; cell < cells; ++cell) {
            int32_t column = reach.first;
            for (; reach.end - column > (kStrips - 1) * kLanes; column += kStrips * kLanes) {
                sumRows<kStrips>(plane, cell, column);
            }
            switch (ceilDivide(larger(reach.end - column, 0), kLanes)) {
            case 3:
                sumRows<3>(plane, cell, column);
                break;
            case 2:
                sumRows<2>(plane, cell, column);
                break;
            case 1:
                sumRows<1>(plane, cell, column);
                break;
            default:
                break;
            }
        }
    }

    template <int kRows>
    void weighColumns(int32_t cellRow, int32_t vector, Span span, T* to) const
    {
        Vec total[kRows] = {};
        int32_t const pitch = cellVectors * kLanes;
        for (int32_t x = span.first; x < span.end; ++x) {
            Vec const weight = load(shares + int64_t{x - reach.first} * pitch + vector * kLanes);
            for (int r = 0; r < kRows; ++r) {
                total[r] += weight * sums[int64_t{cellRow + r} * sumPitch + (x - reach.first)];
            }
        }
        for (int r = 0; r < kRows; ++r) {
            storePart(to + int64_t{cellRow + r} * cells + vector * kLanes, total[r], cells - vector * kLanes);
        }
    }

    void weighColumns(T* to) const
    {
        for (int32_t vector = 0; vector < cellVectors; ++vector) {
            Span const span = spanOf(columns, vector * kLanes, smaller(kLanes, cells - vector * kLanes));
            int32_t row = 0;
            for (; cells - row >= kCellRows; row += kCellRows) {
                weighColumns<kCellRows>(row, vector, span, to);
            }
            switch (cells - row) { // 7 and 14 are what detectors ask for
            case 7:
                weighColumns<7>(row, vector, span, to);
                break;
            case 6:
                weighColumns<6>(row, vector, span, to);
                break;
            default:
                for (; row < cells; ++row) {
                    weighColumns<1>(row, vector, span, to);
                }
            }
        }
    }
};

template <typename T>
struct PyramidAverage {
    PyramidRoiAlignShape const& shape;
    void const* const* maps;
    float const* boxes;
    T* output;

    //! Averages channels `begin` to `end` over a box; false if there is no memory for its weights.
    bool run(int64_t roi, int32_t begin, int32_t end) const
    {
        int32_t const cells = shape.outputSize;
        int64_t const cellCount = int64_t{cells} * cells;
        float const* const box = boxes + roi * 4;
        int32_t const level = pyramidLevel(box, shape.finestScale);
        int32_t const height = shape.height[level];
        int32_t const width = shape.width[level];
        float const stride = static_cast<float>(shape.finestStride) * static_cast<float>(1 << level);
        SampleAxis const vertical = sampleAxis(box[1], box[3], stride, height, cells);
        SampleAxis const horizontal = sampleAxis(box[0], box[2], stride, width, cells);
        T* to = output + (roi * shape.channels + begin) * cellCount;
        size_t const bytes = static_cast<size_t>((end - begin) * cellCount) * sizeof(T);
        if (vertical.samples == 0 || horizontal.samples == 0) {
            memset(to, 0, bytes);
            return true;
        }
        int32_t const rowPitch = pitchOf(vertical);
        int32_t const columnPitch = pitchOf(horizontal);
        int32_t const cellVectors = ceilDivide(cells, kLanes);
        // Columns that no cell weighs are neither summed nor spread, so the reach bounds both tables.
        int64_t const mostColumns = smaller(int64_t{width}, int64_t{columnPitch} * cells);
        int64_t const sumPitch = (mostColumns + kLanes - 1) / kLanes * kLanes;
        int64_t const numbers =
            cells * (4 + int64_t{rowPitch} + columnPitch + sumPitch) + mostColumns * cellVectors * kLanes;
        float* const memory = static_cast<float*>(malloc(static_cast<size_t>(numbers) * sizeof(float)));
        if (memory == nullptr) {
            return false;
        }
        int32_t* const counts = reinterpret_cast<int32_t*>(memory);
        float* const rowValues = memory + 4 * int64_t{cells};
        float* const columnValues = rowValues + int64_t{cells} * rowPitch;
        float* const sums = columnValues + int64_t{cells} * columnPitch;
        CellWeights const rows{counts, counts + cells, rowValues, rowPitch};
        CellWeights const columns{counts + 2 * int64_t{cells}, counts + 3 * int64_t{cells}, columnValues, columnPitch};
        if (!rows.fill(vertical, cells) || !columns.fill(horizontal, cells)) {
            memset(to, 0, bytes);
        } else {
            int64_t const planeSize = int64_t{height} * width;
            int64_t const image = roi / shape.boxes;
            T const* plane = static_cast<T const*>(maps[level]) + (image * shape.channels + begin) * planeSize;
            BoxAverage<T> const average{plane, height, width, cells, cellVectors, rows, columns,
                spanOf(columns, 0, cells), sums, static_cast<int32_t>(sumPitch), sums + cells * sumPitch};
            average.spreadColumnWeights();
            Span const rowReach = spanOf(rows, 0, cells);
            for (int32_t c = begin; c < end; ++c, plane += planeSize, to += cellCount) {
                average.prefetch(c + kAhead < end ? plane + kAhead * planeSize : plane, rowReach);
                average.sumRows(plane);
                average.weighColumns(to);
            }
        }
        free(memory);
        return true;
    }

    //! Pixels that the samples of one cell reach at most: its extent, the two beside it and one for rounding.
    static int32_t pitchOf(SampleAxis const& axis) { return smaller(axis.size, axis.samples + 3); }
};

} // namespace

bool pyramidRoiAlign(PyramidRoiAlignShape const& shape, DType dtype, void const* const* maps, float const* boxes,
    void* output, ThreadPool const& pool) noexcept
{
    bool isDone = true;
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        PyramidAverage<T> const average{shape, maps, boxes, static_cast<T*>(output)};
        int64_t const rois = int64_t{shape.batch} * shape.boxes;
        // A box's weights are worth a few channels: only few boxes are shared out.
        int32_t const wanted = rois >= int64_t{4} * pool.threads ? 1 : smaller(4 * pool.threads, shape.channels);
        int32_t const channels = ceilDivide(shape.channels, wanted);
        int32_t const blocks = ceilDivide(shape.channels, channels);
        parallelFor(pool, rois * blocks, [&](int64_t task) {
            int32_t const begin = static_cast<int32_t>(task % blocks) * channels;
            if (!average.run(task / blocks, begin, smaller(begin + channels, shape.channels))) {
                __atomic_store_n(&isDone, false, __ATOMIC_RELAXED);
            }
        });
    });
    return isDone;
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
