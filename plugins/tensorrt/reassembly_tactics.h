// SPDX-License-Identifier: Apache-2.0
//! The competing kernels of a reassembly, as the tactics among which TensorRT chooses by timing.
#pragma once

#include "report.h"

#include "../kernels/reassembly_tactic.h"

#include <algorithm>
#include <array>

namespace freqfusion::tensorrt {

//! Which kernels a layer offers, and the one chosen for it. 0, TensorRT's default, leaves the choice to the launcher.
class ReassemblyTactics {
  public:
    //! Offers the kernels that can do every one of `shapes`: the smallest, the best and the largest of a profile.
    void offer(std::array<CarafeShape, 3> const& shapes, DType dtype, Layout layout) noexcept
    {
        mCount = 0;
        for (int32_t tactic = 1; tactic < kReassemblyTactics; ++tactic) {
            auto const canDo = [&](CarafeShape const& shape) {
                return isTacticFor(shape, dtype, layout, static_cast<ReassemblyTactic>(tactic));
            };
            if (std::all_of(shapes.begin(), shapes.end(), canDo)) {
                mOffered[static_cast<std::size_t>(mCount++)] = tactic;
            }
        }
    }

    [[nodiscard]] int32_t count() const noexcept { return mCount; }

    void copyTo(int32_t* tactics, int32_t count) const noexcept
    {
        std::copy_n(mOffered.begin(), std::min(count, mCount), tactics);
    }

    //! Remembers TensorRT's choice. Refuses, with a report, a kernel this library does not have.
    [[nodiscard]] bool choose(int32_t tactic, Subject const& subject) noexcept
    {
        if (tactic < 0 || tactic >= kReassemblyTactics) {
            report(subject,
                "the engine asks for kernel %d, expected 0 to %d. Build the engine again with this plugin library.",
                tactic, kReassemblyTactics - 1);
            return false;
        }
        mChosen = static_cast<ReassemblyTactic>(tactic);
        return true;
    }

    //! Calls launch(tactic) for the chosen kernel, and once more without a choice where that kernel cannot do this size
    //! or alignment.
    template <typename Launch>
    [[nodiscard]] cudaError_t run(Launch const& launch) const noexcept
    {
        cudaError_t const status = launch(mChosen);
        bool const isAnswer = status != cudaErrorNotSupported || mChosen == ReassemblyTactic::kAutomatic;
        return isAnswer ? status : launch(ReassemblyTactic::kAutomatic);
    }

  private:
    std::array<int32_t, kReassemblyTactics - 1> mOffered{};
    int32_t mCount{0};
    ReassemblyTactic mChosen{ReassemblyTactic::kAutomatic};
};

} // namespace freqfusion::tensorrt
