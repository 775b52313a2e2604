#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <span>

#include "core/file.h"
#include "core/hdf5.h"
#include "tests/lsan_suppressions.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

class Hdf5 : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "filigree-hdf5-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
  }
  void TearDown() override { fs::remove_all(folder); }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path folder;
};

// The kind and text of the Error that f throws; a test failure if it throws none.
std::pair<ErrorKind, std::string> error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  ADD_FAILURE() << "no Error was thrown";
  return {ErrorKind::usage, ""};
}

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void spill(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
}

// Runs f in a child process; returns its wait status.
int in_child(const std::function<int()>& f) {
  const pid_t child = ::fork();
  if (child == 0) std::exit(f());  // exit handlers run: libhdf5 must survive those, too
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

template <class T>
void round_trip(const fs::path& path, const std::vector<T>& values, const h5::Dims& dims) {
  {
    h5::Writer writer(path);
    writer.dataset("group/values", dtype_of<T>(), dims, values.data());
    writer.commit();
  }
  const h5::Reader reader(path);
  const h5::DatasetInfo info = reader.info("group/values");
  EXPECT_EQ(info.type, dtype_of<T>());
  EXPECT_EQ(info.dims, dims);
  std::vector<T> back(values.size());
  reader.read("group/values", dtype_of<T>(), std::ssize(back), back.data());
  const auto bytes = [](const std::vector<T>& v) { return std::as_bytes(std::span(v)); };
  EXPECT_TRUE(std::ranges::equal(bytes(back), bytes(values))) << dtype_name(info.type);
}

template <class T>
std::vector<T> random_bits(std::mt19937_64& rng, std::size_t count) {
  std::vector<T> values(count);
  for (T& value : values) {
    const std::uint64_t bits = rng();
    std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  }
  return values;
}

TEST_F(Hdf5, AFileInMemoryIsReadLikeOneOnDisk) {
  const fs::path path = folder / "a.h5";
  const std::vector<std::int32_t> values = {3, -1, 4};
  h5::Writer writer(path);
  writer.attribute("/", "n", std::int64_t{7});
  writer.dataset("x/y", DType::i32, {3}, values.data());
  writer.commit();
  const std::string bytes = slurp(path);
  const h5::Reader reader(bytes, path);  // the file may be there or not
  fs::remove(path);
  const h5::Reader again(bytes, path);
  for (const h5::Reader* r : {&reader, &again}) {
    EXPECT_EQ(r->integer("/", "n"), 7);
    std::vector<std::int32_t> read(3);
    r->read("x/y", DType::i32, 3, read.data());
    EXPECT_EQ(read, values);
    EXPECT_NE(error_of([&] { r->info("z"); }).second.find("a.h5: there is no dataset /z"), std::string::npos);
  }
  EXPECT_TRUE(files().empty());
  for (const std::string& bad : {std::string(), bytes.substr(0, 100), std::string(500, 'x')})
    EXPECT_EQ(error_of([&] { h5::Reader(bad, path); }).first, ErrorKind::data);
}

TEST_F(Hdf5, RoundTripsEveryDtypeBitForBit) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 rng(seed);
  const fs::path path = folder / "a.h5";
  const auto all = [&](const h5::Dims& dims) {
    const auto count = static_cast<std::size_t>(h5::DatasetInfo{DType::u8, dims}.count());
    round_trip(path, random_bits<float>(rng, count), dims);  // includes NaN payloads and denormals
    round_trip(path, random_bits<double>(rng, count), dims);
    round_trip(path, random_bits<bf16>(rng, count), dims);
    round_trip(path, random_bits<std::int32_t>(rng, count), dims);
    round_trip(path, random_bits<std::int64_t>(rng, count), dims);
    round_trip(path, random_bits<std::uint8_t>(rng, count), dims);
    round_trip(path, random_bits<std::uint16_t>(rng, count), dims);
    round_trip(path, random_bits<std::uint32_t>(rng, count), dims);
  };
  all({});
  all({1});
  all({0});
  all({3, 0, 5});
  all({7, 11, 13});
  all({1, 2, 1, 3, 1, 2, 1, 5});
  EXPECT_EQ(files(), std::vector<std::string>{"a.h5"});
}

TEST_F(Hdf5, KeepsAttributesTextAndGroups) {
  const fs::path path = folder / "a.h5";
  const std::string long_text(100'000, 'x'), with_nul("a\0b", 3), utf8 = "für 日本";
  {
    h5::Writer writer(path);
    writer.attribute("/", "whole", std::numeric_limits<std::int64_t>::min());
    writer.attribute("", "real", -0.1);
    writer.attribute("deep/er", "name", utf8);
    writer.attribute("deep/er", "empty", std::string());
    writer.text("deep/text", long_text);
    writer.text("nul", with_nul);
    writer.text("none", "");
    writer.attribute("deep/text", "on a dataset", std::int64_t{5});
    writer.commit();
  }
  const h5::Reader reader(path);
  EXPECT_EQ(reader.integer("/", "whole"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(reader.number("/", "real"), -0.1);
  EXPECT_EQ(reader.string("/deep/er/", "name"), utf8);
  EXPECT_EQ(reader.string("deep/er", "empty"), "");
  EXPECT_EQ(reader.integer("deep/text", "on a dataset"), 5);
  EXPECT_EQ(reader.text("deep/text"), long_text);
  EXPECT_EQ(reader.text("nul"), with_nul);
  EXPECT_EQ(reader.text("none"), "");
  EXPECT_EQ(reader.children("/"), (std::vector<std::string>{"deep", "none", "nul"}));
  EXPECT_EQ(reader.children("deep"), (std::vector<std::string>{"er", "text"}));
  EXPECT_TRUE(reader.has("deep/text"));
  EXPECT_FALSE(reader.has("deep/none"));
  EXPECT_FALSE(reader.has("no/such/path"));
  EXPECT_TRUE(reader.has_attribute("/", "whole"));
  EXPECT_FALSE(reader.has_attribute("/", "hole"));
  EXPECT_EQ(error_of([&] { reader.number("/", "whole"); }).first, ErrorKind::data);
  EXPECT_EQ(error_of([&] { reader.string("/", "whole"); }).first, ErrorKind::data);
  EXPECT_NE(error_of([&] { reader.integer("/", "hole"); }).second.find("no attribute 'hole'"),
            std::string::npos);
  EXPECT_NE(error_of([&] { reader.info("nowhere"); }).second.find("no dataset /nowhere"), std::string::npos);
  EXPECT_NE(error_of([&] { reader.info("deep"); }).second.find("not a dataset"), std::string::npos);
}

TEST_F(Hdf5, AppendsAndSlices) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937_64 rng(seed);
  for (const std::size_t length : {0ul, 1ul, 131'071ul, 131'072ul, 131'073ul, 600'001ul}) {
    const fs::path path = folder / "a.h5";
    const auto tokens = random_bits<std::uint16_t>(rng, length);
    std::vector<std::int64_t> offsets;
    {
      h5::Writer writer(path);
      writer.begin_append("tokens", DType::u16);
      writer.begin_append("offsets", DType::i64);
      for (std::size_t at = 0; at < length;) {  // two streams at once, pieces from 0 to beyond a chunk
        const std::size_t piece = std::min<std::size_t>(length - at, rng() % (1u << (rng() % 19)));
        writer.append("tokens", tokens.data() + at, static_cast<std::int64_t>(piece));
        offsets.push_back(static_cast<std::int64_t>(at));
        writer.append("offsets", &offsets.back(), 1);
        at += piece;
      }
      writer.commit();
    }
    const h5::Reader reader(path);
    EXPECT_EQ(reader.info("tokens").dims, h5::Dims{static_cast<std::int64_t>(length)});
    std::vector<std::uint16_t> whole(length);
    reader.read("tokens", DType::u16, std::ssize(whole), whole.data());
    EXPECT_EQ(whole, tokens);
    std::vector<std::int64_t> back(offsets.size());
    reader.read("offsets", DType::i64, std::ssize(back), back.data());
    EXPECT_EQ(back, offsets);
    for (int trial = 0; trial < 50; ++trial) {
      const std::size_t begin = rng() % (length + 1), count = rng() % (length - begin + 1);
      std::vector<std::uint16_t> slice(count);
      reader.read_slice("tokens", DType::u16, static_cast<std::int64_t>(begin), std::ssize(slice),
                        slice.data());
      EXPECT_TRUE(
          std::equal(slice.begin(), slice.end(), tokens.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
}

TEST_F(Hdf5, TypeAndCountMustMatch) {
  const fs::path path = folder / "a.h5";
  const std::vector<float> values(6, 1.0f);
  h5::Writer writer(path);
  writer.dataset("v", DType::f32, {2, 3}, values.data());
  writer.commit();
  const h5::Reader reader(path);
  std::vector<double> out(6);
  EXPECT_EQ(error_of([&] { reader.read("v", DType::f64, 6, out.data()); }).first, ErrorKind::data);
  EXPECT_EQ(error_of([&] { reader.read("v", DType::f32, 5, out.data()); }).first, ErrorKind::data);
  EXPECT_EQ(error_of([&] { reader.read_slice("v", DType::f32, 0, 1, out.data()); }).first, ErrorKind::data);
  EXPECT_EQ(error_of([&] { reader.text("v"); }).first, ErrorKind::data);
}

TEST_F(Hdf5, WithoutCommitTheTargetIsUntouched) {
  const fs::path path = folder / "a.h5";
  spill(path, "what was here before");
  {
    h5::Writer writer(path);
    writer.text("t", std::string(1'000'000, 'x'));
    writer.begin_append("s", DType::u8);
    writer.append("s", "abc", 3);
    EXPECT_EQ(slurp(path), "what was here before");
    EXPECT_EQ(files().size(), 2u);
  }
  EXPECT_EQ(slurp(path), "what was here before");
  EXPECT_EQ(files(), std::vector<std::string>{"a.h5"});
}

TEST_F(Hdf5, SameContentGivesTheSameBytes) {
  for (const char* name : {"a.h5", "b.h5"}) {
    h5::Writer writer(folder / name);
    writer.attribute("g", "x", 1.5);
    writer.text("g/t", "text");
    writer.commit();
  }
  EXPECT_EQ(slurp(folder / "a.h5"), slurp(folder / "b.h5"));
}

TEST_F(Hdf5, RefusesMissingEmptyGarbageAndTruncatedFiles) {
  const fs::path good = folder / "good.h5", path = folder / "bad.h5";
  const auto opening = [&] { return error_of([&] { h5::Reader reader(path); }); };
  const auto expect = [&](const std::string& words) {
    const auto [kind, text] = opening();
    EXPECT_EQ(kind, ErrorKind::data);
    EXPECT_NE(text.find("bad.h5"), std::string::npos) << text;
    EXPECT_NE(text.find(words), std::string::npos) << text;
  };
  expect("no such file");
  fs::create_directory(path);
  expect("not a regular file");
  fs::remove(path);
  spill(path, "");
  expect("empty");
  spill(path, std::string(5000, 'g'));
  expect("not an HDF5 file");

  h5::Writer writer(good);
  writer.text("t", std::string(5000, 'x'));
  writer.attribute("a", "b", 1.0);
  writer.commit();
  const std::string whole = slurp(good);
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  for (int trial = 0; trial < 200; ++trial) {
    spill(path, whole.substr(0, rng() % whole.size()));
    EXPECT_EQ(opening().first, ErrorKind::data);
  }
}

// tests/golden/hostile.h5 is written by make_hostile.c beside it.
TEST_F(Hdf5, RefusesWhatLeadsElsewhereOrClaimsTooMuch) {
  const h5::Reader reader(fs::path(FILIGREE_SOURCE_DIR) / "tests/golden/hostile.h5");
  const std::pair<const char*, const char*> refused[] = {{"filter", "filter 5"},
                                                         {"external_storage", "elsewhere"},
                                                         {"virtual", "elsewhere"},
                                                         {"huge", "more than the file holds"},
                                                         {"never_written", "more than the file holds"},
                                                         {"overflow", "impossible size"},
                                                         {"rank_9", "rank 9"},
                                                         {"null_space", "rank"},
                                                         {"variable_string", "element type"},
                                                         {"variable_length", "element type"},
                                                         {"big_endian", "element type"},
                                                         {"external_link", "link"},
                                                         {"soft_link", "link"}};
  for (const auto& [name, words] : refused) {
    const auto [kind, text] = error_of([&, path = name] { reader.info(path); });
    EXPECT_EQ(kind, ErrorKind::data) << name;
    EXPECT_NE(text.find(words), std::string::npos) << text;
    EXPECT_NE(text.find("hostile.h5"), std::string::npos) << text;
  }
  EXPECT_EQ(error_of([&] { reader.has("external_link/x"); }).first, ErrorKind::data);
  EXPECT_EQ(error_of([&] { reader.string("/", "variable"); }).first, ErrorKind::data);
  for (const char* name : {"good_deflate", "good_compact"}) {
    std::vector<std::int32_t> values(1000);
    reader.read(name, DType::i32, 1000, values.data());
    for (std::int32_t i = 0; i < 1000; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], i) << name;
  }
}

TEST_F(Hdf5, FoldersThatCannotBeWrittenAreDiskErrors) {
  EXPECT_EQ(error_of([&] { h5::Writer writer(folder / "none" / "a.h5"); }).first, ErrorKind::disk);
  fs::create_directory(folder / "a.h5");
  EXPECT_EQ(error_of([&] { h5::Writer writer(folder / "a.h5"); }).first, ErrorKind::disk);
}

// Reads whatever a file claims to hold. Errors are fine, crashes and huge allocations are not.
void read_everything(const h5::Reader& reader, const std::string& group, int depth) {
  for (const std::string& name : reader.children(group)) {
    const std::string path = group + "/" + name;
    try {
      const h5::DatasetInfo info = reader.info(path);
      ASSERT_LE(info.count() * dtype_size(info.type), 1 << 20) << path;
      std::vector<std::byte> out(static_cast<std::size_t>(info.count() * dtype_size(info.type)));
      reader.read(path, info.type, info.count(), out.data());
      if (info.dims.size() == 1 && info.dims[0] > 2)
        reader.read_slice(path, info.type, 1, info.dims[0] - 2, out.data());
    } catch (const Error&) {
      if (depth < 4) read_everything(reader, path, depth + 1);
    }
  }
}

TEST_F(Hdf5, SurvivesMutatedFiles) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 rng(seed);
  const fs::path good = folder / "good.h5", path = folder / "bad.h5";
  {
    h5::Writer writer(good);
    writer.attribute("/", "name", std::string("value"));
    writer.attribute("g", "count", std::int64_t{7});
    const std::vector<float> values(60, 2.5f);
    for (int i = 0; i < 12; ++i)
      writer.dataset(fmt::format("g/h/{}", i), DType::f32, {3, 4, 5}, values.data());
    writer.begin_append("tokens", DType::u16);
    const std::vector<std::uint16_t> tokens(300, 9);
    writer.append("tokens", tokens.data(), 300);
    writer.commit();
  }
  const std::string whole = slurp(good);
  int opened = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string bytes = whole;
    const int n_changes = 1 + static_cast<int>(rng() % 3);
    for (int i = 0; i < n_changes; ++i) {
      // Half of them near the start, where the superblock and the root are.
      const std::size_t at = rng() % (i % 2 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 700));
      bytes[at] = static_cast<char>(rng() % 4 == 0 ? 0xff : rng());
    }
    spill(path, bytes);
    try {
      const h5::Reader reader(path);
      ++opened;
      if (reader.has_attribute("/", "name")) reader.string("/", "name");
      if (reader.has_attribute("g", "count")) reader.integer("g", "count");
      read_everything(reader, "", 0);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::data);
    }
  }
  EXPECT_GT(opened, 100);  // else the test would not reach the reading at all
}

TEST_F(Hdf5, KilledWriterLeavesTheOldFile) {
  const fs::path path = folder / "a.h5";
  {
    h5::Writer writer(path);
    writer.text("t", "old");
    writer.commit();
  }
  const std::string before = slurp(path);
  for (int trial = 0; trial < 5; ++trial) {
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      h5::Writer writer(path);
      writer.begin_append("tokens", DType::u8);
      const std::vector<std::uint8_t> block(1 << 20, 1);
      for (int i = 0; i < 64; ++i) {
        writer.append("tokens", block.data(), std::ssize(block));
        if (i == trial && ::write(pipe_ends[1], "x", 1) != 1) ::_exit(1);
      }
      for (;;) ::pause();  // never commits
    }
    char byte = 0;
    ASSERT_EQ(::read(pipe_ends[0], &byte, 1), 1);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(pipe_ends[0]);
    ::close(pipe_ends[1]);
    EXPECT_EQ(slurp(path), before);
    EXPECT_EQ(h5::Reader(path).text("t"), "old");
    EXPECT_EQ(files().size(), 2u) << "one temporary file of the killed writer, none of earlier ones";
  }
  h5::Writer live(folder / "b.h5");
  remove_stale_temporaries(folder);
  EXPECT_EQ(files().size(), 2u);  // a.h5 and what the live writer holds
  live.text("t", "new");
  live.commit();
  EXPECT_EQ(h5::Reader(folder / "b.h5").text("t"), "new");
}

// Writes more than `path` has room for, in three ways; each must be Error(disk) and leave `path` as it was.
int fill_disk(const fs::path& path) {
  const std::string before = slurp(path);
  const std::vector<std::uint8_t> large(4 << 20, 1);
  const std::function<void(h5::Writer&)> ways[] = {
      [&](h5::Writer& writer) { writer.dataset("d", DType::u8, {std::ssize(large)}, large.data()); },
      [&](h5::Writer& writer) {
        writer.begin_append("s", DType::u8);
        for (std::size_t at = 0; at < large.size(); at += 1000)
          writer.append("s", &large[at],
                        static_cast<std::int64_t>(std::min<std::size_t>(1000, large.size() - at)));
      },
      [&](h5::Writer& writer) {  // metadata, which libhdf5 keeps back until the end
        for (int i = 0; i < 400; ++i) writer.attribute(fmt::format("g{}", i), "a", std::string(30'000, 'x'));
      }};
  for (const auto& way : ways) {
    bool refused = false;
    try {
      h5::Writer writer(path);
      way(writer);
      writer.commit();
    } catch (const Error& error) {
      refused = error.kind() == ErrorKind::disk;
      std::fprintf(stderr, "  %s\n", error.what());
    }
    if (!refused || slurp(path) != before) return 1;
    const auto n_files = std::distance(fs::directory_iterator(path.parent_path()), fs::directory_iterator{});
    if (n_files != 1) return 2;  // the temporary file is gone
  }
  // And the library still works where there is room.
  h5::Writer writer(path);
  writer.text("t", "small");
  writer.commit();
  return h5::Reader(path).text("t") == "small" ? 0 : 3;
}

TEST_F(Hdf5, FileSizeLimitIsADiskError) {
  spill(folder / "a.h5", "old");
  const int status = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 9;
    return fill_disk(folder / "a.h5");
  });
  EXPECT_EQ(status, 0);
}

TEST_F(Hdf5, FullDiskIsADiskError) {
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (::mount("filigree-test", disk.c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "cannot mount a small tmpfs: " << std::strerror(errno);
  spill(disk / "a.h5", "old");
  const int status = in_child([&] { return fill_disk(disk / "a.h5"); });
  EXPECT_EQ(::umount(disk.c_str()), 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace filigree
