// Every kind of pattern through an export and an import: the same model with the same layout.
#include <map>

#include "tests/interchange_fixture.h"
#include "train/record/loaded_model.h"

namespace filigree {
namespace {

// By the name in the registry; `block` in each of its forms.
const std::multimap<std::string, std::string> kPatterns = {
    {"full", "{full: {}}"},
    {"local", "{local: {window: 20}}"},
    {"local", "{local: {window: 5, dilation: 3}}"},
    {"global", "{union: [{local: {window: 4}}, {global: {positions: [0, 17]}}]}"},
    {"strided", "{strided: {stride: 7}}"},
    {"fixed", "{fixed: {stride: 8, summary: 2}}"},
    {"random", "{union: [{local: {window: 2}}, {random: {keys: 3, per_head: true}}]}"},
    {"random_blocks", "{union: [{local: {window: 2}}, {random_blocks: {block: 8, blocks: 1, seed: 4}}]}"},
    {"block", "{block: {size: 16, pairs: [[0, 0], [1, 1], [2, 0], [2, 2]]}}"},
    {"block", "{block: {file: LAYOUT}}"},
    {"block", "{union: [{local: {window: 3}}, {block: {file: LAYOUT}}]}"},
    {"bigbird", "{bigbird: {block: 8, window: 3, global: 1, random: 1, per_head: true}}"},
    {"longformer", "{longformer: {window: 6, global: 2}}"},
    {"learned_layout", "{learned_layout: {budget: 0.6}}"},
    {"block_topk", "{block_topk: {topk: 1, sinks: 1, budget: 0.6}}"},
    {"learned_span", "{learned_span: {budget: 0.8}}"},
    {"union", "{union: [{local: {window: 4}}, {strided: {stride: 9}}]}"},
    {"intersect", "{intersect: [{local: {window: 20}}, {strided: {stride: 2}}]}"},
    {"minus", "{minus: [{full: {}}, {block: {size: 16, pairs: [[2, 0]]}}]}"},
    {"heads", "{heads: [{count: 1, pattern: {full: {}}}, {count: 3, pattern: {local: {window: 9}}}]}"},
    {"heads",
     "{heads: [{count: 2, pattern: {local: {window: 9}}}, {count: 2, pattern: {learned_layout: {budget: "
     "0.7}}}]}"},
    {"layers", kLayers},
    {"layers",
     "{layers: [{layers: 0, pattern: {local: {window: 9}}}, {layers: 1, pattern: {learned_span: {budget: "
     "0.8}}}]}"},
};

class LayoutRoundTrip : public InterchangeTest {
 protected:
  LayoutRoundTrip() {
    save_layout(*make_layout("{bigbird: {block: 8, random: 1, per_head: true}}", 48, 4, true),
                path("layout.h5").string(), false);
  }
  // With the path of the layout file.
  std::string filled(std::string pattern) const {
    if (const auto at = pattern.find("LAYOUT"); at != pattern.npos)
      pattern.replace(at, 6, path("layout.h5").string());
    return pattern;
  }

  struct Seen {
    std::vector<LayoutPtr> layouts;
    Tensor logits;
  };
  static Seen seen(const fs::path& checkpoint) {
    const LoadedModel loaded = load_model(checkpoint, DeviceChoice::cpu);
    const std::int64_t n = loaded.config.data.seq_len;
    Tensor tokens = Tensor::zeros({1, n}, DType::i32);
    for (std::int64_t i = 0; i < n; ++i)
      tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(29 * i % 256);
    Seen seen;
    const NoGrad no_tape;
    seen.logits = loaded.model->logits({tokens, {}, {}}, {}).value();
    for (const ConnectivityPtr& layer : loaded.model->connectivities()) {
      const Connected connected = layer->connect({n});
      EXPECT_FALSE(connected.gate.defined());
      seen.layouts.push_back(connected.layout);
    }
    return seen;
  }
  static void expect_same_layouts(const Seen& a, const Seen& b) {
    ASSERT_EQ(a.layouts.size(), b.layouts.size());
    for (std::size_t l = 0; l < a.layouts.size(); ++l) {
      const TileLayout &x = *a.layouts[l], &y = *b.layouts[l];
      if (x.tile() == y.tile()) {
        EXPECT_EQ(x.statistics().computed_tiles, y.statistics().computed_tiles);
      }
      for (int head = 0; head < x.n_heads(); ++head)
        for (std::int64_t i = 0; i < 48; ++i)
          for (std::int64_t j = 0; j <= i; ++j)
            ASSERT_EQ(x.allows(head, i, j), y.allows(head, i, j))
                << "layer " << l << ", head " << head << ": " << i << ", " << j;
    }
  }
};

TEST_F(LayoutRoundTrip, EveryPatternComesBackAsTheSameModelWithTheSameLayout) {
  for (const std::string& name : pattern_names())
    EXPECT_TRUE(kPatterns.contains(name)) << "there is no test of " << name;
  for (const auto& [name, pattern] : kPatterns) {
    SCOPED_TRACE(pattern);
    for (const char* folder : {"one", "moved", "two"}) fs::remove_all(path(folder));
    const fs::path made = checkpoint(kLlama, filled(pattern));
    const Seen before = seen(made);
    export_model(made, path("one"), DType::f32);
    // Nothing but the folder is needed, wherever it lies, and then nothing but the checkpoint.
    fs::rename(path("layout.h5"), path("away.h5"));
    fs::rename(path("one"), path("moved"));
    import_back(path("moved"));
    fs::rename(path("moved"), path("one"));
    fs::rename(path("back.h5"), path("elsewhere.h5"));
    const Seen after = seen(path("elsewhere.h5"));
    // An architecture of transformers has no tiles: those of import are 64 wide.
    const bool has_tiles = fs::exists(path("one") / "README.md");
    EXPECT_EQ(before.layouts[0]->tile() == after.layouts[0]->tile(), has_tiles);
    EXPECT_LE(max_difference(before.logits, after.logits), has_tiles ? 0 : 1e-5);
    expect_same_layouts(before, after);
    export_model(path("elsewhere.h5"), path("two"), DType::f32);
    for (const auto& entry : fs::directory_iterator(path("one"))) {
      if (entry.path().extension() != ".h5") continue;
      EXPECT_EQ(slurp(entry.path()), slurp(path("two") / entry.path().filename()));
    }
    fs::rename(path("away.h5"), path("layout.h5"));
  }
}

TEST_F(LayoutRoundTrip, WhatATextSaysStaysAText) {
  EXPECT_EQ(to_yaml(import_back(exported(kGpt2, kLayers)).config.pattern), to_yaml(parse_yaml(kLayers, "p")));
  const YamlNode held =
      import_back(exported(kGpt2, "{learned_layout: {budget: 0.6}}")).config.pattern.written;
  ASSERT_TRUE(held.find("layers"));
  const std::string sum =
      held.find("layers")->items[1].find("pattern")->find("block")->find("layout")->scalar;
  EXPECT_NE(held_layout(sum), nullptr);
  EXPECT_EQ(read_checkpoint(path("back.h5")).layouts.at(1).first, sum);
  // One layout for all layers is named once and held once.
  const YamlNode one = import_back(exported(kGpt2, filled("{block: {file: LAYOUT}}"))).config.pattern.written;
  EXPECT_TRUE(one.find("block"));
  EXPECT_EQ(read_checkpoint(path("back.h5")).layouts.size(), 1u);
}

TEST_F(LayoutRoundTrip, ALayoutInsideACheckpointIsChecked) {
  import_back(exported(kGpt2, filled("{block: {file: LAYOUT}}")));
  CheckpointContents contents = read_checkpoint(path("back.h5"));
  contents.layouts[0].first = "0123456789abcdef";
  write_checkpoint(path("other.h5"), contents);
  expect_has(error_text(ErrorKind::data, [&] { load_model(path("other.h5")); }),
             "layouts/0123456789abcdef is another one");
  contents.layouts.clear();
  write_checkpoint(path("other.h5"), contents);
  contents.config_yaml.replace(contents.config_yaml.find("layout: ") + 8, 4, "ffff");
  write_checkpoint(path("without.h5"), contents);
  expect_has(error_text(ErrorKind::usage, [&] { load_model(path("without.h5")); }),
             "is a layout inside a checkpoint | a config names a layout file");
}

TEST_F(LayoutRoundTrip, WhatStillLearnsIsNotExported) {
  hardened_ = false;
  for (const char* pattern :
       {"{learned_layout: {budget: 0.6}}", "{learned_span: {budget: 0.8}}", "{block_topk: {topk: 1}}",
        "{heads: [{count: 2, pattern: {full: {}}}, {count: 2, pattern: {learned_span: {budget: 0.8}}}]}"}) {
    const std::string text = export_error(kLlama, pattern);
    expect_has(text,
               "made.h5: its learned patterns are not static yet | make them so first: filigree harden ");
  }
}

TEST_F(LayoutRoundTrip, LayoutsThatAreNotThereOrNotFilesOfTheFolderAreRefused) {
  const fs::path folder = exported(kLlama, "{learned_layout: {budget: 0.6}}");
  const auto error = [&](const Json& names) {
    return config_error(folder, [&](Json& json) { json["filigree"]["layouts"] = names; });
  };
  expect_has(error({"layout_0.h5"}), "filigree.layouts names 1 files for 2 layers");
  expect_has(error(nullptr), "filigree.layouts names 0 files for 2 layers");
  expect_has(error({"layout_0.h5", "gone.h5"}), "gone.h5: cannot be read");
  expect_has(error({"layout_0.h5", "../made.h5"}), "has \"../made.h5\", which is no file of the folder");
  expect_has(error({"layout_0.h5", ".."}), "");
  expect_has(error({"layout_0.h5", "config.json"}), "config.json: not an HDF5 file");
  expect_has(error({"layout_0.h5", 3}),
             "filigree.layouts is [\"layout_0.h5\",3]; it must be a list of texts");
  save_layout(*make_layout("{full: {}}", 32, 4, true), (folder / "layout_0.h5").string(), false);
  expect_has(error_text(ErrorKind::data, [&] { import_back(folder); }),
             "was made for sequence length 32, but the model has 48");
}

}  // namespace
}  // namespace filigree
