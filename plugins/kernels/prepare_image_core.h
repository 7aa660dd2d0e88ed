// SPDX-License-Identifier: Apache-2.0
//! Which positions OpenCV's fixed-point bilinear resize reads along one axis, and with what weights.
#pragma once

#include "prepare_image.h"

namespace freqfusion {
// Unnamed because the *_cpu.cpp files are compiled for several instruction sets: see simd.h.
namespace {

constexpr int32_t kFixedOne = 2048; //!< OpenCV's INTER_RESIZE_COEF_SCALE: weights have 11 bits

//! Two neighbouring positions of an axis, `low` = -1 included, and their weights in 2048ths, which may add up to 2049.
struct FixedPair {
    int64_t low;
    int32_t lowWeight;
    int32_t highWeight;
};

//! The positions that a resize of `source` to `target` reads, for one target position after the other. The exact
//! position is low + remainder / (2 * target); it advances by additions, which spares a 64-bit division a column.
class AxisSteps {
  public:
    AxisSteps(int64_t index, int64_t source, int64_t target)
        : mDenominator{2 * target}, mWholeStep{source / target}, mRestStep{2 * (source % target)}
    {
        int64_t const aboveMinusOne = (2 * index + 1) * source + target; // positive, so that division floors
        mLow = aboveMinusOne / mDenominator - 1;
        mRemainder = aboveMinusOne % mDenominator;
    }

    void advance()
    {
        mLow += mWholeStep;
        mRemainder += mRestStep;
        if (mRemainder >= mDenominator) {
            mRemainder -= mDenominator;
            ++mLow;
        }
    }

    //! OpenCV holds the position in fp32, so its fraction is that of the rounded sum; each weight is rounded apart.
    [[nodiscard]] FixedPair pair() const
    {
        float const whole = static_cast<float>(mLow);
        float const share = (whole + static_cast<float>(mRemainder) / static_cast<float>(mDenominator)) - whole;
        return {mLow, rounded((1.0F - share) * kFixedOne), rounded(share * kFixedOne)};
    }

  private:
    //! To the nearest whole number, ties to even; `value` is from 0 to 2048.
    static int32_t rounded(float value)
    {
        constexpr float kRound = 0x1.8p23F; // adding it leaves the nearest whole number in the last bits
        return static_cast<int32_t>((value + kRound) - kRound);
    }

    int64_t mDenominator;
    int64_t mWholeStep;
    int64_t mRestStep;
    int64_t mLow;
    int64_t mRemainder;
};

//! The two rows, of `rows`, that row `index` of a resize along y mixes; a missing row is its neighbour again.
struct RowPair {
    int32_t above;
    int32_t below;
    int32_t aboveWeight;
    int32_t belowWeight;
};

[[maybe_unused]] inline RowPair rowPair(int64_t index, int64_t rows, int64_t target)
{
    FixedPair const pair = AxisSteps{index, rows, target}.pair();
    int64_t const below = pair.low + 1 < rows ? pair.low + 1 : rows - 1;
    return {static_cast<int32_t>(pair.low < 0 ? 0 : pair.low), static_cast<int32_t>(below), pair.lowWeight,
        pair.highWeight};
}

//! The pair that a resize along x mixes, moved into the row: `low` and `low` + 1 both exist unless the row is a single
//! pixel, which `low` then is, with all the weight.
[[maybe_unused]] inline FixedPair columnPair(AxisSteps const& at, int64_t columns)
{
    FixedPair const pair = at.pair();
    if (pair.low < 0 || columns == 1) {
        return {0, kFixedOne, 0};
    }
    if (pair.low >= columns - 1) {
        return {columns - 2, 0, kFixedOne};
    }
    return pair;
}

} // namespace
} // namespace freqfusion
