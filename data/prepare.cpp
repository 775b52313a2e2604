#include "data/prepare.h"

#include "core/check.h"

namespace filigree {

namespace fs = std::filesystem;

namespace {

void refuse_input_as_output(const Sources& sources, const fs::path& output) {
  for (const SourceFile& file : sources.files) {
    std::error_code ignored;
    if (fs::equivalent(file.path, output, ignored))
      throw Error(ErrorKind::usage,
                  fmt::format("{} is itself an input and would be overwritten", output.string()),
                  "choose another output with -o");
  }
}

TokenCounts write_tokens(const Sources& sources, const fs::path& output,
                         const std::shared_ptr<const Tokenizer>& tokenizer,
                         const std::function<void(std::int64_t)>& done) {
  TokenFileWriter writer(output, tokenizer);
  for (const SourceFile& file : sources.files) {
    writer.begin_document();
    read_blocks(file, tokenizer->border(), [&](std::string_view text) {
      writer.append(text);
      done(std::ssize(text));
    });
  }
  return writer.commit();
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
  refuse_input_as_output(result.sources, output);
  std::int64_t done = 0;
  const auto count = [&](std::int64_t bytes) {
    done += bytes;
    if (progress) progress(done, result.sources.bytes);
  };
  if (options.val_fraction == 0) {
    result.train = write_tokens(result.sources, output, tokenizer, count);
    return result;
  }
  result.validation_path = validation_path(output);
  refuse_input_as_output(result.sources, result.validation_path);
  const auto [train, validation] = split_sources(result.sources, options.val_fraction, options.seed);
  result.validation = write_tokens(validation, result.validation_path, tokenizer, count);
  result.train = write_tokens(train, output, tokenizer, count);
  return result;
}

}  // namespace filigree
