// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/tensor.h"

namespace freqfusion {

//! Threads of this library's own, for callers whose pool cannot be reached from C (PyTorch's can only be by building
//! against one version of it).
//!
//! Threads start when a call first asks for them, sleep on a condition variable between calls, and live as long as the
//! process. Calls from several threads at a time share them. A forked child starts with none and gets its own, so
//! PyTorch's data loader workers may use the operators.
//!
//! `threads` bounds how many work on one call, the caller's own thread included; below 1 counts as 1.
[[nodiscard]] ThreadPool sleepingPool(int32_t threads) noexcept;

} // namespace freqfusion
