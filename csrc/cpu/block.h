// How images are cut for the kernels of the CPU.
#pragma once

#include <cstdint>

namespace cellpost::cpu {

/// Half-open range of rows (z and y together) and columns.
struct Block {
  int64_t row_begin, row_end, col_begin, col_end;
};

/// Blocks whose surroundings stay in the cache while they are worked on.
constexpr int64_t kBlockColumns = 256;

}  // namespace cellpost::cpu
