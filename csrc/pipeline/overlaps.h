// Counting what label images share, and putting label tiles together, written once for both
// devices; Exec is described in pipeline/labels.h. Its own kernels for this family:
// for_each_core_run(cores, job): job(number of the id, its first pixel in the image, pixels) for
// runs of one id in a piece of TileCores;
// count_pairs(n_lines, width, lines, keys, counts), with `lines(i)` a LinePair of up to `width`
// pixels: keys of pairs and their pixels, in any order, a key once or more often.
#pragma once

#include <optional>
#include <vector>

#include "core/overlaps.h"
#include "pipeline/tiles.h"

namespace cellpost {

/// Ascending keys, and the pixels of each.
struct PairCounts {
  std::vector<int64_t> keys, counts;
};

template <class Exec, class Lines>
PairCounts count_pairs(Exec& exec, int64_t n_lines, int64_t width, const Lines& lines) {
  auto keys = exec.template alloc<int64_t>(0);
  auto counts = exec.template alloc<int64_t>(0);
  exec.count_pairs(n_lines, width, lines, keys, counts);
  const int64_t n = keys.size();
  exec.sort_by(keys, counts);
  auto starts = exec.template select<int64_t>(0, n, IsFirstOfKey{keys.data()});
  const int64_t n_keys = starts.size();
  auto key = exec.template alloc<int64_t>(n_keys);
  auto count = exec.template alloc<int64_t>(n_keys);
  exec.for_each(n_keys, SumOfKey{keys.data(), counts.data(), starts.data(), n_keys, n, key.data(),
                                 count.data()});
  // As large as the result, which may hold a pair for each of millions of objects.
  for (auto* scratch : {&keys, &counts, &starts}) *scratch = exec.template alloc<int64_t>(0);
  return {exec.copy_out(key.data(), n_keys), exec.copy_out(count.data(), n_keys)};
}

template <class Exec>
PairCounts overlap_counts(Exec& exec, const int32_t* a, const int32_t* b, int64_t rows,
                          int64_t width) {
  return count_pairs(exec, rows, width, ImageLines{a, b, width});
}

/// Label tiles of one shape, listed in host memory.
struct TileList {
  std::vector<const int32_t*> data;
  std::vector<int64_t> first;  ///< as LabelTiles has it
  int64_t side[3];
};

/// The list where the kernels read it.
template <class Exec>
class PlacedTiles {
 public:
  PlacedTiles(Exec& exec, const TileList& list)
      : data_(exec.copy_in(list.data.data(), static_cast<int64_t>(list.data.size()))),
        first_(exec.copy_in(list.first.data(), static_cast<int64_t>(list.first.size()))),
        tiles{data_.data(), first_.data(), {list.side[0], list.side[1], list.side[2]}} {}

 private:
  typename Exec::template Buffer<const int32_t*> data_;
  typename Exec::template Buffer<int64_t> first_;

 public:
  const LabelTiles tiles;
};

/// Which part of an image each tile gives, in host memory.
struct ImageCores {
  AxisTables axis[3];
  int64_t size[3];
};

template <class Exec>
class PlacedCores {
 public:
  PlacedCores(Exec& exec, const TileList& list, const ImageCores& image)
      : tiles_(exec, list), cores{tiles_.tiles, {}, {image.size[0], image.size[1], image.size[2]}} {
    for (int k = 0; k < 3; ++k) cores.axis[k].side = list.side[k];
    axes_.emplace(exec, image.axis, cores.axis);
  }

 private:
  PlacedTiles<Exec> tiles_;
  std::optional<PlacedAxes<Exec>> axes_;

 public:
  TileCores cores;
};

template <class Exec>
PairCounts tile_overlaps(Exec& exec, const TileList& list, const std::vector<TilePair>& pairs) {
  int64_t width = 0, most = 0;
  for (const TilePair& pair : pairs) {
    most = std::max(most, pair.size[0] * pair.size[1]);
    width = std::max(width, pair.size[2]);
  }
  const PlacedTiles<Exec> placed(exec, list);
  auto all_pairs = exec.copy_in(pairs.data(), static_cast<int64_t>(pairs.size()));
  return count_pairs(exec, static_cast<int64_t>(pairs.size()) * most, width,
                     TileLines{placed.tiles, all_pairs.data(), most});
}

/// All bits that the ids of each tile have; `first` is not used.
template <class Exec>
std::vector<int32_t> bits_of_ids(Exec& exec, const TileList& list) {
  const auto n = static_cast<int64_t>(list.data.size());
  const int64_t n_pixels = list.side[0] * list.side[1] * list.side[2];
  const int64_t n_pieces = (n_pixels + BitsOfIds::kPiece - 1) / BitsOfIds::kPiece;
  const PlacedTiles<Exec> placed(exec, list);
  auto bits = exec.template alloc<int32_t>(n);
  exec.fill(bits.data(), n, 0);
  exec.for_each_object(n * n_pieces, BitsOfIds{placed.tiles.data, n_pixels, n_pieces, bits.data()});
  return exec.copy_out(bits.data(), n);
}

/// Of each id.
struct TileSurvey {
  std::vector<int64_t> first_pixel;  ///< that it has in the image; INT64_MAX if none
  std::vector<int32_t> marks;        ///< of all regions that it lies in
};

template <class Exec>
TileSurvey survey_tiles(Exec& exec, const TileList& list, const ImageCores& image,
                        const std::vector<TileRegion>& regions) {
  const int64_t n_ids = list.first.back(), n_regions = static_cast<int64_t>(regions.size());
  const PlacedCores<Exec> placed(exec, list, image);
  auto first_pixel = exec.template alloc<int64_t>(n_ids);
  auto marks = exec.template alloc<int32_t>(n_ids);
  auto all_regions = exec.copy_in(regions.data(), n_regions);
  exec.fill(first_pixel.data(), n_ids, INT64_MAX);
  exec.fill(marks.data(), n_ids, 0);
  exec.for_each_core_run(placed.cores, FindFirst{first_pixel.data()});
  exec.for_each_object(n_regions,
                       MarkRegions{placed.cores.tiles, all_regions.data(), marks.data()});
  return {exec.copy_out(first_pixel.data(), n_ids), exec.copy_out(marks.data(), n_ids)};
}

template <class Exec>
void compose_tiles(Exec& exec, const TileList& list, const ImageCores& image,
                   const std::vector<int32_t>& map, int32_t* out) {
  const PlacedCores<Exec> placed(exec, list, image);
  auto all_map = exec.copy_in(map.data(), static_cast<int64_t>(map.size()));
  exec.for_each_core_run(placed.cores, ComposeTiles{all_map.data(), out});
  exec.read(all_map.data());  // the tables are needed until the work is done
}

}  // namespace cellpost
