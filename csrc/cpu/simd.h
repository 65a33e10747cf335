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
CELLPOST_INLINE Mask16 operator|(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.m | b.m)}; }
CELLPOST_INLINE Mask16 operator&(Mask16 a, Mask16 b) { return {static_cast<__mmask16>(a.m & b.m)}; }

struct I16 {
  __m512i v;
  static CELLPOST_INLINE I16 load(const int32_t* p) { return {_mm512_load_si512(p)}; }
  CELLPOST_INLINE void store(int32_t* p) const { _mm512_store_si512(p, v); }
};
CELLPOST_INLINE I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
CELLPOST_INLINE I16 operator+(I16 a, int32_t b) {
  return {_mm512_add_epi32(a.v, _mm512_set1_epi32(b))};
}
CELLPOST_INLINE I16 operator&(I16 a, I16 b) { return {_mm512_and_si512(a.v, b.v)}; }
CELLPOST_INLINE I16 operator&(I16 a, int32_t b) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi32(b))};
}
CELLPOST_INLINE Mask16 is_zero(I16 a) { return {_mm512_testn_epi32_mask(a.v, a.v)}; }
CELLPOST_INLINE Mask16 lane_outside(I16 v, int32_t low, int32_t high) {
  return {static_cast<__mmask16>(_mm512_cmplt_epi32_mask(v.v, _mm512_set1_epi32(low)) |
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
CELLPOST_INLINE bool lane_any(Mask16 m) { return m.m != 0; }

template <>
struct LaneOf<F16> {
  using Int = I16;
  using Mask = Mask16;
  static constexpr int kWidth = 16;
  static CELLPOST_INLINE F16 splat(float v) { return {_mm512_set1_ps(v)}; }
};

/// Sixteen 128-bit loads, four to a register, transposed inside each 128-bit lane.
CELLPOST_INLINE void load_transposed(const float* const (&p)[16], F16 (&out)[4]) {
  __m512 r[4];
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_castps128_ps512(_mm_loadu_ps(p[i]));
    r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p[4 + i]), 1);
    r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p[8 + i]), 2);
    r[i] = _mm512_insertf32x4(r[i], _mm_loadu_ps(p[12 + i]), 3);
  }
  const __m512 a = _mm512_unpacklo_ps(r[0], r[1]), b = _mm512_unpackhi_ps(r[0], r[1]);
  const __m512 c = _mm512_unpacklo_ps(r[2], r[3]), d = _mm512_unpackhi_ps(r[2], r[3]);
  out[0].v = _mm512_shuffle_ps(a, c, 0x44);
  out[1].v = _mm512_shuffle_ps(a, c, 0xee);
  out[2].v = _mm512_shuffle_ps(b, d, 0x44);
  out[3].v = _mm512_shuffle_ps(b, d, 0xee);
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
CELLPOST_INLINE I8 operator&(I8 a, I8 b) { return {_mm256_and_si256(a.v, b.v)}; }
CELLPOST_INLINE I8 operator&(I8 a, int32_t b) {
  return {_mm256_and_si256(a.v, _mm256_set1_epi32(b))};
}
CELLPOST_INLINE Mask8 is_zero(I8 a) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, _mm256_setzero_si256()))};
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
CELLPOST_INLINE bool lane_any(Mask8 m) { return m.bits() != 0; }

template <>
struct LaneOf<F8> {
  using Int = I8;
  using Mask = Mask8;
  static constexpr int kWidth = 8;
  static CELLPOST_INLINE F8 splat(float v) { return {_mm256_set1_ps(v)}; }
};

CELLPOST_INLINE void load_transposed(const float* const (&p)[8], F8 (&out)[4]) {
  __m256 r[4];
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_castps128_ps256(_mm_loadu_ps(p[i]));
    r[i] = _mm256_insertf128_ps(r[i], _mm_loadu_ps(p[4 + i]), 1);
  }
  const __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
  const __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
  out[0].v = _mm256_shuffle_ps(a, c, 0x44);
  out[1].v = _mm256_shuffle_ps(a, c, 0xee);
  out[2].v = _mm256_shuffle_ps(b, d, 0x44);
  out[3].v = _mm256_shuffle_ps(b, d, 0xee);
}

using Pack = F8;
using PackInt = I8;

#endif

CELLPOST_INLINE void load_corners(const float* field, int64_t pitch, PackInt row, PackInt col,
                                  Pack (&a)[2], Pack (&b)[2]) {
  constexpr int kWidth = LaneOf<Pack>::kWidth;
  const float* p[kWidth];
  alignas(64) int32_t y[kWidth], x[kWidth];
  row.store(y), col.store(x);
  for (int i = 0; i < kWidth; ++i) p[i] = field + y[i] * pitch + int64_t{2} * x[i];
  Pack v[4];
  load_transposed(p, v);
  a[0] = v[0], a[1] = v[1], b[0] = v[2], b[1] = v[3];
}

CELLPOST_INLINE void load_corners(const float* field, int64_t pitch_z, int64_t pitch_y,
                                  PackInt plane, PackInt row, PackInt col, Pack (&a)[3],
                                  Pack (&b)[3]) {
  constexpr int kWidth = LaneOf<Pack>::kWidth;
  const float* p[kWidth];
  alignas(64) int32_t z[kWidth], y[kWidth], x[kWidth];
  plane.store(z), row.store(y), col.store(x);
  for (int i = 0; i < kWidth; ++i) {
    p[i] = field + z[i] * pitch_z + y[i] * pitch_y + int64_t{4} * x[i];
  }
  Pack v[4];
  load_transposed(p, v);
  for (int c = 0; c < 3; ++c) a[c] = v[c];
  for (const float*& address : p) address += 4;
  load_transposed(p, v);
  for (int c = 0; c < 3; ++c) b[c] = v[c];
}

}  // namespace cellpost
