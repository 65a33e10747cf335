// Counting pairs of ids.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cellpost::cpu {

/// Sums by key, in a table with open addressing.
class PairTable {
 public:
  void add(int64_t key, int64_t count) {
    if (2 * n_ >= static_cast<int64_t>(slots_.size())) grow();
    Slot& slot = find(key);
    if (slot.count == 0) slot.key = key, ++n_;
    slot.count += count;
  }
  int64_t size() const { return n_; }
  /// Keeps no more than the pairs; nothing is added any more.
  void close() {
    slots_.erase(std::remove_if(slots_.begin(), slots_.end(),
                                [](const Slot& slot) { return slot.count == 0; }),
                 slots_.end());
    slots_.shrink_to_fit();
  }
  int64_t write(int64_t* keys, int64_t* counts) const {
    for (size_t i = 0; i < slots_.size(); ++i) keys[i] = slots_[i].key, counts[i] = slots_[i].count;
    return size();
  }

 private:
  struct Slot {
    int64_t key, count;
  };

  Slot& find(int64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t at = (static_cast<uint64_t>(key) * 0x9e3779b97f4a7c15u) >> 20 & mask;
    while (slots_[at].count != 0 && slots_[at].key != key) at = (at + 1) & mask;
    return slots_[at];
  }
  void grow() {
    std::vector<Slot> old(std::max<size_t>(64, 2 * slots_.size()));
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.count != 0) find(slot.key) = slot;
    }
  }

  std::vector<Slot> slots_;
  int64_t n_ = 0;
};

}  // namespace cellpost::cpu
