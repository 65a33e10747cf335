// Marks for code that both g++ and nvcc compile.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define CELLPOST_HD __host__ __device__
#define CELLPOST_INLINE __forceinline__
#else
#define CELLPOST_HD
// Always inlined: the CPU kernels are compiled several times with different instruction sets, and
// an out-of-line copy of a shared inline function would be merged by the linker across them.
#define CELLPOST_INLINE inline __attribute__((always_inline))
#endif
#define CELLPOST_FN CELLPOST_HD CELLPOST_INLINE
/// Before a loop of few, constant turns. nvcc unrolls these by itself, and its host pass would
/// warn.
#if defined(__CUDACC__)
#define CELLPOST_UNROLL
#else
#define CELLPOST_UNROLL _Pragma("GCC unroll 8")
#endif

namespace cellpost {

/// a * b + c, rounded once; fma is never left to the compiler's contraction.
template <class Real>
CELLPOST_FN Real fused(Real a, Real b, Real c) {
  return std::fma(a, b, c);
}
/// The same by the name that packs of floats (cpu/simd.h) have it by.
CELLPOST_FN float lane_fma(float a, float b, float c) { return fused(a, b, c); }

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;
}  // namespace cellpost
