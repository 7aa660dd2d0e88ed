// SPDX-License-Identifier: Apache-2.0
#include "spinning_pool.h"

namespace freqfusion {

namespace {
constexpr int64_t kSpins = 20000; // some 50 microseconds: far beyond the gap between two calls of a benchmark
}

SpinningPool::SpinningPool(int32_t threads)
{
    for (int32_t i = 1; i < threads; ++i) {
        mThreads.emplace_back([this] { work(); });
    }
}

SpinningPool::~SpinningPool()
{
    mStops = true;
    for (std::thread& thread : mThreads) {
        thread.join();
    }
}

ThreadPool SpinningPool::pool() noexcept
{
    return {parallelFor, this, static_cast<int32_t>(mThreads.size()) + 1};
}

void SpinningPool::parallelFor(void* self, int64_t count, void (*body)(void*, int64_t), void* context)
{
    auto& pool = *static_cast<SpinningPool*>(self);
    pool.mBody = body;
    pool.mContext = context;
    pool.mCount = count;
    pool.mNext = 0;
    pool.mBusy = static_cast<int32_t>(pool.mThreads.size());
    ++pool.mRound;
    pool.takeAll();
    for (int64_t waited = 0; pool.mBusy != 0; ++waited) {
        if (waited > kSpins) {
            std::this_thread::yield();
        }
    }
}

void SpinningPool::work()
{
    int64_t waited = 0;
    for (int64_t seen = 0; !mStops;) {
        if (mRound == seen) {
            if (++waited > kSpins) {
                std::this_thread::yield();
            }
            continue;
        }
        waited = 0;
        ++seen;
        takeAll();
        --mBusy;
    }
}

void SpinningPool::takeAll()
{
    for (int64_t i = mNext++; i < mCount; i = mNext++) {
        mBody(mContext, i);
    }
}

} // namespace freqfusion
