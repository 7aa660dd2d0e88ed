// SPDX-License-Identifier: Apache-2.0
//! Deformable attention. A block takes pairs of a token and a head. First a thread for each pair finds the largest
//! logit and the sum of exponentials; then a thread for each of their places turns offset and logit into four pixels
//! and what each weighs, in shared memory; then the threads of a pair, each with neighbouring channels, gather and sum.
//! So softmax and places are worked out once, not once for each channel.
#include "deformable_attention_core.h"
#include "device.cuh"

namespace freqfusion {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kMostPlacesOfBlock = 1024; // 32 KB of shared memory

//! The four pixels around one place, as tokens, and what each weighs.
struct Place {
    int32_t token[4];
    float weight[4];
};

struct Share {
    float largest;
    float sum;
};

template <typename T>
struct Attention {
    DeformableAttentionShape shape;
    T const* value;
    T const* offsets;
    T const* logits;
    T* output;
    int64_t tokens;
    int64_t pairs; //!< of tokens and heads, in all images
    int32_t places;
    int32_t pairsOfBlock;
    int32_t start[kMaxAttentionLevels]; //!< each level's first token
};

//! Softmax's constants of one pair.
template <typename T>
__device__ __forceinline__ Share shareOf(Attention<T> const& call, int64_t pair)
{
    T const* const logits = call.logits + pair * call.places;
    Share share{toFloat(logits[0]), 0.0F};
    for (int32_t i = 1; i < call.places; ++i) {
        share.largest = fmaxf(share.largest, toFloat(logits[i]));
    }
    for (int32_t i = 0; i < call.places; ++i) {
        share.sum += expf(toFloat(logits[i]) - share.largest);
    }
    return share;
}

template <typename T>
__device__ __forceinline__ Place placeOf(Attention<T> const& call, int64_t pair, int32_t place, Share const& share)
{
    DeformableAttentionShape const& shape = call.shape;
    auto const token = static_cast<int32_t>(pair / shape.heads % call.tokens);
    int32_t own = 0;
    while (own + 1 < shape.levels && token >= call.start[own + 1]) {
        ++own;
    }
    int32_t const inLevel = token - call.start[own];
    int32_t const target = place / shape.points;
    int32_t const width = shape.width[target];
    int32_t const height = shape.height[target];
    T const* const move = call.offsets + (pair * call.places + place) * 2;
    float const scaleX = static_cast<float>(width) / static_cast<float>(shape.width[own]);
    float const scaleY = static_cast<float>(height) / static_cast<float>(shape.height[own]);
    float const centreX = static_cast<float>(inLevel % shape.width[own]) + 0.5F;
    float const centreY = static_cast<float>(inLevel / shape.width[own]) + 0.5F;
    AttendedPixels const x = attendedPixels(centreX * scaleX + toFloat(move[0]) - 0.5F, width);
    AttendedPixels const y = attendedPixels(centreY * scaleY + toFloat(move[1]) - 0.5F, height);
    float const weight = expf(toFloat(call.logits[pair * call.places + place]) - share.largest) / share.sum;
    // Where there is no pixel at the right or below, it weighs nothing and need only be readable.
    int32_t const corner = call.start[target] + y.first * width + x.first;
    int32_t const right = width > 1 ? 1 : 0;
    int32_t const below = height > 1 ? width : 0;
    return {{corner, corner + right, corner + below, corner + below + right},
        {weight * y.firstShare * x.firstShare, weight * y.firstShare * x.secondShare,
            weight * y.secondShare * x.firstShare, weight * y.secondShare * x.secondShare}};
}

//! Grid: x runs of pairs. Shared memory: a block's places, then its shares. A thread takes kChannels channels at once:
//! kVector where heads are aligned multiples of them, else one.
template <typename T, int kChannels>
__global__ void __launch_bounds__(kThreads) attend(Attention<T> const call, Work const work)
{
    DeformableAttentionShape const& shape = call.shape;
    Place* const places = &sharedMemory<Place>();
    Share* const shares = reinterpret_cast<Share*>(places + call.pairsOfBlock * call.places);
    auto const thread = static_cast<int32_t>(threadIdx.x);
    int64_t const pitch = int64_t{shape.heads} * shape.channels;
    int32_t const chunks = shape.channels / kChannels;
    for (int64_t run = blockIdx.x; run < work.x; run += gridDim.x) {
        int64_t const firstPair = run * call.pairsOfBlock;
        int64_t const left = call.pairs - firstPair;
        int32_t const pairs = left < call.pairsOfBlock ? static_cast<int32_t>(left) : call.pairsOfBlock;
        __syncthreads(); // the run before may still be read
        for (int32_t i = thread; i < pairs; i += kThreads) {
            shares[i] = shareOf(call, firstPair + i);
        }
        __syncthreads();
        for (int32_t i = thread; i < pairs * call.places; i += kThreads) {
            int32_t const inRun = i / call.places;
            places[i] = placeOf(call, firstPair + inRun, i % call.places, shares[inRun]);
        }
        __syncthreads();
        for (int32_t i = thread; i < pairs * chunks; i += kThreads) {
            int64_t const pair = firstPair + i / chunks;
            int32_t const channel = i % chunks * kChannels;
            int64_t const image = pair / shape.heads / call.tokens;
            T const* const head =
                call.value + image * call.tokens * pitch + pair % shape.heads * shape.channels + channel;
            Place const* const own = places + i / chunks * call.places;
            float sum[kChannels] = {};
            for (int32_t place = 0; place < call.places; ++place) {
#pragma unroll
                for (int32_t corner = 0; corner < 4; ++corner) {
                    float const weight = own[place].weight[corner];
                    Pack<T, kChannels> const pack = loadPack<kChannels>(head + own[place].token[corner] * pitch);
#pragma unroll
                    for (int32_t c = 0; c < kChannels; ++c) {
                        sum[c] += weight * toFloat(pack.value[c]);
                    }
                }
            }
            Pack<T, kChannels> result;
#pragma unroll
            for (int32_t c = 0; c < kChannels; ++c) {
                result.value[c] = fromFloat<T>(sum[c]);
            }
            storePack(call.output + pair * shape.channels + channel, result);
        }
    }
}

template <typename T>
cudaError_t launch(DeformableAttentionShape const& shape, void const* value, void const* offsets, void const* logits,
    void* output, cudaStream_t stream)
{
    Attention<T> call{shape, static_cast<T const*>(value), static_cast<T const*>(offsets),
        static_cast<T const*>(logits), static_cast<T*>(output), tokensOf(shape), 0, shape.levels * shape.points, 0, {}};
    for (int32_t level = 1; level < shape.levels; ++level) {
        call.start[level] = call.start[level - 1] + shape.height[level - 1] * shape.width[level - 1];
    }
    call.pairs = int64_t{shape.batch} * call.tokens * shape.heads;
    call.pairsOfBlock = kMostPlacesOfBlock / call.places;
    Work const work{shape.channels == 0 ? 0 : ceilDiv(call.pairs, call.pairsOfBlock), 1, 1};
    std::size_t const sharedBytes = static_cast<std::size_t>(call.pairsOfBlock)
                                    * (sizeof(Place) * static_cast<std::size_t>(call.places) + sizeof(Share));
    bool const areWide = shape.channels % kVector == 0 && isAligned<T>(value, kVector) && isAligned<T>(output, kVector);
    return launchKernel(
        areWide ? &attend<T, kVector> : &attend<T, 1>, work, dim3(kThreads), sharedBytes, stream, call, work);
}

} // namespace

cudaError_t launchDeformableAttention(DeformableAttentionShape const& shape, DType dtype, void const* value,
    void const* offsets, void const* logits, void* output, cudaStream_t stream) noexcept
{
    if (whyNotRunnable(shape) != nullptr) {
        return cudaErrorInvalidValue;
    }
    return withElementType(
        dtype, [&](auto element) { return launch<decltype(element)>(shape, value, offsets, logits, output, stream); });
}

} // namespace freqfusion
