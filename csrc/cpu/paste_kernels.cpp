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
void load_crop(const Paste& job, const PastePart& part, float* to) {
  const int64_t instance = part.instance, pitch = PasteKernels::pitch(job, instance);
  const int32_t h = job.crops.height_of(instance), w = job.crops.width_of(instance);
  const FloatView& values = job.crops.values;
  const bool is_plain = values.dtype == DType::f32 && values.stride[3] == 1;
  for (int32_t y = part.crop_begin; y < part.crop_end; ++y) {
    float* const row = to + (y - part.crop_begin) * pitch;
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
/// Lanes whose value reaches the threshold.
CELLPOST_INLINE unsigned reached(Pack v, float threshold) {
  return _mm512_cmp_ps_mask(v.v, _mm512_set1_ps(threshold), _CMP_GE_OQ);
}
/// Gives pixels to the instance, but where a better one is.
CELLPOST_INLINE void claim(const Paste& job, int32_t* labels, unsigned lanes, int32_t id) {
  const auto yes = static_cast<__mmask16>(lanes);
  const __m512i there = _mm512_maskz_loadu_epi32(yes, labels), own = _mm512_set1_epi32(id);
  const __mmask16 taken = _mm512_test_epi32_mask(there, there);
  __mmask16 over = _kandn_mask16(taken, yes);
  if (taken != 0) {
    const __m512d mine = _mm512_set1_pd(job.scores[id]);
    for (int half = 0; half < 2; ++half) {
      const auto lane = static_cast<__mmask8>(taken >> (8 * half));
      const __m256i other =
          half == 0 ? _mm512_castsi512_si256(there) : _mm512_extracti64x4_epi64(there, 1);
      const __m512d its = _mm512_mask_i32gather_pd(_mm512_setzero_pd(), lane, other, job.scores, 8);
      const __mmask8 worse = _mm512_mask_cmp_pd_mask(lane, its, mine, _CMP_LT_OQ);
      const __mmask8 equal = _mm512_mask_cmp_pd_mask(lane, its, mine, _CMP_EQ_OQ);
      const __mmask8 later =
          _mm256_mask_cmpgt_epi32_mask(equal, other, _mm512_castsi512_si256(own));
      over = static_cast<__mmask16>(over | (worse | later) << (8 * half));
    }
  }
  _mm512_mask_storeu_epi32(labels, over, own);
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
CELLPOST_INLINE unsigned reached(Pack v, float threshold) {
  return Mask8{_mm256_cmp_ps(v.v, _mm256_set1_ps(threshold), _CMP_GE_OQ)}.bits();
}
CELLPOST_INLINE void claim(const Paste& job, int32_t* labels, unsigned lanes, int32_t id) {
  if (lanes == 0xff) {
    const __m256i there = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
    if (_mm256_testz_si256(there, there)) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(labels), _mm256_set1_epi32(id));
      return;
    }
  }
  for (; lanes != 0; lanes &= lanes - 1) {
    int32_t& label = labels[__builtin_ctz(lanes)];
    if (job.is_over(id, label)) label = id;
  }
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
CELLPOST_INLINE unsigned reached(Pack v, float threshold) { return v.v >= threshold ? 1 : 0; }
CELLPOST_INLINE void claim(const Paste& job, int32_t* labels, unsigned lanes, int32_t id) {
  if (lanes != 0 && job.is_over(id, *labels)) *labels = id;
}
#endif

CELLPOST_INLINE Pack splat(float v) {
#if defined(__AVX2__)
  return LaneOf<Pack>::splat(v);
#else
  return {v};
#endif
}

/// Where a row's values go: to the labels.
struct ToLabels {
  const Paste& job;
  int32_t id;
  CELLPOST_INLINE void put(int64_t y, int64_t x, unsigned lanes) const {
    claim(job, job.labels + y * job.shape.x + x, lanes, id);
  }
};

/// To the bits of the instance.
struct ToBits {
  uint64_t* words;
  PasteWindow window;
  CELLPOST_INLINE void put(int64_t y, int64_t x, unsigned lanes) const {
    const int64_t column = x - window.x0;
    words[(y - window.y0) * InstanceBits::pitch(window) + column / 64] |= uint64_t{lanes}
                                                                          << (column % 64);
  }
};

template <BilinearSum Sum, class Values, class Sink>
void sample_row(const float* above, const float* below, const float (&y_weight)[2], int64_t y,
                int64_t left, int64_t n, float threshold, const PasteScratch& s, const Sink& sink) {
  const Values a{above}, b{above + 1}, c{below}, d{below + 1};
  const Pack y0 = splat(y_weight[0]), y1 = splat(y_weight[1]);
  for (int64_t x = 0; x < n; x += kLanes) {
    const PackInt i = PackInt::load(s.index + x);
    const Pack v = bilinear<Sum>(a[i], b[i], c[i], d[i], y0, y1, Pack::load(s.weight[0] + x),
                                 Pack::load(s.weight[1] + x));
    unsigned lanes = reached(v, threshold);
    if (n - x < kLanes) lanes &= (1u << (n - x)) - 1;
    sink.put(y, left + x, lanes);
  }
}

template <class Find>
void fill_taps(int64_t n, PasteScratch& s, const Find& find) {
  for (int64_t x = 0; x < n; ++x) {
    const Tap tap = find(x);
    s.index[x] = tap.index;
    s.weight[0][x] = tap.weight[0];
    s.weight[1][x] = tap.weight[1];
  }
}

/// Taps of n pixels from `first` on.
void find_taps(const PasteAxis& axis, int64_t first, int64_t n, PasteScratch& s) {
  const PasteAxis own = axis;  // which nothing that is written to can be part of
  switch (own.style) {
    case PasteStyle::nearest:
      return fill_taps(n, s, [=](int64_t x) { return own.nearest(first + x); });
    case PasteStyle::torchvision:
      return fill_taps(n, s, [=](int64_t x) { return own.torchvision(first + x); });
    default:
      return fill_taps(n, s, [=](int64_t x) { return own.detectron2(first + x); });
  }
}

template <BilinearSum Sum, class Values, class Sink>
void sample_part(const Paste& job, const PastePart& part, PasteScratch& s, const float* crop,
                 const Sink& sink) {
  static_assert(PasteScratch::kColumns % 64 == 0, "no pack of lanes goes over a word's end");
  const int64_t pitch = PasteKernels::pitch(job, part.instance);
  const PasteWindow& window = part.window;
  const PasteAxis across = job.x_axis(part.instance), down = job.y_axis(part.instance);
  for (int64_t left = window.x0; left < window.x1; left += PasteScratch::kColumns) {
    const int64_t n =
        window.x1 - left < PasteScratch::kColumns ? window.x1 - left : PasteScratch::kColumns;
    find_taps(across, left - job.offset[1], n, s);
    for (int64_t x = n; x % kLanes != 0; ++x) s.index[x] = 0;  // the last pack's, not used
    for (int64_t y = window.y0; y < window.y1; ++y) {
      const Tap tap = down.tap(y - job.offset[0]);
      if (tap.index > down.n) continue;  // zeros
      const float* const above = crop + (tap.index - part.crop_begin) * pitch;
      sample_row<Sum, Values>(above, above + pitch, tap.weight, y, left, n, job.threshold, s, sink);
    }
  }
}

template <BilinearSum Sum, class Sink>
void sample_with(const Paste& job, const PastePart& part, PasteScratch& s, const float* crop,
                 const Sink& sink) {
  if (PasteKernels::pitch(job, part.instance) <= PasteKernels::kShort) {
    sample_part<Sum, ShortRow>(job, part, s, crop, sink);
  } else {
    sample_part<Sum, Row>(job, part, s, crop, sink);
  }
}

/// Calls sink.put(y, x, lanes) for the pixels from (y, x) on that are the instance's.
template <class Sink>
void sample(const Paste& job, const PastePart& part, PasteScratch& s, float* crop,
            const Sink& sink) {
  load_crop(job, part, crop);
  switch (bilinear_sum(job.style, job.y_axis(part.instance), job.x_axis(part.instance))) {
    case BilinearSum::rows:
      return sample_with<BilinearSum::rows>(job, part, s, crop, sink);
    case BilinearSum::corners:
      return sample_with<BilinearSum::corners>(job, part, s, crop, sink);
    default:
      return sample_with<BilinearSum::grid_sample>(job, part, s, crop, sink);
  }
}

void paste(const Paste& job, const PastePart& part, PasteScratch& scratch, float* crop) {
  const auto id = static_cast<int32_t>(job.first_id + part.instance);
  sample(job, part, scratch, crop, ToLabels{job, id});
}

void fill_bits(const Paste& job, const PastePart& part, PasteScratch& scratch, float* crop,
               const InstanceBits& bits) {
  const PasteWindow& window = part.window;
  uint64_t* const words = bits.words + bits.start[part.instance];
  for (int64_t k = 0; k < InstanceBits::n_words(window); ++k) words[k] = 0;
  sample(job, part, scratch, crop, ToBits{words, window});
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
