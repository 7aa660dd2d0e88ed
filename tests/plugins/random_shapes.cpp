// SPDX-License-Identifier: Apache-2.0
//! Calls every operator through the C interface with random sizes, on buffers of exactly the size the interface states,
//! so that a sanitizer sees the first byte read or written outside. Also checks that one thread and several give the
//! same bits, that all results are finite, and that sizes which do not fit are refused.
//!
//!   random_shapes SECONDS SEED
#include "torch/c_abi.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

std::mt19937 gRandom;

int32_t between(int32_t low, int32_t high)
{
    return std::uniform_int_distribution<int32_t>{low, high}(gRandom);
}

uint16_t halfOf(float value, int32_t dtype)
{
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    if (dtype == kFreqFusionBFloat16) {
        return static_cast<uint16_t>(bits >> 16);
    }
    auto const exponent = static_cast<int32_t>((bits >> 23) & 255) - 112;
    if (exponent <= 0) {
        return static_cast<uint16_t>(bits >> 31 << 15); // too small for a normal number: zero
    }
    return static_cast<uint16_t>(bits >> 31 << 15 | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 1023));
}

bool isFinite(unsigned char const* element, int32_t dtype)
{
    if (dtype == kFreqFusionFloat32) {
        float value = 0;
        std::memcpy(&value, element, sizeof(value));
        return std::isfinite(value);
    }
    uint16_t bits = 0;
    std::memcpy(&bits, element, sizeof(bits));
    uint16_t const exponent = dtype == kFreqFusionFloat16 ? 0x7c00 : 0x7f80;
    return (bits & exponent) != exponent;
}

//! A tensor in a heap block without a byte to spare.
class Buffer {
  public:
    Buffer(int64_t n, int64_t c, int64_t h, int64_t w, int32_t dtype, float spread = 0)
        : mBytes{static_cast<size_t>(n * c * h * w) * width(dtype)}, mData{new unsigned char[mBytes]},
          tensor{mData.get(), {n, c, h, w}, dtype}
    {
        std::uniform_real_distribution<float> values{-spread, spread};
        for (size_t i = 0; i < mBytes && spread > 0; i += width(dtype)) {
            float const value = values(gRandom);
            uint16_t const half = halfOf(value, dtype);
            std::memcpy(
                mData.get() + i, dtype == kFreqFusionFloat32 ? static_cast<void const*>(&value) : &half, width(dtype));
        }
    }

    [[nodiscard]] bool equals(Buffer const& other) const
    {
        return mBytes == other.mBytes && (mBytes == 0 || std::memcmp(mData.get(), other.mData.get(), mBytes) == 0);
    }

    [[nodiscard]] bool allFinite() const
    {
        for (size_t i = 0; i < mBytes; i += width(tensor.dtype)) {
            if (!isFinite(mData.get() + i, tensor.dtype)) {
                return false;
            }
        }
        return true;
    }

    [[nodiscard]] bool labelsBelow(int32_t classes) const
    {
        for (size_t i = 0; i < mBytes; i += sizeof(int32_t)) {
            int32_t label = 0;
            std::memcpy(&label, mData.get() + i, sizeof(label));
            if (label < 0 || label >= classes) {
                return false;
            }
        }
        return true;
    }

  private:
    static size_t width(int32_t dtype) { return dtype == kFreqFusionFloat32 || dtype == kFreqFusionInt32 ? 4 : 2; }

    size_t mBytes;
    std::unique_ptr<unsigned char[]> mData;

  public:
    FreqFusionTensor tensor;
};

void demand(bool isTrue, char const* what, std::string const& call)
{
    if (!isTrue) {
        std::fprintf(stderr, "%s: %s\n", call.c_str(), what);
        std::exit(1);
    }
}

//! Runs `op(output, place)` on one thread and on several.
template <typename Op>
void check(Buffer& output, Buffer& again, std::string const& call, Op const& op)
{
    FreqFusionPlace const alone{0, 1, 0, nullptr};
    FreqFusionPlace const together{0, between(2, 4), 0, nullptr};
    char const* reason = op(&output.tensor, &alone);
    demand(reason == nullptr, reason, call);
    reason = op(&again.tensor, &together);
    demand(reason == nullptr, reason, call);
    demand(output.equals(again), "threads change the result", call);
    FreqFusionTensor wrong = output.tensor;
    wrong.size[between(0, 3)] += 1;
    demand(op(&wrong, &alone) != nullptr, "an output of the wrong size is accepted", call);
}

std::string described(char const* name, std::initializer_list<int64_t> numbers)
{
    std::string text = name;
    for (int64_t const number : numbers) {
        text += " " + std::to_string(number);
    }
    return text;
}

void reassemble()
{
    int32_t const dtype = between(0, 2);
    int32_t const groups = between(1, 4);
    int32_t const k = 2 * between(0, 3) + 1;
    int32_t const mode = between(0, 3);
    int32_t const s = mode == 1 || mode == 2 ? 1 : between(1, 3);
    int64_t const n = between(0, 2);
    int64_t const c = int64_t{groups} * between(1, 6);
    int64_t const h = between(1, 12);
    int64_t const w = between(1, 40);
    int32_t const padding = h > k / 2 && w > k / 2 ? between(0, 1) : 0; // reflections need larger maps
    std::string const call = described("reassemble", {dtype, n, c, h, w, k, groups, s, mode, padding});
    Buffer features{n, c, h, w, dtype, 1};
    Buffer taps{n, int64_t{groups} * k * k, s * h, s * w, dtype, 4};
    Buffer output{n, c, s * h, s * w, dtype};
    Buffer again{n, c, s * h, s * w, dtype};
    if (mode == 3) {
        check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
            return freqfusion_carafe(&features.tensor, &taps.tensor, out, k, groups, s, padding, place);
        });
    } else {
        std::unique_ptr<float[]> const window{new float[static_cast<size_t>(k) * k]};
        std::fill_n(window.get(), k * k, 0.5F);
        check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
            return freqfusion_adaptive_filter(
                &features.tensor, &taps.tensor, out, window.get(), int64_t{k} * k, k, groups, s, mode, padding, place);
        });
    }
    demand(output.allFinite(), "the result is not finite", call);
    FreqFusionPlace const place{0, 1, 0, nullptr};
    FreqFusionTensor wrong = taps.tensor;
    wrong.size[between(0, 3)] += 1;
    demand(freqfusion_carafe(&features.tensor, &wrong, &output.tensor, k, groups, s, padding, &place) != nullptr,
        "a mask of the wrong size is accepted", call);
    demand(
        freqfusion_carafe(&features.tensor, &taps.tensor, &output.tensor, k + 1, groups, s, padding, &place) != nullptr,
        "an even kernel is accepted", call);
    demand(freqfusion_carafe(&features.tensor, &taps.tensor, &output.tensor, k, 0, s, padding, &place) != nullptr,
        "no groups are accepted", call);
    demand(freqfusion_carafe(&features.tensor, &taps.tensor, &output.tensor, k, groups, s, 2, &place) != nullptr,
        "an unknown padding is accepted", call);
}

void multiplyWindows()
{
    int32_t const groups = between(1, 4);
    int32_t const k = 2 * between(0, 3) + 1;
    int64_t const n = between(0, 2);
    int64_t const c = int64_t{groups} * between(1, 6);
    int64_t const h = between(1, 12);
    int64_t const w = between(1, 40);
    std::string const call = described("multiplyWindows", {n, c, h, w, k, groups});
    Buffer map{n, c, h + k - 1, w + k - 1, kFreqFusionFloat32, 1};
    Buffer factors{n, c, h, w, kFreqFusionFloat32, 1};
    Buffer output{n, int64_t{groups} * k * k, h, w, kFreqFusionFloat32};
    Buffer again{n, int64_t{groups} * k * k, h, w, kFreqFusionFloat32};
    check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
        return freqfusion_window_products(&map.tensor, &factors.tensor, out, k, groups, place);
    });
    demand(output.allFinite(), "the result is not finite", call);
    FreqFusionPlace const place{0, 1, 0, nullptr};
    demand(freqfusion_window_products(&factors.tensor, &map.tensor, &output.tensor, k, groups, &place) != nullptr
               || k == 1,
        "a map smaller than its factors is accepted", call);
}

void compare()
{
    int32_t const dtype = between(0, 2);
    int32_t const k = 2 * between(1, 2) + 1;
    int32_t const dilation = between(1, 3);
    int64_t const n = between(0, 2);
    int64_t const c = between(1, 20);
    int64_t const h = between(1, 12);
    int64_t const w = between(1, 40);
    std::string const call = described("local_similarity", {dtype, n, c, h, w, k, dilation});
    Buffer features{n, c, h, w, dtype, 1};
    Buffer output{n, int64_t{k} * k - 1, h, w, dtype};
    Buffer again{n, int64_t{k} * k - 1, h, w, dtype};
    check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
        return freqfusion_local_similarity(&features.tensor, out, k, dilation, place);
    });
    demand(output.allFinite(), "the result is not finite", call);
}

void resample()
{
    int32_t const dtype = between(0, 2);
    int32_t const groups = between(1, 4);
    int64_t const n = between(0, 2);
    int64_t const c = int64_t{groups} * between(1, 6);
    int64_t const h = between(1, 6);
    int64_t const w = between(1, 20);
    std::string const call = described("offset_resample", {dtype, n, c, h, w, groups});
    Buffer features{n, c, 2 * h, 2 * w, dtype, 1};
    // Offsets far outside the map, too; every other call hands over what an untrained network may: huge numbers.
    Buffer offsets{n, 8 * int64_t{groups}, h, w, dtype, between(0, 1) != 0 ? 5.0F : 60000.0F};
    Buffer output{n, c, 2 * h, 2 * w, dtype};
    Buffer again{n, c, 2 * h, 2 * w, dtype};
    check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
        return freqfusion_offset_resample(&features.tensor, &offsets.tensor, out, groups, place);
    });
    demand(output.allFinite(), "the result is not finite", call);
}

void attend()
{
    int32_t const dtype = between(0, 2);
    int64_t const n = between(0, 2);
    int64_t const heads = between(1, 5);
    int64_t const channels = between(1, 40);
    int64_t const places = 2 * int64_t{between(1, 5)};
    int64_t const sizes[4] = {between(1, 12), between(1, 20), between(1, 6), between(1, 10)};
    int64_t const tokens = sizes[0] * sizes[1] + sizes[2] * sizes[3];
    std::string const call =
        described("deformable_attention", {dtype, n, heads, channels, places, sizes[0], sizes[1], sizes[2], sizes[3]});
    Buffer value{n, tokens, heads, channels, dtype, 1};
    Buffer offsets{n, tokens, heads, 2 * places, dtype, between(0, 1) != 0 ? 5.0F : 60000.0F};
    Buffer logits{n, tokens, heads, places, dtype, 4};
    Buffer output{n, tokens, heads, channels, dtype};
    Buffer again{n, tokens, heads, channels, dtype};
    check(output, again, call, [&](FreqFusionTensor const* out, FreqFusionPlace const* place) {
        return freqfusion_deformable_attention(&value.tensor, &offsets.tensor, &logits.tensor, out, sizes, 4, place);
    });
    demand(output.allFinite(), "the result is not finite", call);
    FreqFusionPlace const place{0, 1, 0, nullptr};
    for (int64_t const count : {int64_t{0}, int64_t{2}, int64_t{3}}) {
        demand(freqfusion_deformable_attention(
                   &value.tensor, &offsets.tensor, &logits.tensor, &output.tensor, sizes, count, &place)
                   != nullptr,
            "sizes of too few levels are accepted", call);
    }
}

void labelByQueries()
{
    int32_t const dtype = between(0, 2);
    int64_t const n = between(0, 2);
    int64_t const queries = between(1, 12);
    int32_t const classes = between(1, 20);
    int64_t const h = between(1, 9);
    int64_t const w = between(1, 20);
    int32_t const padded[2] = {between(1, 40), between(1, 90)};
    int32_t const kept[2] = {between(1, padded[0]), between(1, padded[1])};
    int64_t const outHeight = between(1, 30);
    int64_t const outWidth = between(1, 50);
    std::string const call = described("query_argmax",
        {dtype, n, queries, classes, h, w, padded[0], padded[1], kept[0], kept[1], outHeight, outWidth});
    Buffer masks{n, queries, h, w, dtype, 5};
    Buffer logits{n, queries, classes + 1, 1, dtype, 3};
    Buffer labels{n, 1, outHeight, outWidth, kFreqFusionInt32};
    Buffer again{n, 1, outHeight, outWidth, kFreqFusionInt32};
    FreqFusionPlace const alone{0, 1, 0, nullptr};
    FreqFusionPlace const together{0, between(2, 4), 0, nullptr};
    for (auto [out, place] : {std::pair{&labels, &alone}, std::pair{&again, &together}}) {
        char const* const reason = freqfusion_query_argmax(
            &masks.tensor, &logits.tensor, &out->tensor, padded[0], padded[1], kept[0], kept[1], place);
        demand(reason == nullptr, reason, call);
    }
    demand(labels.equals(again), "threads change the result", call);
    demand(labels.labelsBelow(classes), "a label is no class", call);
    demand(freqfusion_query_argmax(
               &masks.tensor, &logits.tensor, &labels.tensor, padded[0], padded[1], padded[0] + 1, kept[1], &alone)
               != nullptr,
        "more kept than there is is accepted", call);
}

//! Offsets that are no numbers at all must not become addresses.
void resampleNonsense()
{
    Buffer features{1, 4, 6, 10, kFreqFusionFloat32, 1};
    Buffer offsets{1, 8, 3, 5, kFreqFusionFloat32, 1};
    auto* const values = static_cast<float*>(offsets.tensor.data);
    float const nonsense[] = {NAN, INFINITY, -INFINITY, 1e38F, -1e38F};
    for (int i = 0; i < 120; ++i) {
        values[i] = nonsense[between(0, 4)];
    }
    Buffer output{1, 4, 6, 10, kFreqFusionFloat32};
    FreqFusionPlace const place{0, 2, 0, nullptr};
    char const* const reason = freqfusion_offset_resample(&features.tensor, &offsets.tensor, &output.tensor, 1, &place);
    demand(reason == nullptr, reason, "offset_resample of nonsense");
}

void label()
{
    int32_t const dtype = between(0, 2);
    int64_t const n = between(0, 2);
    int32_t const classes = between(1, 40);
    int64_t const h = between(1, 9);
    int64_t const w = between(1, 20);
    int32_t const stepHeight = between(1, 30);
    int32_t const stepWidth = between(1, 50);
    int64_t const outHeight = between(1, 30);
    int64_t const outWidth = between(1, 50);
    int32_t const corners = between(0, 1);
    std::string const call =
        described("resize_argmax", {dtype, n, classes, h, w, stepHeight, stepWidth, outHeight, outWidth, corners});
    Buffer scores{n, classes, h, w, dtype, 1};
    Buffer labels{n, 1, outHeight, outWidth, kFreqFusionInt32};
    Buffer again{n, 1, outHeight, outWidth, kFreqFusionInt32};
    FreqFusionPlace const alone{0, 1, 0, nullptr};
    FreqFusionPlace const together{0, between(2, 4), 0, nullptr};
    for (auto [out, place] : {std::pair{&labels, &alone}, std::pair{&again, &together}}) {
        char const* const reason =
            freqfusion_resize_argmax(&scores.tensor, &out->tensor, stepHeight, stepWidth, corners, place);
        demand(reason == nullptr, reason, call);
    }
    demand(labels.equals(again), "threads change the result", call);
    demand(labels.labelsBelow(classes), "a label is no class", call);
    demand(freqfusion_resize_argmax(&scores.tensor, &labels.tensor, 0, stepWidth, corners, &alone) != nullptr,
        "a step of no height is accepted", call);
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 3) {
        std::fprintf(stderr, "usage: random_shapes SECONDS SEED\n");
        return 2;
    }
    gRandom.seed(static_cast<uint32_t>(std::strtoul(argv[2], nullptr, 10)));
    auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::strtod(argv[1], nullptr));
    int64_t rounds = 0;
    for (; rounds < 20 || std::chrono::steady_clock::now() < end; ++rounds) {
        reassemble();
        multiplyWindows();
        compare();
        resample();
        resampleNonsense();
        label();
        attend();
        labelByQueries();
    }
    std::printf("%s: %lld rounds of eight operators\n", freqfusion_host_level(), static_cast<long long>(rounds));
    return 0;
}
