// Special tokens of imported models: kept in the checkpoint, obeyed by generate, and written back on export.
#include <set>
#include <sstream>

#include "tests/interchange_fixture.h"
#include "train/record/special_tokens.h"

namespace filigree {
namespace {

using Ids = std::vector<std::uint32_t>;

TEST(SpecialTokens, EndTokensAreThoseOfBothFiles) {
  const auto ends = [](const Json& json) { return end_tokens(json, "m"); };
  EXPECT_EQ(ends(Json::object()), Ids());
  EXPECT_EQ(ends({{"config", {{"eos_token_id", 2}}}}), Ids{2});
  EXPECT_EQ(ends({{"config", {{"eos_token_id", nullptr}}}}), Ids());
  EXPECT_EQ(ends({{"config", {{"eos_token_id", 2}}}, {"generation_config", {{"eos_token_id", {7, 2, 9}}}}}),
            (Ids{7, 2, 9}));
  EXPECT_EQ(ends({{"config", {{"eos_token_id", 2}}}, {"generation_config", {{"top_p", 0.9}}}}), Ids{2});
  for (const Json& odd : {Json("</s>"), Json(-1), Json(1.5), Json{2, "x"}, Json{{2}}, Json(true)})
    expect_has(error_text(ErrorKind::data,
                          [&] {
                            ends({{"generation_config", {{"eos_token_id", odd}}}});
                          }),
               "m: generation_config.eos_token_id: is ");
  EXPECT_EQ(parse_special_tokens("", "m"), Json::object());
  expect_has(error_text(ErrorKind::data, [] { parse_special_tokens("[", "m"); }), "no JSON object");
}

class SpecialTokensTest : public InterchangeTest {
 protected:
  static void change(const fs::path& file, const Json& with) {
    Json json = fs::exists(file) ? Json::parse(slurp(file)) : Json::object();
    json.update(with);
    spill(file, json.dump(2) + "\n");
  }
  Json kept() { return Json::parse(read_checkpoint(path("back.h5")).special_tokens_json); }
  Json again(const std::string& name) {
    fs::remove_all(path("two"));
    export_model(path("back.h5"), path("two"), DType::f32);
    return Json::parse(slurp(path("two") / name));
  }
};

TEST_F(SpecialTokensTest, WhatAFolderSaysComesBack) {
  const fs::path folder = exported(kLlama);
  change(folder / "config.json", {{"bos_token_id", 3}, {"eos_token_id", {4, 5}}, {"pad_token_id", 6}});
  const Json generation = {{"bos_token_id", 3}, {"eos_token_id", {5, 9}}, {"temperature", 0.6}};
  spill(folder / "generation_config.json", generation.dump(2) + "\n");
  change(folder / "tokenizer_config.json", {{"tokenizer_class", "LlamaTokenizer"},
                                            {"bos_token", "<s>"},
                                            {"eos_token", {{"__type", "AddedToken"}, {"content", "</s>"}}},
                                            {"unk_token", "<unk>"},
                                            {"pad_token", nullptr},
                                            {"add_bos_token", true},
                                            {"model_input_names", {"token_type_ids"}},
                                            {"chat_template", "{{ messages }}"}});
  const Json map = {{"bos_token", "<s>"}, {"additional_special_tokens", {"<a>", "<b>"}}};
  spill(folder / "special_tokens_map.json", map.dump(2) + "\n");
  import_back(folder);
  EXPECT_EQ(end_tokens(kept(), ""), (Ids{5, 9, 4}));
  const Json config = again("config.json");
  EXPECT_EQ(config["bos_token_id"], 3);
  EXPECT_EQ(config["eos_token_id"], Json({4, 5}));
  EXPECT_EQ(config["pad_token_id"], 6);
  EXPECT_EQ(again("generation_config.json"), generation);
  EXPECT_EQ(again("special_tokens_map.json"), map);
  const Json tokenizer = again("tokenizer_config.json");
  EXPECT_EQ(tokenizer["bos_token"], "<s>");
  EXPECT_EQ(tokenizer["eos_token"]["content"], "</s>");
  EXPECT_EQ(tokenizer["unk_token"], "<unk>");
  EXPECT_EQ(tokenizer["chat_template"], "{{ messages }}");
  EXPECT_EQ(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_FALSE(tokenizer.contains("add_bos_token"));
  EXPECT_EQ(tokenizer["model_input_names"], Json({"input_ids", "attention_mask"}));
}

TEST_F(SpecialTokensTest, WhatAFolderDoesNotSayIsTheClassesOrTheSeparator) {
  const fs::path folder = exported(kLlama);
  Json config = Json::parse(slurp(folder / "config.json"));
  for (const char* key : {"bos_token_id", "eos_token_id"}) config.erase(key);
  config["pad_token_id"] = -1;
  spill(folder / "config.json", config.dump());
  fs::remove(folder / "generation_config.json");
  fs::remove(folder / "tokenizer_config.json");
  import_back(folder);
  EXPECT_EQ(kept(), Json({{"config", {{"bos_token_id", 1}, {"eos_token_id", 2}}}}));
  EXPECT_EQ(again("config.json")["eos_token_id"], 2);
  EXPECT_EQ(again("generation_config.json"), Json({{"bos_token_id", 1}, {"eos_token_id", 2}}));
  EXPECT_FALSE(again("config.json").contains("pad_token_id"));
  // generation_config.json takes the class's place, and ids outside the vocabulary are none.
  spill(folder / "generation_config.json", R"({"eos_token_id": 9})");
  import_back(folder);
  EXPECT_EQ(end_tokens(kept(), ""), Ids{9});
  EXPECT_EQ(again("config.json")["eos_token_id"], 256);
  change(folder / "config.json", {{"eos_token_id", {50256, 8}}, {"bos_token_id", 50256}});
  import_back(folder);
  EXPECT_EQ(kept()["config"], Json({{"eos_token_id", {8}}}));
  EXPECT_EQ(again("config.json")["bos_token_id"], 256);
  change(folder / "config.json", {{"eos_token_id", "</s>"}});
  expect_has(error_text(ErrorKind::data, [&] { import_back(folder); }),
             "out: config.eos_token_id: is \"</s>\"; it must be a token's id or a list of ids");
}

TEST_F(SpecialTokensTest, TokenizersTellWhatTheyFeedToTheModel) {
  const fs::path folder = exported(kGpt2);
  EXPECT_EQ(Json::parse(slurp(folder / "tokenizer_config.json"))["model_input_names"],
            Json({"input_ids", "attention_mask"}));
}

class EndTokensRun : public RunTest {};

TEST_F(EndTokensRun, GenerateEndsAtEveryEndToken) {
  const char* kModel = "model={type: decoder, dim: 32, n_layers: 1, n_heads: 2}";
  ASSERT_EQ(run({"train", "config.yaml", kModel, "train.steps=8", "train.out=dense"}).exit_code, 0);
  ASSERT_EQ(run({"export", "dense", "-o", "hf"}).exit_code, 0);
  const auto finishes = [&](const std::string& model) {
    write("prompts.txt", "til\nlay\nmas\n");
    const Outcome outcome = run({"generate", model, "--prompts", "prompts.txt", "--tokens", "60"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    std::istringstream lines(outcome.output);
    std::set<std::string> all;
    for (std::string line; std::getline(lines, line);) {
      const Json json = Json::parse(line);
      all.insert(json["finish"]);
      EXPECT_EQ(json["text"].get<std::string>().find_first_of(" e"), std::string::npos) << line;
    }
    return all;
  };
  // The space in one file, the letter e in the other: no text gets far without.
  Json config = Json::parse(slurp(path("hf/config.json")));
  config["eos_token_id"] = ' ';
  spill(path("hf/config.json"), config.dump());
  spill(path("hf/generation_config.json"), R"({"eos_token_id": [101, 256]})");
  ASSERT_EQ(run({"import", "hf", "-o", "hf.h5"}).exit_code, 0);
  EXPECT_EQ(finishes("hf.h5"), std::set<std::string>{"end"});
  // A run that begins with these weights goes on to end there, also one that is resumed.
  const auto tune = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> all = {"train",
                                    "config.yaml",
                                    kModel,
                                    "pattern={full: {}}",
                                    "train.init_from=hf.h5",
                                    "train.steps=2",
                                    "train.lr=1e-30",
                                    "checkpoint.interval=1",
                                    "train.out=" + out};
    all.insert(all.end(), more.begin(), more.end());
    const Outcome tuned = run(all);
    EXPECT_EQ(tuned.exit_code, 0) << tuned.output;
  };
  tune("tuned", {});
  tune("resumed", {"--resume", "tuned/checkpoints/step_000001.h5"});
  EXPECT_EQ(finishes("resumed/checkpoints/step_000002.h5"), std::set<std::string>{"end"});
}

}  // namespace
}  // namespace filigree
