#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "data/sources.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

class SourcesTest : public TemporaryFolder {
 protected:
  std::vector<std::string> names(const Sources& sources) {
    std::vector<std::string> out;
    for (const SourceFile& file : sources.files) out.push_back(file.relative);
    return out;
  }
  Sources find(const std::string& below = "") { return find_sources({(folder / below).string()}); }
};

using Names = std::vector<std::string>;

TEST_F(SourcesTest, WalksFoldersInAFixedOrderAndCountsWhatItSkips) {
  put("b.txt", "bb");
  put("a/z", "z");
  put("a/y.txt", "yyy");
  put("c/d/e", "e");
  put(".hidden/x", "x");
  put("c/.secret", "x");
  put("empty", "");
  put("binary", std::string("ab\0cd", 5));
  put("late-nul", std::string(9000, 'x') + std::string(1, '\0'));  // after the first 8 KiB: text
  fs::create_symlink("nowhere", folder / "dangling");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  const Sources sources = find();
  EXPECT_EQ(names(sources), (Names{"a/y.txt", "a/z", "b.txt", "c/d/e", "late-nul"}));
  EXPECT_EQ(sources.bytes, 3 + 1 + 2 + 1 + 9001);
  EXPECT_EQ(sources.n_binary, 1);
  EXPECT_EQ(sources.n_empty, 1);
  EXPECT_EQ(sources.n_other, 2);
  EXPECT_EQ(sources.describe(), "5 files, 9.0 kB (skipped: 1 binary, 1 empty, 2 neither file nor folder)");
}

TEST_F(SourcesTest, FollowsLinksOnceAndSurvivesLoops) {
  put("a/x", "x");
  fs::create_directory_symlink("..", folder / "a" / "up");
  fs::create_directory_symlink("a", folder / "b");
  fs::create_symlink("loop", folder / "loop");
  fs::create_symlink("a/x", folder / "x-again");
  fs::create_hard_link(folder / "a" / "x", folder / "x-hard");
  const Sources sources =
      find_sources({folder.string(), (folder / "a").string(), (folder / "x-again").string()});
  EXPECT_EQ(names(sources), Names{"a/x"});
  EXPECT_EQ(sources.n_other, 1);
}

TEST_F(SourcesTest, ExpandsGlobsTildeAndLiteralNames) {
  put("data/a.txt", "a");
  put("data/b.txt", "b");
  put("data/c.md", "c");
  put("data/d.txt", std::string(3, '\0'));
  put("data/[x]*.txt", "literal");
  EXPECT_EQ(names(find("data/?.txt")), (Names{"a.txt", "b.txt"}));
  EXPECT_EQ(find("data/?.txt").n_binary, 1);  // found, not named: skipped
  EXPECT_EQ(names(find("data/[x]*.txt")), Names{"[x]*.txt"});
  EXPECT_EQ(names(find("da*")), (Names{"[x]*.txt", "a.txt", "b.txt", "c.md"}));
  const std::string home = std::getenv("HOME") ? std::getenv("HOME") : "";
  ASSERT_EQ(::setenv("HOME", folder.c_str(), 1), 0);
  EXPECT_EQ(names(find_sources({"~/data/c.md"})), Names{"c.md"});
  EXPECT_EQ(names(find_sources({"~/data/*.md"})), Names{"c.md"});
  ::setenv("HOME", home.c_str(), 1);
}

TEST_F(SourcesTest, SaysWhatIsWrongWithTheInput) {
  put("empty", "");
  put("binary", std::string(3, '\0'));
  put("only/skipped", std::string(3, '\0'));
  fs::create_directory(folder / "bare");
  expect_error(ErrorKind::data, "no such file or folder", [&] { find("none"); });
  expect_error(ErrorKind::data, "matches no file", [&] { find("none*"); });
  expect_error(ErrorKind::data, "the file is empty", [&] { find("empty"); });
  expect_error(ErrorKind::data, "not text", [&] { find("binary"); });
  expect_error(ErrorKind::data, "no text to read: 0 files, 0B", [&] { find("bare"); });
  expect_error(ErrorKind::data, "1 binary", [&] { find("only"); });
  expect_error(ErrorKind::data, "no input", [&] { find_sources({}); });
  expect_error(ErrorKind::data, "neither a file nor a folder", [&] { find_sources({"/dev/null"}); });
  expect_error(ErrorKind::data, "no such file", [&] { find_sources({""}); });
}

// Root reads everything, so the test gives up its rights in a child process.
TEST_F(SourcesTest, UnreadableFilesAreErrors) {
  fs::permissions(put("in/secret", "x"), fs::perms::none);
  put("in/open", "x");
  fs::permissions(folder, fs::perms::all);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(9);
    try {
      find_sources({(folder / "in").string()});
    } catch (const Error& error) {
      const std::string text = error.what();
      ::_exit(error.kind() == ErrorKind::data && text.find("secret: Permission denied") != std::string::npos
                  ? 0
                  : 1);
    }
    ::_exit(2);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(SourcesTest, ReadsTheStandardLibrarysHeaders) {
  const fs::path headers = "/usr/include/c++";
  if (!fs::is_directory(headers)) GTEST_SKIP() << "no " << headers;
  const Sources sources = find_sources({headers.string()});
  EXPECT_GT(sources.files.size(), 300u);
  EXPECT_TRUE(std::any_of(sources.files.begin(), sources.files.end(),
                          [](const SourceFile& file) { return file.path.filename() == "vector"; }));
  const auto [train, validation] = split_sources(sources, 0.05, 1);
  EXPECT_NEAR(static_cast<double>(validation.bytes) / static_cast<double>(sources.bytes), 0.05, 0.01);
}

TEST_F(SourcesTest, SplitsByFileDeterministicallyAndNearTheFraction) {
  for (int i = 0; i < 300; ++i) put(fmt::format("in/{}", i), random_text(1 + rng() % 4000));
  const Sources all = find("in");
  for (const double fraction : {0.01, 0.05, 0.3, 0.9}) {
    const auto [train, validation] = split_sources(all, fraction, 7);
    EXPECT_NEAR(static_cast<double>(validation.bytes), fraction * static_cast<double>(all.bytes), 4000);
    EXPECT_EQ(train.bytes + validation.bytes, all.bytes);
    Names both = names(train), theirs = names(validation);
    both.insert(both.end(), theirs.begin(), theirs.end());
    std::sort(both.begin(), both.end());
    Names expected = names(all);
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(both, expected);
    EXPECT_EQ(names(split_sources(all, fraction, 7).second), names(validation));
    EXPECT_NE(names(split_sources(all, fraction, 8).second), names(validation));
  }
  // Where the folder lies does not matter.
  fs::rename(folder / "in", folder / "moved");
  EXPECT_EQ(names(split_sources(find("moved"), 0.3, 7).second), names(split_sources(all, 0.3, 7).second));
  expect_error(ErrorKind::usage, "between 0 and 1", [&] { split_sources(all, 1.0, 1); });
}

TEST_F(SourcesTest, BothSidesOfASplitGetAFile) {
  for (int trial = 0; trial < 40; ++trial) {
    fs::remove_all(folder / "in");
    const int n = 2 + static_cast<int>(rng() % 3);
    for (int i = 0; i < n; ++i) put(fmt::format("in/{}", i), random_text(1 + rng() % 1000));
    for (const double fraction : {0.001, 0.5, 0.999}) {
      const auto [train, validation] = split_sources(find("in"), fraction, rng());
      EXPECT_GE(train.files.size(), 1u);
      EXPECT_GE(validation.files.size(), 1u);
    }
  }
}

std::size_t ends_of_lines(std::string_view text) {
  return text.rfind('\n') + 1;  // 0 if there is none
}

std::string read_all(const Sources& sources) {
  std::string text;
  for (const SourceFile& file : sources.files)
    read_blocks(file, ends_of_lines, [&](std::string_view block) { text += block; });
  return text;
}

TEST_F(SourcesTest, ASingleFileIsCutAtALine) {
  const std::string text = random_text(10'000);
  put("one", text);
  const auto [train, validation] = split_sources(find("one"), 0.1, 1);
  const std::string head = read_all(train), tail = read_all(validation);
  EXPECT_EQ(head + tail, text);
  EXPECT_EQ(head.back(), '\n');
  EXPECT_NEAR(static_cast<double>(tail.size()), 1000, 150);
  put("long-line", std::string(1000, 'x'));
  EXPECT_EQ(split_sources(find("long-line"), 0.1, 1).second.bytes, 100);
  put("two", "ab");
  EXPECT_EQ(split_sources(find("two"), 0.9, 1).second.bytes, 1);
  put("byte", "a");
  expect_error(ErrorKind::data, "too small", [&] { split_sources(find("byte"), 0.5, 1); });
}

TEST_F(SourcesTest, ReadsBlocksThatEndAtBorders) {
  for (const std::size_t size : {1ul, 100ul, 4ul << 20, (4ul << 20) + 1, (9ul << 20) + 12345}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; i += 1 + rng() % 5000) text[i] = '\n';
    put("text", text);
    const SourceFile whole = find("text").files.front();
    std::string back;
    std::int64_t n_blocks = 0;
    read_blocks(whole, ends_of_lines, [&](std::string_view block) {
      EXPECT_LE(block.size(), 4ul << 20);
      back += block;
      ++n_blocks;
      EXPECT_TRUE(back.size() == size || block.back() == '\n');
    });
    EXPECT_EQ(back, text);
    EXPECT_LE(n_blocks, 1 + static_cast<std::int64_t>(size >> 21));
    const SourceFile part{whole.path, "", static_cast<std::int64_t>(size / 3),
                          static_cast<std::int64_t>(size / 2)};
    std::string piece;
    read_blocks(part, ends_of_lines, [&](std::string_view block) { piece += block; });
    EXPECT_EQ(piece, text.substr(size / 3, size / 2));
  }
  // Without a border there is one block.
  put("text", std::string(9ul << 20, 'x') + "\nend");
  std::vector<std::size_t> sizes;
  read_blocks(find("text").files.front(), ends_of_lines,
              [&](std::string_view b) { sizes.push_back(b.size()); });
  EXPECT_EQ(sizes, (std::vector<std::size_t>{(9ul << 20) + 4}));
  SourceFile longer = find("text").files.front();
  longer.bytes += 1;
  expect_error(ErrorKind::data, "became shorter",
               [&] { read_blocks(longer, ends_of_lines, [](std::string_view) {}); });
  fs::remove(folder / "text");
  expect_error(ErrorKind::data, "No such file",
               [&] { read_blocks(longer, ends_of_lines, [](std::string_view) {}); });
}

}  // namespace
}  // namespace filigree
