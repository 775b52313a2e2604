#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/build_info.h"
#include "core/parallel.h"
#include "tests/run_fixture.h"
#include "train/record/metrics_file.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Config a_config() {
  return parse_config(
      parse_yaml("model: {dim: 64, n_layers: 2, n_heads: 4}\n"
                 "data: {train: text, seq_len: 128}\n"
                 "train: {steps: 100, batch_size: 8, lr: 1e-3}\n",
                 "c.yaml"));
}

CheckpointContents contents_of(std::int64_t step) {
  CheckpointContents c;
  c.weights.emplace_back("w", Tensor::full({50}, static_cast<double>(step)));
  c.state_json = fmt::format("{{\"step\": {}}}", step);
  c.config_yaml = to_yaml(a_config().to_yaml());
  return c;
}

std::vector<std::string> checkpoints_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "checkpoints"))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void damage(const fs::path& path) {
  std::string bytes = slurp(path);
  bytes[bytes.size() / 2] ^= 1;
  for (std::size_t i = 0; i < bytes.size(); i += 97) bytes[i] ^= 0x10;
  spill(path, bytes);
}

// "2026-11-30T19:30:05Z"
bool is_time(const std::string& text) {
  int year = 0, end = 0;
  std::sscanf(text.c_str(), "%4d-%*2d-%*2dT%*2d:%*2d:%*2dZ%n", &year, &end);
  return year >= 2026 && end == 20 && text.size() == 20;
}

Json status_of(const fs::path& folder) {
  return Json::parse(slurp(folder / "run.json"));
}

}  // namespace

TEST(RunFolder, ANewRunWritesWhatItIs) {
  const TemporaryFolder temporary;
  const fs::path path = temporary / "runs/a/b";
  RunFolder folder(path, RunMode::resume);
  EXPECT_FALSE(folder.latest().has_value());
  const Config config = a_config();
  folder.begin(config, "filigree train c.yaml", 0);
  EXPECT_EQ(parse_config(parse_yaml_file(path / "config.yaml")), config);
  const Json status = status_of(path);
  EXPECT_EQ(status["status"], "unfinished");
  EXPECT_EQ(status["config_hash"], config_hash(config));
  Json command = status["commands"][0];
  EXPECT_EQ(command["command"], "filigree train c.yaml");
  EXPECT_EQ(command["from_step"], 0);
  EXPECT_EQ(command["host"], host_name());
  EXPECT_EQ(command["device"], device_name(Device::cpu()));
  EXPECT_EQ(command["threads"], n_threads());
  EXPECT_EQ(command["version"], version());
  EXPECT_EQ(command["commit"], commit());
  EXPECT_EQ(command["build"], build());
  EXPECT_TRUE(is_time(command["start"])) << command["start"];
  EXPECT_FALSE(command.contains("end")) << "it may still be killed";
  EXPECT_EQ(folder.checkpoint_path(100).filename(), "step_000100.h5");
  EXPECT_EQ(folder.checkpoint_path(12345678).filename(), "step_12345678.h5");
  folder.finish();
  EXPECT_EQ(status_of(path)["status"], "finished");
  Json ended = status_of(path)["commands"][0];
  EXPECT_TRUE(is_time(ended["end"])) << ended["end"];
  EXPECT_GE(ended["end"], ended["start"]);
  ended.erase("end");
  EXPECT_EQ(ended, command);
}

TEST(RunFolder, ModesDecideWhatMayHappenToAnExistingRun) {
  const TemporaryFolder temporary;
  const fs::path path = temporary / "run";
  {
    RunFolder folder(path, RunMode::start);
    folder.begin(a_config(), "first", 0);
    folder.save(10, contents_of(10), 2);
    folder.save_best(contents_of(10));
    spill(path / "notes.txt", "mine");
  }
  EXPECT_NE(error_text(ErrorKind::usage, [&] { RunFolder(path, RunMode::start); })
                .find("holds an unfinished run | --resume auto"),
            std::string::npos);
  {
    RunFolder folder(path, RunMode::resume);
    const auto found = folder.latest();
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->contents.state_json, "{\"step\": 10}");
    folder.begin(a_config(), "second", 10);
    EXPECT_EQ(status_of(path)["commands"].size(), 2u);
    EXPECT_EQ(status_of(path)["commands"][0]["command"], "first");
    EXPECT_EQ(status_of(path)["commands"][1]["command"], "second");
    EXPECT_EQ(status_of(path)["commands"][1]["from_step"], 10);
    folder.finish();
  }
  for (const RunMode mode : {RunMode::start, RunMode::resume})
    EXPECT_NE(error_text(ErrorKind::usage, [&] { RunFolder(path, mode); })
                  .find("holds a finished run | --overwrite"),
              std::string::npos);
  EXPECT_TRUE(fs::exists(path / "checkpoints/step_000010.h5"));
  {
    RunFolder folder(path, RunMode::overwrite);
    EXPECT_FALSE(folder.latest().has_value());
    EXPECT_TRUE(fs::exists(path / "checkpoints/step_000010.h5"));  // nothing is lost before the run begins
    folder.begin(a_config(), "third", 0);
    EXPECT_TRUE(checkpoints_in(path).empty());
    EXPECT_EQ(status_of(path)["commands"].size(), 1u);
    EXPECT_EQ(slurp(path / "notes.txt"), "mine");
  }
  spill(path / "run.json", "{");
  EXPECT_NE(error_text(ErrorKind::data, [&] { RunFolder(path, RunMode::resume); })
                .find("run.json: is not the run.json"),
            std::string::npos);
  RunFolder(path, RunMode::overwrite).begin(a_config(), "fourth", 0);
  EXPECT_EQ(status_of(path)["status"], "unfinished");
}

TEST(RunFolder, IsHeldByOneProcess) {
  const TemporaryFolder temporary;
  const fs::path path = temporary / "run";
  const pid_t child = start_child([&] {
    RunFolder folder(path, RunMode::resume);
    spill(temporary / "held", "");
    for (;;) ::pause();
    return 0;
  });
  for (int i = 0; i < 2000 && !fs::exists(temporary / "held"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  for (const RunMode mode : {RunMode::resume, RunMode::start, RunMode::overwrite})
    EXPECT_NE(error_text(ErrorKind::usage, [&] { RunFolder(path, mode); })
                  .find(fmt::format("the run folder {} is in use by process {}", path.string(), child)),
              std::string::npos);
  ::kill(child, SIGKILL);
  wait_status(child);
  RunFolder folder(path, RunMode::resume);  // a dead process holds nothing
  EXPECT_EQ(slurp(path / "lock"), fmt::format("{}\n", ::getpid()));
  EXPECT_NE(error_text(ErrorKind::usage, [&] { RunFolder(path, RunMode::resume); }).find("in use"),
            std::string::npos);
}

TEST(RunFolder, UnusableFoldersAreDiskErrors) {
  const TemporaryFolder temporary;
  spill(temporary / "file", "x");
  EXPECT_NE(error_text(ErrorKind::disk, [&] { RunFolder(temporary / "file/run", RunMode::resume); })
                .find("cannot use the run folder " + (temporary / "file/run").string()),
            std::string::npos);
}

TEST(RunFolder, KeepsTheNewestAndTheBest) {
  const TemporaryFolder temporary;
  const fs::path path = temporary / "run";
  RunFolder folder(path, RunMode::resume);
  folder.begin(a_config(), "x", 0);
  for (std::int64_t step = 10; step <= 50; step += 10) folder.save(step, contents_of(step), 2);
  folder.save_best(contents_of(20));
  folder.save_best(contents_of(30));
  using Names = std::vector<std::string>;
  EXPECT_EQ(checkpoints_in(path), (Names{"best.h5", "step_000040.h5", "step_000050.h5"}));
  EXPECT_EQ(read_checkpoint(folder.best_path()).state_json, "{\"step\": 30}");
  folder.save(50, contents_of(50), 1);
  EXPECT_EQ(checkpoints_in(path), (Names{"best.h5", "step_000050.h5"}));
  folder.save(45, contents_of(45), 3);  // resumed from an earlier one: what came later is of another run
  EXPECT_EQ(checkpoints_in(path), (Names{"best.h5", "step_000045.h5"}));
  spill(path / "checkpoints/step_7.txt", "not ours");
  spill(path / "checkpoints/step_x.h5", "not ours");
  folder.save(60, contents_of(60), 1);
  EXPECT_EQ(checkpoints_in(path), (Names{"best.h5", "step_000060.h5", "step_7.txt", "step_x.h5"}));

  EXPECT_EQ(find_checkpoint(path), path / "checkpoints/best.h5");
  fs::remove(folder.best_path());
  EXPECT_EQ(find_checkpoint(path), folder.checkpoint_path(60));
  EXPECT_EQ(find_checkpoint(folder.checkpoint_path(60)), folder.checkpoint_path(60));
  EXPECT_EQ(find_checkpoint(temporary / "missing.h5"), temporary / "missing.h5");
  EXPECT_NE(
      error_text(ErrorKind::data, [&] { find_checkpoint(temporary.path()); }).find("holds no checkpoint"),
      std::string::npos);
}

TEST(RunFolder, DamagedNewestIsReportedAndTheOneBeforeIsTaken) {
  const TemporaryFolder temporary;
  RunFolder folder(temporary.path(), RunMode::resume);
  folder.begin(a_config(), "x", 0);
  for (std::int64_t step : {10, 20, 30}) folder.save(step, contents_of(step), 5);
  damage(folder.checkpoint_path(30));
  auto found = folder.latest();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->path, folder.checkpoint_path(20));
  EXPECT_EQ(found->contents.state_json, "{\"step\": 20}");
  ASSERT_EQ(found->damaged.size(), 1u);
  EXPECT_NE(found->damaged[0].find("step_000030.h5"), std::string::npos);
  spill(folder.checkpoint_path(20), "");
  found = folder.latest();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->path, folder.checkpoint_path(10));
  EXPECT_EQ(found->damaged.size(), 2u);
  damage(folder.checkpoint_path(10));
  const std::string text = error_text(ErrorKind::data, [&] { folder.latest(); });
  EXPECT_NE(text.find("every checkpoint of " + temporary.path().string() + " is damaged: "),
            std::string::npos);
  EXPECT_NE(text.find("step_000010.h5"), std::string::npos);
  EXPECT_NE(text.find("--overwrite"), std::string::npos);
}

TEST(RunFolder, AFailedSaveKeepsTheOlderCheckpoints) {
  const TemporaryFolder temporary;
  RunFolder folder(temporary.path(), RunMode::resume);
  folder.begin(a_config(), "x", 0);
  folder.save(10, contents_of(10), 1);
  const int status = wait_status(start_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{2048, 2048};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 9;
    try {
      folder.save(20, contents_of(20), 1);
    } catch (const Error& e) {
      return e.kind() == ErrorKind::disk ? 0 : 2;
    }
    return 3;
  }));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(checkpoints_in(temporary.path()), std::vector<std::string>{"step_000010.h5"});
  EXPECT_TRUE(folder.latest()->damaged.empty());
}

TEST(RunFolder, LeftoversOfKilledWritersGo) {
  const TemporaryFolder temporary;
  fs::create_directories(temporary / "checkpoints");
  spill(temporary / "checkpoints/step_000010.h5.unproven", "half");
  spill(temporary / "checkpoints/.step_000020.h5.unproven.tmp-1-0", "half");
  RunFolder folder(temporary.path(), RunMode::resume);
  folder.begin(a_config(), "x", 0);
  EXPECT_TRUE(checkpoints_in(temporary.path()).empty());
}

// --- metrics ---

TEST(Metrics, ResumedFilesAreThoseOfAnUninterruptedRun) {
  const TemporaryFolder temporary;
  const auto line = [](std::int64_t step, double seconds) {
    return std::pair(Json{{"step", step}, {"loss", 1.0 / static_cast<double>(step + 3)}},
                     Json{{"seconds", seconds}});
  };
  const auto write = [&](const fs::path& path, std::int64_t from, std::int64_t to, double seconds) {
    MetricsFile metrics(path, from);
    for (std::int64_t step = from + 1; step <= to; ++step) {
      const auto [values, timing] = line(step, seconds);
      metrics.append(values, timing);
    }
  };
  const auto lines = [](const fs::path& path) {
    std::ifstream in(path);
    std::vector<std::string> out;
    for (std::string text; std::getline(in, text);) out.push_back(without_timing(text));
    return out;
  };
  write(temporary / "whole", 0, 20, 1.5);
  write(temporary / "cut", 0, 13, 0.25);  // lines beyond the checkpoint of step 10
  std::ofstream(temporary / "cut", std::ios::app) << "{\"step\": 14, \"lo";
  EXPECT_NE(slurp(temporary / "whole").find("\"timing\":{\"seconds\":1.5}"), std::string::npos);
  write(temporary / "cut", 10, 20, 0.5);
  EXPECT_EQ(lines(temporary / "cut"), lines(temporary / "whole"));
  EXPECT_EQ(lines(temporary / "cut").size(), 20u);
  EXPECT_NE(slurp(temporary / "cut"), slurp(temporary / "whole"));

  write(temporary / "cut", 0, 3, 1);  // a run from the start
  EXPECT_EQ(lines(temporary / "cut").size(), 3u);
}

TEST(Metrics, LinesAreThereAtOnce) {
  const TemporaryFolder temporary;
  MetricsFile metrics(temporary / "m", 0);
  metrics.append({{"step", 1}, {"loss", 0.1}}, Json::object());
  EXPECT_EQ(slurp(temporary / "m"), "{\"step\":1,\"loss\":0.1}\n");
  EXPECT_EQ(Json::parse(slurp(temporary / "m"))["loss"].get<double>(), 0.1);
}

TEST(Metrics, BrokenLinesAreNamed) {
  const TemporaryFolder temporary;
  for (const char* broken : {"garbage\n", "[1]\n", "{\"loss\": 1}\n", "{\"step\": \"1\"}\n", "\n"}) {
    spill(temporary / "m", std::string("{\"step\": 1}\n") + broken + "{\"step\": 2}\n");
    EXPECT_NE(error_text(ErrorKind::data, [&] { MetricsFile(temporary / "m", 5); })
                  .find((temporary / "m").string() + ":2: is not a JSON object with a \"step\""),
              std::string::npos)
        << broken;
    EXPECT_EQ(slurp(temporary / "m").size(), std::string(broken).size() + 24);
  }
}

TEST(Metrics, AFullDiskIsADiskError) {
  const TemporaryFolder temporary;
  const int status = wait_status(start_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{50, 50};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 9;
    MetricsFile metrics(temporary / "m", 0);
    try {
      for (int step = 1; step < 10; ++step) metrics.append({{"step", step}}, Json::object());
    } catch (const Error& e) {
      return e.kind() == ErrorKind::disk ? 0 : 2;
    }
    return 3;
  }));
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(slurp(temporary / "m").size(), 50u);
  MetricsFile(temporary / "m", 100);
  EXPECT_EQ(slurp(temporary / "m"), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n");
}

}  // namespace filigree
