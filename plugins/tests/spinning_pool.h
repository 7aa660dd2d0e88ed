// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/tensor.h"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace freqfusion {

//! Threads that spin between calls, as ONNX Runtime's do by default. One call at a time.
class SpinningPool {
  public:
    //! Starts `threads - 1` threads; the caller of a loop is the last.
    explicit SpinningPool(int32_t threads);
    ~SpinningPool();
    SpinningPool(SpinningPool const&) = delete;
    SpinningPool& operator=(SpinningPool const&) = delete;

    [[nodiscard]] ThreadPool pool() noexcept;

  private:
    static void parallelFor(void* self, int64_t count, void (*body)(void*, int64_t), void* context);
    void work();
    void takeAll();

    std::vector<std::thread> mThreads;
    void (*mBody)(void*, int64_t) = nullptr;
    void* mContext = nullptr;
    int64_t mCount = 0;
    std::atomic<int64_t> mNext{0};
    std::atomic<int64_t> mRound{0};
    std::atomic<int32_t> mBusy{0};
    std::atomic<bool> mStops{false};
};

} // namespace freqfusion
