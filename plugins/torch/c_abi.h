/* SPDX-License-Identifier: Apache-2.0 */
/*! The operators as plain C functions, for callers that hold pointers: models/freqfusion/native.py calls them with
 * those of PyTorch tensors. Nothing here depends on a PyTorch version, so one library serves all of them.
 *
 *  Every function returns NULL when done, else the reason nothing was written, worded for an error message; the text
 *  stays valid until the calling thread's next call. Sizes and attributes are checked here, once, before any pointer is
 *  read. Functions may be called from any number of threads at a time.
 */
#ifndef FREQFUSION_C_ABI_H
#define FREQFUSION_C_ABI_H

#include <stdint.h>

#if defined(__GNUC__)
#define FREQFUSION_API __attribute__((visibility("default")))
#else
#define FREQFUSION_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*! Raised with every change of a signature or struct below, and of the numbers that a kernel gives; a caller built for
 *  another number must not go on. */
#define FREQFUSION_ABI_VERSION 4

enum FreqFusionDType { kFreqFusionFloat32 = 0, kFreqFusionFloat16 = 1, kFreqFusionBFloat16 = 2, kFreqFusionInt32 = 3 };

/*! A dense tensor (N, C, H, W); a label map (N, H, W) has C = 1. */
typedef struct FreqFusionTensor {
    void* data;
    int64_t size[4];
    int32_t dtype; /*!< a FreqFusionDType */
} FreqFusionTensor;

/*! Where a call runs; it says where all its tensors lie, too. */
typedef struct FreqFusionPlace {
    int32_t onCuda;       /*!< 0: host memory; 1: memory of the current CUDA device */
    int32_t threads;      /*!< on the host: how many may work, the caller's included; at least 1 */
    int32_t channelsLast; /*!< on CUDA: channels innermost, C a multiple of 8; host tensors are NCHW */
    void* stream;         /*!< on CUDA: the cudaStream_t; the call returns before the work is done */
} FreqFusionPlace;

FREQFUSION_API int32_t freqfusion_abi_version(void);

/*! 1 if this library was built with the CUDA kernels. */
FREQFUSION_API int32_t freqfusion_has_cuda(void);

/*! The instruction set that calls on the host use: baseline, avx2 or avx512. */
FREQFUSION_API char const* freqfusion_host_level(void);

/*! kernels/carafe.h: features (N, C, H, W), mask (N, G*K*K, S*H, S*W) -> output (N, C, S*H, S*W). `padding` is 0 for
 *  zeros, 1 for reflect. */
FREQFUSION_API char const* freqfusion_carafe(FreqFusionTensor const* features, FreqFusionTensor const* mask,
    FreqFusionTensor const* output, int32_t kernelSize, int32_t groups, int32_t scale, int32_t padding,
    FreqFusionPlace const* place);

/*! kernels/adaptive_filter.h: as carafe, with logits for a mask; `window` is `windowCount` floats in host memory. */
FREQFUSION_API char const* freqfusion_adaptive_filter(FreqFusionTensor const* features, FreqFusionTensor const* logits,
    FreqFusionTensor const* output, float const* window, int64_t windowCount, int32_t kernelSize, int32_t groups,
    int32_t scale, int32_t mode, int32_t padding, FreqFusionPlace const* place);

/*! kernels/window_products.h: map (N, C, H + K - 1, W + K - 1), factors (N, C, H, W) -> output (N, G*K*K, H, W), all
 *  float32 and in host memory. */
FREQFUSION_API char const* freqfusion_window_products(FreqFusionTensor const* map, FreqFusionTensor const* factors,
    FreqFusionTensor const* output, int32_t kernelSize, int32_t groups, FreqFusionPlace const* place);

/*! kernels/deformable_attention.h: value (N, T, M, D), offsets (N, T, M, L*P*2), logits (N, T, M, L*P) -> output
 *  (N, T, M, D); `sizes` is `sizeCount` = 2 * L numbers in host memory. Without channelsLast. */
FREQFUSION_API char const* freqfusion_deformable_attention(FreqFusionTensor const* value,
    FreqFusionTensor const* offsets, FreqFusionTensor const* logits, FreqFusionTensor const* output,
    int64_t const* sizes, int64_t sizeCount, FreqFusionPlace const* place);

/*! kernels/local_similarity.h: features (N, C, H, W) -> output (N, K*K-1, H, W). */
FREQFUSION_API char const* freqfusion_local_similarity(FreqFusionTensor const* features, FreqFusionTensor const* output,
    int32_t kernelSize, int32_t dilation, FreqFusionPlace const* place);

/*! kernels/offset_resample.h: features (N, C, 2h, 2w), offsets (N, 8G, h, w) -> output (N, C, 2h, 2w). */
FREQFUSION_API char const* freqfusion_offset_resample(FreqFusionTensor const* features, FreqFusionTensor const* offsets,
    FreqFusionTensor const* output, int32_t groups, FreqFusionPlace const* place);

/*! kernels/resize_argmax.h: scores (N, C, h, w) -> labels int32 (N, 1, output height, output width). */
FREQFUSION_API char const* freqfusion_resize_argmax(FreqFusionTensor const* scores, FreqFusionTensor const* labels,
    int32_t stepHeight, int32_t stepWidth, int32_t alignCorners, FreqFusionPlace const* place);

/*! kernels/query_argmax.h: masks (N, Q, h, w), classes (N, Q, C + 1, 1) -> labels int32 (N, 1, output height, output
 *  width). Without channelsLast. */
FREQFUSION_API char const* freqfusion_query_argmax(FreqFusionTensor const* masks, FreqFusionTensor const* classes,
    FreqFusionTensor const* labels, int32_t paddedHeight, int32_t paddedWidth, int32_t keptHeight, int32_t keptWidth,
    FreqFusionPlace const* place);

/*! kernels/pyramid_roi_align.h: four maps (N, C, H, W), boxes float32 (N, M, 4, 1) -> output (N * M, C, K, K). Without
 *  channelsLast. */
FREQFUSION_API char const* freqfusion_pyramid_roi_align(FreqFusionTensor const* map0, FreqFusionTensor const* map1,
    FreqFusionTensor const* map2, FreqFusionTensor const* map3, FreqFusionTensor const* boxes,
    FreqFusionTensor const* output, int32_t outputSize, int32_t finestStride, int32_t finestScale,
    FreqFusionPlace const* place);

#ifdef __cplusplus
}
#endif

#endif
