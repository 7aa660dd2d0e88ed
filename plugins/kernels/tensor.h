// SPDX-License-Identifier: Apache-2.0
//! What every kernel's interface shares: element types, memory layouts, and the host framework's thread pool.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FREQFUSION_HOST_DEVICE __host__ __device__
#else
#define FREQFUSION_HOST_DEVICE
#endif

namespace freqfusion {

//! Element type of every floating-point tensor of a call; sums are fp32 whatever it is.
enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

//! How a tensor with channels lies in memory. Mask, logits and offsets follow the features' layout.
enum class Layout : int32_t {
    kNCHW = 0, //!< contiguous
    kNHWC = 1, //!< channels innermost, each pixel's channels padded up to a multiple of `kChannelPitch`
};

//! TensorRT's kHWC8: a pixel's channels start at a multiple of eight elements, so a 16-byte access never splits.
constexpr int32_t kChannelPitch = 8;

//! The threads a CPU kernel may use: the host framework's own pool, so that two pools never compete for the cores.
struct ThreadPool {
    //! Runs body(context, i) for every i in [0, count) and returns when all have ended. nullptr: run them in order
    //! here.
    void (*parallelFor)(void* pool, int64_t count, void (*body)(void* context, int64_t index), void* context);
    void* pool;
    int32_t threads; //!< how many may run at once; at least 1
};

} // namespace freqfusion
