// write_logits MODEL IDS OUT: the logits [N, V] of the u16 ids in a file as one sequence, as raw f32.
#include <cstdio>
#include <vector>

#include "core/file.h"
#include "train/layouts.h"
#include "train/loaded_model.h"

int main(int argc, char** argv) try {
  using namespace filigree;
  require(argc == 4, "usage: write_logits MODEL IDS OUT");
  const LoadedModel loaded = load_model(argv[1]);
  const std::string bytes = read_file(argv[2]);
  const auto* stored = reinterpret_cast<const unsigned char*>(bytes.data());
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) ids.push_back(stored[i] | stored[i + 1] << 8);
  const auto n = static_cast<std::int64_t>(ids.size());
  ModelInput input;
  input.tokens = Tensor::of<std::int32_t>({1, n}, ids);
  input.layouts = build_layouts(loaded.config, n);
  const NoGrad no_grad;
  const Tensor logits = loaded.model->logits(input, {}).value();
  write_file_atomically(
      argv[3], {static_cast<const char*>(logits.raw_data()), static_cast<std::size_t>(logits.bytes())});
} catch (const std::exception& e) {
  std::fprintf(stderr, "write_logits: %s\n", e.what());
  return 1;
}
