// Token files, .bin files, prepare, progress, tokenizers.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstring>
#include <numeric>

#include "core/hdf5.h"
#include "data/bin_file.h"
#include "data/open_data.h"
#include "data/prepare.h"
#include "data/progress.h"
#include "data/token_file.h"
#include "tests/data_helpers.h"
#include "tests/lsan_suppressions.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

class DataFiles : public TemporaryFolder {
 protected:
  // Some documents, one of them empty; returns their texts.
  std::vector<std::string> write_documents(const fs::path& path) {
    std::vector<std::string> texts = {random_text(1000), "", random_text(1), random_text(300'000)};
    TokenFileWriter writer(path, make_tokenizer("byte"));
    for (const std::string& text : texts) {
      writer.begin_document();
      const std::size_t half = text.size() / 2;
      writer.append(std::string_view(text).substr(0, half));
      writer.append(std::string_view(text).substr(half));
    }
    const TokenCounts counts = writer.commit();
    EXPECT_EQ(counts, (TokenCounts{301'005, 4, 301'001}));
    return texts;
  }
  // Rewrites a token file with one thing changed.
  void rewrite(const fs::path& from, const fs::path& to,
               const std::function<void(h5::Writer&, h5::Reader&)>& change) {
    h5::Reader reader(from);
    h5::Writer writer(to);
    change(writer, reader);
    writer.commit();
  }
};

TEST_F(DataFiles, ByteTokenizerRoundTripsEveryByte) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->name(), "byte");
  EXPECT_EQ(tokenizer->vocab_size(), 258);
  std::string all(256, '\0');
  std::iota(all.begin(), all.end(), '\0');
  std::vector<std::uint32_t> ids = {*tokenizer->separator()};
  tokenizer->encode(all, ids);
  ASSERT_EQ(ids.size(), 257u);
  for (std::uint32_t i = 0; i < 256; ++i) EXPECT_EQ(ids[i + 1], i);
  ids.push_back(*tokenizer->mask());
  EXPECT_EQ(tokenizer->decode(ids), all);
  std::int64_t bytes = 0;
  for (const std::uint32_t id : ids) bytes += tokenizer->n_bytes(id);
  EXPECT_EQ(bytes, 256);
  expect_error(ErrorKind::usage, "unknown tokenizer 'bite'", [] { make_tokenizer("bite"); });
}

TEST_F(DataFiles, TokenFileRoundTrips) {
  const fs::path path = folder / "t.h5";
  const auto texts = write_documents(path);
  const TokenFile file(path);
  EXPECT_EQ(file.vocabulary(), (Vocabulary{"byte", 258, 256, 257}));
  EXPECT_EQ(file.counts(), (TokenCounts{301'005, 4, 301'001}));
  EXPECT_EQ(file.document_offsets(), (std::vector<std::int64_t>{0, 1001, 1002, 1004, 301'005}));
  file.verify();
  std::string expected;
  for (const std::string& text : texts) expected.append("\n#").append(text);
  std::vector<std::int32_t> ids(301'005);
  file.read(0, std::ssize(ids), ids.data());
  std::string back;
  for (const std::int32_t id : ids) back += id == 256 ? "\n#" : std::string(1, static_cast<char>(id));
  EXPECT_EQ(back, expected);
  for (int trial = 0; trial < 100; ++trial) {
    const auto begin = static_cast<std::int64_t>(rng() % ids.size());
    const auto count = static_cast<std::int64_t>(rng() % (ids.size() - static_cast<std::size_t>(begin)));
    std::vector<std::int32_t> slice(static_cast<std::size_t>(count));
    file.read(begin, count, slice.data());
    EXPECT_TRUE(std::equal(slice.begin(), slice.end(), ids.begin() + begin));
  }
  const Dataset dataset = open_dataset({path.string()});
  EXPECT_EQ(all_tokens(dataset), ids);
  for (std::int64_t d = 0; d < 4; ++d)
    EXPECT_EQ(document_text(dataset, d), texts[static_cast<std::size_t>(d)]);
}

TEST_F(DataFiles, DamagedTokenFilesAreDataErrors) {
  const fs::path good = folder / "good.h5", bad = folder / "bad.h5";
  write_documents(good);
  const std::string whole = slurp(good);
  const auto open_bad = [&] { open_dataset({bad.string()}); };
  put("bad.h5", "");
  expect_error(ErrorKind::data, "empty", open_bad);
  put("bad.h5", "text that calls itself .h5");
  expect_error(ErrorKind::data, "not an HDF5 file", open_bad);
  for (int trial = 0; trial < 30; ++trial) {
    put("bad.h5", whole.substr(0, rng() % whole.size()));
    EXPECT_EQ(error_of(open_bad).first, ErrorKind::data);
  }
  // One flipped bit anywhere either is found or changes nothing that is used.
  const auto expected = all_tokens(open_dataset({good.string()}));
  int n_found = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::string bytes = whole;
    bytes[rng() % bytes.size()] ^= static_cast<char>(1 << rng() % 8);
    put("bad.h5", bytes);
    try {
      const Dataset dataset = open_dataset({bad.string()});
      ASSERT_EQ(all_tokens(dataset), expected);
      ASSERT_EQ(dataset.n_documents(), 4);
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::data);
      ++n_found;
    }
  }
  EXPECT_GT(n_found, 100);  // most of the file is tokens
}

TEST_F(DataFiles, TokenFilesOfAnotherKindAreRefused) {
  const fs::path good = folder / "good.h5", bad = folder / "bad.h5";
  write_documents(good);
  rewrite(good, bad, [](h5::Writer& w, h5::Reader&) { w.text("checkpoint", "x"); });
  expect_error(ErrorKind::data, "not a token file", [&] { TokenFile file(bad); });
  rewrite(good, bad, [](h5::Writer& w, h5::Reader&) {
    w.attribute("/", "format", std::string("filigree-tokens"));
    w.attribute("/", "version", std::int64_t{2});
  });
  expect_error(ErrorKind::data, "version 2", [&] { TokenFile file(bad); });
  rewrite(good, bad, [](h5::Writer& w, h5::Reader&) {
    w.attribute("/", "format", std::string("filigree-tokens"));
    w.attribute("/", "version", std::int64_t{1});
  });
  expect_error(ErrorKind::data, "no attribute 'tokenizer'", [&] { TokenFile file(bad); });
}

// Right sums, but wrong contents.
TEST_F(DataFiles, ImpossibleTokenFilesAreDataErrors) {
  const fs::path path = folder / "t.h5";
  const auto write = [&](std::vector<std::uint16_t> ids, std::vector<std::int64_t> offsets,
                         std::int64_t vocab_size) {
    h5::Writer w(path);
    w.dataset("tokens", DType::u16, {std::ssize(ids)}, ids.data());
    w.dataset("document_offsets", DType::i64, {std::ssize(offsets)}, offsets.data());
    w.attribute("/", "format", std::string("filigree-tokens"));
    w.attribute("/", "tokenizer", std::string("other"));
    for (const char* name : {"separator", "mask"}) w.attribute("/", name, std::int64_t{-1});
    w.attribute("/", "version", std::int64_t{1});
    w.attribute("/", "vocab_size", vocab_size);
    w.attribute("/", "n_tokens", std::int64_t{3});
    w.attribute("/", "n_documents", std::int64_t{2});
    w.attribute("/", "n_bytes", std::int64_t{3});
    w.attribute("/", "tokens_xxhash64", hex64(xxhash64(ids.data(), 2 * ids.size())));
    w.attribute("/", "offsets_xxhash64", hex64(xxhash64(offsets.data(), 8 * offsets.size())));
    w.commit();
  };
  const OpenLimits lazy{.in_memory = 0, .verified = 0};
  const auto open = [&] { open_dataset({path.string()}); };
  write({1, 2, 9}, {0, 1, 3}, 10);
  EXPECT_EQ(open_dataset({path.string()}).n_documents(), 2);
  write({1, 2, 10}, {0, 1, 3}, 10);
  expect_error(ErrorKind::data, "outside the vocabulary", open);
  const Dataset unread = open_dataset({path.string()}, InputFormat::hdf5, "byte", nullptr, lazy);
  expect_error(ErrorKind::data, "token 10 is outside the vocabulary of 10", [&] { all_tokens(unread); });
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{0, 4, 3}, {1, 2, 3}, {0, 1, 2}, {0, 3}, {0, 2, 1, 3}}) {
    write({1, 2, 3}, offsets, 10);
    expect_error(ErrorKind::data, "offsets do not fit", open);
  }
  write({1, 2}, {0, 1, 3}, 10);
  expect_error(ErrorKind::data, "what the header says", open);
  write({1, 2, 3}, {0, 1, 3}, 0);
  expect_error(ErrorKind::data, "vocab_size", open);
}

std::string as_bytes(const auto& values) {
  std::string bytes(values.size() * sizeof values[0], '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t count) {
  std::array<std::int32_t, 256> header{magic, version, count};
  return as_bytes(header);
}

TEST_F(DataFiles, ReadsBinFilesOfNanoGptAndLlmC) {
  std::vector<std::uint16_t> ids(5001);
  for (auto& id : ids) id = static_cast<std::uint16_t>(rng() % 50256);
  const auto plain = put("nano.bin", as_bytes(ids));
  {
    const BinFile file(plain);
    EXPECT_EQ(file.n_tokens(), 5001);
    EXPECT_EQ(file.document_offsets(), (std::vector<std::int64_t>{0, 5001}));
    EXPECT_EQ(file.vocabulary().size, *std::max_element(ids.begin(), ids.end()) + 1);
    std::vector<std::int32_t> back(5001);
    file.read(0, 5001, back.data());
    EXPECT_TRUE(std::equal(back.begin(), back.end(), ids.begin()));
  }
  ids[0] = ids[1000] = ids[1001] = ids[5000] = 50256;
  const auto gpt2 = put("gpt2.bin", llmc_header(20240520, 1, 5001) + as_bytes(ids));
  {
    const Dataset dataset = open_dataset({gpt2.string()});
    EXPECT_EQ(dataset.n_documents(), 4);
    EXPECT_EQ(dataset.document_begin(1), 1000);
    EXPECT_EQ(dataset.document_begin(2), 1001);
    EXPECT_EQ(dataset.document_begin(3), 5000);
    EXPECT_EQ(dataset.vocabulary().size, 50257);
    EXPECT_EQ(dataset.tokenizer(), nullptr);
  }
  std::vector<std::uint32_t> wide = {128000, 5, 100'000, 128000, 7};
  const auto llama = put("llama.bin", llmc_header(20240801, 1, 5) + as_bytes(wide));
  {
    const Dataset dataset = open_dataset({llama.string()});
    EXPECT_EQ(all_tokens(dataset), (std::vector<std::int32_t>{128000, 5, 100'000, 128000, 7}));
    EXPECT_EQ(dataset.n_documents(), 2);
    EXPECT_EQ(dataset.vocabulary().size, 128256);
  }
  // As llm.c writes it.
  const auto shard = put("shard.bin", llmc_header(20240801, 7, 5) + as_bytes(wide));
  EXPECT_EQ(all_tokens(open_dataset({shard.string()})), all_tokens(open_dataset({llama.string()})));
  // Two of one kind join; two kinds do not.
  EXPECT_EQ(open_dataset({gpt2.string(), gpt2.string()}).n_tokens(), 10'002);
  expect_error(ErrorKind::data, "another tokenizer", [&] { open_dataset({gpt2.string(), llama.string()}); });
}

TEST_F(DataFiles, BadBinFilesAreDataErrors) {
  const std::vector<std::uint16_t> ids = {1, 2, 3};
  const auto expect_bad = [&](const std::string& bytes, const std::string& words) {
    const auto path = put("bad.bin", bytes);
    expect_error(ErrorKind::data, words, [&] { open_dataset({path.string()}); });
  };
  expect_bad("", "empty");
  expect_bad("abc", "whole number");
  expect_bad(llmc_header(20240520, 1, 3) + as_bytes(ids).substr(0, 5), "promises 3 tokens");
  expect_bad(llmc_header(20240520, 1, 2) + as_bytes(ids), "promises 2 tokens");
  expect_bad(llmc_header(20240520, 1, -1) + as_bytes(ids), "promises -1 tokens");
  expect_bad(llmc_header(20240520, 1, 0), "promises 0 tokens");
  expect_bad(llmc_header(20240801, 2, 3) + as_bytes(ids), "version 2");
  expect_bad(llmc_header(20240520, 7, 3) + as_bytes(ids), "version 7; version 1 is read");
  expect_bad(llmc_header(20240520, 1, 3).substr(0, 500), "promises 3 tokens");  // cut within its header
  expect_bad(llmc_header(20240520, 1, 3) + as_bytes(std::vector<std::uint16_t>{1, 50257, 3}), "token 50257");
  expect_bad(llmc_header(20240801, 1, 1) + as_bytes(std::vector<std::uint32_t>{0xffffffffu}),
             "token 4294967295");
  expect_error(ErrorKind::data, "No such file", [&] { BinFile file(folder / "none.bin"); });
}

std::string llama2c_model() {
  const std::array<std::int32_t, 7> header = {8, 16, 1, 2, 2, 10, 4};
  const std::size_t values = 10 * 8 + (2 * 8 + 4 * 8 * 8 + 3 * 8 * 16) + 8 + 4 * 4;
  return as_bytes(header) + std::string(4 * values, '\1');
}

TEST_F(DataFiles, FilesOfOtherProgramsAreNamed) {
  using namespace std::string_literals;
  const std::string rest(1200, '\2');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {llmc_header(20240326, 3, 1024) + rest, "GPT-2 weights of llm.c"},
      {llmc_header(20240327, 2, 4) + rest, "a debug state of llm.c"},
      {llmc_header(20240328, 2, 50257) + rest, "a tokenizer of llm.c"},
      {llmc_header(20240522, 1, 10042) + rest, "an evaluation file of llm.c (HellaSwag, MMLU)"},
      {llmc_header(20240527, 1, 1) + rest, "an optimizer state of llm.c"},
      {llmc_header(20240803, 3, 8192) + rest, "Llama 3 weights of llm.c"},
      {"24ka" + rest, "a model of llama2.c"},
      {llama2c_model(), "a model of llama2.c"},
      {"GGUF\3\0\0\0"s + rest, "a GGUF model"},
      {"tjgg" + rest, "a GGML model"},
      {"\x3e\0\0\0\0\0\0\0{\"__metadata__\": {}}"s + rest, "a safetensors file"},
      {"\x93NUMPY\1\0"s + rest, "a numpy array"},
      {"PK\3\4"s + rest, "a zip archive (a checkpoint of PyTorch is one, and an .npz file)"},
      {"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"s + rest, "a checkpoint of PyTorch"},
      {"\x80\4\x95\x10\0\0\0\0\0\0\0"s + rest + ".", "a pickle of Python"},
      {"\x89HDF\r\n\x1a\n"s + rest, "an HDF5 file"},
      {"\x1f\x8b\x08\0\0\0\0\0\0\3"s + rest, "packed by gzip"},
      {"\x28\xb5\x2f\xfd"s + rest, "packed by zstd"},
      {"\xfd"s + "7zXZ\0"s + rest, "packed by xz"},
      {"BZh91AY&SY" + rest, "packed by bzip2"},
      {std::string(257, 'a') + "ustar" + rest, "a tar archive"},
      {"PAR1" + rest + "PAR1", "a Parquet file"},
      {"ARROW1\0\0"s + rest, "an Arrow file"},
      {"MMIDIDX\0\0"s + rest, "an index of Megatron"},
  };
  for (const auto& [bytes, what] : cases) {
    const auto path = put("x.bin", bytes);
    try {
      open_dataset({path.string()}, InputFormat::bin);
      ADD_FAILURE() << what << " was read";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::data);
      EXPECT_EQ(error.what(), fmt::format("{}: {}, no file of tokens", path.string(), what));
      EXPECT_FALSE(error.hint().empty()) << what;
    }
  }
  const std::vector<std::uint16_t> ids = {1, 2, 3};
  const auto half = put("megatron.bin", as_bytes(ids));
  EXPECT_EQ(open_dataset({half.string()}).n_tokens(), 3);
  put("megatron.idx", "MMIDIDX\0\0\1"s);
  expect_error(ErrorKind::data, "one half of a data set of Megatron", [&] { open_dataset({half.string()}); });
  // Named as text.
  const auto weights = put("model.safetensors", "\x3e\0\0\0\0\0\0\0{\"__metadata__\": {}}"s + rest);
  expect_error(ErrorKind::data, "model.safetensors: a safetensors file, not text",
               [&] { open_dataset({weights.string()}); });
}

// What begins a file of another program may as well be ids.
TEST_F(DataFiles, IdsThatLookLikeAMarkAreRead) {
  std::vector<std::vector<std::uint16_t>> all = {
      {35615, 300, 7},              // gzip's 1f 8b
      {640, 300, 13},               // a pickle's 80 02
      {1152, 405, 11},              // its 80 04 95, and no full stop at the end
      {16720, 12626, 5},            // Parquet's PAR1, which its end repeats
      {62, 0, 0, 0, 8827, 95},      // the length of a header that is longer than the file
      {288, 0, 768, 0, 6, 0, 6, 0}  // the sizes of a small model
  };
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<std::uint16_t> ids(2 + rng() % 40);
    for (auto& id : ids) id = static_cast<std::uint16_t>(rng() % 50257);
    all.push_back(std::move(ids));
  }
  for (const auto& ids : all)
    EXPECT_EQ(all_tokens(open_dataset({put("x.bin", as_bytes(ids)).string()})),
              std::vector<std::int32_t>(ids.begin(), ids.end()));
}

TEST_F(DataFiles, PrepareWritesTrainingAndValidation) {
  for (int i = 0; i < 40; ++i) put(fmt::format("in/{:02}.txt", i), random_text(1 + rng() % 3000));
  put("in/binary", std::string(10, '\0'));
  const fs::path out = folder / "tokens.h5";
  std::int64_t last = 0, total = 0;
  const PrepareResult result = prepare({(folder / "in").string()}, out, {.val_fraction = 0.2},
                                       [&](std::int64_t done, std::int64_t all) {
                                         EXPECT_GT(done, last);
                                         last = done;
                                         total = all;
                                       });
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, result.sources.bytes);
  EXPECT_EQ(result.sources.n_binary, 1);
  EXPECT_EQ(result.validation_path, folder / "tokens.val.h5");
  EXPECT_EQ(result.train.n_documents + result.validation->n_documents, 40);
  EXPECT_EQ(result.train.n_bytes + result.validation->n_bytes, total);
  EXPECT_EQ(result.train.n_tokens, result.train.n_bytes + result.train.n_documents);
  // The same split and the same tokens as training on the text directly.
  const OpenedData direct = open_data({.train = {(folder / "in").string()}, .val_fraction = 0.2});
  EXPECT_EQ(all_tokens(open_dataset({out.string()})), all_tokens(direct.train));
  EXPECT_EQ(all_tokens(open_dataset({result.validation_path.string()})), all_tokens(*direct.validation));
}

TEST_F(DataFiles, PrepareRefusesWhatCannotWork) {
  const auto text = put("in/a.txt", random_text(5000));
  const std::string in = (folder / "in").string();
  const auto run = [&](const std::string& input, const fs::path& output, PrepareOptions options = {}) {
    return [=] { prepare({input}, output, options); };
  };
  expect_error(ErrorKind::data, "no such file", run(in + "/none", folder / "t.h5"));
  expect_error(ErrorKind::disk, "t.h5", run(in, folder / "none" / "t.h5"));
  expect_error(ErrorKind::usage, "would be overwritten", run(in, text));
  expect_error(ErrorKind::usage, "[0, 1)", run(in, folder / "t.h5", {.val_fraction = 1}));
  expect_error(ErrorKind::usage, "unknown tokenizer", run(in, folder / "t.h5", {.tokenizer = "words"}));
  EXPECT_EQ(slurp(text).size(), 5000u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}),
            1);  // nothing left behind
}

TEST_F(DataFiles, PrepareLeavesTheOldFileWhenTheDiskIsFull) {
  put("in/a.txt", random_text(2'000'000));
  put("t.h5", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(9);
    try {
      prepare({(folder / "in").string()}, folder / "t.h5", {});
    } catch (const Error& error) {
      ::_exit(error.kind() == ErrorKind::disk ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(slurp(folder / "t.h5"), "old");
}

TEST(DataProgress, FormatsCountsAndTimes) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1000), "1.0 k");
  EXPECT_EQ(human_count(999'960), "1.0 M");
  EXPECT_EQ(human_count(12.34e9), "12.3 G");
  EXPECT_EQ(human_count(5e15), "5000.0 T");
  EXPECT_EQ(human_duration(0.4), "0:00");
  EXPECT_EQ(human_duration(725), "12:05");
  EXPECT_EQ(human_duration(11045), "3:04:05");
}

TEST(DataProgress, SaysNothingOffATerminalWhenTheWorkIsShort) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress("work", 100, "B", file);
    for (int i = 0; i <= 100; ++i) progress.update(i);
    progress.finish();
  }
  EXPECT_EQ(std::ftell(file), 0);
  std::fclose(file);
}

TEST(DataProgress, DrawsABarOnATerminal) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_TRUE(terminal >= 0 && ::grantpt(terminal) == 0 && ::unlockpt(terminal) == 0);
  std::FILE* file = std::fopen(::ptsname(terminal), "w");
  ASSERT_NE(file, nullptr);
  {
    Progress progress("work", 2000, "B", file);
    progress.update(500);  // too early to print
    progress.update(2000);
    progress.finish();
  }
  std::fclose(file);
  std::string line;  // a terminal hands out what was written in pieces, and an error at its end
  char text[4096];
  for (ssize_t got; (got = ::read(terminal, text, sizeof text)) > 0;)
    line.append(text, static_cast<std::size_t>(got));
  EXPECT_NE(line.find(" work 100 % | "), std::string::npos) << line;
  EXPECT_NE(line.find(" | 2.0 kB of 2.0 kB"), std::string::npos) << line;
  ::close(terminal);
}

// 300 MB in one file must cost little more than the blocks in flight. Measured in a child process, on the
// peak of its resident memory (VmHWM).
TEST(DataPrepareSlow, MemoryStaysBounded) {
  std::string name = (fs::temp_directory_path() / "filigree-data-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const fs::path folder = name;
  {
    std::ofstream out(folder / "big.txt", std::ios::binary);
    const std::string line(63, 'x');
    for (int i = 0; i < 300'000'000 / 64; ++i) out << line << '\n';
  }
  const pid_t child = ::fork();
  if (child == 0) {
    const PrepareResult result =
        prepare({(folder / "big.txt").string()}, folder / "t.h5", {.val_fraction = 0.01});
    const bool all = result.train.n_bytes + result.validation->n_bytes == 300'000'000 / 64 * 64;
    std::ifstream status("/proc/self/status");
    std::int64_t peak_kib = 0;
    for (std::string word; status >> word;)
      if (word == "VmHWM:") status >> peak_kib;
    std::fprintf(stderr, "  peak %.1f MiB\n", static_cast<double>(peak_kib) / 1024);
    ::_exit(!all ? 1 : peak_kib == 0 ? 2 : peak_kib > 200 * 1024 ? 3 : 0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace filigree
