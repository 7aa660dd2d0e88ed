// SPDX-License-Identifier: Apache-2.0
//! Times the CPU kernels on the shapes of SegNeXt-T + FreqFusion at 512 x 512, and those of Mask2Former at 640 x 640,
//! and compares each with the machine's roof: the longer of (bytes that must move / measured copy bandwidth) and
//! (operations / measured multiply-add peak). GFLOP/s, GB/s and the share of the roof are those of the median; "at
//! best" is the fastest run's share, which other work on the machine disturbs less.
//!   bench_kernels [--threads N] [--dtype fp32|fp16|bf16] [--seconds PER_CASE] [--json] [--only PART_OF_NAME]
#include "kernels/host_kernels.h"
#include "machine_roof.h"
#include "spinning_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace freqfusion;

namespace {

// exp is 13 operations here, its argument 1, window 1, sum 1, share 1 and the maximum 1.
constexpr double kFlopOfTap = 18;
constexpr size_t kColdBytes = size_t{48} << 20; // copies of a case's tensors together exceed second-level caches

struct Options {
    int32_t threads = 2;
    DType dtype = DType::kFloat32;
    double seconds = 0.4;
    bool isJson = false;
    std::string only;
};

struct Roof {
    double gflops;
    double bandwidth; //!< GB/s
};

//! One timed call: its tensors' sizes in elements, what it computes, and how to run it on one set of them.
struct Case {
    std::string name;
    std::string shape;
    int32_t callsPerImage;
    int64_t inputCount;
    int64_t secondCount; //!< mask, logits or offsets
    float secondSpread;  //!< their standard deviation
    int64_t outputBytes;
    double flop;
    std::function<char const*(void const*, void const*, void*, ThreadPool const&)> run;
};

int64_t elementBytes(DType dtype)
{
    return dtype == DType::kFloat32 ? 4 : 2;
}

Case filterCase(std::string const& use, int32_t channels, int32_t side, int32_t kernelSize, int32_t scale,
    FilterMode mode, DType dtype)
{
    CarafeShape const reassembly{1, channels, side, side, kernelSize, 1, scale};
    AdaptiveFilterShape const shape{reassembly, mode};
    int64_t const outPixels = int64_t{side} * side * scale * scale;
    int64_t const taps = int64_t{kernelSize} * kernelSize;
    double const flop = static_cast<double>(outPixels * taps) * (2.0 * channels + kFlopOfTap);
    std::vector<float> const window(static_cast<size_t>(taps), 1.0F);
    return {"AdaptiveFilter " + use, std::to_string(channels) + "x" + std::to_string(side) + "x" + std::to_string(side),
        1, int64_t{channels} * side * side, taps * outPixels, 0.5F, channels * outPixels * elementBytes(dtype), flop,
        [shape, dtype, window](void const* x, void const* logits, void* out, ThreadPool const& pool) {
            return runAdaptiveFilterOnHost(shape, dtype, x, logits, window.data(), out, pool);
        }};
}

Case similarityCase(int32_t channels, int32_t side, DType dtype)
{
    LocalSimilarityShape const shape{1, channels, side, side, 3, 2};
    int64_t const pixels = int64_t{side} * side;
    return {"LocalSimilarity k3 d2", std::to_string(channels) + "x" + std::to_string(side) + "x" + std::to_string(side),
        1, channels * pixels, 1, 0.5F, 8 * pixels * elementBytes(dtype), 10.0 * channels * static_cast<double>(pixels),
        [shape, dtype](void const* x, void const*, void* out, ThreadPool const& pool) {
            return runLocalSimilarityOnHost(shape, dtype, x, out, pool);
        }};
}

Case resampleCase(int32_t channels, int32_t side, DType dtype)
{
    OffsetResampleShape const shape{1, channels, side / 2, side / 2, 4};
    int64_t const count = int64_t{channels} * side * side;
    return {"OffsetResample g4", std::to_string(channels) + "x" + std::to_string(side) + "x" + std::to_string(side), 1,
        count, int64_t{8} * side * side, 0.5F, count * elementBytes(dtype), 8.0 * static_cast<double>(count),
        [shape, dtype](void const* x, void const* offsets, void* out, ThreadPool const& pool) {
            return runOffsetResampleOnHost(shape, dtype, x, offsets, out, pool);
        }};
}

//! Operations: a mix of two and a comparison with its choice, for each class and output pixel.
Case resizeCase(int32_t classes, int32_t side, int32_t step, int32_t height, int32_t width, DType dtype)
{
    ResizeArgmaxShape const shape{1, classes, side, side, step, step, height, width, false};
    int64_t const pixels = int64_t{height} * width;
    return {"ResizeArgmax to " + std::to_string(height) + "x" + std::to_string(width),
        std::to_string(classes) + "x" + std::to_string(side) + "x" + std::to_string(side), 1,
        int64_t{classes} * side * side, 1, 0.5F, pixels * 4, 4.0 * classes * static_cast<double>(pixels),
        [shape, dtype](void const* x, void const*, void* out, ThreadPool const& pool) {
            return runResizeArgmaxOnHost(shape, dtype, x, static_cast<int32_t*>(out), pool);
        }};
}

//! Mask2Former's encoder on a picture of 640 x 640: 8 heads of 32 channels read 4 places on each of three levels.
//! Offsets are some two pixels. Operations of a place: its part of a softmax; on each axis the position (3), its bounds
//! (3), the cut and the two shares (3); six products of shares; then the sums.
Case attentionCase(DType dtype)
{
    constexpr int32_t kHeads = 8;
    constexpr int32_t kChannels = 32;
    constexpr double kFlopOfPlace = kFlopOfTap + 2 * 9 + 6;
    DeformableAttentionShape const shape{1, kHeads, kChannels, 3, 4, {20, 40, 80}, {20, 40, 80}};
    int64_t const tokens = tokensOf(shape);
    int64_t const places = tokens * kHeads * shape.levels * shape.points;
    int64_t const numbers = tokens * kHeads * kChannels;
    return {"DeformableAttention 3x4", std::to_string(tokens) + "x8x32", 6, numbers, 3 * places, 2.0F,
        numbers * elementBytes(dtype), static_cast<double>(places) * (4 * 2.0 * kChannels + kFlopOfPlace),
        [shape, dtype, places](void const* value, void const* second, void* out, ThreadPool const& pool) {
            char const* const logits = static_cast<char const*>(second) + 2 * places * elementBytes(dtype);
            return runDeformableAttentionOnHost(shape, dtype, value, second, logits, out, pool);
        }};
}

//! Mask2Former's label map of a picture of 480 x 640, which the network sees as 640 x 853, padded to 640 x 864: 100
//! queries, 150 classes. Operations: the product of matrices, the sigmoids, a mix of four and a comparison with its
//! choice for each class and output pixel.
Case queryCase(DType dtype)
{
    QueryArgmaxShape const shape{1, 100, 150, 160, 216, 640, 864, 640, 853, 480, 640};
    double const scored = 640.0 * 853.0;
    double const pixels = 480.0 * 640.0;
    return {"QueryArgmax to 480x640", "100x160x216", 1, int64_t{100} * 160 * 216, int64_t{100} * 151, 2.0F,
        int64_t{480} * 640 * 4, scored * 100 * (2.0 * 150 + kFlopOfTap) + pixels * 150 * 8.0,
        [shape, dtype](void const* masks, void const* classes, void* out, ThreadPool const& pool) {
            return runQueryArgmaxOnHost(shape, dtype, masks, classes, static_cast<int32_t*>(out), pool);
        }};
}

//! The operators of one FreqFusion, in the order of its forward pass.
void addFreqFusion(
    std::vector<Case>& cases, int32_t hrChannels, int32_t hrSide, int32_t lrChannels, int32_t channels, DType dtype)
{
    int32_t const lrSide = hrSide / 2;
    cases.push_back(filterCase("sharpen k3 s1", channels, hrSide, 3, 1, FilterMode::kSharpen, dtype));
    cases.push_back(filterCase("lowpass k5 s2", 25, lrSide, 5, 2, FilterMode::kLowpass, dtype));
    cases.push_back(filterCase("lowpass k5 s2", 9, lrSide, 5, 2, FilterMode::kLowpass, dtype));
    cases.push_back(filterCase("lowpass k5 s2", lrChannels, lrSide, 5, 2, FilterMode::kLowpass, dtype));
    cases.push_back(filterCase("sharpen k3 s1", hrChannels, hrSide, 3, 1, FilterMode::kSharpen, dtype));
    cases.push_back(similarityCase(channels, hrSide, dtype));
    cases.push_back(similarityCase(channels, lrSide, dtype));
    cases.push_back(resampleCase(lrChannels, hrSide, dtype));
}

//! Normal numbers of that spread, as bytes of `dtype`.
std::vector<char> randomTensor(int64_t count, DType dtype, float spread, uint32_t seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0F, spread);
    std::vector<char> bytes(static_cast<size_t>(count * elementBytes(dtype)) + 64);
    for (int64_t i = 0; i < count; ++i) {
        float const value = normal(random);
        uint32_t bits = 0;
        std::memcpy(&bits, &value, 4);
        if (dtype == DType::kFloat32) {
            std::memcpy(&bytes[static_cast<size_t>(i) * 4], &bits, 4);
            continue;
        }
        // Truncation does for a timing: a binary16 drops 13 bits of the fraction and has an exponent bias 112 smaller.
        uint32_t const magnitude = std::max((bits & 0x7fffffffU) >> 13, 112U << 10) - (112U << 10);
        uint32_t const half = (bits >> 16 & 0x8000U) | magnitude;
        uint16_t const value16 = static_cast<uint16_t>(dtype == DType::kBFloat16 ? bits >> 16 : half);
        std::memcpy(&bytes[static_cast<size_t>(i) * 2], &value16, 2);
    }
    return bytes;
}

struct Timing {
    double best;
    double p50;
    double p99;
    size_t runs;
};

//! Runs a case over and over on alternating copies of its tensors; false with a line on stderr if it cannot run.
bool timeCase(Case const& timed, Options const& options, ThreadPool const& pool, Timing& timing)
{
    std::vector<char> const input = randomTensor(timed.inputCount, options.dtype, 0.5F, 1);
    std::vector<char> const second = randomTensor(timed.secondCount, options.dtype, timed.secondSpread, 2);
    size_t const bytes = input.size() + second.size() + static_cast<size_t>(timed.outputBytes);
    size_t const copies = std::max<size_t>(1, kColdBytes / bytes);
    std::vector<std::vector<char>> const inputs(copies, input);
    std::vector<std::vector<char>> const seconds(copies, second);
    std::vector<std::vector<char>> outputs(copies, std::vector<char>(static_cast<size_t>(timed.outputBytes) + 64));
    std::vector<double> times;
    double total = 0;
    for (size_t i = 0; i < copies + 20 || (total < options.seconds && i < 100000); ++i) {
        size_t const at = i % copies;
        auto const start = std::chrono::steady_clock::now();
        char const* const reason = timed.run(inputs[at].data(), seconds[at].data(), outputs[at].data(), pool);
        double const time = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        if (reason != nullptr) {
            std::fprintf(stderr, "bench_kernels: %s %s: %s\n", timed.name.c_str(), timed.shape.c_str(), reason);
            return false;
        }
        if (i >= copies) { // every copy's pages have been touched
            times.push_back(time);
            total += time;
        }
    }
    std::sort(times.begin(), times.end());
    timing = {times.front(), times[times.size() / 2], times[times.size() * 99 / 100], times.size()};
    return true;
}

void print(Case const& timed, Timing const& timing, Options const& options, Roof const& roof)
{
    double const bytes =
        static_cast<double>(timed.inputCount * elementBytes(options.dtype) + timed.outputBytes
                            + (timed.secondCount > 1 ? timed.secondCount * elementBytes(options.dtype) : 0));
    double const bound = std::max(bytes * 1e-9 / roof.bandwidth, timed.flop * 1e-9 / roof.gflops);
    double const gflops = timed.flop / timing.p50 * 1e-9;
    double const bandwidth = bytes / timing.p50 * 1e-9;
    if (options.isJson) {
        std::printf("{\"operator\": \"%s\", \"shape\": \"%s\", \"level\": \"%s\", \"threads\": %d, \"p50_ms\": %.4f, "
                    "\"p99_ms\": %.4f, \"best_ms\": %.4f, \"runs\": %zu, \"gflop_s\": %.1f, \"gb_s\": %.2f, "
                    "\"roof_share\": %.3f, "
                    "\"best_roof_share\": %.3f, "
                    "\"peak_gflop_s\": %.1f, \"copy_gb_s\": %.2f}\n",
            timed.name.c_str(), timed.shape.c_str(), hostKernels().name, options.threads, timing.p50 * 1e3,
            timing.p99 * 1e3, timing.best * 1e3, timing.runs, gflops, bandwidth, bound / timing.p50,
            bound / timing.best, roof.gflops, roof.bandwidth);
    } else {
        std::printf("%-32s %-12s %8.3f ms %8.3f ms %8.3f ms %8.1f %8.2f %6.0f %% %6.0f %%\n", timed.name.c_str(),
            timed.shape.c_str(), timing.best * 1e3, timing.p50 * 1e3, timing.p99 * 1e3, gflops, bandwidth,
            100 * bound / timing.p50, 100 * bound / timing.best);
    }
}

bool parse(int argc, char** argv, Options& options)
{
    for (int i = 1; i < argc; ++i) {
        std::string const name = argv[i];
        if (name == "--json") {
            options.isJson = true;
            continue;
        }
        if (i + 1 == argc) {
            return false;
        }
        std::string const value = argv[++i];
        if (name == "--threads") {
            options.threads = std::atoi(value.c_str());
        } else if (name == "--seconds") {
            options.seconds = std::atof(value.c_str());
        } else if (name == "--only") {
            options.only = value;
        } else if (name == "--dtype" && (value == "fp32" || value == "fp16" || value == "bf16")) {
            options.dtype = value == "fp32" ? DType::kFloat32 : value == "fp16" ? DType::kFloat16 : DType::kBFloat16;
        } else {
            return false;
        }
    }
    return options.threads >= 1 && options.seconds > 0;
}

} // namespace

int main(int argc, char** argv)
{
    Options options;
    if (!parse(argc, argv, options)) {
        std::fprintf(stderr,
            "usage: bench_kernels [--threads N] [--dtype fp32|fp16|bf16] [--seconds PER_CASE] [--json] "
            "[--only PART_OF_NAME]\n");
        return 2;
    }
    SpinningPool threads(options.threads);
    ThreadPool const pool = threads.pool();
    Roof const roof{measurePeakGflops(hostKernels().name, pool), measureCopyBandwidth(16 << 20, pool)};
    std::vector<Case> cases;
    addFreqFusion(cases, 160, 32, 256, 104, options.dtype);
    addFreqFusion(cases, 64, 64, 416, 120, options.dtype);
    size_t const networkCases = cases.size() + 1;
    cases.push_back(resizeCase(150, 64, 512, 512, 512, options.dtype));
    cases.push_back(resizeCase(150, 64, 512, 480, 640, options.dtype));
    cases.push_back(attentionCase(options.dtype));
    cases.push_back(queryCase(options.dtype));
    if (!options.isJson) {
        std::printf("%s, %d threads: %.0f GFLOP/s, copy %.1f GB/s\n%-45s %11s %11s %11s %8s %8s %8s %8s\n",
            hostKernels().name, options.threads, roof.gflops, roof.bandwidth, "", "best", "p50", "p99", "GFLOP/s",
            "GB/s", "of roof", "at best");
    }
    double total = 0;
    double best = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
        if (cases[i].name.find(options.only) == std::string::npos) {
            continue;
        }
        Timing timing{};
        if (!timeCase(cases[i], options, pool, timing)) {
            return 1;
        }
        total += i < networkCases ? timing.p50 : 0;
        best += i < networkCases ? timing.best : 0;
        print(cases[i], timing, options, roof);
    }
    if (!options.isJson && options.only.empty()) {
        std::printf(
            "one image of SegNeXt-T + FreqFusion at 512 x 512: %.2f ms, at best %.2f ms\n", total * 1e3, best * 1e3);
    }
    return 0;
}
