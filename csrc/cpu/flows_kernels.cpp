// Compiled once for each instruction set, with CELLPOST_ISA naming it. Nothing here may be shared
// with other sources out of line (no standard containers): the linker would merge the copies, and
// a baseline CPU could run into AVX-512 code.
#include "cpu/flows_kernels.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "cpu/kernels.h"

#if defined(__AVX2__)
#include "cpu/simd.h"
#endif

namespace cellpost::cpu::CELLPOST_ISA {
namespace {

// ---- following ---------------------------------------------------------------------------------

/// Walks over the marked pixels of a block in raster order.
struct BlockCursor {
  const TraceOutput& output;
  const Block& block;
  int64_t row, col;

  bool next() {
    const int64_t width = output.window.shape.x;
    for (; row < block.row_end; ++row) {
      for (++col; col < block.col_end; ++col) {
        if (output.ends.get(row * width + col) != kNoPoint) return true;
      }
      col = block.col_begin - 1;
    }
    return false;
  }
};

#if defined(__AVX2__)

/// The cycles that points of a block were found to run in, by each of their positions. A point that
/// comes to one of these positions goes on like the points before it, so its last position is
/// known. A state that is forgotten, or never noted, costs time and nothing else.
template <int N>
class Cycles {
 public:
  static constexpr int64_t kLongest = 256;

  struct Place {
    int32_t first = 0, length = 0, at = 0;  ///< the cycle's states, and which of them this is
  };

  Cycles() { forget(); }

  /// Bits of the lanes that may be in a known cycle; find() tells.
  template <int kLanes>
  uint32_t look(const float (&at)[N][kLanes]) const {
    uint32_t bits[N][kLanes], slot[kLanes], found = 0;
    std::memcpy(bits, at, sizeof(at));
    for (int i = 0; i < kLanes; ++i) {
      uint32_t h = 0;
      for (int k = 0; k < N; ++k) h = mix(h, bits[k][i]);
      slot[i] = h >> (32 - kSlotBits);
    }
    for (int i = 0; i < kLanes; ++i) {
      found |= static_cast<uint32_t>(first_bits_[slot[i]] == bits[0][i]) << i;
    }
    return found;
  }

  /// The point's place in a known cycle, of length 0 if there is none.
  Place find(const float (&at)[N]) const {
    const Slot& slot = slots_[slot_of(at)];
    return std::memcmp(slot.at, at, sizeof(at)) == 0 ? slot.place : Place{};
  }
  /// Where a point at `place` is after `steps` steps.
  const float (&after(const Place& place, int64_t steps) const)[N] {
    return states_[place.first + (place.at + steps) % place.length];
  }

  /// Begins a cycle of `length` states and gives its place 0.
  Place begin(int32_t length) {
    if (n_states_ + length > kStates) forget();
    const Place place{n_states_, length, 0};
    n_states_ += length;
    return place;
  }
  void note(const Place& place, const float (&at)[N]) {
    const uint32_t slot = slot_of(at);
    std::memcpy(states_[place.first + place.at], at, sizeof(at));
    std::memcpy(slots_[slot].at, at, sizeof(at));
    std::memcpy(&first_bits_[slot], at, sizeof(uint32_t));
    slots_[slot].place = place;
  }

 private:
  static constexpr int kSlotBits = 10;
  static constexpr int32_t kStates = 2048;
  static constexpr uint32_t kNaN = 0x7fc00000u;  // no point is there

  struct Slot {
    float at[N];
    Place place;
  };

  static uint32_t mix(uint32_t h, uint32_t bits) {
    h = (h ^ bits) * 0x9e3779b1u;
    return h ^ h >> 15;
  }
  static uint32_t slot_of(const float (&at)[N]) {
    uint32_t bits[N], h = 0;
    std::memcpy(bits, at, sizeof(at));
    for (int k = 0; k < N; ++k) h = mix(h, bits[k]);
    return h >> (32 - kSlotBits);
  }

  void forget() {
    for (uint32_t& bits : first_bits_) bits = kNaN;
    for (Slot& slot : slots_) slot.at[0] = bits_to_float(kNaN);
    n_states_ = 0;
  }

  uint32_t first_bits_[1 << kSlotBits];
  Slot slots_[1 << kSlotBits];
  float states_[kStates][N];
  int32_t n_states_ = 0;
};

/// Some packs of points that step together, so that one's loads overlap another's arithmetic; a
/// lane whose point is done takes the next one. A point is done after its last step, or as soon as
/// it is known to be in a cycle: it came back to where it was at a checkpoint, or it came to where
/// an earlier point's cycle passes. Where it would then be after its last step is looked up, which
/// gives the same bits as walking there (core/flows_trace.h).
template <int N, Sampling S>
class PackTracer {
  static constexpr int kPacks = 2;
  static constexpr int kWidth = LaneOf<Pack>::kWidth;
  static constexpr int kLanes = kPacks * kWidth;
  /// Steps between looks at the cycles, and at least between checkpoints.
  static constexpr int64_t kLookEvery = 16, kCheckpointEvery = 64;
  /// With the centered rule the way on depends on the start, too: no other point takes it.
  static constexpr bool kShareCycles = S == Sampling::cellpose;
  using Mask = LaneOf<Pack>::Mask;

 public:
  PackTracer(const Trace& trace, const TraceOutput& output, const Block& block)
      : trace_(trace),
        output_(output),
        cursor_{output, block, block.row_begin, block.col_begin - 1} {}

  int64_t run() {
    for (int i = 0; i < kLanes; ++i) pixel_[i] = -1;
    for (int i = 0; i < kLanes; ++i) refill(i);
    while (n_active_ > 0) {
      step_until_event();
      settle();
    }
    return n_points_;
  }

 private:
  void step_until_event() {
    TraceState<Pack, N> state[kPacks];
    Pack checkpoint[kPacks][N];
    PackInt start[kPacks][N];
    for (int p = 0; p < kPacks; ++p) {
      for (int k = 0; k < N; ++k) {
        state[p].at[k] = Pack::load(at_[k] + p * kWidth);
        start[p][k] = PackInt::load(start_[k] + p * kWidth);
        checkpoint[p][k] = Pack::load(checkpoint_[k] + p * kWidth);
      }
    }
    int64_t stop = (now_ / kLookEvery + 1) * kLookEvery;
    for (const int64_t deadline : deadline_) stop = deadline < stop ? deadline : stop;
    const Trace trace = trace_;  // a copy that the compiler may keep in registers
    Mask outside[kPacks], hit[kPacks], any;
    do {
      trace_steps<N, S, Pack, kPacks>(trace, start, state, outside);
      any = {};
      CELLPOST_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        hit[p] = state[p].at[0] == checkpoint[p][0];
        for (int k = 1; k < N; ++k) hit[p] = hit[p] & (state[p].at[k] == checkpoint[p][k]);
        any = any | hit[p] | outside[p];
      }
      ++now_;
    } while (!lane_any(any) && now_ < stop);
    escaped_ = hits_ = 0;
    for (int p = 0; p < kPacks; ++p) {
      escaped_ |= outside[p].bits() << (p * kWidth);
      hits_ |= hit[p].bits() << (p * kWidth);
    }
    for (int p = 0; p < kPacks; ++p) {
      for (int k = 0; k < N; ++k) state[p].at[k].store(at_[k] + p * kWidth);
    }
  }

  void settle() {
    uint32_t events = escaped_ | hits_;
    for (int i = 0; i < kLanes; ++i) events |= static_cast<uint32_t>(deadline_[i] == now_) << i;
    if (kShareCycles && now_ % kLookEvery == 0) events |= cycles_.look(at_);
    for (; events != 0; events &= events - 1) {
      const int i = __builtin_ctz(events);
      if (pixel_[i] < 0) {
        idle(i);
        continue;
      }
      const int64_t left = deadline_[i] - now_;
      float at[N];
      for (int k = 0; k < N; ++k) at[k] = at_[k][i];
      if (escaped_ >> i & 1u || left == 0) {
        finish(i, left == 0 && !(escaped_ >> i & 1u), at);
        continue;
      }
      typename Cycles<N>::Place place{};
      if (kShareCycles) place = cycles_.find(at);
      if (place.length == 0 && hits_ >> i & 1u) {
        const int64_t length = now_ - checkpoint_at_;
        if (length <= Cycles<N>::kLongest) {
          place = walk_cycle(i, length);
        } else if (left % length == 0) {
          finish(i, true, at);
        } else {
          deadline_[i] = now_ + left % length;
        }
      }
      if (place.length > 0) finish(i, true, cycles_.after(place, left));
    }
    if (now_ >= next_checkpoint_) set_checkpoints();
  }

  /// A cycle is found if it is no longer than the time between checkpoints, so points that go on
  /// without a hit get more of it: an eighth of the oldest one's steps.
  void set_checkpoints() {
    std::memcpy(checkpoint_, at_, sizeof(at_));
    checkpoint_at_ = now_;
    int64_t oldest = now_;
    for (int i = 0; i < kLanes; ++i) {
      if (pixel_[i] >= 0 && begin_[i] < oldest) oldest = begin_[i];
    }
    const int64_t interval = (now_ - oldest) / 8;
    next_checkpoint_ = now_ + (interval > kCheckpointEvery ? interval : kCheckpointEvery);
  }

  /// Notes the cycle of `length` states that lane i is in, and returns its place there.
  typename Cycles<N>::Place walk_cycle(int i, int64_t length) {
    int32_t start[1][N];
    TraceState<float, N> state[1];
    for (int k = 0; k < N; ++k) start[0][k] = start_[k][i], state[0].at[k] = at_[k][i];
    const auto first = cycles_.begin(static_cast<int32_t>(length));
    for (auto place = first; place.at < place.length; ++place.at) {
      cycles_.note(place, state[0].at);
      trace_step<N, S>(trace_, start, state);
    }
    return first;
  }

  void finish(int i, bool inside, const float (&at)[N]) {
    int32_t start[N];
    TraceState<float, N> state;
    float end[N];
    for (int k = 0; k < N; ++k) start[k] = start_[k][i], state.at[k] = at[k];
    trace_end<N, S>(trace_, start, state, end);
    output_.put<N>(pixel_[i], inside, end);
    --n_active_;
    refill(i);
  }

  /// The lane takes the next point of the block, or idles on its last one.
  void refill(int i) {
    while (cursor_.next()) {
      ++n_points_;
      const Window& w = output_.window;
      int32_t start[N];
      start[0] = static_cast<int32_t>(cursor_.col + w.offset[2]);
      start[1] =
          static_cast<int32_t>((N == 2 ? cursor_.row : cursor_.row % w.shape.y) + w.offset[1]);
      if constexpr (N == 3) start[2] = static_cast<int32_t>(cursor_.row / w.shape.y + w.offset[0]);
      const auto state = trace_start<N, S, float>(trace_, start);
      pixel_[i] = cursor_.row * w.shape.x + cursor_.col;
      if (trace_.n_steps > 0) {
        for (int k = 0; k < N; ++k) start_[k][i] = start[k], at_[k][i] = state.at[k];
        begin_[i] = now_;
        deadline_[i] = now_ + trace_.n_steps;
        no_checkpoint(i);
        ++n_active_;
        return;
      }
      float end[N];
      trace_end<N, S>(trace_, start, state, end);
      output_.put<N>(pixel_[i], true, end);
    }
    pixel_[i] = -1;
    deadline_[i] = INT64_MAX;
    idle(i);
  }

  /// An idle lane repeats an active one, since its samples must lie in the window, too.
  void idle(int i) {
    int active = 0;
    while (active < kLanes && pixel_[active] < 0) ++active;
    if (active == kLanes) return;
    for (int k = 0; k < N; ++k) start_[k][i] = start_[k][active], at_[k][i] = at_[k][active];
    no_checkpoint(i);
  }

  void no_checkpoint(int i) {
    for (int k = 0; k < N; ++k) checkpoint_[k][i] = bits_to_float(0x7fc00000u);
  }

  alignas(64) float at_[N][kLanes], checkpoint_[N][kLanes];
  alignas(64) int32_t start_[N][kLanes];
  int64_t pixel_[kLanes], begin_[kLanes], deadline_[kLanes];
  int64_t now_ = 0, checkpoint_at_ = 0, next_checkpoint_ = kCheckpointEvery;
  uint32_t escaped_ = 0, hits_ = 0;
  const Trace& trace_;
  const TraceOutput& output_;
  BlockCursor cursor_;
  Cycles<N> cycles_;
  int n_active_ = 0;
  int64_t n_points_ = 0;
};

template <int N, Sampling S>
int64_t trace_block(const Trace& trace, const TraceOutput& output, const Block& block) {
  return PackTracer<N, S>(trace, output, block).run();
}

#else

template <int N, Sampling S>
int64_t trace_block(const Trace& trace, const TraceOutput& output, const Block& block) {
  const FollowPixel<N, S> follow{trace, output};
  int64_t n_points = 0;
  for (BlockCursor cursor{output, block, block.row_begin, block.col_begin - 1}; cursor.next();) {
    follow(cursor.row, cursor.col);
    ++n_points;
  }
  return n_points;
}

#endif

// ---- diffusion ---------------------------------------------------------------------------------

/// Scratch that grows and is never shrunk while one piece of work runs.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  template <class T>
  T* zeros(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      size_ = data_ ? bytes : 0;
      if (!data_) throw std::bad_alloc();
    }
    std::memset(data_, 0, bytes);
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// One step of n positions, border included: `inside` is 1 in the mask, else 0.
template <int N, class Real>
void diffuse_step(const Real* __restrict from, const Real* __restrict inside, Real* __restrict to,
                  int64_t n, int64_t row, int64_t plane) {
  for (int64_t i = 0; i < n; ++i) to[i] = heat_mean<N>(from + i, row, plane) * inside[i];
}

/// An object in a copy of its bounding box with a border of zeros: outside the mask the heat stays
/// 0, and adding 0 changes no bits, so no neighbour has to be tested. Rows begin at a cache line,
/// and the right border of one is the left border of the next.
template <int N, class Real>
void diffuse_in_box(const HeatJob<N, Real>& job, int32_t id, Scratch& scratch) {
  constexpr int64_t kLanes = 64 / sizeof(Real);
  const auto whole_lines = [](int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; };
  const ObjectTable& t = job.table;
  const Shape& shape = job.shape;
  const int64_t nz = t.extent(id, 0), ny = t.extent(id, 1), nx = t.extent(id, 2);
  const int64_t row = whole_lines(nx + 1), plane = row * (ny + 2);
  const int64_t first = kLanes + row + (N == 3 ? plane : 0);
  const int64_t n_inner = whole_lines((nz - 1) * plane + (ny - 1) * row + nx);
  const int64_t n = 2 * first + n_inner;
  Real* heat = scratch.zeros<Real>(3 * n);
  Real* next = heat + n;
  Real* inside = heat + 2 * n;
  /// Calls visit(position, pixel) for the pixels of the mask.
  const auto for_each_pixel = [&](const auto& visit) {
    for (int64_t z = 0; z < nz; ++z) {
      for (int64_t y = 0; y < ny; ++y) {
        const int64_t line =
            ((t.low[0][id] + z) * shape.y + t.low[1][id] + y) * shape.x + t.low[2][id];
        for (int64_t x = 0; x < nx; ++x) {
          if (job.labels[line + x] == id) visit(first + z * plane + y * row + x, line + x);
        }
      }
    }
  };
  int64_t centre = first;
  for_each_pixel([&](int64_t at, int64_t pixel) {
    inside[at] = Real(1);
    if (pixel == job.centre[id]) centre = at;
  });
  for (int64_t step = 0; step < job.n_steps; ++step) {
    heat[centre] += Real(1);
    diffuse_step<N>(heat + first, inside + first, next + first, n_inner, row, plane);
    Real* const other = heat;
    heat = next;
    next = other;
  }
  for_each_pixel([&](int64_t at, int64_t pixel) { job.heat[pixel] = heat[at]; });
}

/// An object too large for a copy, or scattered over a large box: in place in the heat image, row
/// by row over the span of its pixels. What the rows were before the step is kept for as long as
/// it is needed, from a plane (in 2D a row) before the one at work to a plane after it.
template <int N, class Real>
void diffuse_in_place(const HeatJob<N, Real>& job, int32_t id) {
  const ObjectTable& t = job.table;
  const Shape& shape = job.shape;
  const int64_t ny = t.extent(id, 1), nx = t.extent(id, 2), n_rows = t.extent(id, 0) * ny;
  const int64_t lag = N == 3 ? ny : 1, n_kept = 2 * lag + 1, width = nx + 2;
  const auto pixel_of = [&](int64_t r) {
    return ((t.low[0][id] + r / ny) * shape.y + t.low[1][id] + r % ny) * shape.x + t.low[2][id];
  };
  struct Span {
    int64_t begin, end;
  };
  Scratch span_scratch, row_scratch;
  Span* const spans = span_scratch.zeros<Span>(n_rows);
  Real* const rows = row_scratch.zeros<Real>((n_kept + 1) * width);
  const Real* const nothing = rows + n_kept * width + 1;
  const auto kept = [&](int64_t r) { return rows + r % n_kept * width + 1; };
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t line = pixel_of(r);
    Span& span = spans[r];
    for (int64_t x = 0; x < nx; ++x) {
      if (job.labels[line + x] != id) continue;
      if (span.end == 0) span.begin = x;
      span.end = x + 1;
      job.heat[line + x] = Real(0);
    }
  }
  const auto keep = [&](int64_t r) {
    Real* const to = kept(r);
    if (r >= n_kept) {
      for (int64_t x = spans[r - n_kept].begin; x < spans[r - n_kept].end; ++x) to[x] = Real(0);
    }
    const int32_t* const labels = job.labels + pixel_of(r);
    const Real* const heat = job.heat + pixel_of(r);
    for (int64_t x = spans[r].begin; x < spans[r].end; ++x) {
      to[x] = labels[x] == id ? heat[x] : Real(0);
    }
  };
  for (int64_t step = 0; step < job.n_steps; ++step) {
    job.heat[job.centre[id]] += Real(1);
    std::memset(rows, 0, static_cast<size_t>(n_kept * width) * sizeof(Real));
    for (int64_t r = 0; r < lag && r < n_rows; ++r) keep(r);
    for (int64_t r = 0; r < n_rows; ++r) {
      if (r + lag < n_rows) keep(r + lag);
      if (spans[r].end == 0) continue;
      const int64_t y = r % ny;
      const Real* const here = kept(r);
      const Real* const above = y > 0 ? kept(r - 1) : nothing;
      const Real* const below = y + 1 < ny ? kept(r + 1) : nothing;
      const Real* const front = N == 3 && r >= ny ? kept(r - ny) : nothing;
      const Real* const behind = N == 3 && r + ny < n_rows ? kept(r + ny) : nothing;
      const int32_t* const labels = job.labels + pixel_of(r);
      Real* const heat = job.heat + pixel_of(r);
      for (int64_t x = spans[r].begin; x < spans[r].end; ++x) {
        const Real mean = heat_mean<N>(here + x, above + x, below + x, front + x, behind + x);
        if (labels[x] == id) heat[x] = mean;
      }
    }
  }
}

/// The copy is the faster way unless it is mostly empty; for large boxes it takes too much memory.
bool is_copied(const ObjectTable& table, int64_t id) {
  const int64_t box = table.box_pixels(id);
  return box <= int64_t{1} << 18 && box <= 16 * table.size[id];
}

template <int N, class Real>
void diffuse_objects(const HeatJob<N, Real>& job, int64_t begin, int64_t end) {
  Scratch scratch;
  for (int64_t i = begin; i < end; ++i) {
    if (is_copied(job.table, job.ids[i])) {
      diffuse_in_box(job, job.ids[i], scratch);
    } else {
      diffuse_in_place(job, job.ids[i]);
    }
  }
}

}  // namespace

FlowsKernels flows_kernels() {
  return {{{trace_block<2, Sampling::cellpose>, trace_block<2, Sampling::centered>},
           {trace_block<3, Sampling::cellpose>, trace_block<3, Sampling::centered>}},
          diffuse_objects<2, double>,
          diffuse_objects<2, float>,
          diffuse_objects<3, double>,
          diffuse_objects<3, float>};
}

}  // namespace cellpost::cpu::CELLPOST_ISA
