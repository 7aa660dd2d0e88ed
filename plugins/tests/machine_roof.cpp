// SPDX-License-Identifier: Apache-2.0
#include "machine_roof.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <vector>

namespace freqfusion {
namespace {

constexpr int32_t kChains = 12; // more than latency times ports of any processor of the last decade
constexpr int64_t kSteps = 200000;

typedef float Vec16 __attribute__((vector_size(16)));
typedef float Vec32 __attribute__((vector_size(32)));
typedef float Vec64 __attribute__((vector_size(64)));

template <typename Vec>
[[gnu::always_inline]] inline float multiplyAdd(float seed)
{
    Vec sum[kChains];
    for (int32_t i = 0; i < kChains; ++i) {
        sum[i] = Vec{} + seed * static_cast<float>(i);
    }
    Vec const factor = Vec{} + seed;
    for (int64_t step = 0; step < kSteps; ++step) {
        for (int32_t i = 0; i < kChains; ++i) {
            sum[i] = sum[i] * factor + factor;
        }
    }
    float total = 0;
    for (int32_t i = 0; i < kChains; ++i) {
        total += sum[i][0];
    }
    return total;
}

float multiplyAddBaseline(float seed)
{
    return multiplyAdd<Vec16>(seed);
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] float multiplyAddAvx2(float seed)
{
    return multiplyAdd<Vec32>(seed);
}

[[gnu::target("avx512f,fma,prefer-vector-width=512")]] float multiplyAddAvx512(float seed)
{
    return multiplyAdd<Vec64>(seed);
}
#endif

double seconds()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

//! Shortest time of `rounds` runs of body(i) on each thread.
template <typename Body>
double shortest(ThreadPool const& pool, int32_t rounds, Body body)
{
    double best = std::numeric_limits<double>::max();
    for (int32_t round = 0; round < rounds; ++round) {
        double const start = seconds();
        pool.parallelFor(
            pool.pool, pool.threads, [](void* context, int64_t i) { (*static_cast<Body*>(context))(i); }, &body);
        best = std::min(best, seconds() - start);
    }
    return best;
}

} // namespace

double measurePeakGflops(char const* level, ThreadPool const& pool)
{
    float (*run)(float) = multiplyAddBaseline;
    int32_t lanes = 4;
#if defined(__x86_64__)
    if (std::strcmp(level, "avx2") == 0) {
        run = multiplyAddAvx2;
        lanes = 8;
    } else if (std::strcmp(level, "avx512") == 0) {
        run = multiplyAddAvx512;
        lanes = 16;
    }
#else
    static_cast<void>(level);
#endif
    double const time = shortest(pool, 20, [run](int64_t) {
        float const volatile result = run(1e-3F);
        static_cast<void>(result);
    });
    return 2.0 * lanes * kChains * static_cast<double>(kSteps) * pool.threads / time * 1e-9;
}

double measureCopyBandwidth(int64_t bytes, ThreadPool const& pool)
{
    size_t const part = static_cast<size_t>(bytes / pool.threads / 64 * 64);
    std::vector<char> from(part * static_cast<size_t>(pool.threads), 1);
    std::vector<char> to(from.size());
    double const byLibrary = shortest(pool, 30, [&](int64_t i) {
        std::memcpy(to.data() + static_cast<size_t>(i) * part, from.data() + static_cast<size_t>(i) * part, part);
        asm volatile("" ::: "memory");
    });
    double const byLoop = shortest(pool, 30, [&](int64_t i) {
        char const* const source = from.data() + static_cast<size_t>(i) * part;
        char* const target = to.data() + static_cast<size_t>(i) * part;
        for (size_t at = 0; at < part; at += 64) {
            std::memcpy(target + at, source + at, 64);
            asm volatile("" ::: "memory");
        }
    });
    return 2.0 * static_cast<double>(from.size()) / std::min(byLibrary, byLoop) * 1e-9;
}

} // namespace freqfusion
