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

}  // namespace

TraceKernels trace_kernels() {
  return {{{trace_block<2, Sampling::cellpose>, trace_block<2, Sampling::centered>},
           {trace_block<3, Sampling::cellpose>, trace_block<3, Sampling::centered>}}};
}

}  // namespace cellpost::cpu::CELLPOST_ISA
