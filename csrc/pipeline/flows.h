// Flow fields to labels, and labels to flow fields: the sequence of stages, for both devices.
//
//   end points -> histogram -> seeds -> labels -> QC -> clean-up -> numbers
//
// Besides what pipeline/labels.h asks of it, Exec has these stages of its own:
//   int64_t trace<N, S>(trace, output)    follows all points marked in output.ends; their number
//   count_bins(ends, n, counts)           histogram of the end bins
//   diffuse(HeatJob<N, Real>)             heat of the listed objects
//
// Memory, with 4-byte indices, in bytes a pixel of 2D (dP has 8): field 8 + ends 4; then ends 4 +
// labels 4 (which first serve as histogram) + labels of bins 4; then labels 4 + heat 8.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/flows_diffusion.h"
#include "core/flows_seeds.h"
#include "core/flows_trace.h"
#include "pipeline/labels.h"

namespace cellpost {

struct FollowOptions {
  float cellprob_threshold = 0.0f;
  double flow_threshold = 0.4;  ///< 0: no quality control
  int64_t n_steps = 200;
  int64_t min_size = 15;
  double max_size_fraction = 0.4;
  bool fill_holes = true;
  Nested nested = Nested::keep;
  Fragments fragments = Fragments::keep;
  Sampling sampling = Sampling::cellpose;
};

/// What each stage found and dropped; the Python class of this name documents the fields.
struct FlowReport {
  int64_t n_foreground = 0, n_seeds = 0, n_unassigned = 0, n_empty_seeds = 0, n_too_large = 0,
          n_bad_flow = 0, n_fragments = 0, n_too_small = 0, n_nested = 0, n_hole_pixels = 0,
          n_labels = 0, qc_niter = 0;
};

template <int N, class Real>
struct HeatJob {
  const int32_t* labels;
  Shape shape;
  ObjectTable table;
  const int32_t* ids;
  int64_t n_ids;
  const int64_t* centre;
  int64_t n_steps;
  Real* heat;
};

/// Index image with scratch of its own.
template <class Exec>
class OwnedIndexImage {
 public:
  OwnedIndexImage(Exec& exec, int64_t n, bool wide)
      : narrow_(exec.template alloc<int32_t>(wide ? 0 : n)),
        wide_(exec.template alloc<int64_t>(wide ? n : 0)),
        image_{wide ? nullptr : narrow_.data(), wide ? wide_.data() : nullptr} {}
  const IndexImage& get() const { return image_; }

 private:
  typename Exec::template Buffer<int32_t> narrow_;
  typename Exec::template Buffer<int64_t> wide_;
  IndexImage image_;
};

// ---- end points --------------------------------------------------------------------------------

/// Builds the field, hands the marked end image to `number` (which may index the points), follows
/// all points, and returns their number.
template <int N, Sampling S, class Exec, class Flow, class Foreground, class Number>
int64_t trace_points(Exec& exec, const Flow& flow, const Foreground& foreground, int64_t n_steps,
                     const Window& window, const IndexImage& ends, const Number& number) {
  constexpr int64_t kWidth = N == 2 ? 2 : 4;
  const Shape& part = window.shape;
  const int64_t n_rows = (N == 3 ? part.z + 2 : 1) * (part.y + 2);
  Trace trace;
  trace.pitch_y = kWidth * (part.x + 2);
  trace.rows_per_plane = static_cast<int32_t>(part.y + 2);
  trace.n_steps = n_steps;
  const int64_t length[3] = {window.global.x, window.global.y, window.global.z};
  const int64_t extent[3] = {part.x, part.y, part.z};
  for (int k = 0; k < 3; ++k) {
    trace.axis[k] = make_axis(length[k], window.offset[2 - k], extent[k], S);
  }
  auto field = exec.template alloc<float>(n_rows * trace.pitch_y);
  trace.field = field.data();
  const TraceAxis* a = trace.axis;
  exec.for_each_pixel(
      n_rows, part.x + 2,
      PrepareField<N, Flow, Foreground>{
          flow, foreground, window, {a[0], a[1], a[2]}, field.data(), trace.pitch_y, ends});
  return exec.template trace<N, S>(trace, number(ends));
}

/// Calls use(view) with the view of the known dtype where it has the usual one.
template <class Use>
auto with_known_dtype(const FloatView& view, const Use& use) {
  if (view.dtype != DType::f32) return use(view);
  const int64_t* s = view.stride;
  return use(Float32View{static_cast<const float*>(view.data), {s[0], s[1], s[2], s[3]}});
}

template <class Exec, class Foreground, class Number>
int64_t trace_points(Exec& exec, Sampling sampling, const FloatView& dP,
                     const Foreground& foreground, int64_t n_steps, const Window& window,
                     const IndexImage& ends, const Number& number) {
  const auto run = [&](auto n, auto s) {
    return with_known_dtype(dP, [&](const auto& flow) {
      return trace_points<decltype(n)::value, decltype(s)::value>(exec, flow, foreground, n_steps,
                                                                  window, ends, number);
    });
  };
  using Two = std::integral_constant<int, 2>;
  using Three = std::integral_constant<int, 3>;
  using Cellpose = std::integral_constant<Sampling, Sampling::cellpose>;
  using Centered = std::integral_constant<Sampling, Sampling::centered>;
  const bool flat = window.global.ndim == 2;
  if (sampling == Sampling::cellpose)
    return flat ? run(Two{}, Cellpose{}) : run(Three{}, Cellpose{});
  return flat ? run(Two{}, Centered{}) : run(Three{}, Centered{});
}

/// End bins of the foreground of a window, -1 elsewhere, -2 where a point left the window. Bins
/// are linear indices of the whole image.
template <class Exec>
int64_t end_bins(Exec& exec, const FloatView& dP, const FloatView& cellprob,
                 const FollowOptions& options, const Window& window, const IndexImage& ends) {
  return with_known_dtype(cellprob, [&](const auto& map) {
    return trace_points(
        exec, options.sampling, dP,
        AboveThreshold<std::decay_t<decltype(map)>>{map, options.cellprob_threshold},
        options.n_steps, window, ends,
        [&](const IndexImage& marked) { return TraceOutput{marked, nullptr, 0, window}; });
  });
}

struct CountForeground {
  MaskView mask;
  Shape shape;
  int64_t* count;  ///< by row
  CELLPOST_FN void operator()(int64_t row) const {
    int64_t n = 0;
    for (int64_t x = 0; x < shape.x; ++x) n += mask.inside(row / shape.y, row % shape.y, x);
    count[row] = n;
  }
};

/// Foreground pixels get their index in raster order, the others kNoPoint.
struct NumberForeground {
  MaskView mask;
  Shape shape;
  const int64_t* first;  ///< by row
  IndexImage index;
  CELLPOST_FN void operator()(int64_t row) const {
    int64_t i = first[row];
    for (int64_t x = 0; x < shape.x; ++x) {
      const bool inside = mask.inside(row / shape.y, row % shape.y, x);
      index.set(row * shape.x + x, inside ? i++ : kNoPoint);
    }
  }
};

template <class Exec>
int64_t number_foreground(Exec& exec, const MaskView& mask, const Shape& shape,
                          const IndexImage& index) {
  auto rows = exec.template alloc<int64_t>(shape.rows());
  exec.for_each_object(shape.rows(), CountForeground{mask, shape, rows.data()});
  const int64_t n = exec.scan(rows.data(), shape.rows());
  exec.for_each_object(shape.rows(), NumberForeground{mask, shape, rows.data(), index});
  return n;
}

template <class Exec>
int64_t count_foreground(Exec& exec, const MaskView& mask, const Shape& shape) {
  auto rows = exec.template alloc<int64_t>(shape.rows());
  exec.for_each_object(shape.rows(), CountForeground{mask, shape, rows.data()});
  return exec.sum(rows.data(), shape.rows());
}

/// End positions (N, n_points) of the mask's pixels in raster order; NaN where a point left the
/// window.
template <class Exec>
void end_points(Exec& exec, const FloatView& dP, const MaskView& mask, int64_t n_steps,
                Sampling sampling, const Window& window, float* points, int64_t n_points) {
  OwnedIndexImage<Exec> ends(exec, window.shape.pixels(), needs_wide_index(window.shape.pixels()));
  trace_points(exec, sampling, dP, mask, n_steps, window, ends.get(),
               [&](const IndexImage& marked) {
                 number_foreground(exec, mask, window.shape, marked);
                 return TraceOutput{marked, points, n_points, window};
               });
}

// ---- labels ------------------------------------------------------------------------------------

/// Labels from end bins. Ids are the seeds' ranks; returns the number of seeds.
template <class Exec>
int64_t label_ends(Exec& exec, const IndexImage& ends, const Shape& shape, int32_t* labels) {
  const int64_t n = shape.pixels();
  int32_t* counts = labels;
  exec.fill(counts, n, int32_t{0});
  exec.count_bins(ends, n, counts);
  auto seeds = exec.template select<int64_t>(0, n, IsSeed{counts, shape});
  auto peak = exec.template alloc<int32_t>(seeds.size());
  exec.for_each(seeds.size(), GatherPeak{counts, seeds.data(), peak.data()});
  exec.sort_by(peak, seeds);
  auto label_of_bin = exec.template alloc<int32_t>(n);
  exec.fill(label_of_bin.data(), n, int32_t{0});
  if (shape.ndim == 2) {
    exec.for_each_object(seeds.size(),
                         GrowSeed<2>{seeds.data(), counts, shape, label_of_bin.data()});
  } else {
    exec.for_each_object(seeds.size(),
                         GrowSeed<3>{seeds.data(), counts, shape, label_of_bin.data()});
  }
  exec.for_each(n, AssignLabel{ends, label_of_bin.data(), labels});
  return seeds.size();
}

// ---- diffusion ---------------------------------------------------------------------------------

/// Heat of the listed objects; niter < 0 takes the number of steps from the largest, and the size
/// of the image that the labels are part of decides the precision. Calls use(heat) with the result
/// and returns the number of steps.
template <class Exec, class Use>
int64_t with_heat(Exec& exec, Objects<Exec>& objects, const int32_t* ids, int64_t n_ids,
                  int64_t niter, const Shape& image, const Use& use) {
  const Shape& shape = objects.shape();
  const ObjectTable& table = objects.table();
  if (niter < 0) {
    auto most = exec.template alloc<int64_t>(1);
    exec.fill(most.data(), 1, int64_t{0});
    exec.for_each(n_ids, MaxSteps{table, ids, shape.ndim, most.data()});
    niter = exec.read(most.data());
  }
  auto centre = exec.template alloc<int64_t>(table.n + 1);
  exec.for_each_object(n_ids, FindCentre{objects.labels(), shape, table, ids, centre.data()});
  const auto run = [&](auto real, auto n) {
    using Real = decltype(real);
    auto heat = exec.template alloc<Real>(shape.pixels());
    exec.diffuse(HeatJob<decltype(n)::value, Real>{objects.labels(), shape, table, ids, n_ids,
                                                   centre.data(), niter, heat.data()});
    use(Heat<Real>{heat.data(), objects.labels(), objects.map(), shape});
  };
  using Two = std::integral_constant<int, 2>;
  using Three = std::integral_constant<int, 3>;
  if (diffuses_in_double(image)) {
    shape.ndim == 2 ? run(0.0, Two{}) : run(0.0, Three{});
  } else {
    shape.ndim == 2 ? run(0.0f, Two{}) : run(0.0f, Three{});
  }
  return niter;
}

/// Errors by id of the kept objects; `error` has table().n + 1 elements.
template <class Exec>
int64_t flow_errors(Exec& exec, Objects<Exec>& objects, const FloatView& dP, const int32_t* ids,
                    int64_t n_ids, int64_t niter, const Shape& image, double* error) {
  return with_heat(exec, objects, ids, n_ids, niter, image, [&](const auto& heat) {
    using Real = std::decay_t<decltype(heat.heat[0])>;
    with_known_dtype(dP, [&](const auto& flow) {
      using Flow = std::decay_t<decltype(flow)>;
      exec.for_each_object(n_ids, FlowError<Real, Flow>{heat, flow, objects.table(), ids, error});
    });
  });
}

/// Drops the objects whose error is above the threshold; returns the number of steps.
template <class Exec>
int64_t drop_bad_flows(Exec& exec, Objects<Exec>& objects, const FloatView& dP, double threshold) {
  auto ids = objects.kept();
  if (ids.size() == 0) return 0;
  auto error = exec.template alloc<double>(objects.table().n + 1);
  const int64_t niter =
      flow_errors(exec, objects, dP, ids.data(), ids.size(), -1, objects.shape(), error.data());
  exec.for_each(ids.size(), DropByError{error.data(), ids.data(), threshold, objects.map()});
  return niter;
}

template <class Exec>
void masks_to_flows(Exec& exec, Objects<Exec>& objects, int64_t niter, float* flows) {
  auto ids = objects.kept();
  const Shape& shape = objects.shape();
  if (ids.size() == 0) {
    exec.fill(flows, shape.ndim * shape.pixels(), 0.0f);
    return;
  }
  with_heat(exec, objects, ids.data(), ids.size(), niter, shape, [&](const auto& heat) {
    using Real = std::decay_t<decltype(heat.heat[0])>;
    exec.for_each_pixel(shape.rows(), shape.x, WriteFlows<Real>{heat, flows});
  });
}

// ---- stages on their own -----------------------------------------------------------------------

/// Labels from saved end points, numbered, without quality control.
template <class Exec>
int64_t endpoints_to_labels(Exec& exec, const FloatView& points, const MaskView& mask,
                            const Shape& shape, double max_size_fraction, int32_t* labels) {
  int64_t n_seeds;
  {
    OwnedIndexImage<Exec> ends(exec, shape.pixels(), needs_wide_index(shape.pixels()));
    number_foreground(exec, mask, shape, ends.get());
    exec.for_each(shape.pixels(), BinOfPoint{points, shape, ends.get()});
    n_seeds = label_ends(exec, ends.get(), shape, labels);
  }
  Objects<Exec> objects(exec, shape, labels, n_seeds);
  objects.drop_by_size(1, largest_allowed(shape, max_size_fraction));
  return objects.renumber();
}

/// Errors of the objects in ascending order of id, at most n_errors of them; niter and image: see
/// with_heat.
template <class Exec>
void flow_error(Exec& exec, int32_t* labels, const Shape& shape, int64_t n, const FloatView& dP,
                int64_t niter, const Shape& image, double* errors, int64_t n_errors) {
  Objects<Exec> objects(exec, shape, labels, n);
  auto ids = objects.kept();
  if (ids.size() == 0) return;
  auto by_id = exec.template alloc<double>(n + 1);
  flow_errors(exec, objects, dP, ids.data(), ids.size(), niter, image, by_id.data());
  exec.for_each(std::min(ids.size(), n_errors), Gather<double>{by_id.data(), ids.data(), errors});
}

template <class Exec>
FilterReport remove_bad_flows(Exec& exec, int32_t* labels, const Shape& shape, int64_t n,
                              const FloatView& dP, double threshold) {
  return filter_objects(exec, labels, shape, n, [&](Objects<Exec>& objects) {
    drop_bad_flows(exec, objects, dP, threshold);
  });
}

template <class Exec>
void masks_to_flows(Exec& exec, int32_t* labels, const Shape& shape, int64_t n, int64_t niter,
                    float* flows) {
  Objects<Exec> objects(exec, shape, labels, n);
  masks_to_flows(exec, objects, niter, flows);
}

// ---- the whole chain ---------------------------------------------------------------------------

template <class Exec>
FlowReport follow_flows(Exec& exec, const FloatView& dP, const FloatView& cellprob,
                        const Shape& shape, const FollowOptions& options, int32_t* labels) {
  FlowReport report;
  {
    OwnedIndexImage<Exec> ends(exec, shape.pixels(), needs_wide_index(shape.pixels()));
    report.n_foreground = end_bins(exec, dP, cellprob, options, whole(shape), ends.get());
    report.n_seeds = label_ends(exec, ends.get(), shape, labels);
  }
  Objects<Exec> objects(exec, shape, labels, report.n_seeds);
  report.n_unassigned = report.n_foreground - objects.n_pixels();
  int64_t n = objects.kept().size();
  const auto dropped = [&] {
    const int64_t before = n;
    n = objects.kept().size();
    return before - n;
  };
  report.n_empty_seeds = report.n_seeds - n;
  objects.drop_by_size(1, largest_allowed(shape, options.max_size_fraction));
  report.n_too_large = dropped();
  if (shape.ndim == 2 && options.flow_threshold > 0.0) {
    report.qc_niter = drop_bad_flows(exec, objects, dP, options.flow_threshold);
    report.n_bad_flow = dropped();
  }
  if (options.fragments != Fragments::keep) {
    objects.apply_keeping_ids();
    objects.measure();
    report.n_fragments = objects.resolve_fragments(options.fragments);
    n = objects.kept().size();
  }
  objects.drop_by_size(options.min_size, INT64_MAX);
  report.n_too_small = dropped();
  report.n_labels = objects.renumber();
  if (options.fill_holes && n > 0) {
    const auto filled = objects.fill_holes(options.nested);
    report.n_hole_pixels = filled.n_pixels;
    report.n_nested = filled.n_nested;
    if (filled.n_pixels > 0) {
      objects.drop_by_size(options.min_size, INT64_MAX);
      report.n_labels = objects.renumber();
      report.n_too_small += n - filled.n_nested - report.n_labels;
    }
  }
  return report;
}

}  // namespace cellpost
