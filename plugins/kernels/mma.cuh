// SPDX-License-Identifier: Apache-2.0
//! The two warp instructions of the tensor cores that the reassembly uses. All 32 lanes call them together.
//! Source: PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix"; with g = lane / 4 and t = lane % 4 a lane holds
//!   a[0] = A[g][2t, 2t+1]  a[1] = A[g+8][2t, 2t+1]  a[2] = A[g][2t+8, 2t+9]  a[3] = A[g+8][2t+8, 2t+9]
//!   b[0] = B[2t, 2t+1][g]  b[1] = B[2t+8, 2t+9][g]   d[0, 1] = D[g][2t, 2t+1]   d[2, 3] = D[g+8][2t, 2t+1]
#pragma once

#include "device.cuh"

#include <type_traits>

namespace freqfusion {

#if !defined(FREQFUSION_CUDA_ON_HOST)
//! The lane, read in a way that the compiler must not move out of a loop: what follows from it is then worked out in
//! each turn instead of being held in registers.
__device__ __forceinline__ int32_t readLane()
{
    uint32_t lane = 0;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return static_cast<int32_t>(lane);
}

//! D += A B for A (16, 16), B (16, 8) of T and D of fp32.
template <typename T>
__device__ __forceinline__ void multiplyAdd(
    float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    if constexpr (std::is_same_v<T, __half>) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
}

//! Reads four 8 x 8 matrices, transposed: lane 8 m + r gives the address of row r of matrix m, and
//! registers[m] = elements [2t, 2t+1][g] of matrix m.
__device__ __forceinline__ void loadTransposed(uint32_t (&registers)[4], void const* row)
{
    auto const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
        : "r"(address)
        : "memory");
}
#endif

} // namespace freqfusion
