#include "train/interchange/tokenizer_files.h"

#include <nlohmann/json.hpp>

#include "core/check.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSeparator = "<|separator|>";
constexpr const char* kMask = "<|mask|>";

// The visible character by which byte-level BPE writes a byte (Radford et al. 2019): printable Latin-1 stands
// for itself, the other bytes for U+0100 and on, in their order.
std::string byte_character(int byte) {
  const auto itself = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!itself(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += itself(b) ? 0 : 1;
  }
  if (code < 128) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

Json special_token(std::uint32_t id, const char* text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", use_regex}};
}

}  // namespace

std::string tokenizer_json(const Tokenizer& tokenizer) {
  check(tokenizer.name() == "byte", "only the byte tokenizer has this form");
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_character(byte)] = byte;
  const Json json{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", Json::array({special_token(*tokenizer.separator(), kSeparator),
                                                special_token(*tokenizer.mask(), kMask)})},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", byte_level(false)},
                  {"post_processor", nullptr},
                  {"decoder", byte_level(true)},
                  {"model",
                   {{"type", "BPE"},
                    {"dropout", nullptr},
                    {"unk_token", nullptr},
                    {"continuing_subword_prefix", nullptr},
                    {"end_of_word_suffix", nullptr},
                    {"fuse_unk", false},
                    {"byte_fallback", false},
                    {"vocab", vocabulary},
                    {"merges", Json::array()}}}};
  return json.dump(2) + "\n";
}

std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_length) {
  Json json{{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"clean_up_tokenization_spaces", false},
            {"model_max_length", max_length}};
  if (tokenizer.separator()) json["bos_token"] = json["eos_token"] = kSeparator;
  if (tokenizer.mask()) json["mask_token"] = kMask;
  return json.dump(2) + "\n";
}

void add_special_ids(Json& config, const Tokenizer* tokenizer) {
  const auto separator = tokenizer ? tokenizer->separator() : std::nullopt;
  config["bos_token_id"] = config["eos_token_id"] = separator ? Json(*separator) : Json(nullptr);
}

}  // namespace filigree
