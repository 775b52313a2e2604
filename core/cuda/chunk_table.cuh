// Kernels over many tensors in one launch. The tensors are listed in a kernel parameter, cut into chunks of
// equal size, one block each; a chunk belongs to one tensor.
#pragma once

#include <cstdint>

#include "core/cuda/cuda.h"

namespace filigree::cuda {

inline constexpr int kChunkThreads = 256;
inline constexpr std::int64_t kChunk = 1 << 14;  // elements

// Entry describes a tensor and has its number of elements, n.
template <class Entry, int kMax>
struct ChunkTable {
  Entry entries[kMax];
  int first_chunk[kMax];
  int size = 0;
  int chunks = 0;

  bool full() const { return size == kMax; }
  void add(const Entry& entry) {
    entries[size] = entry;
    first_chunk[size] = chunks;
    chunks += static_cast<int>(divide_up(entry.n, kChunk));
    ++size;
  }

  // The tensor that a chunk belongs to: the last that begins at the chunk or before. None is empty.
  __device__ int find(int chunk) const {
    int low = 0, high = size - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_chunk[middle] <= chunk)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
};

// Calls launch(table) for tables that together list all tensors: entry_of(tensor) for each that is not empty
// and for which wanted(tensor) holds.
template <class Table, class Tensors, class Wanted, class EntryOf, class Launch>
void for_chunk_tables(const Tensors& tensors, Wanted wanted, EntryOf entry_of, Launch launch) {
  Table table;
  for (const auto& t : tensors) {
    if (!wanted(t)) continue;
    const auto entry = entry_of(t);
    if (entry.n == 0) continue;
    if (table.full()) {
      launch(table);
      table.size = table.chunks = 0;
    }
    table.add(entry);
  }
  if (table.size > 0) launch(table);
}

}  // namespace filigree::cuda
