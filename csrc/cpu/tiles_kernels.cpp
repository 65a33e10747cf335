// Compiled once for each instruction set; see flows_trace_kernels.cpp on what may stand here.
#include "cpu/tiles_kernels.h"

#include <cstring>

#include "cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
typedef int64_t Flags __attribute__((vector_size(kLanes * sizeof(int64_t))));

/// Packs that are worked on at a time, so that one waits while another computes.
constexpr int kPacks = 2;
constexpr int kStep = kPacks * kLanes;

template <class Pack>
CELLPOST_INLINE Pack load(const void* p) {
  Pack v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// GCC's own conversion of packs goes by halves of them.
CELLPOST_INLINE Doubles widen(Floats v) {
#if defined(__AVX512F__)
  return _mm512_cvtps_pd(v);
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(v);
#else
  return __builtin_convertvector(v, Doubles);
#endif
}

CELLPOST_INLINE Floats narrow(Doubles v) {
#if defined(__AVX512F__)
  return _mm512_cvtpd_ps(v);
#elif defined(__AVX2__)
  return _mm256_cvtpd_ps(v);
#else
  return __builtin_convertvector(v, Floats);
#endif
}

template <DType D>
struct Stored {
  using Type = uint16_t;
};
template <>
struct Stored<DType::f32> {
  using Type = float;
};
template <>
struct Stored<DType::f64> {
  using Type = double;
};

/// The values from p on, one a lane.
template <DType D>
CELLPOST_INLINE Doubles get(const typename Stored<D>::Type* p) {
  if constexpr (D == DType::f64) {
    return load<Doubles>(p);
  } else if constexpr (D == DType::f32) {
    return widen(load<Floats>(p));
  } else {
#if defined(__AVX512F__)
    if constexpr (D == DType::f16) {
      return _mm512_cvtps_pd(_mm256_cvtph_ps(load<__m128i>(p)));
    }
#elif defined(__F16C__)
    if constexpr (D == DType::f16) {
      return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
#endif
    Doubles v = {};
    for (int k = 0; k < kLanes; ++k) v[k] = TileValue<D>::get(p, k);
    return v;
  }
}

/// a * b + c. The product of two float32 is exact in float64: an fma gives the same bits there.
template <DType D>
CELLPOST_INLINE Doubles add_product(Doubles a, Doubles b, Doubles c) {
#if defined(__AVX512F__)
  if constexpr (D != DType::f64) return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  if constexpr (D != DType::f64) return _mm256_fmadd_pd(a, b, c);
#endif
  return a * b + c;
}

/// Pixels [begin, end) of a line of the map, which the same tiles cover.
struct Segment {
  const TileLine* tiles;  ///< whose values and weights begin at pixel `begin`
  int64_t n_tiles;
  int64_t line, begin, end;
};

/// What stands at p, or copied from there if it ends before the step does.
template <class T>
struct Piece {
  T copy[kStep];
  CELLPOST_INLINE const T* of(const T* p, int64_t n, T rest) {
    for (int k = 0; k < kStep; ++k) copy[k] = k < n ? p[k] : rest;
    return copy;
  }
};

/// Pixels from begin + i on, kStep of them or, with kShort, all `n` of the segment; kChannels
/// channels, so that a weight is made once for them. Notes in `is_nan` what is none.
template <DType D, int kChannels, bool kShort>
CELLPOST_INLINE void blend_step(const TileBlend& job, const Segment& at, int64_t channel, int64_t i,
                                int64_t n, Flags& is_nan) {
  using T = typename Stored<D>::Type;
  const int64_t volume = job.volume();
  Doubles sum[kChannels][kPacks], weights[kPacks];
  CELLPOST_UNROLL
  for (int p = 0; p < kPacks; ++p) {
    weights[p] = Doubles{};
    CELLPOST_UNROLL
    for (int c = 0; c < kChannels; ++c) sum[c][p] = Doubles{};
  }
  for (int64_t t = 0; t < at.n_tiles; ++t) {
    const TileLine& tile = at.tiles[t];
    Piece<float> few_weights;
    Piece<T> few;
    const float* from = tile.weights + i;
    if constexpr (kShort) from = few_weights.of(from, n, 1.0f);
    const Floats floor = Floats{} + tile.floor;
    Doubles weight[kPacks];
    CELLPOST_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const Floats product = load<Floats>(from + p * kLanes) * tile.scale;
      weight[p] = widen(product > floor ? product : floor);
      weights[p] += weight[p];
    }
    const T* values = static_cast<const T*>(tile.values) + channel * volume + i;
    CELLPOST_UNROLL
    for (int c = 0; c < kChannels; ++c, values += volume) {
      const T* line = values;
      __builtin_prefetch(values + job.axis[2].side, 0, 2);
      if constexpr (kShort) line = few.of(values, n, T{});
      CELLPOST_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        sum[c][p] = add_product<D>(weight[p], get<D>(line + p * kLanes), sum[c][p]);
      }
    }
  }
  const int64_t row = at.line / job.size[1], mid = at.line % job.size[1];
  int64_t to = channel * job.stride[0] + row * job.stride[1] + mid * job.stride[2] + at.begin + i;
  CELLPOST_UNROLL
  for (int p = 0; p < kPacks; ++p) weights[p] = 1.0 / weights[p];
  CELLPOST_UNROLL
  for (int c = 0; c < kChannels; ++c, to += job.stride[0]) {
    double mean[kStep];
    float rounded[kStep];
    CELLPOST_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const Doubles m = sum[c][p] * weights[p];
      const Floats f = narrow(m);
      is_nan |= m != m;
      std::memcpy(mean + p * kLanes, &m, sizeof(m));
      std::memcpy(rounded + p * kLanes, &f, sizeof(f));
    }
    const size_t n_out = kShort ? static_cast<size_t>(n) : kStep;
    if constexpr (D == DType::f64) {
      std::memcpy(static_cast<double*>(job.out) + to, mean, n_out * sizeof(double));
    } else if (job.out_dtype == DType::f32) {
      std::memcpy(static_cast<float*>(job.out) + to, rounded, n_out * sizeof(float));
    } else {
      auto* const out = static_cast<uint16_t*>(job.out) + to;
      const bool is_half = job.out_dtype == DType::f16;
      for (size_t k = 0; k < n_out; ++k) {
        out[k] = is_half ? float_to_half(rounded[k]) : float_to_bfloat(rounded[k]);
      }
    }
  }
}

template <DType D, int kChannels>
void blend_channels(const TileBlend& job, const Segment& at, int64_t channel, Flags& is_nan) {
  const int64_t n = at.end - at.begin;
  if (n < kStep) return blend_step<D, kChannels, true>(job, at, channel, 0, n, is_nan);
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    blend_step<D, kChannels, false>(job, at, channel, i, kStep, is_nan);
  }
  // The last step ends with the segment: some pixels are made twice, and equal.
  if (i < n) blend_step<D, kChannels, false>(job, at, channel, n - kStep, kStep, is_nan);
}

template <DType D>
void blend_segment(const TileBlend& job, const Segment& at) {
  Flags is_nan = {};
  int64_t c = 0;
  for (; c + 4 <= job.channels; c += 4) blend_channels<D, 4>(job, at, c, is_nan);
  const int64_t left = job.channels - c;
  if (left == 3) blend_channels<D, 3>(job, at, c, is_nan);
  if (left == 2) blend_channels<D, 2>(job, at, c, is_nan);
  if (left == 1) blend_channels<D, 1>(job, at, c, is_nan);
  bool any = false;
  for (int k = 0; k < kLanes; ++k) any = any || is_nan[k] != 0;
  // The rule itself says which one is the first.
  for (int64_t x = at.begin; any && x < at.end; ++x) BlendPixel<D>{job}(at.line, x);
}

template <DType D>
void blend_lines(const TileBlend& job, int64_t begin, int64_t end, TileLine* lines) {
  const TileAxis &a0 = job.axis[0], &a1 = job.axis[1], &a2 = job.axis[2];
  for (int64_t line = begin; line < end; ++line) {
    const int64_t row = job.first_row + line / job.size[1], mid = line % job.size[1];
    int64_t n_groups = 0;
    for (int64_t k0 = a0.first_at(row); a0.covers(k0, row); ++k0) {
      for (int64_t k1 = a1.first_at(mid); a1.covers(k1, mid); ++k1, ++n_groups) {
        for (int64_t k2 = 0; k2 < a2.n; ++k2) {
          lines[n_groups * a2.n + k2] = tile_line(job, row, mid, k0, k1, k2);
        }
      }
    }
    TileLine* const here = lines + n_groups * a2.n;
    Segment at{here, 0, line, 0, 0};
    for (int64_t first = 0, last = 0; at.end < job.size[2];) {
      at.begin = at.end;
      while (a2.end[first] <= at.begin) ++first;
      while (a2.covers(last, at.begin)) ++last;
      // Up to where a tile begins or ends.
      at.end = a2.end[first];
      if (last < a2.n && a2.begin[last] < at.end) at.end = a2.begin[last];
      at.n_tiles = 0;
      for (int64_t group = 0; group < n_groups; ++group) {
        for (int64_t k = first; k < last; ++k) {
          TileLine& tile = here[at.n_tiles++];
          tile = lines[group * a2.n + k];
          const int64_t skipped = at.begin - a2.start[k];
          tile.values = static_cast<const char*>(tile.values) + skipped * item_size(D);
          tile.weights += skipped;
        }
      }
      blend_segment<D>(job, at);
    }
  }
}

void blend(const TileBlend& job, int64_t begin, int64_t end, TileLine* lines) {
  switch (job.dtype) {
    case DType::f64:
      return blend_lines<DType::f64>(job, begin, end, lines);
    case DType::f16:
      return blend_lines<DType::f16>(job, begin, end, lines);
    case DType::bf16:
      return blend_lines<DType::bf16>(job, begin, end, lines);
    default:
      return blend_lines<DType::f32>(job, begin, end, lines);
  }
}

}  // namespace

TileKernels tile_kernels() { return {blend}; }

}  // namespace cellpost::cpu::CELLPOST_ISA
