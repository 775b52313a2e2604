// Datasets: opening, splitting, fingerprints; entropies.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "data/dataset.h"
#include "data/entropy.h"
#include "data/open_data.h"
#include "data/prepare.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

class DatasetTest : public TemporaryFolder {
 protected:
  std::string at(const std::string& name) const { return (folder / name).string(); }
  // The whole stream with documents marked, to compare datasets.
  std::string dump(const Dataset& dataset) {
    std::string text;
    for (std::int64_t d = 0; d < dataset.n_documents(); ++d)
      text += fmt::format("[{}]", document_text(dataset, d));
    return text;
  }
};

TEST_F(DatasetTest, EachFileIsADocumentBehindASeparator) {
  put("in/a", "first");
  put("in/b", "second\n");
  const Dataset dataset = open_dataset({at("in")});
  EXPECT_EQ(dataset.n_documents(), 2);
  EXPECT_EQ(dataset.n_tokens(), 6 + 8);
  EXPECT_EQ(dump(dataset), "[first][second\n]");
  EXPECT_EQ(all_tokens(dataset)[6], 256);
  for (std::int64_t i = 0; i < 14; ++i) EXPECT_EQ(dataset.document_at(i), i < 6 ? 0 : 1);
  EXPECT_THROW(dataset.document_at(14), std::logic_error);
  std::int32_t id = 0;
  EXPECT_THROW(dataset.read(14, 1, &id), std::logic_error);
}

TEST_F(DatasetTest, OpensBySignatureAndRefusesMixtures) {
  put("in/a", random_text(500));
  prepare({at("in")}, at("t.h5"), {});
  fs::copy_file(at("t.h5"), at("no-extension"));
  put("t.bin", "abcd");
  EXPECT_EQ(dump(open_dataset({at("t.h5")})), dump(open_dataset({at("in")})));
  EXPECT_EQ(dump(open_dataset({at("no-extension")})), dump(open_dataset({at("in")})));
  EXPECT_EQ(open_dataset({at("t.bin")}).n_tokens(), 2);
  EXPECT_EQ(open_dataset({at("t.bin")}, InputFormat::text).n_tokens(), 5);
  EXPECT_EQ(open_dataset({at("t.h5"), at("no-extension")}).n_documents(), 2);
  expect_error(ErrorKind::data, "cannot be mixed", [&] {
    try {
      open_dataset({at("t.h5"), at("in")});
    } catch (const Error& error) {
      throw Error(error.kind(), error.hint());
    }
  });
  expect_error(ErrorKind::data, "not an HDF5 file", [&] { open_dataset({at("t.bin")}, InputFormat::hdf5); });
  expect_error(ErrorKind::data, "no such file", [&] { open_dataset({at("none.h5")}); });
  expect_error(ErrorKind::data, "no input", [&] { open_dataset({}); });
}

TEST_F(DatasetTest, ValidationComesFromItsOwnFilesOrASplit) {
  for (int i = 0; i < 20; ++i) put(fmt::format("in/{:02}", i), random_text(100));
  put("val", random_text(77));
  const OpenedData split = open_data({.train = {at("in")}, .val_fraction = 0.1});
  EXPECT_EQ(split.train.n_documents(), 18);
  EXPECT_EQ(split.validation->n_documents(), 2);
  EXPECT_EQ(split.notes.size(), 2u);
  const OpenedData own = open_data({.train = {at("in")}, .validation = {at("val")}});
  EXPECT_EQ(own.train.n_documents(), 20);
  EXPECT_EQ(own.validation->n_tokens(), 78);
  EXPECT_FALSE(open_data({.train = {at("in")}, .val_fraction = 0}).validation.has_value());
  const OpenedData single = open_data({.train = {at("val")}, .val_fraction = 0.5});
  EXPECT_EQ(document_text(single.train, 0) + document_text(*single.validation, 0), slurp(at("val")));
  expect_error(ErrorKind::data, "no training data", [] { open_data({}); });
}

TEST_F(DatasetTest, BothSidesShareOneVocabulary) {
  const std::uint16_t small[] = {1, 2, 3}, large[] = {9, 1000};
  put("a.bin", std::string(reinterpret_cast<const char*>(small), sizeof small));
  put("b.bin", std::string(reinterpret_cast<const char*>(large), sizeof large));
  put("text", "text");
  const OpenedData opened = open_data({.train = {at("a.bin")}, .validation = {at("b.bin")}});
  EXPECT_EQ(opened.train.vocabulary().size, 1001);
  EXPECT_EQ(opened.validation->vocabulary().size, 1001);
  EXPECT_EQ(open_dataset({at("a.bin"), at("b.bin")}).vocabulary().size, 1001);
  expect_error(ErrorKind::data, "different tokenizers",
               [&] { open_data({.train = {at("a.bin")}, .validation = {at("text")}}); });
}

TEST_F(DatasetTest, ANamedTokenizerIsTheOneThatMadeTheTokens) {
  put("in/a", "some text");
  put("ids.bin", "abcd");
  prepare({at("in")}, at("t.h5"), {});
  const auto open = [&](const std::string& file, const std::string& tokenizer) {
    return open_data({.train = {at(file)}, .val_fraction = 0, .tokenizer = tokenizer}).tokenizer;
  };
  EXPECT_EQ(open("in", "auto"), "byte");
  EXPECT_EQ(open("in", "byte"), "byte");
  EXPECT_EQ(open("t.h5", "auto"), "byte");
  EXPECT_EQ(open("t.h5", "byte"), "byte");
  EXPECT_EQ(open("ids.bin", "auto"), "ids");
  EXPECT_EQ(open("ids.bin", "ids"), "ids");
  expect_error(ErrorKind::usage, "ids.bin holds ids only, which no tokenizer changes",
               [&] { open("ids.bin", "byte"); });
  expect_error(ErrorKind::usage, "data.tokenizer is ids, but", [&] { open("t.h5", "ids"); });
  expect_error(ErrorKind::usage, "is text, but data.tokenizer is ids", [&] { open("in", "ids"); });
  expect_error(ErrorKind::data, "nothere.json", [&] { open("t.h5", "bpe:nothere.json"); });
}

TEST_F(DatasetTest, TokenDataSplitsAtItsTail) {
  for (int trial = 0; trial < 200; ++trial) {
    fs::remove_all(folder / "in");
    const int n = 1 + static_cast<int>(rng() % 6);
    for (int i = 0; i < n; ++i) put(fmt::format("in/{}", i), random_text(3 + rng() % 200));
    const Dataset whole = open_dataset({at("in")});
    const double fraction = 0.001 + 0.998 * static_cast<double>(rng()) / 0x1p32;
    const auto [head, tail] = whole.split_tail(fraction);
    auto both = all_tokens(head);
    const auto rest = all_tokens(tail);
    both.insert(both.end(), rest.begin(), rest.end());
    EXPECT_EQ(both, all_tokens(whole));
    EXPECT_GE(head.n_tokens(), 2);
    EXPECT_GE(tail.n_tokens(), 2);
    for (const Dataset* side : {&head, &tail})
      for (std::int64_t d = 0; d < side->n_documents(); ++d)
        EXPECT_LT(side->document_begin(d), side->document_end(d));
    EXPECT_LE(head.n_documents() + tail.n_documents(), n + 1);
    if (n == 1) {
      EXPECT_NEAR(static_cast<double>(tail.n_tokens()), fraction * static_cast<double>(whole.n_tokens()), 2);
    }
  }
  put("tiny", "ab");
  expect_error(ErrorKind::data, "too few", [&] { open_dataset({at("tiny")}).split_tail(0.5); });
  put("in/x", random_text(1000));
  prepare({at("in")}, at("t.h5"), {});
  EXPECT_TRUE(open_data({.train = {at("t.h5")}, .val_fraction = 0.1}).validation.has_value());
}

TEST_F(DatasetTest, FingerprintFollowsTheData) {
  put("in/a", "some text");
  put("in/b", "more text");
  const std::string before = open_dataset({at("in")}).fingerprint();
  EXPECT_EQ(open_dataset({at("in")}).fingerprint(), before);
  prepare({at("in")}, at("t.h5"), {});
  EXPECT_EQ(open_dataset({at("t.h5")}).fingerprint(), before);  // the same tokens, whatever they come from
  put("in/b", "more test");
  EXPECT_NE(open_dataset({at("in")}).fingerprint(), before);
  put("in/b", "more text");
  EXPECT_NE(open_dataset({at("in")}).split_tail(0.3).first.fingerprint(), before);
  put("in/a", "some textm");
  put("in/b", "ore text");
  EXPECT_NE(open_dataset({at("in")}).fingerprint(), before);  // another border
}

TEST_F(DatasetTest, ClassFoldersMustBeClear) {
  put("one/a/x", "x");
  put("mixed/a/x", "x");
  put("mixed/a/y", "y");
  put("mixed/b/x", "different");
  put("other/a/x", "x2");
  put("other/c/x", "x3");
  const auto open = [&](DataRequest request) {
    request.classes = true;
    return open_data(request);
  };
  expect_error(ErrorKind::data, "found 1 class folder", [&] { open({.train = {at("one")}}); });
  expect_error(ErrorKind::data, "one file only", [&] { open({.train = {at("mixed")}}); });
  expect_error(ErrorKind::data, "other/c: there is no class 'c'; the classes are a, b",
               [&] { open({.train = {at("mixed")}, .validation = {at("other")}}); });
  expect_error(ErrorKind::data, "same name", [&] {
    open({.train = {at("mixed/a"), at("other/a")}, .val_fraction = 0});
  });
  expect_error(ErrorKind::data, "must be a folder", [&] {
    open({.train = {at("mixed/a"), at("mixed/b/x")}});
  });
  const OpenedData named = open({.train = {at("mixed/b/"), at("mixed/a")}, .val_fraction = 0});
  EXPECT_EQ(named.train.class_names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(named.train.labels(), (std::vector<std::int32_t>{0, 0, 1}));
}

TEST_F(DatasetTest, KnownClassesAreMatchedByName) {
  for (const char* file :
       {"all/a/x", "all/b/x", "all/b/y", "all/c/x", "some/c/x", "some/b/x", "new/b/x", "new/d/x"})
    put(file, file);
  const std::vector<std::string> known = {"c", "a",
                                          "b"};  // as a run that took its weights from another has them
  const auto labels = [&](const std::vector<std::string>& inputs) {
    const OpenedData opened =
        open_data({.train = inputs, .val_fraction = 0, .classes = true, .known_classes = known});
    EXPECT_EQ(opened.train.class_names(), known);
    return opened.train.labels();
  };
  EXPECT_EQ(labels({at("all")}), (std::vector<std::int32_t>{1, 2, 2, 0}));
  EXPECT_EQ(labels({at("some")}), (std::vector<std::int32_t>{2, 0}));
  EXPECT_EQ(labels({at("all/b")}), (std::vector<std::int32_t>{2, 2})) << "the class's folder itself";
  EXPECT_EQ(labels({at("some/c/"), at("all/a")}), (std::vector<std::int32_t>{1, 0}));
  expect_error(ErrorKind::data, "new/d: there is no class 'd'; the classes are c, a, b",
               [&] { labels({at("new")}); });
  put("empty/x", "x");
  expect_error(ErrorKind::data, "found 0 class folders, at least 1 is needed",
               [&] { labels({at("empty")}); });
  // Validation data of its own goes by the names of the training data.
  const OpenedData own = open_data({.train = {at("all")}, .validation = {at("some")}, .classes = true});
  EXPECT_EQ(own.validation->class_names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(own.validation->labels(), (std::vector<std::int32_t>{1, 2}));
}

TEST_F(DatasetTest, EntropyOfKnownTexts) {
  const auto entropy = [&](const std::string& text) {
    put("text", text);
    return *text_entropy(open_dataset({at("text")}));
  };
  EXPECT_EQ(entropy(std::string(100, 'a')).unigram, 0);
  EXPECT_EQ(entropy(std::string(100, 'a')).bigram, 0);
  std::string alternating;
  for (int i = 0; i < 50; ++i) alternating += "ab";
  EXPECT_DOUBLE_EQ(entropy(alternating).unigram, 1);
  EXPECT_DOUBLE_EQ(entropy(alternating).bigram, 0);
  // a follows a or b equally: "aab" repeated has p = (2/3, 1/3); after a: a and b equally often.
  std::string thirds;
  for (int i = 0; i < 1000; ++i) thirds += "aab";
  const TextEntropy measured = entropy(thirds);
  EXPECT_NEAR(measured.unigram, -(2 * std::log2(2.0 / 3) + std::log2(1.0 / 3)) / 3, 1e-12);
  EXPECT_NEAR(measured.bigram, 2.0 / 3, 1e-3);  // the start costs a little less
  EXPECT_EQ(measured.n_bytes, 3000);
  // Two documents: the first bytes follow the start symbol, not each other's text.
  put("in/1", "a");
  put("in/2", "b");
  const TextEntropy starts = *text_entropy(open_dataset({at("in")}));
  EXPECT_DOUBLE_EQ(starts.unigram, 1);
  EXPECT_DOUBLE_EQ(starts.bigram, 1);
  std::string noise(400'000, '\0');
  for (char& c : noise) c = static_cast<char>(1 + rng() % 255);  // a NUL would make it binary
  EXPECT_NEAR(entropy(noise).unigram, std::log2(255), 0.001);
  EXPECT_LT(entropy(noise).bigram, entropy(noise).unigram);  // finite samples: empirical H2 is biased low
  put("ids.bin", "abcd");
  EXPECT_FALSE(text_entropy(open_dataset({at("ids.bin")})).has_value());
}

}  // namespace
}  // namespace filigree
