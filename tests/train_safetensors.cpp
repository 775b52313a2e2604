// The safetensors reader against files that are wrong, and the writer against the reader.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>
#include <source_location>

#include "tests/gradcheck.h"
#include "tests/temporary_folder.h"
#include "train/interchange/safetensors.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

std::string bytes_of(std::uint64_t length) {
  return {reinterpret_cast<const char*>(&length), 8};
}

std::string file_of(const std::string& header, const std::string& data) {
  return bytes_of(header.size()) + header + data;
}

std::string zeros(std::size_t n) {
  return std::string(n, '\0');
}

// {"a": F32 [2, 3], "b": F32 [2]} in 32 bytes, with what a test changes.
Json good_header() {
  return Json::parse(R"({"__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]}})");
}

class SafetensorsTest : public testing::Test {
 protected:
  std::string error_of(const std::string& bytes) {
    spill(folder_ / "x.safetensors", bytes);
    return error_text(ErrorKind::data, [&] { SafetensorsFile{folder_ / "x.safetensors"}; });
  }
  std::string header_error(const std::string& header, std::size_t data_bytes = 32) {
    return error_of(file_of(header, zeros(data_bytes)));
  }
  // The error of the good header after `change`.
  std::string changed_error(const std::function<void(Json&)>& change) {
    Json header = good_header();
    change(header);
    return header_error(header.dump());
  }
  // Reads every tensor of a file of these bytes; anything but success and Error(data) fails the test.
  bool reads(const std::string& bytes) {
    const auto path = folder_ / "m.safetensors";
    spill(path, bytes);
    try {
      const SafetensorsFile file(path);
      for (const auto& entry : file.entries()) {
        std::vector<float> values(static_cast<std::size_t>(entry.end - entry.begin));
        file.read(entry, values.data());
      }
      return true;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::data) << e.what();
      EXPECT_NE(std::string(e.what()).find("m.safetensors"), std::string::npos) << e.what();
      return false;
    }
  }
  void mutate(int count);

  TemporaryFolder folder_;
};

void expect_has(const std::string& text, const std::string& part,
                std::source_location at = std::source_location::current()) {
  EXPECT_NE(text.find(part), std::string::npos) << "line " << at.line() << ": " << text;
}

TEST_F(SafetensorsTest, TheHeaderUnchangedIsRead) {
  spill(folder_ / "x.safetensors", file_of(good_header().dump() + "  ", zeros(32)));
  const SafetensorsFile file(folder_ / "x.safetensors");
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.entries()[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.entries()[1].name, "b");
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST_F(SafetensorsTest, CutFiles) {
  const std::string whole = file_of(good_header().dump(), zeros(32));
  expect_has(error_of(""), "0 bytes, too few");
  expect_has(error_of(whole.substr(0, 7)), "7 bytes, too few");
  expect_has(error_of(whole.substr(0, 50)), "is cut");
  expect_has(error_of(whole.substr(0, whole.size() - 1)), "is cut: tensor \"b\" ends at byte 32 of 31");
  expect_has(error_of(whole + "x"), "1 bytes follow the last tensor");
  expect_has(error_text(ErrorKind::data, [&] { SafetensorsFile{folder_ / "none"}; }), "cannot be read");
  expect_has(error_text(ErrorKind::data, [&] { SafetensorsFile{folder_.path()}; }), "not a regular file");
}

TEST_F(SafetensorsTest, HeadersOfTheWrongSize) {
  expect_has(error_of(bytes_of(100'000'001) + zeros(100)), "100000001 bytes; at most 100000000");
  expect_has(error_of(bytes_of(~0ull) + zeros(100)), "at most 100000000");
  expect_has(error_of(bytes_of(100'000'000) + zeros(100)), "is cut");
  expect_has(error_of(bytes_of(0) + zeros(8)), "does not begin with '{'");
}

TEST_F(SafetensorsTest, HeadersThatAreNoJson) {
  expect_has(header_error(" {}"), "does not begin with '{'");
  expect_has(header_error("[]"), "does not begin with '{'");
  expect_has(header_error("{"), "not JSON");
  expect_has(header_error("{} {}"), "not JSON");
  expect_has(header_error("{\"a\": {\"dtype\": \"F3\xff\"}}"), "UTF-8");
  expect_has(header_error("{\"\xc0\xaf\": {}}"), "UTF-8");
  expect_has(header_error(std::string("{\"a\0\": {}}", 10)), "not JSON");
  expect_has(header_error("{\"a\": " + std::string(1'000'000, '[')), "a list where none belongs");
  std::string nested = "{";
  for (int i = 0; i < 100'000; ++i) nested += "\"a\":{";
  expect_has(header_error(nested), "unknown field \"a\"");
}

TEST_F(SafetensorsTest, NamesThatAppearTwice) {
  const std::string a = R"("a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})";
  expect_has(header_error("{" + a + ", " + a + "}"), "the name \"a\" appears twice");
  expect_has(header_error(R"({"a": {"dtype": "F32", "dtype": "F64"}})"), "tensor \"a\": has dtype twice");
  expect_has(header_error(R"({"a": {"shape": [1], "shape": [1]}})"), "has shape twice");
  expect_has(header_error(R"({"__metadata__": {"x": "1", "x": "2"}})"), "__metadata__ has \"x\" twice");
  expect_has(header_error(R"({"__metadata__": {}, "__metadata__": {}})"), "appears twice");
}

TEST_F(SafetensorsTest, FieldsThatAreMissingOrWrong) {
  for (const char* field : {"dtype", "shape", "data_offsets"})
    expect_has(changed_error([&](Json& h) { h["a"].erase(field); }),
               fmt::format("tensor \"a\": lacks {}", field));
  expect_has(changed_error([](Json& h) { h["a"]["more"] = 1; }), "unknown field \"more\"");
  expect_has(changed_error([](Json& h) { h["a"]["dtype"] = 32; }), "a number where none belongs");
  expect_has(changed_error([](Json& h) { h["a"]["dtype"] = "F33"; }), "unknown dtype \"F33\"");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = "6"; }), "a text where none belongs");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = 6; }), "a number where none belongs");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {6, nullptr}; }), "null where none belongs");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {-6}; }), "a negative number");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {6.0}; }), "no integer");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {true}; }), "true or false");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {{2, 3}}; }), "a list where none belongs");
  expect_has(changed_error([](Json& h) { h["a"]["shape"] = {1, 1, 1, 1, 1, 2, 3}; }),
             "more than 6 dimensions");
  expect_has(changed_error([](Json& h) { h["a"]["data_offsets"] = {0}; }), "not two numbers");
  expect_has(changed_error([](Json& h) { h["a"]["data_offsets"] = {0, 24, 24}; }), "not two numbers");
  expect_has(changed_error([](Json& h) { h["a"] = 5; }), "tensor \"a\": a number where none belongs");
  expect_has(changed_error([](Json& h) { h["a"] = Json::array({1}); }), "a list where none belongs");
  expect_has(changed_error([](Json& h) { h["__metadata__"]["x"] = 1; }), "__metadata__ holds a number");
  expect_has(changed_error([](Json& h) { h["__metadata__"]["x"] = Json::object(); }),
             "__metadata__ holds an object");
  expect_has(changed_error([](Json& h) { h["__metadata__"] = "x"; }), "a text where none belongs");
}

TEST_F(SafetensorsTest, ShapesThatOverflow) {
  const std::int64_t half = std::int64_t{1} << 32;
  expect_has(changed_error([&](Json& h) { h["a"]["shape"] = {half, half}; }), "its shape overflows");
  // 4 * 2^62 wraps around to 0.
  expect_has(changed_error([&](Json& h) { h["a"]["shape"] = {half, half / 4}; }), "its shape overflows");
  expect_has(changed_error([&](Json& h) { h["a"]["shape"] = {~0ull}; }), "a number is too large");
  expect_has(changed_error([&](Json& h) { h["a"]["data_offsets"] = {0, ~0ull}; }), "a number is too large");
  expect_has(
      header_error(R"({"a": {"dtype": "F32", "shape": [99999999999999999999999], "data_offsets": [0, 4]}})"),
      "no integer");
}

TEST_F(SafetensorsTest, OffsetsWithHolesOverlapOrTheWrongLength) {
  const auto offsets = [&](const char* name, std::int64_t begin, std::int64_t end) {
    return changed_error([&](Json& h) { h[name]["data_offsets"] = {begin, end}; });
  };
  expect_has(offsets("a", 0, 20), "tensor \"a\": data_offsets [0, 20] do not hold the 24 bytes of its shape");
  expect_has(offsets("a", 24, 0), "do not hold");
  expect_has(offsets("b", 20, 28), "tensor \"b\" overlaps the one before it");
  expect_has(offsets("b", 0, 8), "overlaps");
  expect_has(offsets("b", 28, 36), "a hole of 4 bytes before tensor \"b\"");
  expect_has(offsets("a", 32, 56), "a hole of 24 bytes before tensor \"b\"");
  expect_has(changed_error([](Json& h) { h.erase("b"); }), "8 bytes follow the last tensor");
  expect_has(changed_error([](Json& h) { h.erase("a"); }), "a hole of 24 bytes");
}

TEST_F(SafetensorsTest, LongAndStrangeNamesAreShownShortAndPrintable) {
  const std::string text = changed_error([](Json& h) { h["\x1b[31m" + std::string(5000, 'n')] = 1; });
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_LT(text.size(), 400u);
}

TEST_F(SafetensorsTest, EveryFloatTypeIsConverted) {
  // 1, -2.5, the largest half, its smallest normal and subnormal, infinity.
  const std::vector<std::pair<std::uint16_t, float>> halves = {
      {0x3c00, 1.0f},     {0xc100, -2.5f},       {0x7bff, 65504.0f}, {0x0400, 0x1p-14f},
      {0x0001, 0x1p-24f}, {0x83ff, -0x3ffp-24f}, {0x8000, -0.0f},    {0xfc00, -INFINITY}};
  std::string f16, f32, f64, b16;
  const auto put = [](std::string& to, auto value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  for (const auto& [bits, value] : halves) {
    put(f16, bits);
    put(f32, value);
    put(f64, static_cast<double>(value));
    put(b16, static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
  }
  put(f16, std::uint16_t{0x7e00});
  put(f32, std::numeric_limits<float>::quiet_NaN());
  put(f64, std::numeric_limits<double>::quiet_NaN());
  put(b16, std::uint16_t{0x7fc0});
  Json header;
  std::string data;
  for (const auto& [dtype, bytes] : {std::pair("F16", f16), {"F32", f32}, {"F64", f64}, {"BF16", b16}}) {
    header[dtype] = {
        {"dtype", dtype}, {"shape", {9}}, {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  }
  spill(folder_ / "x.safetensors", file_of(header.dump(), data));
  const SafetensorsFile file(folder_ / "x.safetensors");
  for (const auto& entry : file.entries()) {
    std::vector<float> got(9);
    file.read(entry, got.data());
    for (std::size_t i = 0; i < 8; ++i) {
      const float want = halves[i].second;
      const float cut = std::bit_cast<float>(std::bit_cast<std::uint32_t>(want) & 0xffff0000u);
      EXPECT_EQ(std::bit_cast<std::uint32_t>(got[i]),
                std::bit_cast<std::uint32_t>(entry.dtype == "BF16" ? cut : want))
          << entry.dtype << " " << i;
    }
    EXPECT_TRUE(std::isnan(got[8])) << entry.dtype;
  }
}

TEST_F(SafetensorsTest, OtherTypesAreKnownButNotRead) {
  const std::string header = R"({"a": {"dtype": "I64", "shape": [4], "data_offsets": [0, 32]}})";
  spill(folder_ / "x.safetensors", file_of(header, zeros(32)));
  const SafetensorsFile file(folder_ / "x.safetensors");
  std::vector<float> values(4);
  expect_has(error_text(ErrorKind::data, [&] { file.read(file.entries()[0], values.data()); }),
             "tensor \"a\" has the dtype I64 | weights must be F32, F64, F16 or BF16");
}

std::vector<TensorToWrite> random_tensors(RandomStream& random) {
  std::vector<TensorToWrite> list;
  for (int i = 0; i < 4; ++i) {
    const Shape shape{1 + static_cast<std::int64_t>(random.below(5)),
                      1 + static_cast<std::int64_t>(random.below(700))};
    Tensor tensor = Tensor::empty(shape);
    for (std::int64_t k = 0; k < tensor.numel(); ++k)
      tensor.data<float>()[k] = static_cast<float>(random.uniform()) - 0.5f;
    list.push_back({fmt::format("tensor.{}", i), shape, [tensor] { return tensor; }});
  }
  return list;
}

TEST_F(SafetensorsTest, WhatIsWrittenReadsBack) {
  RandomStream random(test_seed());
  const auto tensors = random_tensors(random);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    std::int64_t done = 0;
    write_safetensors(folder_ / "model.safetensors", tensors, dtype,
                      [&](std::int64_t bytes) { done = bytes; });
    const SafetensorsFolder folder(folder_.path());
    std::int64_t bytes = 0;
    for (const TensorToWrite& t : tensors) {
      std::vector<float> got(static_cast<std::size_t>(t.shape.numel()));
      folder.read(t.name, t.shape, got.data());
      const Tensor want = t.make().to(dtype).to(DType::f32);
      EXPECT_TRUE(std::ranges::equal(got, want.values<float>())) << t.name;
      bytes += t.shape.numel() * dtype_size(dtype);
    }
    EXPECT_EQ(done, bytes);
    EXPECT_EQ(SafetensorsFile(folder_ / "model.safetensors").metadata().at("format"), "pt");
    expect_has(error_text(ErrorKind::data, [&] { folder.require_tensor("tensor.9", {1}); }),
               "tensor.9 is missing");
    expect_has(error_text(ErrorKind::data,
                          [&] {
                            folder.require_tensor("tensor.0", {1, 2, 3});
                          }),
               "but config.json asks for [1, 2, 3]");
  }
}

TEST_F(SafetensorsTest, AFullDiskLeavesTheOldFile) {
  spill(folder_ / "model.safetensors", "old");
  const int status = wait_status(start_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Tensor tensor = Tensor::zeros({4096});
    try {
      write_safetensors(folder_ / "model.safetensors", {{"a", {4096}, [&] { return tensor; }}}, DType::f32);
    } catch (const Error& e) {
      return e.exit_code();
    }
    return 0;
  }));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorKind::disk));
  EXPECT_EQ(slurp(folder_ / "model.safetensors"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

// --- shards ---

class ShardsTest : public SafetensorsTest {
 protected:
  ShardsTest() {
    RandomStream random(test_seed());
    tensors_ = random_tensors(random);
    write_safetensors(folder_ / "one.safetensors", {tensors_[0], tensors_[1]}, DType::f32);
    write_safetensors(folder_ / "two.safetensors", {tensors_[2], tensors_[3]}, DType::f32);
    for (int i = 0; i < 4; ++i)
      index_["weight_map"][tensors_[i].name] = i < 2 ? "one.safetensors" : "two.safetensors";
  }
  void write_index() { spill(folder_ / "model.safetensors.index.json", index_.dump()); }
  std::string index_error() {
    write_index();
    return error_text(ErrorKind::data, [&] { SafetensorsFolder{folder_.path()}; });
  }

  std::vector<TensorToWrite> tensors_;
  Json index_ = {{"metadata", {{"total_size", 1}}}};
};

TEST_F(ShardsTest, AreReadAsOne) {
  write_index();
  const SafetensorsFolder folder(folder_.path());
  EXPECT_EQ(folder.names().size(), 4u);
  for (const TensorToWrite& t : tensors_) {
    std::vector<float> got(static_cast<std::size_t>(t.shape.numel()));
    folder.read(t.name, t.shape, got.data());
    EXPECT_TRUE(std::ranges::equal(got, t.make().values<float>()));
  }
}

TEST_F(ShardsTest, ThatDoNotFitTheirIndexAreRefused) {
  expect_has(error_text(ErrorKind::data, [&] { SafetensorsFolder{folder_.path()}; }),
             "there is no model.safetensors");
  const Json good = index_;
  index_["weight_map"]["tensor.0"] = "two.safetensors";
  expect_has(index_error(), "weight_map: \"tensor.0\" is not in \"two.safetensors\"");
  index_ = good;
  index_["weight_map"]["tensor.7"] = "one.safetensors";
  expect_has(index_error(), "weight_map: \"tensor.7\" is not in");
  index_ = good;
  index_["weight_map"]["tensor.7"] = "three.safetensors";
  expect_has(index_error(), "three.safetensors: cannot be read");
  index_ = good;
  index_["weight_map"]["tensor.0"] = 5;
  expect_has(index_error(), "not a plain file name");
  index_ = {{"weight_map", 5}};
  expect_has(index_error(), "has no weight_map");
  spill(folder_ / "model.safetensors.index.json", R"({"weight_map": {"a": "x", "a": "y"}})");
  expect_has(error_text(ErrorKind::data, [&] { SafetensorsFolder{folder_.path()}; }),
             "the key \"a\" comes twice");
  spill(folder_ / "model.safetensors.index.json", "{");
  expect_has(error_text(ErrorKind::data, [&] { SafetensorsFolder{folder_.path()}; }), "not valid JSON");
}

TEST_F(ShardsTest, MustStayInTheirFolder) {
  for (const char* name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", ""}) {
    index_["weight_map"]["tensor.0"] = name;
    expect_has(index_error(), "not a plain file name");
  }
  index_["weight_map"]["tensor.0"] = std::string("one\0.safetensors", 16);
  expect_has(index_error(), "not a plain file name");
}

TEST_F(ShardsTest, ATensorInTwoShardsIsRefused) {
  write_safetensors(folder_ / "two.safetensors", {tensors_[1], tensors_[2], tensors_[3]}, DType::f32);
  expect_has(index_error(), "tensor \"tensor.1\" is in another shard as well");
}

// --- mutations ---

// Some bytes of a good file changed, cut out, doubled or added; half of the time only within the header.
std::string mutated(std::string bytes, RandomStream& random) {
  const std::size_t header = 8 + 300;
  for (std::uint64_t changes = 1 + random.below(4); changes > 0 && !bytes.empty(); --changes) {
    const std::size_t range = random.below(2) ? bytes.size() : std::min(header, bytes.size());
    const std::size_t at = random.below(range);
    const std::size_t length = std::min<std::size_t>(1 + random.below(12), bytes.size() - at);
    switch (random.below(6)) {
      case 0:
        bytes[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        bytes[at] = "0123456789[]{}\",:-.e"[random.below(20)];
        break;
      case 2:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        break;
      default:
        bytes.resize(at);
    }
  }
  return bytes;
}

void SafetensorsTest::mutate(int count) {
  RandomStream random(test_seed());
  const std::string good = file_of(good_header().dump(), zeros(32));
  ASSERT_TRUE(reads(good));
  int read = 0;
  for (int i = 0; i < count; ++i) read += reads(mutated(good, random)) ? 1 : 0;
  // Changes of the data or of a name leave a file whole; nearly all others do not.
  EXPECT_GT(read, 0);
  EXPECT_LT(read, count / 2);
}

TEST_F(SafetensorsTest, MutatedFilesAreReadOrRefused) {
  mutate(500);
}

TEST_F(SafetensorsTest, SlowTenThousandMutatedFilesAreReadOrRefused) {
  mutate(10'000);
}

}  // namespace
}  // namespace filigree
