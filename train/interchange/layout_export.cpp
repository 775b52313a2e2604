#include "train/interchange/layout_export.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "train/config/layouts.h"

namespace filigree {
namespace {

// %1 is the architecture, %2 the pattern, %3 the length.
constexpr const char* kReadme = R"(# A sparse model made with filigree

The weights are those of a `%1`, which loads as it is and then attends to every earlier token. The model was
trained with this pattern instead, for which transformers has no architecture:

```yaml
%2
```

So its logits are right only once the pattern's layout is applied. `config.json` names a layout file for each
layer under `filigree.layouts`; a layout holds for sequences of up to %3 tokens. This applies them:

```python
import json
import h5py
import numpy
import torch
from transformers import AutoModelForCausalLM


def read_layout(path):
    """Bool [heads, queries, keys]: who sees whom."""
    with h5py.File(path) as file:
        n, tile = int(file.attrs["n_queries"]), int(file.attrs["tile"])
        bits = numpy.unpackbits(file["masks"][()], axis=1, bitorder="little").reshape(-1, tile, tile) == 1
        heads = []
        for number in file["head_pattern"][()]:
            group = file[f"pattern_{number}"]
            offsets, columns, mask_id = (group[k][()] for k in ("row_offsets", "columns", "mask_id"))
            rows = len(offsets) - 1
            mask = numpy.zeros((rows * tile, rows * tile), bool)
            for r in range(rows):
                for k in range(offsets[r], offsets[r + 1]):
                    block = mask[r * tile : (r + 1) * tile, columns[k] * tile : (columns[k] + 1) * tile]
                    block[:] = True if mask_id[k] < 0 else bits[mask_id[k]]
            heads.append(mask[:n, :n])
    return torch.from_numpy(numpy.stack(heads))


def restrict(attention, mask):
    """Lets an attention module see only what the mask allows."""
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None]
    original = attention.forward

    def forward(*args, **kwargs):
        x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        n = x.shape[1]
        kwargs["attention_mask"] = bias[:, :, :n, :n].to(x.dtype).to(x.device)
        return original(*args, **kwargs)

    attention.forward = forward


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    with open(f"{folder}/config.json") as file:
        names = json.load(file)["filigree"]["layouts"]
    masks = {name: read_layout(f"{folder}/{name}") for name in set(names)}
    for layer, name in zip(layers, names):
        restrict(layer.attn if hasattr(layer, "attn") else layer.self_attn, masks[name])
    return model
```

`load(folder)(tokens, use_cache=False).logits` are then filigree's. A query that no key is allowed to (few
patterns have one) gets 0 from filigree's attention, but the mean of all values here. For speed take filigree
itself, which computes only the tiles of the layout: `filigree import FOLDER -o CHECKPOINT.h5`.
)";

constexpr std::int64_t kNoWindow = std::numeric_limits<std::int64_t>::max();

// The keys that every token of every head and layer sees, itself included: kNoWindow for full attention,
// nullopt for anything but these two.
std::optional<std::int64_t> plain_window(const Config& config) {
  const PatternSpec& pattern = config.pattern;
  if (pattern.name() == "full") return kNoWindow;
  if (pattern.name() != "local" || pattern.settings.find("dilation")->scalar != "1") return std::nullopt;
  const std::int64_t window = as_integer(*pattern.settings.find("window"), "local.window", 1, kNoWindow);
  return window >= config.model.max_seq_len ? kNoWindow : window;
}

std::string readme(const Config& config, Architecture architecture) {
  std::string text = kReadme;
  const std::string values[] = {architecture_class(architecture), pattern_text(config.pattern),
                                fmt::format("{}", config.data.seq_len)};
  for (int i = 0; i < 3; ++i) {
    const std::string place = fmt::format("%{}", i + 1);
    text.replace(text.find(place), place.size(), values[i]);
  }
  return text;
}

}  // namespace

AttentionThere attention_there(const Config& config) {
  const Architecture shape = architecture_of(config.model);
  const auto window = plain_window(config);
  if (window == kNoWindow) return {shape, std::nullopt, true};
  if (window && shape == Architecture::llama && !config.model.bias)
    return {Architecture::mistral, window, true};
  return {shape, std::nullopt, false};
}

std::string pattern_text(const PatternSpec& pattern) {
  std::string text = to_yaml(pattern);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

LayoutExport write_layouts(const std::filesystem::path& folder, const Config& config,
                           const std::vector<LayoutPtr>& layouts, Architecture architecture) {
  std::vector<LayoutPtr> distinct;
  for (const LayoutPtr& layout : layouts)
    if (std::ranges::find(distinct, layout) == distinct.end()) distinct.push_back(layout);
  const auto name = [&](std::size_t number) {
    return distinct.size() == 1 ? std::string("layout.h5") : fmt::format("layout_{}.h5", number);
  };
  LayoutExport written;
  for (const LayoutPtr& layout : layouts)
    written.files.push_back(
        name(static_cast<std::size_t>(std::ranges::find(distinct, layout) - distinct.begin())));
  for (std::size_t i = 0; i < distinct.size(); ++i)
    save_layout(*distinct[i], (folder / name(i)).string(), false);
  written.note = fmt::format(
      "transformers has no architecture with this pattern: loaded as {} the model attends to every earlier "
      "token; "
      "README.md tells how to apply the layout",
      architecture_class(architecture));
  write_file_atomically(folder / "README.md", readme(config, architecture));
  return written;
}

nlohmann::ordered_json layout_entry(const Config& config, const LayoutExport& written) {
  return {{"pattern", pattern_text(config.pattern)},
          {"tile", config.tile},
          {"seq_len", config.data.seq_len},
          {"layouts", written.files},
          {"note", written.note}};
}

}  // namespace filigree
