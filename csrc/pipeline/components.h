// Connected components of binary images and label images, written once for both devices (Exec: see
// pipeline/labels.h).
#pragma once

#include "core/labels_runs.h"

namespace cellpost {

/// A binary image with memory of its own.
template <class Exec>
class Bits {
 public:
  Bits(Exec& exec, const Shape& shape)
      : words_(exec.template alloc<uint64_t>(shape.rows() * words_of_row(shape.x))),
        view_{words_.data(), shape.rows(), shape.x, words_of_row(shape.x)} {}
  const BitImage& view() const { return view_; }

 private:
  typename Exec::template Buffer<uint64_t> words_;
  BitImage view_;
};

/// job(row, w) for each word of a binary image.
template <class Exec, class Job>
void for_each_word(Exec& exec, const BitImage& bits, const Job& job) {
  exec.for_each_pixel(bits.n_rows, bits.n_words, job);
}

template <class Exec, class Test>
void pack_bits(Exec& exec, const Shape& shape, const Test& test, const BitImage& bits) {
  for_each_word(exec, bits, PackBits<Test>{test, shape, bits});
}

/// The runs of pixels that belong together, and the components they form. Rows: BitRows or
/// LabelRows.
template <class Exec, class Rows>
class Components {
 public:
  Components(Exec& exec, const Shape& shape, const Rows& rows, int connectivity)
      : exec_(exec), shape_(shape) {
    row_first_ = exec.template alloc<int64_t>(shape.rows() + 1);
    exec.fill(row_first_.data() + shape.rows(), 1, int64_t{0});
    exec.for_each_object(shape.rows(), CountRuns<Rows>{rows, row_first_.data()});
    const int64_t n = exec.scan(row_first_.data(), shape.rows() + 1);
    places_ = exec.template alloc<int32_t>(3 * n);
    runs_ = {n, row_first_.data(), places_.data(), places_.data() + n, places_.data() + 2 * n};
    exec.for_each_object(shape.rows(), FindRuns<Rows>{rows, runs_});
    const bool wide = needs_wide_index(n);
    narrow_ = exec.template alloc<int32_t>(wide ? 0 : n);
    wide_ = exec.template alloc<int64_t>(wide ? n : 0);
    sets_.parent = {wide ? nullptr : narrow_.data(), wide ? wide_.data() : nullptr};
    exec.for_each(n, StartSets{sets_.parent});
    exec.for_each_object(shape.rows(), JoinRuns<Rows>{rows, runs_, shape, connectivity, sets_});
    exec.for_each(n, FlattenRuns{sets_});
  }

  const Runs& runs() const { return runs_; }
  const UnionFind& sets() const { return sets_; }
  /// First runs of the components, ascending.
  auto roots() { return exec_.template select<int64_t>(0, runs_.n, IsRootRun{sets_}); }

  /// Pixels of each component, by its root.
  auto sizes() {
    auto size = exec_.template alloc<int64_t>(runs_.n);
    exec_.fill(size.data(), runs_.n, int64_t{0});
    exec_.for_each(runs_.n, AddRunLength{runs_, sets_, size.data()});
    return size;
  }

  /// Clears components of fewer than `minimum` pixels in `bits`; returns how many.
  int64_t clear_small(int64_t minimum, const BitImage& bits) {
    if (minimum <= 1) return 0;
    auto size = sizes();
    exec_.for_each_object(shape_.rows(), ClearSmall{runs_, sets_, size.data(), minimum, bits});
    return exec_.template select<int64_t>(0, runs_.n, IsSmallRoot{sets_, size.data(), minimum})
        .size();
  }

  /// Sets the components that do not touch the border of the image in `bits`.
  void set_closed(const BitImage& bits) {
    auto open = exec_.template alloc<int32_t>(runs_.n);
    exec_.fill(open.data(), runs_.n, int32_t{0});
    exec_.for_each(runs_.n, MarkOpen{runs_, shape_, sets_, open.data()});
    exec_.for_each_object(shape_.rows(), SetClosed{runs_, sets_, open.data(), bits});
  }

  /// Numbers the components in raster order of their first pixels; returns how many there are.
  int64_t write_ids(int32_t* labels) {
    auto first = roots();
    auto id_of_root = exec_.template alloc<int32_t>(runs_.n);
    exec_.for_each(first.size(), NumberRoots{first.data(), id_of_root.data()});
    write_ids(id_of_root.data(), labels);
    return first.size();
  }
  /// Writes the whole image: the components' ids, by root, and 0 between them.
  void write_ids(const int32_t* id_of_root, int32_t* labels) {
    exec_.for_each_object(shape_.rows(), WriteIds{runs_, sets_, id_of_root, shape_.x, labels});
  }

 private:
  Exec& exec_;
  Shape shape_;
  typename Exec::template Buffer<int64_t> row_first_, wide_;
  typename Exec::template Buffer<int32_t> places_, narrow_;
  Runs runs_{};
  UnionFind sets_{};
};

template <class Exec>
Components<Exec, BitRows> components_of(Exec& exec, const Shape& shape, const BitImage& bits,
                                        int connectivity) {
  return Components<Exec, BitRows>(exec, shape, BitRows{bits, false}, connectivity);
}

/// Sets the pixels of the holes: background of `connectivity` that cannot be left for the border.
template <class Exec>
void fill_holes(Exec& exec, const Shape& shape, int connectivity, const BitImage& bits) {
  Components<Exec, BitRows>(exec, shape, BitRows{bits, true}, connectivity).set_closed(bits);
}

/// Erosion, then dilation, in place.
template <class Exec>
void open_bits(Exec& exec, const Shape& shape, const Footprint& footprint, const BitImage& bits) {
  const Bits<Exec> eroded(exec, shape);
  for_each_word(exec, bits, Morph<true>{footprint, bits, eroded.view()});
  for_each_word(exec, bits, Morph<false>{footprint, eroded.view(), bits});
}

template <class Exec>
int64_t label(Exec& exec, const MaskView& mask, const Shape& shape, int connectivity,
              int32_t* labels) {
  const Bits<Exec> bits(exec, shape);
  pack_bits(exec, shape, IsInside{mask}, bits.view());
  return components_of(exec, shape, bits.view(), connectivity).write_ids(labels);
}

template <class Exec>
void fill_mask_holes(Exec& exec, const MaskView& mask, const Shape& shape, int connectivity,
                     uint8_t* out) {
  const Bits<Exec> bits(exec, shape);
  pack_bits(exec, shape, IsInside{mask}, bits.view());
  fill_holes(exec, shape, connectivity, bits.view());
  for_each_word(exec, bits.view(), UnpackBits{bits.view(), out});
}

template <class Exec>
void open_mask(Exec& exec, const MaskView& mask, const Shape& shape, const Footprint& footprint,
               uint8_t* out) {
  const Bits<Exec> bits(exec, shape);
  pack_bits(exec, shape, IsInside{mask}, bits.view());
  open_bits(exec, shape, footprint, bits.view());
  for_each_word(exec, bits.view(), UnpackBits{bits.view(), out});
}

}  // namespace cellpost
