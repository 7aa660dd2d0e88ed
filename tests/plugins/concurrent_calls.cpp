// SPDX-License-Identifier: Apache-2.0
//! Eight threads hand work to the pool of the C library at a time; every index must run once, before the call returns.
#include "torch/sleeping_pool.h"

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

int main()
{
    std::atomic<int> failures{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 8; ++caller) {
        callers.emplace_back([caller, &failures] {
            for (int round = 0; round < 300; ++round) {
                std::vector<int> runs(static_cast<size_t>((caller * 7 + round) % 23));
                freqfusion::ThreadPool const pool = freqfusion::sleepingPool(round % 5);
                auto const body = [](void* context, int64_t index) {
                    ++(*static_cast<std::vector<int>*>(context))[static_cast<size_t>(index)];
                };
                pool.parallelFor(pool.pool, static_cast<int64_t>(runs.size()), body, &runs);
                for (int const count : runs) { // not atomic: the call must have waited for all of it
                    failures += count == 1 ? 0 : 1;
                }
            }
        });
    }
    for (std::thread& caller : callers) {
        caller.join();
    }
    std::printf("%d indices did not run exactly once\n", failures.load());
    return failures == 0 ? 0 : 1;
}
