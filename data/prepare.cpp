#include "data/prepare.h"

#include <memory>

#include "core/file.h"
#include "core/output_check.h"

namespace filigree {

namespace fs = std::filesystem;

namespace {

void check_outputs(const PrepareResult& result, const fs::path& output, const PrepareOptions& options) {
  OutputCheck outputs(options.overwrite);
  if (options.tokenizer.starts_with("bpe:")) outputs.reads(expand_home(options.tokenizer.substr(4)));
  for (const SourceFile& file : result.sources.files) outputs.reads(file.path);
  outputs.writes(output, "-o", true);
  if (!result.validation_path.empty())
    outputs.writes(result.validation_path, "-o (its validation file)", true);
}

// Bytes are one token each. Of BPE no fewer are assumed than an eighth: whoever has no room for these has
// none.
void require_room_for(const Sources& sources, const fs::path& output, const Tokenizer& tokenizer) {
  const auto documents = std::ssize(sources.files);
  const std::int64_t tokens = documents + (tokenizer.name() == "byte" ? sources.bytes : sources.bytes / 8);
  const std::int64_t width = tokenizer.vocab_size() <= 65536 ? 2 : 4;
  require_room(output.parent_path(), fmt::format("the tokens of {}", output.string()),
               tokens * width + documents * 8, 1, "free some space, or choose another disk");
}

std::unique_ptr<TokenFileWriter> write_tokens(const Sources& sources, const fs::path& output,
                                              const std::shared_ptr<const Tokenizer>& tokenizer,
                                              const std::function<void(std::int64_t)>& done) {
  auto writer = std::make_unique<TokenFileWriter>(output, tokenizer);
  for (const SourceFile& file : sources.files) {
    writer->begin_document();
    read_blocks(file, tokenizer->border(), [&](std::string_view text) {
      writer->append(text);
      done(std::ssize(text));
    });
  }
  return writer;
}

}  // namespace

fs::path validation_path(const fs::path& output) {
  fs::path path = output;
  return path.replace_extension(".val" + output.extension().string());
}

PrepareResult prepare(const std::vector<std::string>& inputs, const fs::path& output,
                      const PrepareOptions& options, const PrepareProgress& progress) {
  require(options.val_fraction >= 0 && options.val_fraction < 1,
          "the validation fraction must lie in [0, 1), not {}", options.val_fraction);
  const auto tokenizer = make_tokenizer(options.tokenizer);
  PrepareResult result;
  result.sources = find_sources(inputs);
  if (options.val_fraction > 0) result.validation_path = validation_path(output);
  check_outputs(result, output, options);
  require_room_for(result.sources, output, *tokenizer);
  std::int64_t done = 0;
  const auto count = [&](std::int64_t bytes) {
    done += bytes;
    if (progress) progress(done, result.sources.bytes);
  };
  if (options.val_fraction == 0) {
    result.train = write_tokens(result.sources, output, tokenizer, count)->commit();
    return result;
  }
  const auto [train, validation] = split_sources(result.sources, options.val_fraction, options.seed);
  // Both or none: the old file of one beside the new one of the other would share texts.
  const auto held_out = write_tokens(validation, result.validation_path, tokenizer, count);
  const auto rest = write_tokens(train, output, tokenizer, count);
  result.validation = held_out->commit();
  result.train = rest->commit();
  return result;
}

}  // namespace filigree
