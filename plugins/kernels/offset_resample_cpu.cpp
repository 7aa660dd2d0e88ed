// SPDX-License-Identifier: Apache-2.0
//! All channels of a group read the same places: a tile's places and weights are computed once, then every channel
//! reads its map there. The two neighbours along x are fetched as one element of twice the size.
#include "offset_resample_core.h"
#include "simd.h"

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

constexpr int32_t kRows = 8;
constexpr int32_t kColumns = 64;
constexpr int32_t kPixels = kRows * kColumns;

//! Where the pixels of a tile are read, row after row with kColumns places each.
struct Places {
    alignas(64) int32_t row[kPixels];    //!< the upper of two
    alignas(64) int32_t column[kPixels]; //!< the left of two
    alignas(64) int32_t index[kPixels];  //!< of (row, column) in a map, where 32 bits can hold it
    alignas(64) float lower[kPixels];    //!< share of the lower row
    alignas(64) float right[kPixels];    //!< share of the right column
};

FREQFUSION_INLINE IntVec loadInt(int32_t const* from)
{
    IntVec to;
    __builtin_memcpy(&to, from, sizeof(to));
    return to;
}

//! Lane i of `first` and `second` from map[index[i]] and map[index[i] + 1].
FREQFUSION_INLINE void gatherPairs(float const* map, IntVec index, Vec& first, Vec& second)
{
#if defined(__AVX512F__)
    __m256i const lowIndex = _mm512_castsi512_si256((__m512i)index);
    __m256i const highIndex = _mm512_extracti64x4_epi64((__m512i)index, 1);
    __m512d const zero = _mm512_setzero_pd();
    unzip((Vec)_mm512_mask_i32gather_pd(zero, 0xff, lowIndex, map, 4),
        (Vec)_mm512_mask_i32gather_pd(zero, 0xff, highIndex, map, 4), first, second);
#elif defined(__AVX2__)
    double const* const pairs = reinterpret_cast<double const*>(map);
    unzip((Vec)_mm256_i32gather_pd(pairs, _mm256_castsi256_si128((__m256i)index), 4),
        (Vec)_mm256_i32gather_pd(pairs, _mm256_extracti128_si256((__m256i)index, 1), 4), first, second);
#else
    for (int32_t i = 0; i < kLanes; ++i) {
        first[i] = map[index[i]];
        second[i] = map[index[i] + 1];
    }
#endif
}

template <typename T>
FREQFUSION_INLINE void gatherPairs(T const* map, IntVec index, Vec& first, Vec& second)
{
#if defined(__AVX512F__)
    UintVec const pairs = (UintVec)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, (__m512i)index, map, 2);
#elif defined(__AVX2__)
    UintVec const pairs = (UintVec)_mm256_i32gather_epi32(reinterpret_cast<int const*>(map), (__m256i)index, 2);
#else
    UintVec pairs = {};
    for (int32_t i = 0; i < kLanes; ++i) {
        pairs[i] = map[index[i]].bits | static_cast<uint32_t>(map[index[i] + 1].bits) << 16;
    }
#endif
    first = floatFromBits(__builtin_convertvector(pairs & 0xffffU, HalfBits), map);
    second = floatFromBits(__builtin_convertvector(pairs >> 16, HalfBits), map);
}

//! One resampling with all that its tasks share.
template <typename T>
struct Resampling {
    OffsetResampleShape const& shape;
    T const* features;
    T const* offsets;
    T* output;

    [[nodiscard]] int32_t mapHeight() const { return 2 * shape.height; }
    [[nodiscard]] int32_t mapWidth() const { return 2 * shape.width; }
    [[nodiscard]] int64_t mapSize() const { return int64_t{mapHeight()} * mapWidth(); }

    //! Reads the offsets of one axis for a row of output pixels: one of the two planes for even columns, the other for
    //! odd.
    void loadOffsets(int64_t n, int64_t g, int32_t axis, int32_t y, int32_t x0, int32_t columns, float* to) const
    {
        int64_t const cells = int64_t{shape.height} * shape.width;
        int64_t const channel = (n * 2 + axis) * 4 * shape.groups + 4 * g + 2 * (y % 2);
        T const* const even = offsets + channel * cells + int64_t{y / 2} * shape.width + x0 / 2;
        for (int32_t x = 0; x < columns; x += 2 * kLanes) {
            int32_t const count = (columns - x) / 2;
            Vec low;
            Vec high;
            zip(loadPart(even + x / 2, count), loadPart(even + cells + x / 2, count), low, high);
            store(to + x, low);
            store(to + x + kLanes, high);
        }
    }

    void findPlaces(int64_t n, int64_t g, int32_t y0, int32_t rows, int32_t x0, int32_t columns, Places& places) const
    {
        for (int32_t r = 0; r < rows; ++r) {
            alignas(64) float offsetX[kColumns];
            alignas(64) float offsetY[kColumns];
            int32_t const y = y0 + r;
            loadOffsets(n, g, 0, y, x0, columns, offsetX);
            loadOffsets(n, g, 1, y, x0, columns, offsetY);
            int32_t const width = mapWidth();
            int32_t const height = mapHeight();
            for (int32_t x = 0; x < kColumns; ++x) {
                int32_t const i = r * kColumns + x;
                bool const isPixel = x < columns;
                PixelPair const horizontal = samplePixels((x0 + x) / 2, isPixel ? offsetX[x] : 0.0F, width);
                PixelPair const vertical = samplePixels(y / 2, isPixel ? offsetY[x] : 0.0F, height);
                places.row[i] = vertical.first;
                places.column[i] = horizontal.first;
                places.index[i] =
                    static_cast<int32_t>(static_cast<uint32_t>(vertical.first) * static_cast<uint32_t>(width)
                                         + static_cast<uint32_t>(horizontal.first));
                places.lower[i] = vertical.share;
                places.right[i] = horizontal.share;
            }
        }
    }

    //! Reads the four neighbours of places i to i + kLanes - 1; kIsWide: of a map that 32-bit indices cannot address.
    template <bool kIsWide>
    [[gnu::always_inline]] void readPlaces(
        T const* map, Places const& places, int32_t i, Vec (&upper)[2], Vec (&lower)[2]) const
    {
        if (kIsWide) {
            T lanes[4][kLanes];
            for (int32_t lane = 0; lane < kLanes; ++lane) {
                T const* const from = map + int64_t{places.row[i + lane]} * mapWidth() + places.column[i + lane];
                lanes[0][lane] = from[0];
                lanes[1][lane] = from[1];
                lanes[2][lane] = from[mapWidth()];
                lanes[3][lane] = from[mapWidth() + 1];
            }
            upper[0] = loadAs(lanes[0]);
            upper[1] = loadAs(lanes[1]);
            lower[0] = loadAs(lanes[2]);
            lower[1] = loadAs(lanes[3]);
        } else {
            IntVec const index = loadInt(places.index + i);
            gatherPairs(map, index, upper[0], upper[1]);
            gatherPairs(map + mapWidth(), index, lower[0], lower[1]);
        }
    }

    template <bool kIsWide>
    void resample(T const* map, Places const& places, int32_t rows, int32_t columns, T* to) const
    {
        for (int32_t r = 0; r < rows; ++r) {
            for (int32_t x = 0; x < columns; x += kLanes) {
                int32_t const i = r * kColumns + x;
                Vec upper[2];
                Vec lower[2];
                readPlaces<kIsWide>(map, places, i, upper, lower);
                Vec const right = load(places.right + i);
                Vec const top = upper[0] + (upper[1] - upper[0]) * right;
                Vec const bottom = lower[0] + (lower[1] - lower[0]) * right;
                Vec const value = top + (bottom - top) * load(places.lower + i);
                storePart(to + int64_t{r} * mapWidth() + x, value, columns - x);
            }
        }
    }

    void runTile(int64_t n, int64_t g, int32_t firstChannel, int32_t channels, int32_t y0, int32_t x0) const
    {
        Places places;
        int32_t const rows = smaller(kRows, mapHeight() - y0);
        int32_t const columns = smaller(kColumns, mapWidth() - x0);
        findPlaces(n, g, y0, rows, x0, columns, places);
        int64_t const channel = n * shape.channels + g * (shape.channels / shape.groups) + firstChannel;
        bool const isWide = mapSize() > INT32_MAX;
        for (int64_t c = channel; c < channel + channels; ++c) {
            T const* const map = features + c * mapSize();
            T* const to = output + c * mapSize() + int64_t{y0} * mapWidth() + x0;
            if (isWide) {
                resample<true>(map, places, rows, columns, to);
            } else {
                resample<false>(map, places, rows, columns, to);
            }
        }
    }
};

} // namespace

void offsetResample(OffsetResampleShape const& shape, DType dtype, void const* features, void const* offsets,
    void* output, ThreadPool const& pool) noexcept
{
    int64_t const columnTiles = ceilDivide(2 * shape.width, kColumns);
    int64_t const rowTiles = ceilDivide(2 * shape.height, kRows);
    int32_t const channels = shape.channels / shape.groups;
    int64_t const tiles = int64_t{shape.batch} * shape.groups * rowTiles * columnTiles;
    int64_t const wanted = larger<int64_t>(int64_t{pool.threads} * 4 / tiles, 1);
    int32_t const channelsAtOnce =
        static_cast<int32_t>(ceilDivide<int64_t>(channels, smaller<int64_t>(wanted, channels)));
    int64_t const channelTiles = ceilDivide(channels, channelsAtOnce);
    withElementType(dtype, [&](auto element) {
        using T = decltype(element);
        Resampling<T> const resampling{
            shape, static_cast<T const*>(features), static_cast<T const*>(offsets), static_cast<T*>(output)};
        parallelFor(pool, tiles * channelTiles, [&](int64_t task) {
            int32_t const firstChannel = static_cast<int32_t>(task % channelTiles) * channelsAtOnce;
            task /= channelTiles;
            int32_t const x0 = static_cast<int32_t>(task % columnTiles) * kColumns;
            task /= columnTiles;
            int32_t const y0 = static_cast<int32_t>(task % rowTiles) * kRows;
            task /= rowTiles;
            resampling.runTile(task / shape.groups, task % shape.groups, firstChannel,
                smaller(channelsAtOnce, channels - firstChannel), y0, x0);
        });
    });
}

} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
