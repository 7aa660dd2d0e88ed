// SPDX-License-Identifier: Apache-2.0
//! Reassembly at scale 2 in fp16 and bf16 on tensor cores.
//!
//! A warp takes a strip of eight input pixels of a row, which have 32 outputs. All of them read from the same K rows of
//! 12 columns, so that the strip is one product: (channels x 12 K) times (12 K x 32), where the right matrix holds each
//! output's K*K weights and zeros. The weights stay in registers while the warp walks through channels, 16 (NCHW) or
//! 32 (channels last) at a time. NCHW: D = features x weights, A read as pairs of columns. Channels last: D^T = weights
//! x features, B read by transposing loads. Rows of weights, or channels within 32, are ordered such that the eight
//! values a thread ends up with are neighbours in memory: one 16-byte store.
//!
//! Roof, reckoned (benchmarks/results holds what was measured), K = 5, C = 256, fp16, 128x128 -> 256x256: 45.3 MB must
//! move (features 8.4, logits 3.3, output 33.6), 16 us at the 2.8 TB/s an H100 copies with. 0.42 G multiply-adds take
//! 14 us on its fp32 units at best, near 20 us with the conversions and loads they need, so that fp32 units alone would
//! bind. Here they are 64/25 as many, and twice that where weights are split (below): 2.1 G on tensor cores that do 270
//! G/ms, 8 us, and run while memory moves. Shared memory is read once per 16 channels x 32 outputs: 16 accesses of 128
//! bytes, 2.3 us in all. Memory binds.
//!
//! fp16 keeps 11 bits of a softmax weight. To have fp32 sums of fp32 weights, each weight is split in two elements,
//! w = high + low, and both are multiplied. A mask is of the features' type already and needs no split.
//!
//! A weight of zero meets features outside its own window. Where those are infinite or NaN, up to nine columns beside
//! them become NaN too, while a plain sum would have spread them over K columns only.
#pragma once

#include "mma.cuh"
#include "reassembly.cuh"

namespace freqfusion {

constexpr int32_t kStrip = 8;                          // input pixels of a warp: 16 outputs, one sector of fp16
constexpr int32_t kStripsPerRow = 4;                   // 32 pixels wide: 128-byte output rows
constexpr int32_t kStripRows = 2;                      // eight warps
constexpr int32_t kTileWidth = kStrip * kStripsPerRow; // input pixels
constexpr int32_t kTileOutputs = 4 * kTileWidth * kStripRows;
constexpr int32_t kTileThreads = kWarp * kStripsPerRow * kStripRows;
constexpr int32_t kStageChannels = 32;             // staged at once; two stages fit 48 KiB with the weights
constexpr int32_t kColumns = 12;                   // read by a strip, for K = 3 and K = 5
constexpr int32_t kColumnsLeft = 2;                // of which left of it: even, so that pairs are aligned
constexpr int32_t kWeightPitch = kTileOutputs + 8; // neighbouring taps lie in other banks

static_assert(kTileThreads == kTileOutputs, "one thread works out the weights of one output");

//! Sizes that follow from the window.
template <int K>
struct StripProduct {
    static constexpr int kRadius = K / 2;
    static constexpr int kDepth = K * kColumns;
    static constexpr int kSteps = (kDepth + 15) / 16; //!< products of depth 16
    static constexpr int kRows = kStripRows + K - 1;  //!< of features in shared memory
    static_assert(kRadius <= kColumnsLeft && kColumnsLeft + kStrip + kRadius <= kColumns, "strip reads 12 columns");
};

//! Shared memory. Features of NCHW: [channel][row][column from 8 left of the tile], a channel 4 words beyond a multiple
//! of 8 words so that eight channels lie in different banks. Channels last: [pixel][channel], pixels 80 bytes apart for
//! the same reason.
template <int K, Layout kLayout>
struct TileMemory {
    static constexpr int kRowPitch = kLayout == Layout::kNCHW ? kTileWidth + 16 : kTileWidth + 4;
    static constexpr int kChannelStep = StripProduct<K>::kRows * kRowPitch + 8; //!< NCHW
    static constexpr int kPixelStep = kStageChannels + 8;                       //!< channels last
    static constexpr int kFeatures =
        kLayout == Layout::kNCHW ? kStageChannels * kChannelStep : StripProduct<K>::kRows * kRowPitch * kPixelStep;
    static constexpr int kWeights = K * K * kWeightPitch;
    static constexpr int kSecondWords = kWeights > kFeatures / 2 ? kWeights : kFeatures / 2;

    alignas(16) uint16_t first[kFeatures];
    //! Weights until they are in registers, as pairs (high, low); then every second stage of features.
    alignas(16) uint32_t second[kSecondWords];
};

template <typename T>
__device__ __forceinline__ uint32_t bitsOf(T value)
{
    return static_cast<uint32_t>(*reinterpret_cast<uint16_t const*>(&value));
}

//! What a weight is multiplied by before it is split: fp16 has few bits below 2^-14, where half of a small weight lies.
template <typename T, bool kIsSplit>
constexpr float kWeightFactor = kIsSplit && std::is_same_v<T, __half> ? 16384.0F : 1.0F;

//! A weight as two elements: high in the lower half, low (zero for a mask) in the upper.
template <typename T, bool kIsSplit>
__device__ __forceinline__ uint32_t splitWeight(float weight)
{
    float const scaled = weight * kWeightFactor<T, kIsSplit>;
    T const high = fromFloat<T>(scaled);
    if constexpr (kIsSplit) {
        return bitsOf(high) | bitsOf(fromFloat<T>(scaled - toFloat(high))) << 16;
    }
    return bitsOf(high);
}

//! An output from its sum of products.
template <typename T, bool kIsSplit>
__device__ __forceinline__ T unscaled(float sum)
{
    return fromFloat<T>(sum * (1.0F / kWeightFactor<T, kIsSplit>));
}

//! Position of an output in a strip: its input pixel (0 to 7) and its place in that pixel's 2 x 2 cell.
struct StripOutput {
    int32_t pixel;
    int32_t row;
    int32_t column;
};

//! The stored weight that multiplies column `depth` % 12 of row `depth` / 12 for an output, 0 if there is none.
template <int K>
__device__ __forceinline__ uint32_t weightAt(
    uint32_t const* weights, int32_t tileRow, int32_t strip, StripOutput const& output, int32_t depth)
{
    int32_t const ky = depth / kColumns;
    int32_t const kx = depth % kColumns - kColumnsLeft + StripProduct<K>::kRadius - output.pixel;
    if (ky >= K || kx < 0 || kx >= K) {
        return 0;
    }
    int32_t const index =
        (tileRow * 2 + output.row) * (2 * kTileWidth) + (strip * kStrip + output.pixel) * 2 + output.column;
    return weights[(ky * K + kx) * kWeightPitch + index];
}

//! Fragments of the weights for depths `depth` and `depth` + 1: halves of both words side by side.
struct WeightPair {
    uint32_t high;
    uint32_t low;
};

template <int K>
__device__ __forceinline__ WeightPair weightPairAt(
    uint32_t const* weights, int32_t tileRow, int32_t strip, StripOutput const& output, int32_t depth)
{
    uint32_t const even = weightAt<K>(weights, tileRow, strip, output, depth);
    uint32_t const odd = weightAt<K>(weights, tileRow, strip, output, depth + 1);
    return {(even & 0xffffU) | odd << 16, even >> 16 | (odd & 0xffff0000U)};
}

//! Copies kVectorSize columns at a time of every row and channel of an NCHW stage; columns are whole vectors, in or
//! out. Vectors beside the map that reflect it are put together from single columns.
template <int K, int kVectorSize, typename T>
__device__ __forceinline__ void stagePlanes(
    T* shared, Reassembly<T> const& call, T const* firstPlane, int32_t channels, int32_t firstY, int32_t firstX)
{
    using Memory = TileMemory<K, Layout::kNCHW>;
    constexpr int kVectors = Memory::kRowPitch / kVectorSize;
    constexpr int kRows = StripProduct<K>::kRows;
#pragma unroll 1 // copies do not wait for each other; unrolled, their addresses cost registers
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kStageChannels * kRows * kVectors; i += kTileThreads) {
        int32_t const vector = i % kVectors;
        int32_t const row = i / kVectors % kRows;
        int32_t const channel = i / (kVectors * kRows);
        auto const y = static_cast<int32_t>(sourceOf(call.padding, firstY + row, call.height));
        int32_t const x = firstX + vector * kVectorSize;
        bool const isRow = channel < channels && y >= 0 && y < call.height;
        T const* const sourceRow = firstPlane + channel * call.featureStrides.channel + y * call.featureStrides.row;
        T* const target = shared + channel * Memory::kChannelStep + row * Memory::kRowPitch + vector * kVectorSize;
        if (call.padding == Padding::kReflect && isRow && (x < 0 || x >= call.width)) {
#pragma unroll 1
            for (int32_t column = 0; column < kVectorSize; ++column) {
                auto const own = static_cast<int32_t>(sourceOf(call.padding, x + column, call.width));
                target[column] = own >= 0 && own < call.width ? sourceRow[own] : fromFloat<T>(0.0F);
            }
            continue;
        }
        bool const isInside = isRow && x >= 0 && x < call.width;
        T const* const source = isInside ? sourceRow + x : call.features;
        if constexpr (kVectorSize > 1) {
            copyAsync<static_cast<int>(kVectorSize * sizeof(T))>(target, source, isInside);
        } else {
            *target = isInside ? *source : fromFloat<T>(0.0F);
        }
    }
}

//! Copies the channels of a channels-last stage, two at a time, into the order that mma's columns need: word e of the
//! q-th eight channels becomes word q of n-tile e, so that a lane's columns 2q, 2q+1 of four n-tiles are eight
//! neighbours.
template <int K, typename T>
__device__ __forceinline__ void stagePixels(
    T* shared, Reassembly<T> const& call, T const* image, int32_t firstChannel, int32_t firstY, int32_t firstX)
{
    using Memory = TileMemory<K, Layout::kNHWC>;
    constexpr int kWords = kStageChannels / 2;
    constexpr int kPixels = StripProduct<K>::kRows * Memory::kRowPitch;
#pragma unroll 1
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kPixels * kWords; i += kTileThreads) {
        int32_t const word = i % kWords;
        int32_t const pixel = i / kWords;
        auto const y = static_cast<int32_t>(sourceOf(call.padding, firstY + pixel / Memory::kRowPitch, call.height));
        auto const x = static_cast<int32_t>(sourceOf(call.padding, firstX + pixel % Memory::kRowPitch, call.width));
        int32_t const channel = firstChannel + 2 * word;
        bool const isInside =
            channel < call.featureStrides.column && y >= 0 && y < call.height && x >= 0 && x < call.width;
        T const* const source =
            isInside ? image + y * call.featureStrides.row + x * call.featureStrides.column + channel : call.features;
        T* const target = shared + pixel * Memory::kPixelStep + (word % 4) * 8 + (word / 4) * 2;
        copyAsync<4>(target, source, isInside);
    }
}

//! What a block works on. Coordinates fit 32 bits: see kMaxTilePixels.
struct Tile {
    int32_t n;
    int32_t y; //!< of its first input row
    int32_t x;
    int32_t firstChannel;
    int32_t channels;
};

//! Stages `kStageChannels` channels from `firstChannel` (of the tile) on. The copies form one committed group.
template <int K, Layout kLayout, typename T>
__device__ __forceinline__ void stageFeatures(
    T* shared, Reassembly<T> const& call, Tile const& tile, int32_t firstChannel, int32_t vectorSize)
{
    T const* const image = call.features + tile.n * call.featureStrides.batch;
    int32_t const firstY = tile.y - StripProduct<K>::kRadius;
    int32_t const channel = tile.firstChannel + firstChannel;
    if constexpr (kLayout == Layout::kNCHW) {
        T const* const plane = image + channel * call.featureStrides.channel;
        int32_t const channels = tile.channels - firstChannel;
        switch (vectorSize) {
        case 8:
            stagePlanes<K, 8>(shared, call, plane, channels, firstY, tile.x - 8);
            break;
        case 4:
            stagePlanes<K, 4>(shared, call, plane, channels, firstY, tile.x - 8);
            break;
        case 2:
            stagePlanes<K, 2>(shared, call, plane, channels, firstY, tile.x - 8);
            break;
        default:
            stagePlanes<K, 1>(shared, call, plane, channels, firstY, tile.x - 8);
            break;
        }
    } else {
        stagePixels<K>(shared, call, image, channel, firstY, tile.x - kColumnsLeft);
    }
    commitCopies();
}

//! Each thread writes the weights of one output of the tile to shared memory; zeros outside the image.
template <int K, Layout kLayout, typename T, typename Taps>
__device__ __forceinline__ void weighTile(
    uint32_t* shared, Reassembly<T> const& call, Taps const& taps, Tile const& tile, int32_t group, bool arePacked)
{
    auto const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const outY = 2 * tile.y + thread / (2 * kTileWidth);
    int32_t const outX = 2 * tile.x + thread % (2 * kTileWidth);
    float weights[K * K] = {};
    if (outY < 2 * call.height && outX < 2 * call.width) {
        T const* const own = call.taps + tile.n * call.tapStrides.batch
                             + int64_t{group} * (K * K) * call.tapStrides.channel + outY * call.tapStrides.row
                             + outX * call.tapStrides.column;
        if constexpr (kLayout == Layout::kNCHW) {
#pragma unroll
            for (int tap = 0; tap < K * K; ++tap) {
                weights[tap] = toFloat(own[tap * call.tapStrides.channel]);
            }
        } else {
            readTaps(own, arePacked, weights);
        }
        weigh(taps, weights);
    }
#pragma unroll
    for (int tap = 0; tap < K * K; ++tap) {
        shared[tap * kWeightPitch + thread] = splitWeight<T, Taps::kIsSoftmax>(weights[tap]);
    }
}

//! Multiplies 16 channels of an NCHW stage with a strip's weights and stores them: one call for each stage of a tile.
template <int K, bool kIsSplit, typename T>
struct PlanarStrip {
    static constexpr int kSteps = StripProduct<K>::kSteps;
    using Memory = TileMemory<K, Layout::kNCHW>;

    uint32_t high[4][kSteps][2]; //!< B of n-tile j: outputs of pixels j and 4 + j
    uint32_t low[kIsSplit ? 4 : 1][kSteps][2];
    int32_t offsets[kSteps][2]; //!< of this lane's pair of columns in a channel of shared memory

    __device__ __forceinline__ void takeWeights(uint32_t const* weights, int32_t tileRow, int32_t strip, int32_t lane)
    {
        int32_t const g = lane / 4;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int32_t const depth = step * 16 + half * 8 + lane % 4 * 2;
                int32_t const stored = depth < StripProduct<K>::kDepth ? depth : 0; // beyond it weights are zero
                offsets[step][half] = (tileRow + stored / kColumns) * Memory::kRowPitch + 8 - kColumnsLeft
                                      + strip * kStrip + stored % kColumns;
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    StripOutput const output{g / 2 % 2 * 4 + j, g / 4, g % 2};
                    WeightPair const pair = weightPairAt<K>(weights, tileRow, strip, output, depth);
                    high[j][step][half] = pair.high;
                    if constexpr (kIsSplit) {
                        low[j][step][half] = pair.low;
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void run(T const* features, Reassembly<T> const& call, Tile const& tile,
        int32_t firstChannel, int32_t tileRow, int32_t strip, int32_t lane, bool areWide) const
    {
        int32_t const g = lane / 4;
        int32_t const t = lane % 4;
        int32_t const y = tile.y + tileRow;
        int32_t const x = tile.x + strip * kStrip;
        int32_t const outX = 2 * x + t % 2 * 8;
#pragma unroll 1
        for (int32_t inStage = 0; inStage < kStageChannels; inStage += 16) {
            if (firstChannel + inStage >= tile.channels) {
                break;
            }
            float sums[4][4] = {};
            T const* const upper = features + (inStage + g) * Memory::kChannelStep;
            T const* const lower = upper + 8 * Memory::kChannelStep;
#pragma unroll
            for (int step = 0; step < kSteps; ++step) {
                uint32_t const a0 = *reinterpret_cast<uint32_t const*>(upper + offsets[step][0]);
                uint32_t const a1 = *reinterpret_cast<uint32_t const*>(lower + offsets[step][0]);
                uint32_t const a2 = *reinterpret_cast<uint32_t const*>(upper + offsets[step][1]);
                uint32_t const a3 = *reinterpret_cast<uint32_t const*>(lower + offsets[step][1]);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    multiplyAdd<T>(sums[j], a0, a1, a2, a3, high[j][step][0], high[j][step][1]);
                    if constexpr (kIsSplit) {
                        multiplyAdd<T>(sums[j], a0, a1, a2, a3, low[j][step][0], low[j][step][1]);
                    }
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int32_t const c = firstChannel + inStage + half * 8 + g;
                Pack<T, 8> result;
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    result.value[2 * j] = unscaled<T, kIsSplit>(sums[j][2 * half]);
                    result.value[2 * j + 1] = unscaled<T, kIsSplit>(sums[j][2 * half + 1]);
                }
                if (c >= tile.channels || y >= call.height) {
                    continue;
                }
                T* const target = call.output + tile.n * call.outputStrides.batch
                                  + (tile.firstChannel + c) * call.outputStrides.channel
                                  + (2 * y + t / 2) * call.outputStrides.row + outX;
                int32_t const left = 2 * call.width - outX;
                if (areWide && left >= 8) {
                    storePack(target, result);
                } else {
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        if (i < left) {
                            target[i] = result.value[i];
                        }
                    }
                }
            }
        }
    }
};

//! The same for 32 channels of a channels-last stage.
template <int K, bool kIsSplit, typename T>
struct PixelStrip {
    static constexpr int kSteps = StripProduct<K>::kSteps;
    using Memory = TileMemory<K, Layout::kNHWC>;

    uint32_t high[2][kSteps][4]; //!< A of m-tile i: the 16 outputs in row i of the strip
    uint32_t low[kIsSplit ? 2 : 1][kSteps][4];
    int32_t offsets[kSteps]; //!< of the row that this lane names to a transposing load

    __device__ __forceinline__ void takeWeights(uint32_t const* weights, int32_t tileRow, int32_t strip, int32_t lane)
    {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            int32_t const named = step * 16 + lane / 8 % 2 * 8 + lane % 8;
            int32_t const stored = named < StripProduct<K>::kDepth ? named : 0; // beyond it weights are zero
            int32_t const pixel =
                (tileRow + stored / kColumns) * Memory::kRowPitch + strip * kStrip + stored % kColumns;
            offsets[step] = pixel * Memory::kPixelStep + lane / 16 * 8;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int32_t const outX = lane / 4 + i % 2 * 8;
                int32_t const depth = step * 16 + i / 2 * 8 + lane % 4 * 2;
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    WeightPair const pair =
                        weightPairAt<K>(weights, tileRow, strip, StripOutput{outX / 2, row, outX % 2}, depth);
                    high[row][step][i] = pair.high;
                    if constexpr (kIsSplit) {
                        low[row][step][i] = pair.low;
                    }
                }
            }
        }
    }

    __device__ __forceinline__ void run(T const* features, Reassembly<T> const& call, Tile const& tile,
        int32_t firstChannel, int32_t tileRow, int32_t strip, int32_t lane, bool) const
    {
        int32_t const y = tile.y + tileRow;
        int32_t const x = tile.x + strip * kStrip;
        int32_t const inTile = firstChannel + lane % 4 * kVector;
        int32_t const c = tile.firstChannel + inTile;
        float sums[2][4][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
                uint32_t b[4]; // of n-tiles 2 * pair and 2 * pair + 1
                loadTransposed(b, features + offsets[step] + pair * 16);
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    uint32_t const(&a)[4] = high[row][step];
                    multiplyAdd<T>(sums[row][2 * pair], a[0], a[1], a[2], a[3], b[0], b[1]);
                    multiplyAdd<T>(sums[row][2 * pair + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
                    if constexpr (kIsSplit) {
                        uint32_t const(&rest)[4] = low[row][step];
                        multiplyAdd<T>(sums[row][2 * pair], rest[0], rest[1], rest[2], rest[3], b[0], b[1]);
                        multiplyAdd<T>(sums[row][2 * pair + 1], rest[0], rest[1], rest[2], rest[3], b[2], b[3]);
                    }
                }
            }
        }
        if (inTile >= tile.channels || y >= call.height) {
            return;
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int32_t const outX = 2 * x + half * 8 + lane / 4;
                if (outX >= 2 * call.width) {
                    continue;
                }
                Pack<T, kVector> result;
#pragma unroll
                for (int i = 0; i < kVector; ++i) {
                    // Padding of the pixel is written as zeros, whatever its features held.
                    float const sum = sums[row][i / 2][2 * half + i % 2];
                    result.value[i] = unscaled<T, kIsSplit>(inTile + i < tile.channels ? sum : 0.0F);
                }
                storePack(call.output + tile.n * call.outputStrides.batch + (2 * y + row) * call.outputStrides.row
                              + outX * call.outputStrides.column + c,
                    result);
            }
        }
    }
};

//! How a launch splits the work.
struct TilePlan {
    Work work; //!< x tiles of the image, y blocks of channels within groups, z images
    int32_t tilesPerRow;
    int32_t blocksPerGroup;
    int32_t channelsPerBlock;
    int32_t vectorSize; //!< NCHW: columns staged at once
    bool areWide;       //!< NCHW: outputs may be stored 16 bytes at a time
    bool arePacked;     //!< channels last: taps may be read 16 bytes at a time (those of groups at such offsets)
};

template <typename T, int K, Layout kLayout, typename Taps>
__global__ void __launch_bounds__(kTileThreads, 2)
    reassembleOnTensorCores(Reassembly<T> const call, Taps const taps, TilePlan const plan)
{
    using Memory = TileMemory<K, kLayout>;
    using Strip = std::conditional_t<kLayout == Layout::kNCHW, PlanarStrip<K, Taps::kIsSoftmax, T>,
        PixelStrip<K, Taps::kIsSoftmax, T>>;
    Memory& memory = sharedMemory<Memory>();
    int32_t const perGroup = call.channels / call.groups;
    auto const warp = static_cast<int32_t>(threadIdx.x) / kWarp;
    int32_t const tileRow = warp / kStripsPerRow;
    int32_t const strip = warp % kStripsPerRow;
    for (int64_t n = blockIdx.z; n < plan.work.z; n += gridDim.z) {
        for (int64_t block = blockIdx.y; block < plan.work.y; block += gridDim.y) {
            int32_t const group = static_cast<int32_t>(block) / plan.blocksPerGroup;
            int32_t const inGroup = static_cast<int32_t>(block) % plan.blocksPerGroup * plan.channelsPerBlock;
            int32_t const left = perGroup - inGroup;
            for (int64_t i = blockIdx.x; i < plan.work.x; i += gridDim.x) {
                Tile const tile{static_cast<int32_t>(n), static_cast<int32_t>(i) / plan.tilesPerRow * kStripRows,
                    static_cast<int32_t>(i) % plan.tilesPerRow * kTileWidth, group * perGroup + inGroup,
                    left < plan.channelsPerBlock ? left : plan.channelsPerBlock};
                auto* staged = reinterpret_cast<T*>(memory.first);
                auto* next = reinterpret_cast<T*>(memory.second);
                stageFeatures<K, kLayout>(staged, call, tile, 0, plan.vectorSize);
                weighTile<K, kLayout>(
                    memory.second, call, taps, tile, group, plan.arePacked && group * (K * K) % kVector == 0);
                __syncthreads();
                int32_t const lane = readLane();
                Strip product;
                product.takeWeights(memory.second, tileRow, strip, lane);
                __syncthreads(); // from here on memory.second takes features
#pragma unroll 1
                for (int32_t first = 0; first < tile.channels; first += kStageChannels) {
                    if (first + kStageChannels < tile.channels) {
                        stageFeatures<K, kLayout>(next, call, tile, first + kStageChannels, plan.vectorSize);
                        waitForCopies<1>();
                    } else {
                        waitForCopies<0>();
                    }
                    __syncthreads();
                    product.run(staged, call, tile, first, tileRow, strip, lane, plan.areWide);
                    __syncthreads(); // the next turn overwrites this stage
                    T* const done = staged;
                    staged = next;
                    next = done;
                }
            }
        }
    }
}

constexpr int64_t kMaxTilePixels = 1 << 29; // with more, an output coordinate or a number of tiles might need 33 bits

//! Needs scale 2; for channels last also 16-byte aligned tensors and groups that begin at multiples of kVector
//! channels.
template <int K, Layout kLayout, typename T, typename Taps>
cudaError_t launchOnTensorCores(Reassembly<T> const& call, Taps const& taps, cudaStream_t stream)
{
    int32_t const perGroup = call.channels / call.groups;
    int64_t const tilesPerRow = ceilDiv(call.width, kTileWidth);
    int64_t const tiles = tilesPerRow * ceilDiv(call.height, kStripRows);
    // Each block of channels works out the weights anew, so the more channels the better, as long as blocks suffice.
    auto channelsPerBlock = static_cast<int32_t>(roundUp(perGroup, kStageChannels));
    while (channelsPerBlock > 2 * kStageChannels
           && tiles * call.batch * call.groups * ceilDiv(perGroup, channelsPerBlock) < kWantedBlocks) {
        channelsPerBlock = static_cast<int32_t>(roundUp(channelsPerBlock / 2, kStageChannels));
    }
    TilePlan plan{};
    plan.tilesPerRow = static_cast<int32_t>(tilesPerRow);
    plan.channelsPerBlock = channelsPerBlock;
    plan.blocksPerGroup = static_cast<int32_t>(ceilDiv(perGroup, channelsPerBlock));
    plan.work = Work{tiles, int64_t{call.groups} * plan.blocksPerGroup, call.batch};
    plan.vectorSize = kVector;
    while (
        plan.vectorSize > 1 && (call.width % plan.vectorSize != 0 || !isAligned<T>(call.features, plan.vectorSize))) {
        plan.vectorSize /= 2;
    }
    plan.areWide = call.width % 4 == 0 && isAligned<T>(call.output, kVector);
    plan.arePacked = isAligned<T>(call.taps, kVector);
    return launchKernel(&reassembleOnTensorCores<T, K, kLayout, Taps>, plan.work, dim3(kTileThreads),
        sizeof(TileMemory<K, kLayout>), stream, call, taps, plan);
}

} // namespace freqfusion
