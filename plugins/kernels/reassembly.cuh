// SPDX-License-Identifier: Apache-2.0
//! What the kernels of `Carafe` and `AdaptiveFilter` share: sizes, and the two ways from a stored tap to a weight.
//!
//!   output[n, c, Y, X] = a * features[n, c, y, x] + b * sum over (ky, kx) of
//!                        weight[ky * K + kx] * features[n, c, y + ky - K/2, x + kx - K/2],   y = Y / S, x = X / S
//! with weights from the K*K channels of the taps tensor that belong to c's group, at (Y, X). Pixels outside the image
//! are zero or reflected. Sums are fp32. `Carafe` has a = 0, b = 1; the modes of `AdaptiveFilter` set the two.
#pragma once

#include "carafe_core.h"
#include "device.cuh"

namespace freqfusion {

constexpr int32_t kMaxTaps = kMaxKernelSize * kMaxKernelSize;

//! One call's tensors and sizes, as kernels receive them.
template <typename T>
struct Reassembly {
    T const* features;
    T const* taps; //!< mask or logits
    T* output;
    Strides featureStrides;
    Strides tapStrides;
    Strides outputStrides;
    int32_t batch;
    int32_t channels;
    int32_t height;
    int32_t width;
    int32_t kernelSize;
    int32_t groups;
    int32_t scale;
    Padding padding;
    float featureFactor;
    float filterFactor;
};

//! Taps are weights as they are.
struct MaskTaps {
    static constexpr bool kIsSoftmax = false;

    __device__ __forceinline__ float window(int32_t) const { return 1.0F; }
};

//! Taps are logits. kTaps is K*K where the compiler knows it, so that each window value is an instruction's operand.
template <int kTaps>
struct LogitTaps {
    static constexpr bool kIsSoftmax = true;

    float values[kTaps];

    __device__ __forceinline__ float window(int32_t tap) const { return values[tap]; }
};

constexpr float kLog2OfE = 1.44269504088896340736F;
constexpr float kLowest = -3.402823466e+38F;

//! exp(logit - largest) * window: a weight before the division by the sum.
__device__ __forceinline__ float tapNumerator(float logit, float largest, float window)
{
    // A tap without window must not give 0 * infinity when its logit exceeds the largest of the others.
    return window > 0.0F ? exp2f((logit - largest) * kLog2OfE) * window : 0.0F;
}

//! Turns the taps of one output pixel into its weights, in place. The largest logit is taken over taps whose window is
//! not zero: softmax, window and renormalisation together are softmax(logits + log window).
template <int kTaps, typename Taps>
__device__ __forceinline__ void weigh(Taps const& taps, float (&weights)[kTaps])
{
    if constexpr (Taps::kIsSoftmax) {
        float largest = kLowest;
#pragma unroll
        for (int32_t tap = 0; tap < kTaps; ++tap) {
            largest = taps.window(tap) > 0.0F ? fmaxf(largest, weights[tap]) : largest;
        }
        float sum = 0.0F;
#pragma unroll
        for (int32_t tap = 0; tap < kTaps; ++tap) {
            weights[tap] = tapNumerator(weights[tap], largest, taps.window(tap));
            sum += weights[tap];
        }
        float const inverse = 1.0F / sum;
#pragma unroll
        for (int32_t tap = 0; tap < kTaps; ++tap) {
            weights[tap] *= inverse;
        }
    }
}

//! What stands for `filtered` in the output.
template <typename T>
__device__ __forceinline__ float mixed(Reassembly<T> const& call, float feature, float filtered)
{
    return call.featureFactor * feature + call.filterFactor * filtered;
}

//! A thread's own copy of `count` contiguous taps, read in packs where `isPacked` says that they lie at multiples of
//! kVector elements (the rest of the last pack is padding of the pixel).
template <int kTaps, typename T>
__device__ __forceinline__ void readTaps(T const* taps, bool isPacked, float (&weights)[kTaps])
{
    if (isPacked) {
#pragma unroll
        for (int32_t first = 0; first < kTaps; first += kVector) {
            Pack<T, kVector> const pack = loadPack<kVector>(taps + first);
#pragma unroll
            for (int32_t i = 0; i < kVector; ++i) {
                if (first + i < kTaps) {
                    weights[first + i] = toFloat(pack.value[i]);
                }
            }
        }
        return;
    }
#pragma unroll
    for (int32_t tap = 0; tap < kTaps; ++tap) {
        weights[tap] = toFloat(taps[tap]);
    }
}

} // namespace freqfusion
