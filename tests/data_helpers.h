// What the tests of data/ share: a temporary folder, files, errors, random text.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <utility>

#include "core/check.h"
#include "data/dataset.h"

namespace filigree {

class TemporaryFolder : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "filigree-data-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    seed = std::random_device{}();
    rng.seed(seed);
    RecordProperty("seed", std::to_string(seed));
  }
  void TearDown() override {
    if (HasFailure()) std::fprintf(stderr, "seed %u\n", seed);
    std::filesystem::remove_all(folder);
  }

  std::filesystem::path put(const std::filesystem::path& relative, const std::string& bytes) {
    const auto path = folder / relative;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
    return path;
  }
  std::string random_text(std::size_t size) {
    std::string text(size, ' ');
    for (char& c : text) c = rng() % 9 == 0 ? '\n' : static_cast<char>('a' + rng() % 26);
    return text;
  }

  std::filesystem::path folder;
  unsigned seed = 0;
  std::mt19937 rng;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The kind and text of the Error that f throws; a test failure if it throws none.
inline std::pair<ErrorKind, std::string> error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  ADD_FAILURE() << "no Error was thrown";
  return {ErrorKind::usage, ""};
}

inline void expect_error(ErrorKind kind, const std::string& words, const std::function<void()>& f) {
  const auto [got, text] = error_of(f);
  EXPECT_EQ(got, kind) << text;
  EXPECT_NE(text.find(words), std::string::npos) << "no '" << words << "' in: " << text;
}

inline std::vector<std::int32_t> all_tokens(const Dataset& dataset) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.n_tokens()));
  dataset.read(0, dataset.n_tokens(), ids.data());
  return ids;
}

// The text of document d, without its separator.
inline std::string document_text(const Dataset& dataset, std::int64_t d) {
  const auto ids = all_tokens(dataset);
  const std::vector<std::uint32_t> piece(ids.begin() + dataset.document_begin(d),
                                         ids.begin() + dataset.document_end(d));
  return dataset.tokenizer()->decode(piece);
}

}  // namespace filigree
