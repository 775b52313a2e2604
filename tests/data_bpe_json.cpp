// tokenizer.json files: what is read comes back the same, and whatever else is refused by name.
#include <gtest/gtest.h>

#include "data/bpe_tokenizer.h"
#include "data/strict_json.h"
#include "tests/bpe_helpers.h"
#include "tests/data_helpers.h"

namespace filigree {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string some_json(Splitting splitting) {
  BpeModel model = make_model({"a b", "ab c", "\" \\"}, splitting,
                              {{"<|begin_of_text|>", 0, true, false}, {"\xc3\xa9\n\"", 0, false, true}});
  if (splitting == Splitting::llama3) {
    model.ignore_merges = true;
    model.post_processor =
        R"({"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, )"
        R"("use_regex": true}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", )"
        R"("type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": )"
        R"({"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [259], "tokens": ["<|begin_of_text|>"]}}}]})";
  }
  return write_tokenizer_json(model);
}

TEST(TokenizerJson, WritingWhatWasReadChangesNothing) {
  TortureText random(test_seed());
  for (int trial = 0; trial < 20; ++trial) {
    BpeModel model = random_model(random, 80, trial % 2 ? Splitting::gpt2 : Splitting::llama3);
    model.ignore_merges = random.below(2) == 0;
    for (std::uint64_t i = random.below(5); i > 0; --i)
      model.added.push_back({fmt::format("<{}>", i) + TortureText(trial, true).text(3),
                             static_cast<std::uint32_t>(model.vocab_size()), random.below(2) == 0,
                             random.below(2) == 0});
    const std::string json = write_tokenizer_json(model);
    const BpeModel back = read_tokenizer_json(json, "back");
    EXPECT_EQ(write_tokenizer_json(back), json);
    EXPECT_EQ(back.vocab, model.vocab);
    EXPECT_EQ(back.merges, model.merges);
    ASSERT_EQ(back.added.size(), model.added.size());
    for (std::size_t i = 0; i < back.added.size(); ++i) {
      EXPECT_EQ(back.added[i].content, model.added[i].content);
      EXPECT_EQ(back.added[i].special, model.added[i].special);
      EXPECT_EQ(back.added[i].normalized, model.added[i].normalized);
    }
  }
  for (const Splitting rule : {Splitting::gpt2, Splitting::llama3}) {
    const std::string json = some_json(rule);
    const BpeModel back = read_tokenizer_json(json, "back");
    EXPECT_EQ(back.splitting, rule);
    EXPECT_EQ(write_tokenizer_json(back), json);
  }
}

TEST(TokenizerJson, OldAndNewFormsAreTheSameTokenizer) {
  const std::string json = some_json(Splitting::gpt2);
  const auto same = [&](const std::string& other) {
    EXPECT_EQ(write_tokenizer_json(read_tokenizer_json(other, "other")), json);
  };
  same(replaced(json, "\"ab c\"", R"(["ab", "c"])"));
  same(replaced(json, "    \"type\": \"BPE\",\n", ""));
  same(replaced(json, R"("unk_token": null)", R"("unk_token": "<|begin_of_text|>")"));
  same(replaced(json, R"("continuing_subword_prefix": null)", R"("continuing_subword_prefix": "")"));
  same(replaced(json, R"(, "use_regex": true)", ""));  // of the pre-tokenizer
  same(replaced(json, "    \"ignore_merges\": false,\n", ""));
}

// What was changed, and what the error must name.
TEST(TokenizerJson, RefusesWhatItDoesNotDo) {
  const std::string gpt2 = some_json(Splitting::gpt2), llama3 = some_json(Splitting::llama3);
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": false)";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {replaced(gpt2, "\"normalizer\": null", R"("normalizer": {"type": "NFC"})"),
       "normalizer: NFC is not supported"},
      {replaced(gpt2, "\"truncation\": null", R"("truncation": {"max_length": 5})"), "truncation"},
      {replaced(gpt2, "\"padding\": null", R"("padding": {})"), "padding"},
      {replaced(gpt2, "\"pre_tokenizer\": {\"type\": \"ByteLevel\"",
                R"("pre_tokenizer": {"type": "Whitespace")"),
       "pre_tokenizer: Whitespace is not supported"},
      {replaced(gpt2, "\"add_prefix_space\": false", "\"add_prefix_space\": true"), "add_prefix_space: true"},
      {replaced(gpt2, "\"use_regex\": true", "\"use_regex\": false"), "use_regex: false alone"},
      {replaced(gpt2, "\"decoder\": {\"type\": \"ByteLevel\"", R"("decoder": {"type": "Metaspace")"),
       "decoder: Metaspace is not supported"},
      {replaced(gpt2, "\"type\": \"BPE\"", "\"type\": \"Unigram\""), "model: Unigram is not supported"},
      {replaced(gpt2, "\"dropout\": null", "\"dropout\": 0.1"), "model.dropout: 0.1"},
      {replaced(gpt2, R"("end_of_word_suffix": null)", R"("end_of_word_suffix": "</w>")"),
       "end_of_word_suffix"},
      {replaced(gpt2, "\"lstrip\": false", "\"lstrip\": true"), "\"<|begin_of_text|>\": lstrip: true"},
      {replaced(gpt2, "\"rstrip\": false", "\"rstrip\": true"), "rstrip: true"},
      {replaced(gpt2, "\"single_word\": false", "\"single_word\": true"), "single_word: true"},
      {replaced(gpt2, "\"post_processor\": null", R"("post_processor": {"type": "BertProcessing"})"),
       "post_processor: BertProcessing"},
      {replaced(llama3, R"({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, )", ""),
       "one special token before the text"},
      {replaced(llama3, R"(\\p{N}{1,3})", R"(\\p{N}{1,2})"), "only Llama 3's pattern is"},
      {replaced(llama3, "Isolated", "Removed"), "Isolated"},
      {replaced(llama3, "\"use_regex\": false", "\"use_regex\": true"), "use_regex: true after a Split"},
      {replaced(llama3, "\"Split\"", "\"Digits\""), "this Sequence is not supported"},
      {replaced(gpt2, "\"version\"", "\"verzion\""), "key \"verzion\", which is not known"},
      {replaced(gpt2, "\"dropout\"", "\"dropin\""), "key \"dropin\""},
      {replaced(llama3, "\"invert\"", "\"inverse\""), "key \"inverse\""},
  };
  for (const auto& [json, words] : cases)
    expect_error(ErrorKind::data, words, [&] { read_tokenizer_json(json, "t.json"); });
}

TEST(TokenizerJson, RefusesDamage) {
  const std::string json = some_json(Splitting::gpt2);
  std::string deep(100'000, '[');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "t.json: not valid JSON"},
      {"[1, 2", "not valid JSON"},
      {json.substr(0, json.size() / 2), "not valid JSON: parse error at line"},
      {json + "x", "not valid JSON"},
      {"\xff", "not valid JSON"},
      {"[]", "the file must be an object"},
      {"{}", "the file has no 'model'"},
      {deep, "nested deeper than 64"},
      {replaced(json, "\"model\": {", "\"model\": [{") + "]", "not valid JSON"},
      {replaced(json, "\"a\": 97", "\"a\": 98"), "have the same id 98"},
      {replaced(json, "\"a\": 97", "\"b\": 97"), "the key \"b\" comes twice"},
      {replaced(json, "\"abc\": 257", "\"abc\": 300"), "the ids must be 0 to 258 without holes"},
      {replaced(json, "\"abc\": 257", "\"abc\": -1"), "the id of token \"abc\" must be a whole number"},
      {replaced(json, "\"abc\": 257", "\"abc\": 2.5"), "whole number"},
      {replaced(json, "\"abc\": 257", "\"abc\": \"257\""), "whole number"},
      {replaced(json, "\"abc\": 257", "\"abc\": 99999999999999999999"), "whole number"},
      {replaced(json, "\"a\": 97", "\"xa\": 97"), "no token \"a\" for byte 0x61"},
      {replaced(json, "\"a b\"", "\"a q\""),
       "merge 0 names the token \"aq\", which model.vocab does not have"},
      {replaced(json, "\"ab c\"", "\"abx c\""), "merge 1 names the token \"abx\""},
      {replaced(json, "\"ab c\"", "\"a b\""), "merge 1 (\"a\" \"b\") comes twice"},
      {replaced(json, "\"ab c\"", "\"abc\""), "merge 1 must be two tokens"},
      {replaced(json, "\"ab c\"", "\"a b c\""), "merge 1 must be two tokens"},
      {replaced(json, "\"ab c\"", "7"), "merge 1 must be two tokens"},
      {replaced(json, "\"ab c\"", "[\"ab\"]"), "merge 1 must be two tokens"},
      {replaced(json, "\"merges\": [", "\"merges\": {}, \"x\": ["), "which is not known"},
      {replaced(json, "\"id\": 259", "\"id\": 261"), "has the id 261, where 259 is expected"},
      {replaced(json, "\"id\": 260", "\"id\": 259"), "has the id 259, where 260 is expected"},
      {replaced(json, "\"content\": \"<|begin_of_text|>\"", "\"content\": \"\""), "an added token is empty"},
      {replaced(json, "\"content\": \"<|begin_of_text|>\"", "\"content\": \"ab\""), "where 256 is expected"},
      {replaced(json, "\"special\": true", "\"special\": 1"), "'special' must be true or false"},
      {replaced(json, R"("content": "<|begin_of_text|>", )", ""), "has no 'content'"},
  };
  for (const auto& [text, words] : cases)
    expect_error(ErrorKind::data, words, [&, &t = text] { read_tokenizer_json(t, "t.json"); });
  const std::string twice = replaced(json, "\xc3\xa9\\n\\\"", "<|begin_of_text|>");
  expect_error(ErrorKind::data, "comes twice", [&] { read_tokenizer_json(twice, "t.json"); });
  expect_error(ErrorKind::data, "at most 268435456",
               [&] { read_tokenizer_json(std::string((256 << 20) + 1, ' '), "t.json"); });
}

// Every mutation either is an Error(data) or a tokenizer that works.
void mutate(TortureText& random, int trials) {
  int n_read = 0, n_refused = 0;
  for (int trial = 0; trial < trials; ++trial) {
    std::string json = some_json(trial % 2 ? Splitting::gpt2 : Splitting::llama3);
    const auto where = [&] { return random.below(static_cast<std::uint32_t>(json.size())); };
    for (std::uint64_t i = 1 + random.below(3); i > 0 && !json.empty(); --i) {
      const std::size_t at = where(), other = where(), n = 1 + random.below(30);
      switch (random.below(6)) {
        case 0:
          json[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          json.erase(at, n);
          break;
        case 2:
          json.insert(at, json.substr(other, n));
          break;
        case 3:
          json.insert(at, random.piece());
          break;
        case 4:
          json.replace(at, n, json.substr(other, n));
          break;
        default:
          if (random.below(4) == 0)
            json.resize(at);
          else if (const std::size_t digit = json.find_first_of("0123456789", at); digit != std::string::npos)
            json[digit] = static_cast<char>('0' + random.below(10));
      }
    }
    try {
      const auto tokenizer = tokenizer_from_json(json, "mutated");
      std::vector<std::uint32_t> ids;
      tokenizer->encode("abc \xff 123 <|begin_of_text|> it's\n\n", ids);
      for (const std::uint32_t id : ids) ASSERT_LT(id, tokenizer->vocab_size());
      tokenizer->decode(ids);
      ASSERT_EQ(tokenizer_from_json(tokenizer->to_json(), "again")->name(), tokenizer->name());
      ++n_read;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::data) << error.what();
      ++n_refused;
    }
  }
  EXPECT_GT(n_refused, trials / 2);
  EXPECT_GT(n_read, trials / 500);
}

TEST(TokenizerJson, SurvivesMutations) {
  TortureText random(test_seed());
  mutate(random, 500);
}

TEST(TokenizerJson, SurvivesMutationsSlow) {
  TortureText random(test_seed());
  mutate(random, 10'000);
}

TEST(StrictJson, KeepsWhatWasWritten) {
  const std::string text =
      R"({"b": [1, -2, 3.5, 1e+50, 18446744073709551615], "a": {"x": null, "y": true, "é\n\"": ""}, "": [[], {}]})";
  const auto json = parse_strict_json(text, "x");
  EXPECT_EQ(json_line(json), text);
  EXPECT_EQ(json_line(parse_strict_json(json_line(json), "y")), json_line(json));
  EXPECT_EQ(json.at("b").at(2), 3.5);
  EXPECT_FALSE(json.contains("c"));
  expect_error(ErrorKind::data, "x: the key \"a\" comes twice",
               [] { parse_strict_json(R"({"a": 1, "b": {"a": 2}, "a": 3})", "x"); });
}

}  // namespace
}  // namespace filigree
