#include <gtest/gtest.h>

#include <string>

#include "core/hash.h"

using namespace filigree;

// Sums of the reference implementation (xxhsum -H1), seed 0.
TEST(Hash, KnownSums) {
  EXPECT_EQ(hex64(xxhash64(nullptr, 0)), "ef46db3751d8e999");
  EXPECT_EQ(hex64(xxhash64("a", 1)), "d24ec4f1a98c6e5b");
  EXPECT_EQ(hex64(xxhash64("abc", 3)), "44bc2cf5ad770999");
  EXPECT_EQ(hex64(7), "0000000000000007");
}

TEST(Hash, PiecesAddUp) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 31 + i / 7);
  for (const std::size_t piece : {1u, 7u, 32u, 1000u, 5000u}) {
    Xxhash64 hash;
    for (std::size_t i = 0; i < text.size(); i += piece)
      hash.update(text.data() + i, std::min(piece, text.size() - i));
    EXPECT_EQ(hash.digest(), xxhash64(text.data(), text.size())) << piece;
  }
}
