// The loader's promises, on random documents, sizes and options.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "core/ops.h"
#include "data/bpe_tokenizer.h"
#include "data/loader.h"
#include "data/masking.h"
#include "data/open_data.h"
#include "data/permutation.h"
#include "data/prepare.h"
#include "tests/bpe_helpers.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

// A dataset whose tokens are given.
class GivenTokens : public TokenSource {
 public:
  explicit GivenTokens(std::vector<std::int32_t> ids) : ids_(std::move(ids)) {}
  std::int64_t size() const override { return std::ssize(ids_); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    std::copy_n(ids_.begin() + begin, count, out);
  }
  std::string checksum() const override { return "given"; }

 private:
  std::vector<std::int32_t> ids_;
};

const Vocabulary kBytes{"byte", 258, 256, 257};

// Documents of these lengths (separator included) with random bytes, spread over several parts.
Dataset make_dataset(std::mt19937& rng, const std::vector<std::int64_t>& lengths) {
  std::vector<Dataset::Part> parts;
  for (std::size_t d = 0; d < lengths.size();) {
    const std::size_t end = std::min(lengths.size(), d + 1 + rng() % 4);
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> offsets = {0};
    for (; d < end; ++d) {
      for (std::int64_t i = 0; i < lengths[d]; ++i)
        ids.push_back(i == 0 ? 256 : static_cast<std::int32_t>(rng() % 256));
      offsets.push_back(std::ssize(ids));
    }
    parts.push_back({std::make_shared<GivenTokens>(std::move(ids)), std::move(offsets)});
  }
  return Dataset(kBytes, make_tokenizer("byte"), std::move(parts));
}

Dataset random_dataset(std::mt19937& rng) {
  std::vector<std::int64_t> lengths(1 + rng() % 12);
  for (auto& length : lengths)
    length = rng() % 4 == 0 ? 1 : 1 + static_cast<std::int64_t>(rng() % (1u << (rng() % 8)));
  lengths.back() += 1;  // at least two tokens
  return make_dataset(rng, lengths);
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::ranges::equal(a.values<std::int32_t>(), b.values<std::int32_t>());
}
bool same(const Batch& a, const Batch& b) {
  return same(a.inputs, b.inputs) && same(a.targets, b.targets) && same(a.row_bounds, b.row_bounds) &&
         same(a.token_bounds, b.token_bounds) && a.n_targets == b.n_targets && a.n_bytes == b.n_bytes &&
         a.n_tokens == b.n_tokens && a.begin == b.begin && a.end == b.end;
}

class LoaderTest : public TemporaryFolder {
 protected:
  LoaderOptions random_options(ModelType type) {
    LoaderOptions options;
    options.type = type;
    options.batch_size = 1 + static_cast<std::int64_t>(rng() % 5);
    options.seq_len = 1 + static_cast<std::int64_t>(rng() % 40);
    options.documents = rng() % 2;
    options.shuffle = rng() % 2;
    options.seed = rng();
    options.prefetch = rng() % 2;
    return options;
  }
};

TEST_F(LoaderTest, PermutationIsOneToOneAndDependsOnItsKey) {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    const Permutation permutation(n, {seed, 1, 2});
    std::vector<bool> seen(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t image = permutation(i);
      ASSERT_TRUE(image >= 0 && image < n);
      ASSERT_FALSE(seen[static_cast<std::size_t>(image)]);
      seen[static_cast<std::size_t>(image)] = true;
    }
  }
  const std::int64_t n = 1000;
  int fixed = 0, equal = 0;
  const Permutation a(n, {seed, 1, 2}), b(n, {seed, 1, 3});
  for (std::int64_t i = 0; i < n; ++i) {
    fixed += a(i) == i;
    equal += a(i) == b(i);
  }
  EXPECT_LT(fixed, 12);  // 1 is expected; 12 has probability below 1e-8
  EXPECT_LT(equal, 12);
  // Huge ranges need no memory.
  const Permutation huge(std::int64_t{1} << 40, {seed, 1, 2});
  EXPECT_NE(huge(0), huge(1));
}

// Every order of three and every place of a small permutation comes up about equally often.
TEST_F(LoaderTest, PermutationsOfFewAreFair) {
  std::map<std::vector<std::int64_t>, int> orders;
  for (std::uint32_t epoch = 0; epoch < 6000; ++epoch) {
    const Permutation p(3, {seed, 1, epoch});
    ++orders[{p(0), p(1), p(2)}];
  }
  EXPECT_EQ(orders.size(), 6u);
  for (const auto& [order, count] : orders) EXPECT_NEAR(count, 1000, 170);  // 5.9 standard deviations
}

// Puts the epoch's samples back into the stream and compares with the dataset: each sample once, nothing
// dropped, targets one later, bounds as the documents say.
void check_epoch(const Dataset& dataset, const LoaderOptions& options) {
  const auto stream = all_tokens(dataset);
  const std::int64_t n = options.seq_len, n_inputs = dataset.n_tokens() - 1;
  Loader loader(dataset, options);
  ASSERT_EQ(loader.samples_per_epoch(), (n_inputs + n - 1) / n);
  std::map<std::vector<std::int32_t>, int> expected;  // inputs, targets and bounds of each sample
  for (std::int64_t begin = 0; begin < n_inputs; begin += n) {
    std::vector<std::int32_t> row(static_cast<std::size_t>(4 * n), 0);
    std::fill(row.begin() + n, row.begin() + 2 * n, ops::kIgnoreIndex);
    const std::int64_t end = std::min(begin + n, n_inputs);
    for (std::int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<std::size_t>(i - begin), where = static_cast<std::size_t>(i);
      row[at] = stream[where];
      row[at + static_cast<std::size_t>(n)] = stream[where + 1];
      std::int64_t lo = i, hi = i + 1;  // grow to the separators around
      while (lo > begin && (!options.documents || stream[static_cast<std::size_t>(lo)] != 256)) --lo;
      while (hi < end && (!options.documents || stream[static_cast<std::size_t>(hi)] != 256)) ++hi;
      row[2 * at + static_cast<std::size_t>(2 * n)] = static_cast<std::int32_t>(lo - begin);
      row[2 * at + static_cast<std::size_t>(2 * n) + 1] = static_cast<std::int32_t>(hi - begin);
    }
    ++expected[row];
  }
  std::int64_t n_targets = 0, n_bytes = 0, n_tokens = 0, n_seen = 0;
  while (n_seen < loader.samples_per_epoch()) {
    const Batch batch = *loader.next();
    const std::int64_t b = batch.inputs.dim(0);
    ASSERT_EQ(batch.inputs.shape(), (Shape{b, n}));
    ASSERT_EQ(batch.targets.shape(), (Shape{b, n}));
    ASSERT_EQ(batch.row_bounds.shape(), (Shape{b, n, 2}));
    n_targets += batch.n_targets;
    n_bytes += batch.n_bytes;
    n_tokens += batch.n_tokens;
    for (std::int64_t i = 0; i < b && n_seen < loader.samples_per_epoch(); ++i, ++n_seen) {
      std::vector<std::int32_t> row;
      for (const Tensor* t : {&batch.inputs, &batch.targets, &batch.row_bounds}) {
        const Tensor one = t->slice(i, i + 1);
        row.insert(row.end(), one.values<std::int32_t>().begin(), one.values<std::int32_t>().end());
      }
      const auto found = expected.find(row);
      ASSERT_TRUE(found != expected.end()) << "a sample that the stream does not hold";
      if (--found->second == 0) expected.erase(found);
      EXPECT_EQ(batch.token_bounds.item(2 * i), 0);
      const auto hi = static_cast<std::int64_t>(batch.token_bounds.item(2 * i + 1));
      EXPECT_EQ(hi, std::ranges::count_if(batch.targets.slice(i, i + 1).values<std::int32_t>(),
                                          [](std::int32_t t) { return t != ops::kIgnoreIndex; }));
    }
  }
  EXPECT_TRUE(expected.empty()) << "samples that never came";
  if (options.single_pass) {
    EXPECT_FALSE(loader.next().has_value());
    EXPECT_EQ(n_targets, n_inputs);
    EXPECT_EQ(n_tokens, n_inputs);
    EXPECT_EQ(n_bytes, dataset.n_tokens() - dataset.n_documents());  // every byte of the text, once
  }
}

TEST_F(LoaderTest, EachSampleOnceAnEpochWithTheRightTargetsAndBounds) {
  for (int trial = 0; trial < 300; ++trial) {
    const Dataset dataset = random_dataset(rng);
    LoaderOptions options = random_options(ModelType::decoder);
    options.single_pass = rng() % 2;
    SCOPED_TRACE(fmt::format("trial {} tokens {} seq_len {} batch {}", trial, dataset.n_tokens(),
                             options.seq_len, options.batch_size));
    check_epoch(dataset, options);
    if (HasFatalFailure()) return;
  }
}

// How often each position of the stream is a target in an epoch.
std::vector<int> target_counts(const Dataset& dataset, LoaderOptions options) {
  options.shuffle = false;
  options.single_pass = true;
  Loader loader(dataset, options);
  const auto stream = all_tokens(dataset);
  std::vector<int> counts(stream.size());
  std::int64_t n_targets = 0, n_found = 0;
  while (const auto batch = loader.next()) {
    n_targets += batch->n_targets;
    for (std::int64_t i = 0; i < batch->targets.numel(); ++i) {
      if (batch->targets.item(i) == ops::kIgnoreIndex) continue;
      const std::int64_t sample = batch->begin.next_sample + i / options.seq_len;
      const auto at = static_cast<std::size_t>(sample * options.seq_len + i % options.seq_len + 1);
      EXPECT_EQ(batch->targets.item(i), stream[at]);
      ++counts[at];
      ++n_found;
    }
  }
  EXPECT_EQ(n_targets, n_found);
  return counts;
}

// Every token but the first is a target; the first one of another document only if it is the separator.
void expect_marked_borders_only(const Dataset& dataset, const LoaderOptions& options) {
  const auto stream = all_tokens(dataset);
  const auto separator = dataset.vocabulary().separator;
  std::vector<int> expected(stream.size(), 1);
  for (std::int64_t d = 0; d < dataset.n_documents(); ++d) {
    const auto at = static_cast<std::size_t>(dataset.document_begin(d));
    const bool marked = separator && stream[at] == static_cast<std::int32_t>(*separator);
    if (at == 0 || (options.documents && !marked)) expected[at] = 0;
  }
  EXPECT_EQ(target_counts(dataset, options), expected);
}

TEST_F(LoaderTest, NothingPredictsTheNextDocumentWithoutASeparator) {
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<std::int64_t> lengths(2 + rng() % 12);
    for (auto& length : lengths) length = 1 + static_cast<std::int64_t>(rng() % (1u << (rng() % 6)));
    lengths.back() += 3;  // the text has enough to be split
    const Dataset marked = make_dataset(rng, lengths);
    std::vector<Dataset::Part> parts;
    parts.push_back({std::make_shared<GivenTokens>(all_tokens(marked)), {0}});
    for (const std::int64_t length : lengths) parts[0].offsets.push_back(parts[0].offsets.back() + length);
    const Dataset plain({"plain", 258, {}, {}}, nullptr, std::move(parts));
    LoaderOptions options = random_options(ModelType::decoder);
    for (const bool documents : {true, false}) {
      options.documents = documents;
      SCOPED_TRACE(fmt::format("trial {} documents {} seq_len {}", trial, documents, options.seq_len));
      expect_marked_borders_only(marked, options);
      expect_marked_borders_only(plain, options);
      const auto [head, tail] = plain.split_tail(0.3);
      for (const Dataset* part : {&head, &tail})
        if (part->n_tokens() > 1 && part->n_documents() < part->n_tokens())
          expect_marked_borders_only(*part, options);
    }
  }
}

TEST_F(LoaderTest, TokenFilesAndBinFilesWithoutASeparatorToo) {
  put("t.json", BpeTokenizer(BpeModel(make_model({"a b"}))).to_json());  // no special tokens
  for (int i = 0; i < 5; ++i) put(fmt::format("in/{}", i), random_text(1 + rng() % 60));
  const std::string in = (folder / "in").string(), file = (folder / "t.h5").string(),
                    tokenizer = "bpe:" + (folder / "t.json").string();
  prepare({in}, file, {.tokenizer = tokenizer});
  put("a.bin", std::string("\x01\0\x02\0\x03\0", 6));
  put("b.bin", std::string("\x04\0\x05\0", 4));
  const Dataset text = open_dataset({in}, InputFormat::text, tokenizer), stored = open_dataset({file});
  const Dataset ids = open_dataset({(folder / "a.bin").string(), (folder / "b.bin").string()});
  EXPECT_FALSE(text.vocabulary().separator.has_value());
  for (const Dataset* dataset : {&text, &stored, &ids})
    expect_marked_borders_only(*dataset, {.batch_size = 2, .seq_len = 7});
  EXPECT_EQ(target_counts(ids, {.batch_size = 1, .seq_len = 4}), (std::vector<int>{0, 1, 1, 0, 1}));
}

TEST_F(LoaderTest, DocumentsOfOneTokenNeedASeparator) {
  put("one.bin", std::string("\x01\0", 2));
  put("two.bin", std::string("\x02\0", 2));
  const Dataset ids = open_dataset({(folder / "one.bin").string(), (folder / "two.bin").string()});
  expect_error(ErrorKind::data, "each of the 2 documents is a single token",
               [&] { Loader(ids, {.batch_size = 1, .seq_len = 4}); });
  EXPECT_EQ(Loader(ids, {.batch_size = 1, .seq_len = 4, .documents = false}).next()->n_targets, 1);
}

TEST_F(LoaderTest, EpochsDifferWhenShuffledAndRepeatWhenNot) {
  const Dataset dataset = make_dataset(rng, {2001});
  for (const bool shuffle : {true, false}) {
    Loader loader(dataset, {.batch_size = 100, .seq_len = 20, .shuffle = shuffle, .seed = seed});
    const Batch first = *loader.next(), second = *loader.next();
    EXPECT_EQ(second.begin, (LoaderPosition{1, 0}));
    EXPECT_EQ(same(first.inputs, second.inputs), !shuffle);
    Loader again(dataset, {.batch_size = 100, .seq_len = 20, .shuffle = shuffle, .seed = seed});
    EXPECT_TRUE(same(*again.next(), first));
    Loader other(dataset, {.batch_size = 100, .seq_len = 20, .shuffle = shuffle, .seed = seed + 1});
    EXPECT_EQ(same(other.next()->inputs, first.inputs), !shuffle);
  }
}

TEST_F(LoaderTest, SeekingIsContinuing) {
  for (const ModelType type : {ModelType::decoder, ModelType::encoder_mlm}) {
    for (int trial = 0; trial < 100; ++trial) {
      const Dataset dataset = random_dataset(rng);
      const LoaderOptions options = random_options(type);
      Loader whole(dataset, options), resumed(dataset, options);
      const int n_skip = static_cast<int>(rng() % 10);
      for (int i = 0; i < n_skip; ++i) whole.next();
      resumed.next();  // makes one ahead, which the seek must drop
      resumed.seek(whole.position());
      for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(resumed.position(), whole.position());
        const Batch a = *whole.next(), b = *resumed.next();
        EXPECT_TRUE(same(a, b));
        EXPECT_EQ(a.end, whole.position());
      }
      expect_error(ErrorKind::data, "outside the data", [&] {
        resumed.seek({0, resumed.samples_per_epoch()});
      });
      expect_error(ErrorKind::data, "outside the data", [&] { resumed.seek({-1, 0}); });
    }
  }
}

TEST_F(LoaderTest, PrefetchChangesNothing) {
  const Dataset dataset = random_dataset(rng);
  LoaderOptions options = random_options(ModelType::decoder);
  options.prefetch = false;
  Loader plain(dataset, options);
  options.prefetch = true;
  Loader ahead(dataset, options);
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(same(*plain.next(), *ahead.next()));
}

TEST_F(LoaderTest, ADatasetShorterThanTheSequenceIsOnePaddedSample) {
  const Dataset dataset = make_dataset(rng, {3, 4});
  Loader loader(dataset, {.batch_size = 2, .seq_len = 100, .single_pass = true});
  EXPECT_EQ(loader.samples_per_epoch(), 1);
  const Batch batch = *loader.next();
  EXPECT_EQ(batch.inputs.shape(), (Shape{1, 100}));
  EXPECT_EQ(batch.n_tokens, 6);
  EXPECT_EQ(batch.row_bounds.item(0), 0);
  EXPECT_EQ(batch.row_bounds.item(1), 3);
  EXPECT_EQ(batch.row_bounds.item(6), 3);
  EXPECT_EQ(batch.row_bounds.item(7), 6);   // the last token of the stream is a target only
  EXPECT_EQ(batch.row_bounds.item(12), 0);  // padding sees nothing
  EXPECT_EQ(batch.row_bounds.item(13), 0);
  EXPECT_FALSE(loader.next().has_value());
  // Over and over when training: a batch may hold the same sample of two epochs.
  Loader endless(dataset, {.batch_size = 3, .seq_len = 100});
  EXPECT_EQ(endless.next()->end, (LoaderPosition{3, 0}));
}

TEST_F(LoaderTest, RefusesWhatCannotServe) {
  const Dataset one = make_dataset(rng, {1}), two = make_dataset(rng, {2});
  expect_error(ErrorKind::data, "single token", [&] { Loader loader(one, {.seq_len = 4}); });
  EXPECT_EQ(Loader(two, {.seq_len = 4}).samples_per_epoch(), 1);
  expect_error(ErrorKind::usage, "seq_len", [&] { Loader loader(two, {.seq_len = 0}); });
  expect_error(ErrorKind::usage, "batch size", [&] { Loader loader(two, {.batch_size = 0, .seq_len = 4}); });
  expect_error(ErrorKind::usage, "mask_probability",
               [&] { Loader loader(two, {.seq_len = 4, .mask_probability = 0}); });
  expect_error(ErrorKind::data, "labelled",
               [&] { Loader loader(two, {.type = ModelType::encoder_classifier, .seq_len = 4}); });
  Vocabulary unmasked = kBytes;
  unmasked.mask.reset();
  std::vector<Dataset::Part> parts;
  parts.push_back({std::make_shared<GivenTokens>(std::vector<std::int32_t>{1, 2}), {0, 2}});
  const Dataset plain(unmasked, nullptr, parts);
  expect_error(ErrorKind::data, "mask token",
               [&] { Loader loader(plain, {.type = ModelType::encoder_mlm, .seq_len = 4}); });
}

TEST_F(LoaderTest, MasksAsBertDoes) {
  const std::int64_t n = 200'000;
  std::vector<std::int64_t> lengths(100, n / 100);
  const Dataset dataset = make_dataset(rng, lengths);
  const auto stream = all_tokens(dataset);
  LoaderOptions options{
      .type = ModelType::encoder_mlm, .batch_size = 1, .seq_len = n, .shuffle = false, .seed = seed};
  Loader loader(dataset, options);
  const Batch batch = *loader.next();
  std::int64_t n_chosen = 0, n_masked = 0, n_kept = 0, n_random = 0;
  std::set<std::int32_t> random_ids;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto input = static_cast<std::int32_t>(batch.inputs.item(i)),
               target = static_cast<std::int32_t>(batch.targets.item(i));
    const std::int32_t original = stream[static_cast<std::size_t>(i)];
    if (target == ops::kIgnoreIndex) {
      ASSERT_EQ(input, original);
      continue;
    }
    ASSERT_EQ(target, original);
    ASSERT_NE(original, 256);  // separators are never chosen
    ++n_chosen;
    if (input == 257)
      ++n_masked;
    else if (input == original)
      ++n_kept;
    else {
      ++n_random;
      random_ids.insert(input);
      ASSERT_LT(input, 256);
    }
  }
  EXPECT_EQ(batch.n_targets, n_chosen);
  EXPECT_EQ(batch.n_bytes, n_chosen);
  const auto part = [](std::int64_t a, std::int64_t b) {
    return static_cast<double>(a) / static_cast<double>(b);
  };
  EXPECT_NEAR(part(n_chosen, n), 0.15, 0.006);  // 7 standard deviations
  EXPECT_NEAR(part(n_masked, n_chosen), 0.8, 0.02);
  EXPECT_NEAR(part(n_kept, n_chosen), 0.1, 0.015);
  EXPECT_NEAR(part(n_random, n_chosen), 0.1, 0.015);
  EXPECT_GT(random_ids.size(), 250u);
  // Other places in the next epoch; the same ones whatever the batch size.
  EXPECT_FALSE(same(loader.next()->targets, batch.targets));
  options.seq_len = 20'000;
  options.batch_size = 3;
  options.single_pass = true;
  Loader other(dataset, options);
  std::vector<std::int32_t> targets;
  while (const auto piece = other.next())
    targets.insert(targets.end(), piece->targets.values<std::int32_t>().begin(),
                   piece->targets.values<std::int32_t>().end());
  EXPECT_TRUE(std::ranges::equal(targets, batch.targets.values<std::int32_t>()));
}

TEST_F(LoaderTest, MaskedWindowsCoverTheWholeStream) {
  for (int trial = 0; trial < 50; ++trial) {
    const Dataset dataset = random_dataset(rng);
    LoaderOptions options = random_options(ModelType::encoder_mlm);
    options.shuffle = false;
    options.single_pass = true;
    Loader loader(dataset, options);
    std::vector<std::int32_t> back;
    while (const auto batch = loader.next())
      for (std::int64_t i = 0; i < batch->inputs.dim(0); ++i)
        for (std::int64_t j = 0; j < static_cast<std::int64_t>(batch->token_bounds.item(2 * i + 1)); ++j) {
          const auto target = static_cast<std::int32_t>(batch->targets.item(i * options.seq_len + j));
          const auto input = static_cast<std::int32_t>(batch->inputs.item(i * options.seq_len + j));
          back.push_back(target == ops::kIgnoreIndex ? input : target);
        }
    EXPECT_EQ(back, all_tokens(dataset));
  }
}

TEST_F(LoaderTest, ClassifierSamplesAreDocumentsWithTheirLabels) {
  std::map<std::string, std::int32_t> label_of;
  for (int i = 0; i < 30; ++i) {
    const std::string kind = i % 3 == 0 ? "red" : "blue",
                      text = fmt::format("{} {}", kind, random_text(rng() % 40));
    put(fmt::format("in/{}/{}", kind, i), text);
    label_of[text] = kind == "red" ? 1 : 0;  // the sorted order of the folders' names
  }
  const OpenedData opened =
      open_data({.train = {(folder / "in").string()}, .val_fraction = 0.2, .classes = true});
  EXPECT_EQ(opened.train.class_names(), (std::vector<std::string>{"blue", "red"}));
  std::int64_t n_seen = 0;
  for (const Dataset* dataset : {&opened.train, &*opened.validation}) {
    EXPECT_EQ(std::set<std::int32_t>(dataset->labels().begin(), dataset->labels().end()),
              (std::set<std::int32_t>{0, 1}));
    Loader loader(*dataset, {.type = ModelType::encoder_classifier,
                             .batch_size = 4,
                             .seq_len = 20,
                             .seed = seed,
                             .single_pass = true});
    EXPECT_EQ(loader.samples_per_epoch(), dataset->n_documents());
    while (const auto batch = loader.next()) {
      const std::int64_t b = batch->inputs.dim(0);
      EXPECT_EQ(batch->targets.shape(), Shape{b});
      EXPECT_EQ(batch->n_targets, b);
      for (std::int64_t i = 0; i < b; ++i, ++n_seen) {
        EXPECT_EQ(batch->inputs.item(i * 20), 256);
        const auto n_real = static_cast<std::int64_t>(batch->token_bounds.item(2 * i + 1));
        std::string text;
        for (std::int64_t j = 1; j < n_real; ++j) text += static_cast<char>(batch->inputs.item(i * 20 + j));
        const auto found = label_of.lower_bound(text);  // the text, or one that it begins
        ASSERT_TRUE(found != label_of.end() && found->first.starts_with(text)) << text;
        EXPECT_EQ(batch->targets.item(i), found->second);
        for (std::int64_t j = 0; j < 20; ++j)
          EXPECT_EQ(batch->row_bounds.item(40 * i + 2 * j + 1), j < n_real ? n_real : 0);
      }
    }
  }
  EXPECT_EQ(n_seen, 30);
}

TEST_F(LoaderTest, TextAndTokenFilesInMemoryOrNotGiveTheSameBatches) {
  for (int i = 0; i < 5; ++i) put(fmt::format("in/{}", i), random_text(1 + rng() % 5000));
  const std::string in = (folder / "in").string(), file = (folder / "t.h5").string();
  prepare({in}, file, {});
  const Dataset text = open_dataset({in}), memory = open_dataset({file});
  const Dataset slices = open_dataset({file}, InputFormat::hdf5, "byte", nullptr, {.in_memory = 0});
  const LoaderOptions options{.batch_size = 3, .seq_len = 101, .seed = seed};
  Loader a(text, options), b(memory, options), c(slices, options),
      d(slices, options);  // c, d: threads share a file
  for (int i = 0; i < 60; ++i) {
    const Batch batch = *a.next();
    ASSERT_TRUE(same(batch, *b.next()));
    ASSERT_TRUE(same(batch, *c.next()));
    ASSERT_TRUE(same(batch, *d.next()));
  }
  EXPECT_EQ(slices.fingerprint(), text.fingerprint());
}

}  // namespace
}  // namespace filigree
