// SPDX-License-Identifier: Apache-2.0
//! Which positions Pillow's bilinear resize of 8-bit levels reads along one axis, and with what weights.
#pragma once

#include <cstdint>

namespace freqfusion {
// Unnamed because the *_cpu.cpp files are compiled for several instruction sets: see simd.h.
namespace {

constexpr int32_t kPillowBits = 22; //!< of a weight: one is 2^22, and 255 times the sum of all still fits 32 bits

//! The taps of one target position: a triangle around its centre, as wide as two target pixels where the picture
//! shrinks and as two source pixels where it grows. All is counted in 1 / (2 * source * target) of the axis, so that
//! every number is whole; Pillow's own are doubles, and its rounded weights are the same.
class PillowTaps {
  public:
    PillowTaps() = default;

    PillowTaps(int64_t index, int64_t source, int64_t target)
        : mTarget{target}, mCentre{(2 * index + 1) * source}, mReach{2 * (source > target ? source : target)}
    {
        int64_t const below = mCentre - mReach - target;
        int64_t const above = (mCentre + mReach + target - 1) / (2 * target);
        mFirst = below < 0 ? 0 : below / (2 * target) + 1;
        mEnd = above < source ? above : source;
        for (int64_t x = mFirst; x < mEnd; ++x) {
            mSum += height(x);
        }
    }

    [[nodiscard]] int64_t first() const { return mFirst; }
    [[nodiscard]] int64_t end() const { return mEnd; }

    //! Of source position `x`, rounded half up.
    [[nodiscard]] int32_t weight(int64_t x) const
    {
        return static_cast<int32_t>(((height(x) << (kPillowBits + 1)) + mSum) / (2 * mSum));
    }

  private:
    [[nodiscard]] int64_t height(int64_t x) const
    {
        int64_t const distance = (2 * x + 1) * mTarget - mCentre;
        return mReach - (distance < 0 ? -distance : distance);
    }

    int64_t mTarget{1};
    int64_t mCentre{0};
    int64_t mReach{0};
    int64_t mFirst{0};
    int64_t mEnd{0};
    int64_t mSum{0};
};

//! No position of a resize of `source` to `target` has more taps.
[[maybe_unused]] inline int64_t mostPillowTaps(int64_t source, int64_t target)
{
    int64_t const most = 2 * ((source > target ? source : target) / target) + 2;
    return most < source ? most : source;
}

} // namespace
} // namespace freqfusion
