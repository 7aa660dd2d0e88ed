// SPDX-License-Identifier: Apache-2.0
//! Numbering of the neighbours of a local similarity and its smallest norm.
#pragma once

#include "local_similarity.h"

namespace freqfusion {

constexpr float kMinNorm = 1e-8F; //!< eps of torch.nn.functional.cosine_similarity, which the official code calls

constexpr int32_t kMaxSimilarityKernelSize = 15; //!< these two bound the CPU kernel's scratch memory
constexpr int32_t kMaxSimilarityReach = 32;      //!< pixels from a pixel to its farthest row or column of neighbours

//! Offset of a neighbour from its pixel, in pixels.
struct NeighbourOffset {
    int32_t dy;
    int32_t dx;
};

//! Offset of neighbour `tap`, counted row-major without the centre: 0 <= tap < K*K - 1. Neighbours `tap` and
//! K*K - 2 - tap lie opposite each other.
FREQFUSION_HOST_DEVICE static inline NeighbourOffset neighbourOffset(int32_t tap, int32_t kernelSize, int32_t dilation)
{
    int32_t const window = tap < (kernelSize * kernelSize) / 2 ? tap : tap + 1;
    int32_t const radius = kernelSize / 2;
    return {(window / kernelSize - radius) * dilation, (window % kernelSize - radius) * dilation};
}

} // namespace freqfusion
