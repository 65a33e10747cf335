// Compiled once for each instruction set; see flows_trace_kernels.cpp on what may stand here.
#include "cpu/paste_kernels.h"

#include "cpu/kernels.h"
#if defined(__AVX2__)
#include "cpu/simd.h"
#endif

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 1;
#endif

/// Copies rows of the padded crop, with one more column of zeros.
void load_crop(const Paste& job, const PasteRows& rows, float* to) {
  const int64_t instance = rows.instance, pitch = PasteKernels::pitch(job, instance);
  const int32_t h = job.crops.height_of(instance), w = job.crops.width_of(instance);
  const FloatView& values = job.crops.values;
  const bool is_plain = values.dtype == DType::f32 && values.stride[3] == 1;
  for (int32_t y = rows.crop_begin; y < rows.crop_end; ++y) {
    float* const row = to + (y - rows.crop_begin) * pitch;
    if (y < 1 || y > h) {
      for (int64_t x = 0; x < pitch; ++x) row[x] = 0.0f;
      continue;
    }
    row[0] = row[w + 1] = row[w + 2] = 0.0f;
    if (is_plain) {
      const float* const from =
          static_cast<const float*>(values.data) +
          (job.crops.start ? job.crops.start[instance] + int64_t{y - 1} * w
                           : instance * values.stride[0] + (y - 1) * values.stride[2]);
      for (int32_t x = 0; x < w; ++x) row[x + 1] = from[x];
    } else {
      for (int32_t x = 0; x < w; ++x) row[x + 1] = job.crops.at(instance, y - 1, x);
    }
  }
}

/// A row of the padded crop, whose values are read at as many places as a pack holds.
#if defined(__AVX512F__)
struct Row {
  const float* values;
  CELLPOST_INLINE Pack operator[](PackInt i) const {
    return {_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, i.v, values, 4)};
  }
};
/// Of up to 32 values, as most mask heads give: they stay in registers.
struct ShortRow {
  __m512 low, high;
  CELLPOST_INLINE explicit ShortRow(const float* values)
      : low(_mm512_loadu_ps(values)), high(_mm512_loadu_ps(values + 16)) {}
  CELLPOST_INLINE Pack operator[](PackInt i) const {
    return {_mm512_permutex2var_ps(low, i.v, high)};
  }
};
CELLPOST_INLINE void store_reached(Pack v, float threshold, int32_t* to) {
  const __mmask16 yes = _mm512_cmp_ps_mask(v.v, _mm512_set1_ps(threshold), _CMP_GE_OQ);
  _mm512_store_si512(to, _mm512_movm_epi32(yes));
}
#elif defined(__AVX2__)
struct Row {
  const float* values;
  CELLPOST_INLINE Pack operator[](PackInt i) const {
    const __m256 all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    return {_mm256_mask_i32gather_ps(_mm256_setzero_ps(), values, i.v, all, 4)};
  }
};
using ShortRow = Row;
CELLPOST_INLINE void store_reached(Pack v, float threshold, int32_t* to) {
  _mm256_store_ps(reinterpret_cast<float*>(to),
                  _mm256_cmp_ps(v.v, _mm256_set1_ps(threshold), _CMP_GE_OQ));
}
#else
struct Pack {
  float v;
  static CELLPOST_INLINE Pack load(const float* p) { return {*p}; }
};
CELLPOST_INLINE Pack operator*(Pack a, Pack b) { return {a.v * b.v}; }
CELLPOST_INLINE Pack lane_fma(Pack a, Pack b, Pack c) { return {fused(a.v, b.v, c.v)}; }
struct PackInt {
  int32_t v;
  static CELLPOST_INLINE PackInt load(const int32_t* p) { return {*p}; }
};
struct Row {
  const float* values;
  CELLPOST_INLINE Pack operator[](PackInt i) const { return {values[i.v]}; }
};
using ShortRow = Row;
CELLPOST_INLINE void store_reached(Pack v, float threshold, int32_t* to) {
  *to = v.v >= threshold ? -1 : 0;
}
#endif

CELLPOST_INLINE Pack splat(float v) {
#if defined(__AVX2__)
  return LaneOf<Pack>::splat(v);
#else
  return {v};
#endif
}

/// inside[x] = -1 where the value reaches the threshold, else 0.
template <BilinearSum Sum, class Values>
void sample_row(const float* above, const float* below, const float (&y)[2], int64_t n,
                float threshold, PasteScratch& s) {
  const Values a{above}, b{above + 1}, c{below}, d{below + 1};
  const Pack y0 = splat(y[0]), y1 = splat(y[1]);
  for (int64_t x = 0; x < n; x += kLanes) {
    const PackInt i = PackInt::load(s.index + x);
    const Pack v = bilinear<Sum>(a[i], b[i], c[i], d[i], y0, y1, Pack::load(s.weight[0] + x),
                                 Pack::load(s.weight[1] + x));
    store_reached(v, threshold, s.inside + x);
  }
}

using SampleRow = void (*)(const float*, const float*, const float (&)[2], int64_t, float,
                           PasteScratch&);
template <class Values>
SampleRow row_sampler(BilinearSum sum) {
  switch (sum) {
    case BilinearSum::rows:
      return sample_row<BilinearSum::rows, Values>;
    case BilinearSum::corners:
      return sample_row<BilinearSum::corners, Values>;
    default:
      return sample_row<BilinearSum::grid_sample, Values>;
  }
}

/// Calls sink(y, left, n, inside) for parts of rows from column `left` on.
template <class Sink>
void sample(const Paste& job, const PasteRows& rows, PasteScratch& s, float* crop,
            const Sink& sink) {
  const int64_t instance = rows.instance, pitch = PasteKernels::pitch(job, instance);
  const PasteWindow window = job.windows[instance];
  const PasteAxis across = job.x_axis(instance), down = job.y_axis(instance);
  const BilinearSum sum = bilinear_sum(job.style, down, across);
  const SampleRow sample_one =
      pitch <= PasteKernels::kShort ? row_sampler<ShortRow>(sum) : row_sampler<Row>(sum);
  load_crop(job, rows, crop);
  for (int64_t left = window.x0; left < window.x1; left += PasteScratch::kColumns) {
    const int64_t n =
        window.x1 - left < PasteScratch::kColumns ? window.x1 - left : PasteScratch::kColumns;
    for (int64_t x = 0; x < n; ++x) {
      const Tap tap = across.tap(left + x - job.offset[1]);
      s.index[x] = tap.index;
      s.weight[0][x] = tap.weight[0];
      s.weight[1][x] = tap.weight[1];
    }
    for (int64_t x = n; x % kLanes != 0; ++x) s.index[x] = 0;  // the last pack's, not used
    for (int64_t y = rows.y0; y < rows.y1; ++y) {
      const Tap tap = down.tap(y - job.offset[0]);
      if (tap.index > down.n) continue;  // zeros
      const float* const above = crop + (tap.index - rows.crop_begin) * pitch;
      sample_one(above, above + pitch, tap.weight, n, job.threshold, s);
      sink(y, left, n, s.inside);
    }
  }
}

void paste(const Paste& job, const PasteRows& rows, PasteScratch& scratch, float* crop) {
  const auto id = static_cast<int32_t>(job.first_id + rows.instance);
  sample(job, rows, scratch, crop, [&](int64_t y, int64_t left, int64_t n, const int32_t* inside) {
    const int64_t first = y * job.shape.x + left;
    int32_t* const labels = job.labels + first;
    int32_t taken = 0;
    for (int64_t x = 0; x < n; ++x) taken |= inside[x] & labels[x];
    if (taken == 0) {
      for (int64_t x = 0; x < n; ++x) labels[x] |= inside[x] & id;
    } else {
      for (int64_t x = 0; x < n; ++x) {
        if (inside[x] != 0) job.claim(first + x, id);
      }
    }
  });
}

void fill_bits(const Paste& job, const PasteRows& rows, PasteScratch& scratch, float* crop,
               const InstanceBits& bits) {
  static_assert(PasteScratch::kColumns % 64 == 0, "parts of rows begin with a word");
  const PasteWindow window = job.windows[rows.instance];
  uint64_t* const words = bits.words + bits.start[rows.instance];
  for (int64_t k = 0; k < InstanceBits::n_words(window); ++k) words[k] = 0;
  sample(job, rows, scratch, crop, [&](int64_t y, int64_t left, int64_t n, const int32_t* inside) {
    uint64_t* const line =
        words + (y - window.y0) * InstanceBits::pitch(window) + (left - window.x0) / 64;
    for (int64_t x = 0; x < n; ++x) {
      line[x / 64] |= static_cast<uint64_t>(inside[x] & 1) << (x % 64);
    }
  });
}

template <class T, class Test>
bool all_of(const void* values, int64_t n, const Test& test) {
  const T* const p = static_cast<const T*>(values);
  int32_t wrong = 0;
  for (int64_t i = 0; i < n; ++i) wrong |= test(p[i]) ? 0 : 1;
  return wrong == 0;
}

bool are_shares(const void* values, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::f32:
      return all_of<float>(values, n, [](float v) { return v >= 0.0f && v <= 1.0f; });
    case DType::f64:
      return all_of<double>(values, n, [](double v) {
        return static_cast<float>(v) >= 0.0f && static_cast<float>(v) <= 1.0f;
      });
    case DType::u8:
      return all_of<uint8_t>(values, n, [](uint8_t v) { return v <= 1; });
    default: {
      // Halves order as their bits do; minus zero is the one value with a sign.
      const int one = dtype == DType::f16 ? 0x3c00 : 0x3f80;
      return all_of<uint16_t>(values, n, [one](uint16_t v) { return v <= one || v == 0x8000; });
    }
  }
}

}  // namespace

PasteKernels paste_kernels() { return {paste, fill_bits, are_shares}; }

}  // namespace cellpost::cpu::CELLPOST_ISA
