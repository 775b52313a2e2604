#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "core/build_info.h"
#include "core/hdf5.h"
#include "tests/lsan_suppressions.h"
#include "tests/temporary_folder.h"
#include "train/record/checkpoint.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Random = std::mt19937_64;

const char* const kConfig =
    "model: {dim: 64, n_layers: 2, n_heads: 4, vocab_size: 256}\n"
    "data: {train: text, seq_len: 128}\n"
    "train: {steps: 100, batch_size: 8, lr: 1e-3}\n";

Tensor random_tensor(Random& rng, const Shape& shape, DType type = DType::f32) {
  Tensor t = Tensor::empty(shape, type);
  auto* bytes = static_cast<unsigned char*>(t.raw_data());
  for (std::int64_t i = 0; i < t.bytes(); ++i) bytes[i] = static_cast<unsigned char>(rng());
  return t;
}

CheckpointContents random_contents(Random& rng, std::int64_t scale = 1) {
  CheckpointContents c;
  c.weights.emplace_back("embedding.weight", random_tensor(rng, {31 * scale, 8}));
  c.weights.emplace_back("a.bias", random_tensor(rng, {7}));
  c.weights.emplace_back("blocks.0.mlp.up.weight", random_tensor(rng, {8, 3, 5}, DType::f64));
  c.weights.emplace_back("scalar", random_tensor(rng, {}));
  c.weights.emplace_back("empty", random_tensor(rng, {0, 4}));
  c.weights.emplace_back("half", random_tensor(rng, {9}, DType::bf16));
  c.optimizer.emplace_back("optimizer.m.embedding.weight", random_tensor(rng, {31 * scale, 8}));
  c.optimizer.emplace_back("counters", random_tensor(rng, {5}, DType::i64));
  c.state_json = fmt::format("{{\"step\": {}}}", rng() % 1000);
  c.config_yaml = kConfig;
  return c;
}

bool equal(const NamedTensors& a, const NamedTensors& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto& [name, x] = a[i];
    const auto& [other, y] = b[i];
    if (name != other || x.dtype() != y.dtype() || x.shape() != y.shape()) return false;
    if (x.numel() > 0 && std::memcmp(x.raw_data(), y.raw_data(), static_cast<std::size_t>(x.bytes())) != 0)
      return false;
  }
  return true;
}

bool equal(const CheckpointContents& a, const CheckpointContents& b) {
  return equal(a.weights, b.weights) && equal(a.optimizer, b.optimizer) && a.state_json == b.state_json &&
         a.config_yaml == b.config_yaml;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

}  // namespace

TEST(Checkpoint, RoundTripsBitForBit) {
  const std::uint64_t seed = std::random_device{}();
  Random rng(seed);
  const TemporaryFolder folder;
  const CheckpointContents contents = random_contents(rng);
  write_checkpoint(folder / "c.h5", contents);
  const CheckpointContents back = read_checkpoint(folder / "c.h5");
  EXPECT_TRUE(equal(contents, back)) << "seed " << seed;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c.h5"});
  const auto environment = nlohmann::json::parse(back.environment_json);
  EXPECT_EQ(environment["filigree"], version());
  EXPECT_GE(environment["threads"], 1);
  EXPECT_TRUE(environment["libraries"].contains("HDF5"));

  const CheckpointInfo info = inspect_checkpoint(folder / "c.h5");
  EXPECT_EQ(info.file_bytes, static_cast<std::int64_t>(fs::file_size(folder / "c.h5")));
  ASSERT_EQ(info.entries.size(), contents.weights.size() + contents.optimizer.size() + 3);
  EXPECT_EQ(info.entries[2].path, "weights/blocks.0.mlp.up.weight");
  EXPECT_EQ(info.entries[2].dims, (std::vector<std::int64_t>{8, 3, 5}));
  EXPECT_EQ(info.entries[2].dtype, DType::f64);
  EXPECT_EQ(info.config_yaml, kConfig);
  EXPECT_EQ(info.state_json, contents.state_json);
}

TEST(Checkpoint, RefusesWhatIsNoCheckpoint) {
  const TemporaryFolder folder;
  const auto refuses = [&](const fs::path& path, const std::string& expected) {
    for (const bool inspect : {false, true}) {
      const std::string text = error_text(ErrorKind::data, [&] {
        if (inspect)
          inspect_checkpoint(path);
        else
          read_checkpoint(path);
      });
      EXPECT_NE(text.find(path.string()), std::string::npos) << text;
      EXPECT_NE(text.find(expected), std::string::npos) << text;
      EXPECT_FALSE(text.ends_with("| ")) << "no hint: " << text;
    }
  };
  refuses(folder / "missing.h5", "");
  spill(folder / "empty.h5", "");
  refuses(folder / "empty.h5", "");
  spill(folder / "text.h5", "model: {dim: 64}\n");
  refuses(folder / "text.h5", "");
  refuses(folder.path(), "");
  {
    h5::Writer other(folder / "tokens.h5");
    other.text("tokens", "abc");
    other.commit();
  }
  refuses(folder / "tokens.h5", "is not a checkpoint");

  Random rng(1);
  write_checkpoint(folder / "whole.h5", random_contents(rng));
  const std::string bytes = slurp(folder / "whole.h5");
  for (std::size_t keep :
       {bytes.size() - 1, bytes.size() / 2, bytes.size() / 10, std::size_t{100}, std::size_t{8}}) {
    spill(folder / "cut.h5", bytes.substr(0, keep));
    refuses(folder / "cut.h5", "");
  }
}

// Whatever bytes are changed: an Error(data), or exactly what was written.
TEST(Checkpoint, DamageIsNeverAccepted) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Random rng(seed);
  const TemporaryFolder folder;
  const CheckpointContents contents = random_contents(rng);
  write_checkpoint(folder / "whole.h5", contents);
  const std::string whole = slurp(folder / "whole.h5");
  const fs::path path = folder / "mutated.h5";
  int refused = 0, unharmed = 0;
  for (int i = 0; i < 600; ++i) {
    std::string bytes = whole;
    for (int edits = 1 + static_cast<int>(rng() % 3); edits > 0; --edits) {
      const std::size_t at = rng() % bytes.size(),
                        length = std::min<std::size_t>(1 + rng() % 64, bytes.size() - at);
      switch (rng() % 4) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng() % 8));
          break;
        case 1:
          bytes[at] = static_cast<char>(rng());
          break;
        case 2:
          bytes.replace(at, length, length, '\0');
          break;
        default:
          bytes.replace(at, length, bytes.substr(rng() % (bytes.size() - length + 1), length));
      }
    }
    spill(path, bytes);
    try {
      ASSERT_TRUE(equal(read_checkpoint(path), contents)) << "mutation " << i;
      ++unharmed;
    } catch (const Error& e) {
      ASSERT_EQ(e.kind(), ErrorKind::data) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 200);
  EXPECT_GT(refused + unharmed, 599);
}

// A tensor under another's name, or an old one of the same shape, has a valid file structure but a wrong sum.
TEST(Checkpoint, SwappedDatasetsAreNoticed) {
  const TemporaryFolder folder;
  Random rng(2);
  CheckpointContents c;
  c.weights = {{"a", random_tensor(rng, {64})}, {"b", random_tensor(rng, {64})}};
  c.state_json = "{}";
  c.config_yaml = kConfig;
  write_checkpoint(folder / "c.h5", c);
  std::string bytes = slurp(folder / "c.h5");
  const std::string a(static_cast<const char*>(c.weights[0].second.raw_data()), 256);
  const std::string b(static_cast<const char*>(c.weights[1].second.raw_data()), 256);
  const std::size_t at_a = bytes.find(a), at_b = bytes.find(b);
  ASSERT_NE(at_a, std::string::npos);
  ASSERT_NE(at_b, std::string::npos);
  bytes.replace(at_a, 256, b).replace(at_b, 256, a);
  spill(folder / "c.h5", bytes);
  EXPECT_NE(error_text(ErrorKind::data, [&] { read_checkpoint(folder / "c.h5"); })
                .find("weights/a does not match its checksum"),
            std::string::npos);
}

// --- disks and crashes ---

TEST(Checkpoint, FullDiskIsToldBeforehandAndHarmsNothing) {
  const TemporaryFolder folder;
  if (::mount("filigree-test", folder.path().c_str(), "tmpfs", 0, "size=1m") != 0)
    GTEST_SKIP() << "cannot mount a small tmpfs: " << std::strerror(errno);
  Random rng(3);
  const CheckpointContents small = random_contents(rng);
  // An almost full disk: what is left is too little for the bytes that a checkpoint may need.
  const std::string text =
      error_text(ErrorKind::disk, [&] { write_checkpoint(folder / "c.h5", random_contents(rng, 5000)); });
  EXPECT_NE(text.find("no room for the checkpoint " + (folder / "c.h5").string()), std::string::npos) << text;
  EXPECT_NE(text.find("MB left"), std::string::npos) << text;
  EXPECT_TRUE(names_in(folder.path()).empty());
  EXPECT_EQ(::umount(folder.path().c_str()), 0);
}

TEST(Checkpoint, AWriteThatFailsKeepsTheOldFile) {
  const TemporaryFolder folder;
  Random rng(4);
  const CheckpointContents old = random_contents(rng), large = random_contents(rng, 4000);
  write_checkpoint(folder / "c.h5", old);
  for (const rlim_t limit_bytes : {rlim_t{4096}, rlim_t{100000}, rlim_t{600000}, rlim_t{1900000}}) {
    const int status = wait_status(start_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{limit_bytes, limit_bytes};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 9;
      try {
        write_checkpoint(folder / "c.h5", large);
      } catch (const Error& e) {
        return e.kind() == ErrorKind::disk ? 0 : 2;
      }
      return 3;
    }));
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << limit_bytes << ": wait status " << status;
    EXPECT_TRUE(equal(read_checkpoint(folder / "c.h5"), old));
    EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c.h5"});
  }
}

TEST(Checkpoint, KilledInTheMiddleLeavesAWholeFile) {
  const TemporaryFolder folder;
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Random rng(seed);
  const CheckpointContents first = random_contents(rng, 3000), second = random_contents(rng, 3000);
  const fs::path path = folder / "c.h5";
  write_checkpoint(path, first);
  for (int i = 0; i < 40; ++i) {
    const pid_t child = start_child([&] {
      for (;;) {
        write_checkpoint(path, second);
        write_checkpoint(path, first);
      }
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(rng() % 30000));
    ::kill(child, SIGKILL);
    const int status = wait_status(child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed";
    const CheckpointContents found = read_checkpoint(path);
    ASSERT_TRUE(equal(found, first) || equal(found, second));
  }
  write_checkpoint(path, second);  // clears what the killed writers left
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"c.h5"});
}

// --- fitting a model ---

TEST(Checkpoint, TensorsMustFitTheModel) {
  Random rng(5);
  const NamedTensors source = {{"a", random_tensor(rng, {2, 3})}, {"b", random_tensor(rng, {4})}};
  const auto load = [&](const NamedTensors& targets) {
    return error_text(ErrorKind::data, [&] { load_tensors_into(targets, source, "c.h5"); });
  };
  const NamedTensors fitting = {{"b", Tensor::zeros({4})}, {"a", Tensor::zeros({2, 3})}};
  load_tensors_into(fitting, source, "c.h5");
  EXPECT_TRUE(equal(fitting, {source[1], source[0]}));

  const Tensor untouched = Tensor::zeros({2, 3});
  EXPECT_NE(load({{"a", untouched}}).find("c.h5 does not fit the model: b is not in the model"),
            std::string::npos);
  EXPECT_NE(
      load({{"a", untouched}, {"b", Tensor::zeros({4})}, {"c", Tensor::zeros({1})}}).find("c is missing"),
      std::string::npos);
  EXPECT_NE(
      load({{"a", untouched}, {"b", Tensor::zeros({2, 2})}}).find("b is f32 [4], the model has f32 [2, 2]"),
      std::string::npos);
  EXPECT_NE(load({{"a", untouched}, {"b", Tensor::zeros({4}, DType::f64)}})
                .find("b is f32 [4], the model has f64 [4]"),
            std::string::npos);
  for (const float value : untouched.values<float>()) EXPECT_EQ(value, 0);
}

TEST(Checkpoint, ConfigsMustFitTheCheckpoint) {
  const auto config = [](std::string text, const std::string& from = "", const std::string& to = "") {
    if (!from.empty()) text.replace(text.find(from), from.size(), to);
    return parse_config(parse_yaml(text, "c.yaml"));
  };
  const std::string saved = to_yaml(config(kConfig).to_yaml());
  require_same_model(config(kConfig), saved, "c.h5");
  require_same_model(config(kConfig, "steps: 100", "steps: 200"), saved, "c.h5");
  require_same_model(
      config(kConfig, "vocab_size: 256", "vocab_size: 256, dropout: 0.1, activation_checkpointing: true"),
      saved, "c.h5");
  const auto model_error = [&](const std::string& from, const std::string& to) {
    return error_text(ErrorKind::usage,
                      [&] { require_same_model(config(kConfig, from, to), saved, "c.h5"); });
  };
  EXPECT_TRUE(
      model_error("dim: 64", "dim: 32")
          .starts_with("the config is for another model than c.h5 (config / checkpoint): model.dim: 32 / 64; "
                       "model.head_dim: 8 / 16; model.ffn_dim: 128 / 256 | "));
  EXPECT_NE(model_error("model:", "pattern: {local: {window: 3}}\nmodel:")
                .find("pattern: {local: {window: 3}} / {full: {}}"),
            std::string::npos);
  EXPECT_NE(model_error("vocab_size: 256", "positions: rope").find("model.vocab_size: 0 / 256"),
            std::string::npos)
      << model_error("vocab_size: 256", "positions: rope");

  require_same_run(config(kConfig, "lr: 1e-3", "lr: 1e-3, out: elsewhere, log_interval: 1"), saved, "c.h5");
  const std::string run_error = error_text(ErrorKind::usage, [&] {
    require_same_run(config(kConfig, "steps: 100", "steps: 200, out: else"), saved, "c.h5");
  });
  EXPECT_TRUE(run_error.starts_with(
      "the config is for another run than c.h5 (config / checkpoint): train.steps: 200 / 100; "
      "train.warmup_steps: 10 / 5 | "))
      << run_error;
}

}  // namespace filigree
