// SPDX-License-Identifier: Apache-2.0
//! The output is cut into tiles of 2 x 2. The 4 x 4 pixels that a tile reads and the 3 x 3 weights are transformed to
//! 16 numbers each, for which the convolution is 16 independent products over the channels: matrices of (output
//! channels, channels) and (channels, tiles). A task takes some rows of tiles through all three steps, so that what
//! lies between them stays in the caches; products are made for a few output channels at a time for the same reason.
#include "convolve3x3.h"
#include "simd.h"

#include <stdlib.h>
#include <string.h>

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kPlaces = 16; //!< numbers of a transformed tile
constexpr int32_t kPanel = 6;   //!< output channels multiplied at once; with two vectors of tiles, 12 sums
constexpr int32_t kPanels = 8;  //!< panels between the products and their transformation back
constexpr int32_t kTilesOfTask = 192;
constexpr int32_t kMaxSlots = 64;

//! kPanel output channels, times kVectors vectors of tiles.
template <int kVectors>
FREQFUSION_INLINE void multiplyPanel(int32_t channels, float const* weights, float const* tiles, int64_t tilePitch,
    float* products, int64_t productPitch)
{
    Vec total[kPanel][kVectors] = {};
    for (int32_t c = 0; c < channels; ++c, tiles += tilePitch, weights += kPanel) {
        Vec right[kVectors];
        for (int v = 0; v < kVectors; ++v) {
            right[v] = load(tiles + v * kLanes);
        }
        for (int o = 0; o < kPanel; ++o) {
            Vec const left = broadcast(weights[o]);
            for (int v = 0; v < kVectors; ++v) {
                total[o][v] += left * right[v];
            }
        }
    }
    for (int o = 0; o < kPanel; ++o) {
        for (int v = 0; v < kVectors; ++v) {
            store(products + o * productPitch + v * kLanes, total[o][v]);
        }
    }
}

//! A row of pixels, for a vector of neighbouring tiles, transformed along x.
struct RowTransform {
    Vec place[4];
};

//! `row` is at the first tile's first pixel.
FREQFUSION_INLINE RowTransform transformRow(float const* row)
{
    Vec pixel[4];
    unzip(load(row), load(row + kLanes), pixel[0], pixel[1]);
    unzip(load(row + 2), load(row + 2 + kLanes), pixel[2], pixel[3]);
    return {{pixel[0] - pixel[2], pixel[1] + pixel[2], pixel[2] - pixel[1], pixel[1] - pixel[3]}};
}

struct Convolution {
    Convolve3x3Shape const& shape;
    float const* input;
    float const* packed;
    float const* bias;
    float* output;
    int32_t tileColumns;
    int32_t tileRows;    //!< of an image
    int32_t rowsOfTask;  //!< rows of tiles
    int64_t tilePitch;   //!< tiles of a task, a multiple of two vectors
    int64_t paddedWidth; //!< of a row of pixels in a task's memory
    int32_t panels;

    [[nodiscard]] int64_t paddedFloats() const { return (2 * int64_t{rowsOfTask} + 2) * paddedWidth; }

    [[nodiscard]] int64_t tileFloats() const { return kPlaces * int64_t{shape.channels} * tilePitch; }

    [[nodiscard]] int64_t productFloats() const { return kPlaces * int64_t{kPanels} * kPanel * tilePitch + kLanes; }

    [[nodiscard]] int64_t slotFloats() const { return paddedFloats() + tileFloats() + productFloats(); }

    //! Copies what `count` rows of tiles from `tileRow` of an image on read of a plane, with its border.
    void pad(float const* plane, int32_t tileRow, int32_t count, float* padded) const
    {
        for (int32_t i = 0; i < 2 * count + 2; ++i, padded += paddedWidth) {
            int32_t const y = 2 * tileRow - 1 + i;
            if (y < 0 || y >= shape.height) {
                memset(padded, 0, static_cast<size_t>(paddedWidth) * sizeof(float));
                continue;
            }
            padded[0] = 0.0F;
            memcpy(padded + 1, plane + int64_t{y} * shape.width, static_cast<size_t>(shape.width) * sizeof(float));
            memset(padded + 1 + shape.width, 0, static_cast<size_t>(paddedWidth - 1 - shape.width) * sizeof(float));
        }
    }

    //! Transforms `count` rows of tiles; `tiles` is where the first tile's first number belongs.
    void transformTiles(float const* padded, int32_t count, float* tiles) const
    {
        int64_t const placePitch = int64_t{shape.channels} * tilePitch;
        for (int32_t column = 0; column < tileColumns; column += kLanes) {
            int32_t const left = tileColumns - column;
            float const* row = padded + 2 * int64_t{column};
            RowTransform first = transformRow(row);
            RowTransform second = transformRow(row + paddedWidth);
            for (int32_t i = 0; i < count; ++i) {
                row += 2 * paddedWidth;
                RowTransform const third = transformRow(row);
                RowTransform const fourth = transformRow(row + paddedWidth);
                float* const to = tiles + int64_t{i} * tileColumns + column;
                for (int j = 0; j < 4; ++j) {
                    storePart(to + j * placePitch, first.place[j] - third.place[j], left);
                    storePart(to + (4 + j) * placePitch, second.place[j] + third.place[j], left);
                    storePart(to + (8 + j) * placePitch, third.place[j] - second.place[j], left);
                    storePart(to + (12 + j) * placePitch, second.place[j] - fourth.place[j], left);
                }
                first = third;
                second = fourth;
            }
        }
    }

    //! Output channels `panel` * kPanel and on of all the task's tiles, `vectors` vectors of them.
    void multiply(int32_t panel, int32_t count, float const* tiles, int32_t vectors, float* products) const
    {
        int64_t const panelSize = int64_t{shape.channels} * kPanel;
        for (int32_t place = 0; place < kPlaces; ++place) {
            float const* const left = packed + (int64_t{place} * panels + panel) * panelSize;
            float const* const right = tiles + int64_t{place} * shape.channels * tilePitch;
            float* const to = products + int64_t{place} * kPanels * kPanel * tilePitch;
            for (int32_t v = 0; v < vectors; v += 2) {
                for (int32_t p = 0; p < count; ++p) {
                    float const* const weights = left + p * panelSize;
                    float* const result = to + int64_t{p} * kPanel * tilePitch + v * kLanes;
                    if (v + 1 < vectors) {
                        multiplyPanel<2>(shape.channels, weights, right + v * kLanes, tilePitch, result, tilePitch);
                    } else {
                        multiplyPanel<1>(shape.channels, weights, right + v * kLanes, tilePitch, result, tilePitch);
                    }
                }
            }
        }
    }

    //! Transforms a row of tiles of one output channel back into two rows of pixels.
    void finish(float const* products, int32_t tileRow, float offset, float* plane) const
    {
        constexpr int64_t kChannels = int64_t{kPanels} * kPanel;
        bool const hasSecond = 2 * tileRow + 1 < shape.height;
        float* const to = plane + 2 * int64_t{tileRow} * shape.width;
        for (int32_t column = 0; column < tileColumns; column += kLanes) {
            Vec upper[4];
            Vec lower[4];
            for (int j = 0; j < 4; ++j) {
                float const* const from = products + column + j * kChannels * tilePitch;
                Vec const second = load(from + 4 * kChannels * tilePitch);
                Vec const third = load(from + 8 * kChannels * tilePitch);
                upper[j] = load(from) + second + third;
                lower[j] = second - third - load(from + 12 * kChannels * tilePitch);
            }
            int32_t const left = shape.width - 2 * column;
            storePixels(upper, offset, to + 2 * int64_t{column}, left);
            if (hasSecond) {
                storePixels(lower, offset, to + shape.width + 2 * int64_t{column}, left);
            }
        }
    }

    void storePixels(Vec const* place, float offset, float* to, int32_t left) const
    {
        Vec even = place[0] + place[1] + place[2] + offset;
        Vec odd = place[1] - place[2] - place[3] + offset;
        if (shape.relu) {
            even = even < 0.0F ? Vec{} : even; // a NaN stays one
            odd = odd < 0.0F ? Vec{} : odd;
        }
        Vec low;
        Vec high;
        zip(even, odd, low, high);
        storePart(to, low, left);
        storePart(to + kLanes, high, left - kLanes);
    }

    //! Rows of tiles `begin` to `end`, counted over all images.
    void run(int64_t begin, int64_t end, float* memory) const
    {
        float* const padded = memory;
        float* const tiles = padded + paddedFloats();
        float* const products = tiles + tileFloats();
        int64_t const planeSize = int64_t{shape.height} * shape.width;
        int64_t const count = (end - begin) * tileColumns;
        int32_t const vectors = static_cast<int32_t>((count + kLanes - 1) / kLanes);
        for (int32_t c = 0; c < shape.channels; ++c) {
            float* const own = tiles + int64_t{c} * tilePitch;
            for (int place = 0; place < kPlaces; ++place) { // what the last vector has beyond the tiles
                store(own + place * shape.channels * tilePitch + int64_t{vectors - 1} * kLanes, Vec{});
            }
            for (int64_t row = begin; row < end;) {
                int64_t const image = row / tileRows;
                int32_t const tileRow = static_cast<int32_t>(row % tileRows);
                int32_t const rows = static_cast<int32_t>(smaller(end - row, int64_t{tileRows} - tileRow));
                pad(input + (image * shape.channels + c) * planeSize, tileRow, rows, padded);
                transformTiles(padded, rows, own + (row - begin) * tileColumns);
                row += rows;
            }
        }
        for (int32_t panel = 0; panel < panels; panel += kPanels) {
            multiply(panel, smaller(kPanels, panels - panel), tiles, vectors, products);
            int32_t const channelEnd = smaller((panel + kPanels) * kPanel, shape.outChannels);
            for (int32_t o = panel * kPanel; o < channelEnd; ++o) {
                float const* const own = products + (o - int64_t{panel} * kPanel) * tilePitch;
                for (int64_t row = begin; row < end; ++row) {
                    finish(own + (row - begin) * tileColumns, static_cast<int32_t>(row % tileRows),
                        bias == nullptr ? 0.0F : bias[o],
                        output + (row / tileRows * shape.outChannels + o) * planeSize);
                }
            }
        }
    }
};

} // namespace

int64_t packedWeights3x3(int32_t channels, int32_t outChannels) noexcept
{
    return kPlaces * int64_t{ceilDivide(outChannels, kPanel)} * kPanel * channels;
}

void packWeights3x3(int32_t channels, int32_t outChannels, float const* weights, float* packed) noexcept
{
    int32_t const panels = ceilDivide(outChannels, kPanel);
    memset(packed, 0, static_cast<size_t>(packedWeights3x3(channels, outChannels)) * sizeof(float));
    for (int32_t o = 0; o < outChannels; ++o) {
        for (int32_t c = 0; c < channels; ++c) {
            float const* const w = weights + (int64_t{o} * channels + c) * 9;
            float rows[4][3];
            for (int x = 0; x < 3; ++x) {
                rows[0][x] = w[x];
                rows[1][x] = 0.5F * (w[x] + w[3 + x] + w[6 + x]);
                rows[2][x] = 0.5F * (w[x] - w[3 + x] + w[6 + x]);
                rows[3][x] = w[6 + x];
            }
            for (int y = 0; y < 4; ++y) {
                float const* const r = rows[y];
                float const places[4] = {r[0], 0.5F * (r[0] + r[1] + r[2]), 0.5F * (r[0] - r[1] + r[2]), r[2]};
                for (int x = 0; x < 4; ++x) {
                    int64_t const panel = int64_t{4 * y + x} * panels + o / kPanel;
                    packed[(panel * channels + c) * kPanel + o % kPanel] = places[x];
                }
            }
        }
    }
}

bool convolve3x3(Convolve3x3Shape const& shape, float const* input, float const* packed, float const* bias,
    float* output, ThreadPool const& pool) noexcept
{
    int32_t const tileColumns = ceilDivide(shape.width, 2);
    int32_t const tileRows = ceilDivide(shape.height, 2);
    int64_t const allRows = int64_t{shape.batch} * tileRows;
    // As many rows as fill a task, but a whole number of tasks for each thread.
    int64_t const most = larger(kTilesOfTask / tileColumns, 1);
    int64_t const turns = (allRows + most * pool.threads - 1) / (most * pool.threads);
    int64_t const rowsOfTask = (allRows + turns * pool.threads - 1) / (turns * pool.threads);
    int64_t const tasks = (allRows + rowsOfTask - 1) / rowsOfTask;
    int64_t const tilePitch = (rowsOfTask * tileColumns + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
    int64_t const paddedWidth = 2 * ((int64_t{tileColumns} + kLanes - 1) / kLanes * kLanes) + 2;
    Convolution const convolution{shape, input, packed, bias, output, tileColumns, tileRows,
        static_cast<int32_t>(rowsOfTask), tilePitch, paddedWidth, ceilDivide(shape.outChannels, kPanel)};
    // Memory for each thread, for the call: for each task the system would have to clear it anew.
    int64_t const slots = smaller(smaller(tasks, int64_t{pool.threads}), int64_t{kMaxSlots});
    int64_t const slotFloats = convolution.slotFloats();
    float* const memory = static_cast<float*>(malloc(static_cast<size_t>(slots * slotFloats) * sizeof(float)));
    if (memory == nullptr) {
        return false;
    }
    bool isTaken[kMaxSlots] = {};
    parallelFor(pool, tasks, [&](int64_t task) {
        int64_t slot = 0;
        while (__atomic_test_and_set(&isTaken[slot], __ATOMIC_ACQUIRE)) {
            slot = (slot + 1) % slots; // more threads than promised wait for one another
        }
        int64_t const begin = task * rowsOfTask;
        convolution.run(begin, smaller(begin + rowsOfTask, allRows), memory + slot * slotFloats);
        __atomic_clear(&isTaken[slot], __ATOMIC_RELEASE);
    });
    free(memory);
    return true;
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
