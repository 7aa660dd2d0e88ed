// SPDX-License-Identifier: Apache-2.0
//! Vectors of the instruction set a *_cpu.cpp file is compiled for, by the compilers' vector extensions.
//!
//! Everything lies in an unnamed namespace inside the level's own: an inline function with external linkage, a standard
//! library one included, would be merged across levels by the linker, and AVX-512 code would then run on every
//! processor.
#pragma once

#include "tensor.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace freqfusion::FREQFUSION_SIMD_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int32_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int32_t kLanes = 8;
#else
constexpr int32_t kLanes = 4;
#endif
constexpr int32_t kVectorBytes = kLanes * 4;

typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVec __attribute__((vector_size(kVectorBytes)));
typedef uint32_t UintVec __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

#define FREQFUSION_INLINE [[maybe_unused, gnu::always_inline]] static inline

//! IEEE binary16, as stored.
struct Float16 {
    uint16_t bits;
};

//! The upper half of an IEEE binary32, as stored.
struct BFloat16 {
    uint16_t bits;
};

template <typename To, typename From>
FREQFUSION_INLINE To bitCast(From const& from)
{
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof(to));
    return to;
}

FREQFUSION_INLINE Vec broadcast(float value)
{
    return value - Vec{};
}

FREQFUSION_INLINE IntVec broadcastInt(int32_t value)
{
    return value - IntVec{};
}

FREQFUSION_INLINE Vec load(float const* from)
{
    Vec to;
    __builtin_memcpy(&to, from, sizeof(to));
    return to;
}

FREQFUSION_INLINE void store(float* to, Vec value)
{
    __builtin_memcpy(to, &value, sizeof(value));
}

FREQFUSION_INLINE Vec maximum(Vec a, Vec b)
{
    return a > b ? a : b;
}

FREQFUSION_INLINE Vec floatFromHalf(HalfBits half)
{
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps((__m256i)half);
#elif defined(__AVX2__)
    return (Vec)_mm256_cvtph_ps((__m128i)half);
#elif defined(__aarch64__)
    return (Vec)vcvt_f32_f16((float16x4_t)half);
#else
    UintVec const bits = __builtin_convertvector(half, UintVec);
    UintVec const magnitude = (bits & 0x7fffU) << 13;
    // 2^112 moves the exponent from binary16's bias to binary32's and makes subnormals normal.
    UintVec value = (UintVec)((Vec)magnitude * 0x1p112F);
    value |= (UintVec)(magnitude >= (0x7c00U << 13)) & 0x7f800000U; // infinities and NaN
    return (Vec)(value | (bits & 0x8000U) << 16);
#endif
}

//! Rounds to nearest, ties to even.
FREQFUSION_INLINE HalfBits halfFromFloat(Vec value)
{
#if defined(__AVX512F__)
    return (HalfBits)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (HalfBits)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__aarch64__)
    return (HalfBits)vcvt_f16_f32((float32x4_t)value);
#else
    UintVec const bits = (UintVec)value;
    UintVec const magnitude = bits & 0x7fffffffU;
    UintVec const normal = (magnitude + 0xc8000fffU + ((magnitude >> 13) & 1U)) >> 13;
    // Adding 1/2 aligns a subnormal's last bit with the sum's last bit, so the addition rounds it.
    UintVec const subnormal = (UintVec)((Vec)magnitude + 0.5F) - 0x3f000000U;
    UintVec half = magnitude < 0x38800000U ? subnormal : normal;
    half = magnitude >= 0x47800000U ? (UintVec{} + 0x7c00U) : half;
    half = magnitude > 0x7f800000U ? (UintVec{} + 0x7e00U) : half;
    return __builtin_convertvector(half | (bits >> 16 & 0x8000U), HalfBits);
#endif
}

FREQFUSION_INLINE Vec floatFromBits(HalfBits bits, Float16 const*)
{
    return floatFromHalf(bits);
}

FREQFUSION_INLINE Vec floatFromBits(HalfBits bits, BFloat16 const*)
{
    return (Vec)(__builtin_convertvector(bits, UintVec) << 16);
}

FREQFUSION_INLINE Vec loadAs(float const* from)
{
    return load(from);
}

template <typename T>
FREQFUSION_INLINE Vec loadAs(T const* from)
{
    HalfBits bits;
    __builtin_memcpy(&bits, from, sizeof(bits));
    return floatFromBits(bits, from);
}

FREQFUSION_INLINE void storeAs(float* to, Vec value)
{
    store(to, value);
}

FREQFUSION_INLINE void storeAs(Float16* to, Vec value)
{
    HalfBits const bits = halfFromFloat(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
}

FREQFUSION_INLINE void storeAs(BFloat16* to, Vec value)
{
    UintVec const bits = (UintVec)value;
    UintVec rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    rounded = (bits & 0x7fffffffU) > 0x7f800000U ? (bits >> 16 | 0x40U) : rounded; // a NaN must not round to infinity
    HalfBits const half = __builtin_convertvector(rounded, HalfBits);
    __builtin_memcpy(to, &half, sizeof(half));
}

//! The first `count` lanes from memory, zero in the rest. A negative count is none.
template <typename T>
FREQFUSION_INLINE Vec loadPart(T const* from, int32_t count)
{
    if (count >= kLanes) {
        return loadAs(from);
    }
    T lanes[kLanes] = {};
    for (int32_t i = 0; i < count; ++i) {
        lanes[i] = from[i];
    }
    return loadAs(lanes);
}

template <typename T>
FREQFUSION_INLINE void storePart(T* to, Vec value, int32_t count)
{
    if (count >= kLanes) {
        storeAs(to, value);
        return;
    }
    T lanes[kLanes];
    storeAs(lanes, value);
    for (int32_t i = 0; i < count; ++i) {
        to[i] = lanes[i];
    }
}

#if defined(__AVX512F__)
FREQFUSION_INLINE __mmask16 firstLanes(int32_t count)
{
    return static_cast<__mmask16>(count >= kLanes ? 0xffffU : count <= 0 ? 0U : (1U << count) - 1U);
}

template <>
[[maybe_unused, gnu::always_inline]] inline Vec loadPart(float const* from, int32_t count)
{
    return (Vec)_mm512_maskz_loadu_ps(firstLanes(count), from);
}

template <>
[[maybe_unused, gnu::always_inline]] inline void storePart(float* to, Vec value, int32_t count)
{
    _mm512_mask_storeu_ps(to, firstLanes(count), (__m512)value);
}
#elif defined(__AVX2__)
FREQFUSION_INLINE __m256i firstLanes(int32_t count)
{
    return (__m256i)(IntVec{0, 1, 2, 3, 4, 5, 6, 7} < broadcastInt(count));
}

template <>
[[maybe_unused, gnu::always_inline]] inline Vec loadPart(float const* from, int32_t count)
{
    return (Vec)_mm256_maskload_ps(from, firstLanes(count));
}

template <>
[[maybe_unused, gnu::always_inline]] inline void storePart(float* to, Vec value, int32_t count)
{
    _mm256_maskstore_ps(to, firstLanes(count), (__m256)value);
}
#endif

//! A vector whose lane i is taken from `picks[i]` of the vectors a and b laid end to end.
#if defined(__clang__) || __GNUC__ >= 12
#define FREQFUSION_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FREQFUSION_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntVec{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
#define FREQFUSION_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define FREQFUSION_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define FREQFUSION_ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define FREQFUSION_ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define FREQFUSION_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define FREQFUSION_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define FREQFUSION_ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define FREQFUSION_ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define FREQFUSION_EVEN 0, 2, 4, 6
#define FREQFUSION_ODD 1, 3, 5, 7
#define FREQFUSION_ZIP_LOW 0, 4, 1, 5
#define FREQFUSION_ZIP_HIGH 2, 6, 3, 7
#endif

//! Splits 2 x kLanes neighbours into those at even and those at odd places.
FREQFUSION_INLINE void unzip(Vec low, Vec high, Vec& even, Vec& odd)
{
    even = FREQFUSION_SHUFFLE(low, high, FREQFUSION_EVEN);
    odd = FREQFUSION_SHUFFLE(low, high, FREQFUSION_ODD);
}

//! The inverse of `unzip`.
FREQFUSION_INLINE void zip(Vec even, Vec odd, Vec& low, Vec& high)
{
    low = FREQFUSION_SHUFFLE(even, odd, FREQFUSION_ZIP_LOW);
    high = FREQFUSION_SHUFFLE(even, odd, FREQFUSION_ZIP_HIGH);
}

//! Lane i is lane `lanes[i]` of `from`.
FREQFUSION_INLINE Vec permute(Vec from, IntVec lanes)
{
#if defined(__AVX512F__)
    return (Vec)_mm512_permutexvar_ps((__m512i)lanes, (__m512)from);
#elif defined(__AVX2__)
    return (Vec)_mm256_permutevar8x32_ps((__m256)from, (__m256i)lanes);
#else
    Vec to;
    for (int32_t i = 0; i < kLanes; ++i) {
        to[i] = from[lanes[i]];
    }
    return to;
#endif
}

//! exp(x) within 2 units in the last place for x <= 0; exactly 0 where the result would not be a normal number.
FREQFUSION_INLINE Vec expOfNegative(Vec x)
{
    constexpr float kLog2E = 1.44269504F;
    constexpr float kLn2High = 0.693359375F; // 9 significant bits: its product with a whole number up to 2^15 is exact
    constexpr float kLn2Low = -2.12194440e-4F;
    constexpr float kRound = 0x1.8p23F; // adding it leaves the nearest whole number in the last bits
    constexpr float kSmallest = -87.3F;
    Vec const bounded = x < kSmallest ? broadcast(kSmallest) : x; // a NaN stays one
    Vec const shifted = bounded * kLog2E + kRound;
    Vec const whole = shifted - kRound;
    Vec const rest = (bounded - whole * kLn2High) - whole * kLn2Low;
    // Taylor's coefficients with the last ones fitted on |rest| <= ln(2)/2 (Cephes expf).
    Vec series = broadcast(1.9875691500e-4F);
    series = series * rest + 1.3981999507e-3F;
    series = series * rest + 8.3334519073e-3F;
    series = series * rest + 4.1665795894e-2F;
    series = series * rest + 1.6666665459e-1F;
    series = series * rest + 5.0000001201e-1F;
    series = series * (rest * rest) + rest + 1.0F;
    Vec const power = (Vec)(((IntVec)shifted << 23) + (127 << 23));
    return x < kSmallest ? Vec{} : series * power;
}

//! Runs body(i) for every i in [0, count) on the pool's threads.
template <typename Body>
FREQFUSION_INLINE void parallelFor(ThreadPool const& pool, int64_t count, Body const& body)
{
    void (*const call)(void*, int64_t) = [](void* context, int64_t i) { (*static_cast<Body const*>(context))(i); };
    void* const context = const_cast<void*>(static_cast<void const*>(&body));
    if (pool.parallelFor == nullptr || count <= 1) {
        for (int64_t i = 0; i < count; ++i) {
            call(context, i);
        }
        return;
    }
    pool.parallelFor(pool.pool, count, call, context);
}

template <typename T>
FREQFUSION_INLINE T smaller(T a, T b)
{
    return b < a ? b : a;
}

template <typename T>
FREQFUSION_INLINE T larger(T a, T b)
{
    return a < b ? b : a;
}

template <typename T>
FREQFUSION_INLINE T ceilDivide(T a, T b)
{
    return (a + b - 1) / b;
}

//! Calls body with a value of the element type that `dtype` names.
template <typename Body>
FREQFUSION_INLINE void withElementType(DType dtype, Body const& body)
{
    switch (dtype) {
    case DType::kFloat32:
        return body(float{});
    case DType::kFloat16:
        return body(Float16{});
    case DType::kBFloat16:
        return body(BFloat16{});
    }
}

} // namespace
} // namespace freqfusion::FREQFUSION_SIMD_LEVEL
