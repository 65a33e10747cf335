// SIMD packs with the lane operations that core/flows_trace.h asks for. Included only by sources
// that are compiled for the instruction set in question.
#pragma once

#include <immintrin.h>

#include "core/flows_trace.h"

namespace cellpost {

#if defined(__AVX512F__)

struct Mask16 {
  __mmask16 m = 0;
  CELLPOST_INLINE unsigned bits() const { return m; }
};
CELLPOST_INLINE Mask16 operator|(Mask16 a, Mask16 b) { return {_kor_mask16(a.m, b.m)}; }
CELLPOST_INLINE Mask16 operator&(Mask16 a, Mask16 b) { return {_kand_mask16(a.m, b.m)}; }

struct I16 {
  __m512i v;
  static CELLPOST_INLINE I16 load(const int32_t* p) { return {_mm512_load_si512(p)}; }
  CELLPOST_INLINE void store(int32_t* p) const { _mm512_store_si512(p, v); }
};
CELLPOST_INLINE I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
CELLPOST_INLINE I16 operator+(I16 a, int32_t b) {
  return {_mm512_add_epi32(a.v, _mm512_set1_epi32(b))};
}
CELLPOST_INLINE I16 operator*(I16 a, int32_t b) {
  return {_mm512_mullo_epi32(a.v, _mm512_set1_epi32(b))};
}
CELLPOST_INLINE I16 operator-(I16 a, I16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
CELLPOST_INLINE I16 select(Mask16 m, I16 yes, I16 no) {
  return {_mm512_mask_mov_epi32(no.v, m.m, yes.v)};
}
CELLPOST_INLINE Mask16 lane_outside(I16 v, int32_t low, int32_t high) {
  // Two comparisons: in a window one pixel wide `high` is below `low`.
  return {_kor_mask16(_mm512_cmpgt_epi32_mask(_mm512_set1_epi32(low), v.v),
                      _mm512_cmpgt_epi32_mask(v.v, _mm512_set1_epi32(high)))};
}

struct F16 {
  __m512 v;
  static CELLPOST_INLINE F16 load(const float* p) { return {_mm512_load_ps(p)}; }
  CELLPOST_INLINE void store(float* p) const { _mm512_store_ps(p, v); }
};
CELLPOST_INLINE F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
CELLPOST_INLINE F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
CELLPOST_INLINE F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
CELLPOST_INLINE F16 operator+(F16 a, float b) { return {_mm512_add_ps(a.v, _mm512_set1_ps(b))}; }
CELLPOST_INLINE F16 operator-(F16 a, float b) { return {_mm512_sub_ps(a.v, _mm512_set1_ps(b))}; }
CELLPOST_INLINE F16 operator-(float a, F16 b) { return {_mm512_sub_ps(_mm512_set1_ps(a), b.v)}; }
CELLPOST_INLINE F16 operator*(F16 a, float b) { return {_mm512_mul_ps(a.v, _mm512_set1_ps(b))}; }
CELLPOST_INLINE F16 operator/(F16 a, float b) { return {_mm512_div_ps(a.v, _mm512_set1_ps(b))}; }
CELLPOST_INLINE Mask16 operator==(F16 a, F16 b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
CELLPOST_INLINE F16 select(Mask16 m, F16 yes, F16 no) {
  return {_mm512_mask_mov_ps(no.v, m.m, yes.v)};
}
CELLPOST_INLINE F16 lane_fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
CELLPOST_INLINE F16 lane_floor(F16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
CELLPOST_INLINE F16 lane_clamp(F16 v, F16 low, F16 high) {
  return {_mm512_min_ps(_mm512_max_ps(v.v, low.v), high.v)};  // max gives `low` for NaN
}
CELLPOST_INLINE I16 lane_to_int(F16 a) { return {_mm512_cvttps_epi32(a.v)}; }
CELLPOST_INLINE F16 lane_to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
CELLPOST_INLINE bool lane_any(Mask16 m) { return !_kortestz_mask16_u8(m.m, m.m); }

template <>
struct LaneOf<F16> {
  using Int = I16;
  using Mask = Mask16;
  static constexpr int kWidth = 16;
  static CELLPOST_INLINE F16 splat(float v) { return {_mm512_set1_ps(v)}; }
};

/// Per lane four floats at p + offset[0] and p + offset[1], transposed. Each address is used for
/// both at once, before the next ones need its register.
CELLPOST_INLINE void load_transposed(const float* const (&p)[16], const int64_t (&offset)[2],
                                     F16 (&out)[2][4]) {
  __m512 r[2][4];
  CELLPOST_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float *a = p[i], *b = p[4 + i], *c = p[8 + i], *d = p[12 + i];
    CELLPOST_UNROLL
    for (int row = 0; row < 2; ++row) {
      const int64_t o = offset[row];
      r[row][i] = _mm512_castps128_ps512(_mm_loadu_ps(a + o));
      r[row][i] = _mm512_insertf32x4(r[row][i], _mm_loadu_ps(b + o), 1);
      r[row][i] = _mm512_insertf32x4(r[row][i], _mm_loadu_ps(c + o), 2);
      r[row][i] = _mm512_insertf32x4(r[row][i], _mm_loadu_ps(d + o), 3);
    }
  }
  CELLPOST_UNROLL
  for (int row = 0; row < 2; ++row) {
    const __m512 a = _mm512_unpacklo_ps(r[row][0], r[row][1]);
    const __m512 b = _mm512_unpackhi_ps(r[row][0], r[row][1]);
    const __m512 c = _mm512_unpacklo_ps(r[row][2], r[row][3]);
    const __m512 d = _mm512_unpackhi_ps(r[row][2], r[row][3]);
    out[row][0].v = _mm512_shuffle_ps(a, c, 0x44);
    out[row][1].v = _mm512_shuffle_ps(a, c, 0xee);
    out[row][2].v = _mm512_shuffle_ps(b, d, 0x44);
    out[row][3].v = _mm512_shuffle_ps(b, d, 0xee);
  }
}

using Pack = F16;
using PackInt = I16;

#elif defined(__AVX2__)

struct Mask8 {
  __m256 m = _mm256_setzero_ps();
  CELLPOST_INLINE unsigned bits() const { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
};
CELLPOST_INLINE Mask8 operator|(Mask8 a, Mask8 b) { return {_mm256_or_ps(a.m, b.m)}; }
CELLPOST_INLINE Mask8 operator&(Mask8 a, Mask8 b) { return {_mm256_and_ps(a.m, b.m)}; }

struct I8 {
  __m256i v;
  static CELLPOST_INLINE I8 load(const int32_t* p) {
    return {_mm256_load_si256(reinterpret_cast<const __m256i*>(p))};
  }
  CELLPOST_INLINE void store(int32_t* p) const {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
  }
};
CELLPOST_INLINE I8 operator+(I8 a, I8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
CELLPOST_INLINE I8 operator+(I8 a, int32_t b) {
  return {_mm256_add_epi32(a.v, _mm256_set1_epi32(b))};
}
CELLPOST_INLINE I8 operator*(I8 a, int32_t b) {
  return {_mm256_mullo_epi32(a.v, _mm256_set1_epi32(b))};
}
CELLPOST_INLINE I8 operator-(I8 a, I8 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
CELLPOST_INLINE I8 select(Mask8 m, I8 yes, I8 no) {
  return {_mm256_blendv_epi8(no.v, yes.v, _mm256_castps_si256(m.m))};
}
CELLPOST_INLINE Mask8 lane_outside(I8 v, int32_t low, int32_t high) {
  return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(low), v.v),
                                              _mm256_cmpgt_epi32(v.v, _mm256_set1_epi32(high))))};
}

struct F8 {
  __m256 v;
  static CELLPOST_INLINE F8 load(const float* p) { return {_mm256_load_ps(p)}; }
  CELLPOST_INLINE void store(float* p) const { _mm256_store_ps(p, v); }
};
CELLPOST_INLINE F8 operator+(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
CELLPOST_INLINE F8 operator-(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
CELLPOST_INLINE F8 operator*(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
CELLPOST_INLINE F8 operator+(F8 a, float b) { return {_mm256_add_ps(a.v, _mm256_set1_ps(b))}; }
CELLPOST_INLINE F8 operator-(F8 a, float b) { return {_mm256_sub_ps(a.v, _mm256_set1_ps(b))}; }
CELLPOST_INLINE F8 operator-(float a, F8 b) { return {_mm256_sub_ps(_mm256_set1_ps(a), b.v)}; }
CELLPOST_INLINE F8 operator*(F8 a, float b) { return {_mm256_mul_ps(a.v, _mm256_set1_ps(b))}; }
CELLPOST_INLINE F8 operator/(F8 a, float b) { return {_mm256_div_ps(a.v, _mm256_set1_ps(b))}; }
CELLPOST_INLINE Mask8 operator==(F8 a, F8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
CELLPOST_INLINE F8 select(Mask8 m, F8 yes, F8 no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
CELLPOST_INLINE F8 lane_fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
CELLPOST_INLINE F8 lane_floor(F8 a) { return {_mm256_floor_ps(a.v)}; }
CELLPOST_INLINE F8 lane_clamp(F8 v, F8 low, F8 high) {
  return {_mm256_min_ps(_mm256_max_ps(v.v, low.v), high.v)};  // max gives `low` for NaN
}
CELLPOST_INLINE I8 lane_to_int(F8 a) { return {_mm256_cvttps_epi32(a.v)}; }
CELLPOST_INLINE F8 lane_to_float(I8 a) { return {_mm256_cvtepi32_ps(a.v)}; }
CELLPOST_INLINE bool lane_any(Mask8 m) { return !_mm256_testz_ps(m.m, m.m); }

template <>
struct LaneOf<F8> {
  using Int = I8;
  using Mask = Mask8;
  static constexpr int kWidth = 8;
  static CELLPOST_INLINE F8 splat(float v) { return {_mm256_set1_ps(v)}; }
};

CELLPOST_INLINE void load_transposed(const float* const (&p)[8], const int64_t (&offset)[2],
                                     F8 (&out)[2][4]) {
  __m256 r[2][4];
  CELLPOST_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float *a = p[i], *b = p[4 + i];
    CELLPOST_UNROLL
    for (int row = 0; row < 2; ++row) {
      r[row][i] = _mm256_castps128_ps256(_mm_loadu_ps(a + offset[row]));
      r[row][i] = _mm256_insertf128_ps(r[row][i], _mm_loadu_ps(b + offset[row]), 1);
    }
  }
  CELLPOST_UNROLL
  for (int row = 0; row < 2; ++row) {
    const __m256 a = _mm256_unpacklo_ps(r[row][0], r[row][1]);
    const __m256 b = _mm256_unpackhi_ps(r[row][0], r[row][1]);
    const __m256 c = _mm256_unpacklo_ps(r[row][2], r[row][3]);
    const __m256 d = _mm256_unpackhi_ps(r[row][2], r[row][3]);
    out[row][0].v = _mm256_shuffle_ps(a, c, 0x44);
    out[row][1].v = _mm256_shuffle_ps(a, c, 0xee);
    out[row][2].v = _mm256_shuffle_ps(b, d, 0x44);
    out[row][3].v = _mm256_shuffle_ps(b, d, 0xee);
  }
}

using Pack = F8;
using PackInt = I8;

#endif

/// One address a lane.
struct Addresses {
  alignas(64) const float* p[LaneOf<Pack>::kWidth];
};

CELLPOST_INLINE void load_corners(const Addresses& at, const int64_t (&offset)[2], Pack (&a)[2][2],
                                  Pack (&b)[2][2]) {
  Pack v[2][4];
  load_transposed(at.p, offset, v);
  for (int row = 0; row < 2; ++row) {
    for (int c = 0; c < 2; ++c) a[row][c] = v[row][c], b[row][c] = v[row][2 + c];
  }
}

CELLPOST_INLINE void load_corners(const Addresses& at, const int64_t (&offset)[2], Pack (&a)[2][3],
                                  Pack (&b)[2][3]) {
  Pack v[2][4];
  load_transposed(at.p, offset, v);
  for (int row = 0; row < 2; ++row) {
    for (int c = 0; c < 3; ++c) a[row][c] = v[row][c];
  }
  load_transposed(at.p, {offset[0] + 4, offset[1] + 4}, v);
  for (int row = 0; row < 2; ++row) {
    for (int c = 0; c < 3; ++c) b[row][c] = v[row][c];
  }
}

#if defined(__AVX512F__)
CELLPOST_INLINE Addresses lane_address(const float* field, int64_t pitch, int32_t width, I16 row,
                                       I16 col) {
  const __m512i row_bytes = _mm512_set1_epi64(pitch * 4),
                base = _mm512_set1_epi64(reinterpret_cast<int64_t>(field));
  const __m512i col_bytes = _mm512_mullo_epi32(col.v, _mm512_set1_epi32(4 * width));
  Addresses out;
  for (int half = 0; half < 2; ++half) {
    const __m256i r = half ? _mm512_extracti64x4_epi64(row.v, 1) : _mm512_castsi512_si256(row.v);
    const __m256i c =
        half ? _mm512_extracti64x4_epi64(col_bytes, 1) : _mm512_castsi512_si256(col_bytes);
    const __m512i rows = _mm512_mul_epu32(_mm512_cvtepu32_epi64(r), row_bytes);
    const __m512i sum = _mm512_add_epi64(_mm512_add_epi64(rows, _mm512_cvtepu32_epi64(c)), base);
    _mm512_store_si512(out.p + 8 * half, sum);
  }
  __asm__("" : "+m"(out.p));  // as loads; extracting lanes from a register is far slower
  return out;
}
#else
CELLPOST_INLINE Addresses lane_address(const float* field, int64_t pitch, int32_t width, I8 row,
                                       I8 col) {
  const __m256i row_bytes = _mm256_set1_epi64x(pitch * 4),
                base = _mm256_set1_epi64x(reinterpret_cast<int64_t>(field));
  const __m256i col_bytes = _mm256_mullo_epi32(col.v, _mm256_set1_epi32(4 * width));
  Addresses out;
  for (int half = 0; half < 2; ++half) {
    const __m128i r = half ? _mm256_extracti128_si256(row.v, 1) : _mm256_castsi256_si128(row.v);
    const __m128i c =
        half ? _mm256_extracti128_si256(col_bytes, 1) : _mm256_castsi256_si128(col_bytes);
    const __m256i rows = _mm256_mul_epu32(_mm256_cvtepu32_epi64(r), row_bytes);
    const __m256i sum = _mm256_add_epi64(_mm256_add_epi64(rows, _mm256_cvtepu32_epi64(c)), base);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out.p + 4 * half), sum);
  }
  __asm__("" : "+m"(out.p));  // as loads; extracting lanes from a register is far slower
  return out;
}
#endif

}  // namespace cellpost
