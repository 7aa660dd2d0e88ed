// SPDX-License-Identifier: Apache-2.0
//! What this machine can do at most, measured.
#pragma once

#include "kernels/tensor.h"

namespace freqfusion {

//! GFLOP/s of independent fused multiply-adds in registers, with the vectors of instruction set `level`.
[[nodiscard]] double measurePeakGflops(char const* level, ThreadPool const& pool);

//! GB/s, read and written bytes together, of copying between buffers of `bytes` each: the better of memcpy and a plain
//! loop, which does not bypass the caches.
[[nodiscard]] double measureCopyBandwidth(int64_t bytes, ThreadPool const& pool);

} // namespace freqfusion
