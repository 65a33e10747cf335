// Compiled once for each instruction set; see flows_trace_kernels.cpp on what may stand here.
#include "cpu/labels_kernels.h"

#include "cpu/kernels.h"

#if CELLPOST_X86
#include <immintrin.h>
#endif

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
CELLPOST_INLINE uint64_t differ(const int32_t* a, const int32_t* b) {
  return _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
CELLPOST_INLINE uint64_t differ(const int32_t* a, const int32_t* b) {
  const __m256i same = _mm256_cmpeq_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)),
                                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(same))) ^ 0xffu;
}
#else
constexpr int64_t kLanes = 1;
CELLPOST_INLINE uint64_t differ(const int32_t* a, const int32_t* b) { return *a != *b ? 1 : 0; }
#endif

void find_changes(const int32_t* labels, int64_t n, uint64_t* bits) {
  for (int64_t k = 0; k < (n + 63) / 64; ++k) bits[k] = 0;
  if (n == 0) return;
  bits[0] = labels[0] != 0 ? 1 : 0;
  int64_t x = 1;
  const auto mark = [&](int64_t at, uint64_t changes) { bits[at / 64] |= changes << (at % 64); };
  for (; x < n && x % kLanes != 0; ++x) mark(x, labels[x] != labels[x - 1] ? 1 : 0);
  for (; x + kLanes <= n; x += kLanes) mark(x, differ(labels + x, labels + x - 1));
  for (; x < n; ++x) mark(x, labels[x] != labels[x - 1] ? 1 : 0);
}

void apply_map(const int32_t* map, int32_t* labels, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    const __m512i ids = _mm512_loadu_si512(labels + i);
    const __mmask16 some = _mm512_test_epi32_mask(ids, ids);
    if (some == 0) continue;
    const __m512i to = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), some, ids, map, 4);
    _mm512_storeu_si512(labels + i, to);
  }
#elif defined(__AVX2__)
  for (; i + 8 <= n; i += 8) {
    auto* const at = reinterpret_cast<__m256i*>(labels + i);
    const __m256i ids = _mm256_loadu_si256(at);
    if (_mm256_testz_si256(ids, ids)) continue;
    const __m256i some = _mm256_cmpgt_epi32(ids, _mm256_setzero_si256());
    _mm256_storeu_si256(at, _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), map, ids, some, 4));
  }
#endif
  for (; i < n; ++i) {
    if (labels[i] != 0) labels[i] = map[labels[i]];
  }
}

}  // namespace

LabelKernels label_kernels() { return {find_changes, apply_map}; }

}  // namespace cellpost::cpu::CELLPOST_ISA
