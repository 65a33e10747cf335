// Marker-controlled watershed, as scikit-image 0.25.2 and later define it: pixels are taken in the
// order of (level, age), where a pixel's level is the larger of its own value and of the level it
// was reached from, and its age the order in which it was reached; a pixel that is taken gives its
// label to the neighbours that have none yet. Markers come first, at the level of their own value,
// those of equal value in raster order (which scikit-image leaves open).
//
// Components of the mask cannot touch each other's queue: restricted to one component, the order
// of a queue for all is that of a queue of its own. So they are flooded one by one, on many threads
// at once, and a component whose markers all have one label needs no queue: it gets the label.
#pragma once

#include "core/labels_runs.h"

namespace cellpost {

/// Order-preserving: a < b as values exactly if level_of(a) < level_of(b). NaN comes last.
CELLPOST_FN uint64_t level_of(double v) {
  union {
    double f;
    uint64_t u;
  } both{v + 0.0};  // -0 becomes +0
  if (v != v) return ~uint64_t{0};
  return both.u >> 63 ? ~both.u : both.u | uint64_t{1} << 63;
}
CELLPOST_FN uint64_t level_of(int64_t v) {
  return static_cast<uint64_t>(v) ^ uint64_t { 1 } << 63;
}

enum class EnergyType : int { f16, bf16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64 };

/// Energies of the caller, where they lie.
struct EnergyView {
  const void* data;
  EnergyType dtype;
  int64_t stride[3];  ///< z, y, x

  CELLPOST_FN uint64_t level(int64_t z, int64_t y, int64_t x) const {
    const int64_t i = z * stride[0] + y * stride[1] + x * stride[2];
    switch (dtype) {
      case EnergyType::f16:
        return level_of(static_cast<double>(half_to_float(as<uint16_t>(i))));
      case EnergyType::bf16:
        return level_of(
            static_cast<double>(bits_to_float(static_cast<uint32_t>(as<uint16_t>(i)) << 16)));
      case EnergyType::f32:
        return level_of(static_cast<double>(as<float>(i)));
      case EnergyType::f64:
        return level_of(as<double>(i));
      case EnergyType::i8:
        return level_of(int64_t{as<int8_t>(i)});
      case EnergyType::i16:
        return level_of(int64_t{as<int16_t>(i)});
      case EnergyType::i32:
        return level_of(int64_t{as<int32_t>(i)});
      case EnergyType::i64:
        return level_of(as<int64_t>(i));
      case EnergyType::u8:
        return as<uint8_t>(i);
      case EnergyType::u16:
        return as<uint16_t>(i);
      case EnergyType::u32:
        return as<uint32_t>(i);
      default:
        return as<uint64_t>(i);
    }
  }

 private:
  template <class T>
  CELLPOST_FN T as(int64_t i) const {
    return static_cast<const T*>(data)[i];
  }
};

// ---- the queue ---------------------------------------------------------------------------------

struct FloodPixel {
  int32_t row, x;
};

struct FloodEntry {
  uint64_t level;
  int64_t age;
  FloodPixel pixel;

  CELLPOST_FN bool before(const FloodEntry& other) const {
    return level < other.level || (level == other.level && age < other.age);
  }
};

/// Pixels by (level, age). Those reached at the level of the pixel at work, about a half of all,
/// are the youngest of that level: they wait in line, without a heap's cost. List<T> is an array
/// that grows: size(), operator[], push_back(), pop_back(), clear().
template <template <class> class List>
struct FloodQueue {
  List<FloodEntry> heap;
  List<FloodPixel> line;
  int64_t line_first = 0, age = 0;
  uint64_t level = 0;

  CELLPOST_FN void clear() {
    heap.clear();
    line.clear();
    line_first = age = 0;
    level = 0;
  }

  CELLPOST_FN void push(uint64_t at, FloodPixel pixel) {
    const FloodEntry entry{at, age++, pixel};
    heap.push_back(entry);
    auto i = heap.size() - 1;
    while (i > 0) {
      const auto up = (i - 1) / 2;
      if (!entry.before(heap[up])) break;
      heap[i] = heap[up];
      i = up;
    }
    heap[i] = entry;
  }

  /// Pushes a pixel that was reached from the one taken last.
  CELLPOST_FN void reach(uint64_t at, FloodPixel pixel) {
    if (at > level) {
      push(at, pixel);
    } else {
      line.push_back(pixel);
    }
  }

  /// Those still in line take the room of those gone.
  CELLPOST_FN void move_up() {
    using Index = decltype(line.size());
    const auto gone = static_cast<Index>(line_first), left = line.size() - gone;
    for (Index i = 0; i < left; ++i) line[i] = line[gone + i];
    while (line.size() > left) line.pop_back();
    line_first = 0;
  }

  /// Takes the next pixel, whose level is then `level`; false if there is none.
  CELLPOST_FN bool take(FloodPixel& pixel) {
    const bool line_is_empty = line_first == static_cast<int64_t>(line.size());
    if (!line_is_empty && (heap.size() == 0 || heap[0].level > level)) {
      pixel = line[static_cast<decltype(line.size())>(line_first++)];
      if (line_first >= 1024 && 2 * line_first >= static_cast<int64_t>(line.size())) move_up();
      return true;
    }
    if (line_is_empty) line.clear(), line_first = 0;
    if (heap.size() == 0) return false;
    pixel = heap[0].pixel;
    level = heap[0].level;
    const FloodEntry last = heap[heap.size() - 1];
    heap.pop_back();
    const auto n = heap.size();
    if (n == 0) return true;
    decltype(heap.size()) i = 0;
    for (auto down = 2 * i + 1; down < n; down = 2 * i + 1) {
      if (down + 1 < n && heap[down + 1].before(heap[down])) ++down;
      if (!heap[down].before(last)) break;
      heap[i] = heap[down];
      i = down;
    }
    heap[i] = last;
    return true;
  }
};

// ---- flooding ----------------------------------------------------------------------------------

/// Neighbours by distance, then in raster order: the order in which they are reached.
struct Neighbours {
  int n = 0;
  int8_t step[26][3] = {};  ///< z, y, x

  Neighbours() = default;
  CELLPOST_FN Neighbours(int ndim, int connectivity) {
    const int depth = ndim == 3 ? 1 : 0;
    for (int far = 1; far <= connectivity; ++far) {
      for (int z = -depth; z <= depth; ++z) {
        for (int y = -1; y <= 1; ++y) {
          for (int x = -1; x <= 1; ++x) {
            if (z * z + y * y + x * x != far) continue;
            step[n][0] = static_cast<int8_t>(z);
            step[n][1] = static_cast<int8_t>(y);
            step[n][2] = static_cast<int8_t>(x);
            ++n;
          }
        }
      }
    }
  }
};

/// Energy: uint64_t level(z, y, x). Labels hold the markers of the mask, else 0.
template <class Energy>
struct Flood {
  Energy energy;
  BitImage mask;
  Shape shape;
  Neighbours neighbours;
  Runs runs;
  const int64_t* list;  ///< runs of the components, those of one together, in raster order
  int64_t n_list;
  const int64_t* first_of_list;  ///< where in `list` component i begins
  int64_t n_components;
  int32_t* labels;

  CELLPOST_FN int64_t end_of(int64_t component) const {
    return component + 1 < n_components ? first_of_list[component + 1] : n_list;
  }

  template <class Queue>
  CELLPOST_FN void operator()(int64_t component, Queue& queue) const {
    queue.clear();
    for (int64_t i = first_of_list[component]; i < end_of(component); ++i) {
      const int64_t run = list[i];
      const int32_t row = runs.row[run];
      for (int32_t x = runs.begin[run]; x < runs.end[run]; ++x) {
        if (labels[row * shape.x + x] == 0) continue;
        // Most pixels of a marker lie inside it: they have nobody to give their label to.
        bool has_open = false;
        for_each_open({row, x}, [&](int32_t, int32_t, int32_t&) { has_open = true; });
        if (has_open) queue.push(level(row, x), {row, x});
      }
    }
    FloodPixel p;
    while (queue.take(p)) {
      const int32_t id = labels[p.row * shape.x + p.x];
      for_each_open(p, [&](int32_t row, int32_t x, int32_t& label) {
        label = id;
        queue.reach(level(row, x), {row, x});
      });
    }
  }

 private:
  /// Calls visit(row, x, label) for the neighbours in the mask that have no label.
  template <class Visit>
  CELLPOST_FN void for_each_open(const FloodPixel& p, const Visit& visit) const {
    const int64_t z = plane(p.row), y = p.row - z * shape.y;
    for (int k = 0; k < neighbours.n; ++k) {
      const auto& step = neighbours.step[k];
      if (!shape.contains(z + step[0], y + step[1], p.x + step[2])) continue;
      const auto row = static_cast<int32_t>(p.row + step[0] * shape.y + step[1]);
      const int32_t x = p.x + step[2];
      int32_t& label = labels[row * shape.x + x];
      if (label == 0 && mask.get(row, x)) visit(row, x, label);
    }
  }
  /// Without a division in 2D.
  CELLPOST_FN int64_t plane(int32_t row) const { return shape.ndim == 2 ? 0 : row / shape.y; }
  CELLPOST_FN uint64_t level(int32_t row, int32_t x) const {
    const int64_t z = plane(row);
    return energy.level(z, row - z * shape.y, x);
  }
};

/// Markers outside the mask are no markers.
struct ClearOutside {
  BitImage mask;
  int32_t* labels;
  CELLPOST_FN void operator()(int64_t row, int64_t x) const {
    if (!mask.get(row, x)) labels[row * mask.width + x] = 0;
  }
};

/// Smallest and largest marker label of each component, by root; INT32_MAX and 0 if none.
struct FindMarkers {
  Runs runs;
  UnionFind sets;
  int64_t width;
  const int32_t* labels;
  int32_t* smallest;
  int32_t* largest;

  CELLPOST_FN void operator()(int64_t run) const {
    const int32_t* line = labels + runs.row[run] * width;
    int32_t low = INT32_MAX, high = 0;
    for (int32_t x = runs.begin[run]; x < runs.end[run]; ++x) {
      const int32_t id = line[x];
      if (id == 0) continue;
      low = id < low ? id : low;
      high = id > high ? id : high;
    }
    if (high == 0) return;
    const int64_t root = sets.load(run);
    atomic_min(&smallest[root], low);
    atomic_max(&largest[root], high);
  }
};

/// Components of one marker label get it everywhere.
struct FillOneMarker {
  Runs runs;
  UnionFind sets;
  int64_t width;
  const int32_t* smallest;
  const int32_t* largest;
  int32_t* labels;

  CELLPOST_FN void operator()(int64_t run) const {
    const int64_t root = sets.load(run);
    if (smallest[root] != largest[root]) return;
    int32_t* line = labels + runs.row[run] * width;
    for (int32_t x = runs.begin[run]; x < runs.end[run]; ++x) line[x] = smallest[root];
  }
};

/// A run of a component with markers of several labels.
struct IsContested {
  UnionFind sets;
  const int32_t* smallest;
  const int32_t* largest;
  CELLPOST_FN bool operator()(int64_t run) const {
    const int64_t root = sets.load(run);
    return smallest[root] < largest[root];
  }
};

struct IsUnmarkedRoot {
  UnionFind sets;
  const int32_t* largest;
  CELLPOST_FN bool operator()(int64_t run) const {
    return sets.load(run) == run && largest[run] == 0;
  }
};

struct GatherRoot {
  UnionFind sets;
  const int64_t* list;
  int64_t* root;
  CELLPOST_FN void operator()(int64_t i) const { root[i] = sets.load(list[i]); }
};

/// The first of equal roots in an ascending list.
struct IsFirstOfRoot {
  const int64_t* root;
  CELLPOST_FN bool operator()(int64_t i) const { return i == 0 || root[i] != root[i - 1]; }
};

}  // namespace cellpost
