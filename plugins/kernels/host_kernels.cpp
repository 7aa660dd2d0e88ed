// SPDX-License-Identifier: Apache-2.0
#include "host_kernels.h"

#include <cstdlib>
#include <cstring>

namespace freqfusion {

namespace baseline {
extern HostKernels const kHostKernels;
}
#if FREQFUSION_X86_LEVELS
namespace avx2 {
extern HostKernels const kHostKernels;
}
namespace avx512 {
extern HostKernels const kHostKernels;
}
#endif

namespace {

HostKernels const& chooseHostKernels() noexcept
{
#if FREQFUSION_X86_LEVELS
    char const* const asked = std::getenv("FREQFUSION_ISA");
    __builtin_cpu_init();
    bool const hasAvx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool const hasAvx512 = hasAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    bool const asksBaseline = asked != nullptr && std::strcmp(asked, "baseline") == 0;
    bool const asksAvx2 = asked != nullptr && std::strcmp(asked, "avx2") == 0;
    if (hasAvx512 && !asksBaseline && !asksAvx2) {
        return avx512::kHostKernels;
    }
    // Every processor with AVX2 has F16C, which __builtin_cpu_supports of GCC 10 and older cannot ask for.
    if (hasAvx2 && !asksBaseline) {
        return avx2::kHostKernels;
    }
#endif
    return baseline::kHostKernels;
}

} // namespace

HostKernels const& hostKernels() noexcept
{
    static HostKernels const& chosen = chooseHostKernels();
    return chosen;
}

} // namespace freqfusion
