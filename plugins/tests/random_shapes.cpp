// SPDX-License-Identifier: Apache-2.0
//! Runs the CPU kernels on random shapes, each tensor in memory of exactly its size, for a build with
//! -DFREQFUSION_SANITIZE=address,undefined to watch. Without sanitizers it checks, too, that every element is written,
//! none beside them, and that three threads give the result of one.
//!   random_shapes [SECONDS [SEED]]
#include "kernels/host_kernels.h"
#include "spinning_pool.h"

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

//! Random sizes and values, and what went wrong with them.
struct Trial {
    std::mt19937 random;
    DType dtype;
    std::string name;

    int32_t between(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random); }

    //! Mostly small, sometimes beyond a tile.
    int32_t side() { return between(0, 9) == 0 ? between(60, 150) : between(1, 40); }

    size_t elementBytes() const { return dtype == DType::kFloat32 ? 4 : 2; }

    //! Values in [-2, 2) as bytes of `dtype`.
    std::vector<char> tensor(int64_t count)
    {
        std::vector<char> bytes(static_cast<size_t>(count) * elementBytes());
        for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
            uint32_t const value = random();
            if (dtype == DType::kFloat32) {
                float const number = static_cast<float>(value) * 0x1p-30F - 2.0F;
                std::memcpy(&bytes[i * 4], &number, 4);
            } else {
                // Any sign and fraction, with an exponent of 2^-7 to 2^0.
                uint32_t const fraction = dtype == DType::kFloat16 ? 10 : 7;
                uint32_t const bias = dtype == DType::kFloat16 ? 15 : 127;
                uint32_t const exponent = bias - (value >> 16 & 7U);
                uint16_t const half =
                    static_cast<uint16_t>((value & 0x8000U) | exponent << fraction | (value & ((1U << fraction) - 1U)));
                std::memcpy(&bytes[i * 2], &half, 2);
            }
        }
        return bytes;
    }

    //! Runs `kernel` with one thread and with three and compares the outputs; false with a line on stderr if they
    //! differ.
    bool check(size_t outputBytes, ThreadPool const& three,
        std::function<char const*(void* output, ThreadPool const& pool)> const& kernel)
    {
        // Elements left at 0xff are NaN or the label -1, which no kernel writes for these inputs.
        std::vector<char> alone(outputBytes, '\xff');
        std::vector<char> together(outputBytes, '\xff');
        ThreadPool const one{nullptr, nullptr, 1};
        if (char const* const reason = kernel(alone.data(), one)) {
            return fail(reason);
        }
        if (char const* const reason = kernel(together.data(), three)) {
            return fail(reason);
        }
        if (alone != together) {
            return fail("three threads give another result than one");
        }
        size_t const step = dtype == DType::kFloat32 || name == "ResizeArgmax" || name == "QueryArgmax" ? 4 : 2;
        for (size_t i = 0; i < outputBytes; i += step) {
            if (std::memcmp(&alone[i], "\xff\xff\xff\xff", step) == 0) {
                return fail("an element was not written");
            }
        }
        return true;
    }

    bool fail(char const* reason) const
    {
        std::fprintf(stderr, "random_shapes: %s: %s\n", name.c_str(), reason);
        return false;
    }
};

CarafeShape randomReassembly(Trial& trial)
{
    int32_t const groups = trial.between(1, 3);
    CarafeShape shape{trial.between(1, 2), groups * trial.between(1, 9), trial.side(), trial.side(),
        2 * trial.between(0, 3) + 1, groups, trial.between(1, 3)};
    int32_t const radius = shape.kernelSize / 2;
    if (trial.between(0, 1) == 1 && shape.height > radius && shape.width > radius) {
        shape.padding = Padding::kReflect;
    }
    return shape;
}

bool tryAdaptiveFilter(Trial& trial, ThreadPool const& pool)
{
    CarafeShape const shape = randomReassembly(trial);
    trial.name = "AdaptiveFilter";
    int32_t const mode = shape.scale == 1 ? trial.between(0, 2) : 0;
    AdaptiveFilterShape const filter{shape, static_cast<FilterMode>(mode)};
    int64_t const pixels = int64_t{shape.batch} * shape.height * shape.width;
    int64_t const outPixels = pixels * shape.scale * shape.scale;
    int64_t const taps = int64_t{shape.kernelSize} * shape.kernelSize;
    std::vector<char> const features = trial.tensor(pixels * shape.channels);
    std::vector<char> const logits = trial.tensor(outPixels * shape.groups * taps);
    std::vector<float> const window(static_cast<size_t>(taps), 0.5F);
    size_t const bytes = static_cast<size_t>(outPixels * shape.channels) * trial.elementBytes();
    bool const isPlain = trial.between(0, 1) == 0 && mode == 0;
    return trial.check(bytes, pool, [&](void* output, ThreadPool const& chosen) {
        return isPlain ? runCarafeOnHost(shape, trial.dtype, features.data(), logits.data(), output, chosen)
                       : runAdaptiveFilterOnHost(
                             filter, trial.dtype, features.data(), logits.data(), window.data(), output, chosen);
    });
}

bool tryLocalSimilarity(Trial& trial, ThreadPool const& pool)
{
    LocalSimilarityShape const shape{trial.between(1, 2), trial.between(1, 12), trial.side(), trial.side(),
        2 * trial.between(1, 3) + 1, trial.between(1, 10)};
    trial.name = "LocalSimilarity";
    int64_t const pixels = int64_t{shape.batch} * shape.height * shape.width;
    int64_t const taps = int64_t{shape.kernelSize} * shape.kernelSize - 1;
    std::vector<char> const features = trial.tensor(pixels * shape.channels);
    return trial.check(
        static_cast<size_t>(pixels * taps) * trial.elementBytes(), pool, [&](void* output, ThreadPool const& chosen) {
            return runLocalSimilarityOnHost(shape, trial.dtype, features.data(), output, chosen);
        });
}

bool tryOffsetResample(Trial& trial, ThreadPool const& pool)
{
    int32_t const groups = trial.between(1, 4);
    OffsetResampleShape const shape{
        trial.between(1, 2), groups * trial.between(1, 5), trial.side(), trial.side(), groups};
    trial.name = "OffsetResample";
    int64_t const cells = int64_t{shape.batch} * shape.height * shape.width;
    std::vector<char> const features = trial.tensor(cells * 4 * shape.channels);
    std::vector<char> const offsets = trial.tensor(cells * 8 * groups);
    return trial.check(features.size(), pool, [&](void* output, ThreadPool const& chosen) {
        return runOffsetResampleOnHost(shape, trial.dtype, features.data(), offsets.data(), output, chosen);
    });
}

bool tryDeformableAttention(Trial& trial, ThreadPool const& pool)
{
    trial.name = "DeformableAttention";
    DeformableAttentionShape shape{trial.between(1, 2), trial.between(1, 9), trial.between(1, 70), trial.between(1, 4),
        trial.between(1, 5), {}, {}};
    for (int32_t level = 0; level < shape.levels; ++level) {
        shape.height[level] = trial.between(1, 20);
        shape.width[level] = trial.between(1, 20);
    }
    int64_t const pairs = shape.batch * tokensOf(shape) * shape.heads;
    int64_t const places = pairs * shape.levels * shape.points;
    std::vector<char> const value = trial.tensor(pairs * shape.channels);
    std::vector<char> const offsets = trial.tensor(2 * places);
    std::vector<char> const logits = trial.tensor(places);
    return trial.check(value.size(), pool, [&](void* output, ThreadPool const& chosen) {
        return runDeformableAttentionOnHost(
            shape, trial.dtype, value.data(), offsets.data(), logits.data(), output, chosen);
    });
}

bool tryQueryArgmax(Trial& trial, ThreadPool const& pool)
{
    trial.name = "QueryArgmax";
    QueryArgmaxShape shape{trial.between(1, 2), trial.between(1, 30), trial.between(1, 20), trial.between(1, 20),
        trial.between(1, 50), trial.side(), trial.side(), 0, 0, trial.side(), trial.side()};
    shape.keptHeight = trial.between(1, shape.paddedHeight);
    shape.keptWidth = trial.between(1, shape.paddedWidth);
    int64_t const pixels = int64_t{shape.batch} * shape.outHeight * shape.outWidth;
    std::vector<char> const masks = trial.tensor(int64_t{shape.batch} * shape.queries * shape.height * shape.width);
    std::vector<char> const classes = trial.tensor(int64_t{shape.batch} * shape.queries * (shape.classes + 1));
    return trial.check(
        static_cast<size_t>(pixels) * sizeof(int32_t), pool, [&](void* output, ThreadPool const& chosen) {
            return runQueryArgmaxOnHost(
                shape, trial.dtype, masks.data(), classes.data(), static_cast<int32_t*>(output), chosen);
        });
}

bool tryResizeArgmax(Trial& trial, ThreadPool const& pool)
{
    ResizeArgmaxShape const shape{trial.between(1, 2), trial.between(1, 70), trial.between(1, 20), trial.between(1, 50),
        trial.side(), trial.side(), trial.side(), trial.side(), trial.between(0, 1) == 1};
    trial.name = "ResizeArgmax";
    std::vector<char> const scores = trial.tensor(int64_t{shape.batch} * shape.classes * shape.height * shape.width);
    size_t const labels =
        static_cast<size_t>(shape.batch) * static_cast<size_t>(shape.outHeight) * static_cast<size_t>(shape.outWidth);
    return trial.check(labels * sizeof(int32_t), pool, [&](void* output, ThreadPool const& chosen) {
        return runResizeArgmaxOnHost(shape, trial.dtype, scores.data(), static_cast<int32_t*>(output), chosen);
    });
}

bool tryPrepareImage(Trial& trial, ThreadPool const& pool)
{
    trial.name = "PrepareImage";
    trial.dtype = DType::kFloat32; // of the images
    PrepareImageShape shape{trial.between(0, 2), trial.side(), trial.between(0, 3) == 0 ? 1 : 4 * trial.side(),
        trial.between(1, 600), trial.between(1, 300), trial.between(0, 2) == 0 ? 1 : trial.side()};
    shape.resizesAsPillow = shape.sizeDivisor == 1 && trial.between(0, 1) == 0;
    LevelScale const scale{{123.675F, 116.28F, 103.53F}, {0.0171F, 0.0175F, 0.0174F}};
    std::vector<uint8_t> pictures(static_cast<size_t>(int64_t{shape.batch} * shape.height * shape.width * 3));
    for (uint8_t& level : pictures) {
        level = static_cast<uint8_t>(trial.random());
    }
    PrepareImageSizes const sizes = sizesOf(shape);
    size_t const numbers = static_cast<size_t>(shape.batch * 3 * sizes.outHeight * sizes.outWidth);
    return trial.check(numbers * sizeof(float), pool, [&](void* output, ThreadPool const& chosen) {
        return runPrepareImageOnHost(shape, scale, pictures.data(), static_cast<float*>(output), chosen);
    });
}

bool tryPyramidRoiAlign(Trial& trial, ThreadPool const& pool)
{
    trial.name = "PyramidRoiAlign";
    PyramidRoiAlignShape shape{trial.between(1, 2), trial.between(1, 20), {}, {}, trial.between(1, 30),
        trial.between(1, 18), trial.between(1, 4), trial.between(1, 20)};
    std::vector<std::vector<char>> maps;
    std::vector<void const*> pointers;
    for (int32_t level = 0; level < kPyramidLevels; ++level) {
        shape.height[level] = trial.side();
        shape.width[level] = trial.side();
        maps.push_back(trial.tensor(int64_t{shape.batch} * shape.channels * shape.height[level] * shape.width[level]));
        pointers.push_back(maps.back().data());
    }
    // Corners within and beyond the maps, some boxes without area.
    std::vector<float> boxes(static_cast<size_t>(shape.batch * shape.boxes * 4));
    for (size_t i = 0; i < boxes.size(); ++i) {
        boxes[i] = static_cast<float>(trial.between(-50, 150))
                   + (i % 4 > 1 ? static_cast<float>(trial.between(30, 150)) : 0.25F);
    }
    size_t const numbers =
        static_cast<size_t>(int64_t{shape.batch} * shape.boxes * shape.channels * shape.outputSize * shape.outputSize);
    return trial.check(numbers * trial.elementBytes(), pool, [&](void* output, ThreadPool const& chosen) {
        return runPyramidRoiAlignOnHost(shape, trial.dtype, pointers.data(), boxes.data(), output, chosen);
    });
}

//! Compares with plain sums, too: no other test runs every instruction set of this kernel.
bool tryConvolve3x3(Trial& trial, ThreadPool const& pool)
{
    trial.name = "Convolve3x3";
    trial.dtype = DType::kFloat32;
    Convolve3x3Shape const shape{trial.between(1, 4), trial.between(1, 12), trial.between(1, 60), trial.side(),
        trial.side(), trial.between(0, 1) == 1};
    int64_t const pixels = int64_t{shape.height} * shape.width;
    auto const numbers = [&](int64_t count) {
        std::vector<char> const bytes = trial.tensor(count);
        std::vector<float> values(static_cast<size_t>(count));
        std::memcpy(values.data(), bytes.data(), bytes.size());
        return values;
    };
    std::vector<float> const input = numbers(shape.batch * shape.channels * pixels);
    std::vector<float> const weights = numbers(int64_t{shape.outChannels} * shape.channels * 9);
    std::vector<float> const bias = numbers(shape.outChannels);
    std::vector<float> packed(static_cast<size_t>(packedWeights3x3(shape.channels, shape.outChannels)));
    packWeights3x3(shape.channels, shape.outChannels, weights.data(), packed.data());
    int64_t const count = shape.batch * shape.outChannels * pixels;
    std::vector<float> result(static_cast<size_t>(count));
    if (!trial.check(result.size() * sizeof(float), pool, [&](void* output, ThreadPool const& chosen) {
            char const* const reason = runConvolve3x3OnHost(
                shape, input.data(), packed.data(), bias.data(), static_cast<float*>(output), chosen);
            std::memcpy(result.data(), output, result.size() * sizeof(float));
            return reason;
        })) {
        return false;
    }
    for (int32_t turn = 0; turn < 50; ++turn) {
        int32_t const n = trial.between(0, shape.batch - 1);
        int32_t const o = trial.between(0, shape.outChannels - 1);
        int32_t const y = trial.between(0, shape.height - 1);
        int32_t const x = trial.between(0, shape.width - 1);
        double sum = bias[static_cast<size_t>(o)];
        for (int32_t c = 0; c < shape.channels; ++c) {
            for (int32_t tap = 0; tap < 9; ++tap) {
                int32_t const row = y + tap / 3 - 1;
                int32_t const column = x + tap % 3 - 1;
                if (row >= 0 && row < shape.height && column >= 0 && column < shape.width) {
                    sum += double{input[static_cast<size_t>(
                               (int64_t{n} * shape.channels + c) * pixels + int64_t{row} * shape.width + column)]}
                           * weights[static_cast<size_t>((int64_t{o} * shape.channels + c) * 9 + tap)];
                }
            }
        }
        sum = shape.relu && sum < 0 ? 0 : sum;
        float const found =
            result[static_cast<size_t>((int64_t{n} * shape.outChannels + o) * pixels + int64_t{y} * shape.width + x)];
        // Sums of 108 products below 4 between transformations that add up to 16 numbers.
        if (!(std::abs(found - sum) <= 2e-3)) {
            return trial.fail("a result is not the sum of its products");
        }
    }
    return true;
}

} // namespace

int main(int argc, char** argv)
{
    double const seconds = argc > 1 ? std::atof(argv[1]) : 5.0;
    uint32_t const seed = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1;
    SpinningPool threads(3);
    bool (*const tries[])(Trial&, ThreadPool const&) = {tryAdaptiveFilter, tryLocalSimilarity, tryOffsetResample,
        tryDeformableAttention, tryQueryArgmax, tryResizeArgmax, tryPrepareImage, tryPyramidRoiAlign, tryConvolve3x3};
    constexpr int64_t kTries = sizeof(tries) / sizeof(tries[0]);
    auto const start = std::chrono::steady_clock::now();
    int64_t count = 0;
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
        Trial trial{std::mt19937(seed + static_cast<uint32_t>(count)), static_cast<DType>(count / kTries % 3), {}};
        if (!tries[count % kTries](trial, threads.pool())) {
            std::fprintf(stderr, "random_shapes: seed %u\n", seed + static_cast<uint32_t>(count));
            return 1;
        }
        ++count;
    }
    std::printf("%lld random shapes at level %s\n", static_cast<long long>(count), hostKernels().name);
    return 0;
}
