// What a run keeps of how it was made, and that the binary knows its commit.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/build_info.h"
#include "core/file.h"
#include "tests/run_fixture.h"
#include "train/report/collect.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// The commit that a build of `source` would get.
std::string built_commit(const fs::path& source) {
  const fs::path out = source.parent_path() / "commit.cpp";
  const std::string command =
      fmt::format("cmake -DSOURCE={} -DOUT={} \"-DBUILD=Debug, Test 1\" -P {}/core/commit.cmake",
                  source.string(), out.string(), FILIGREE_SOURCE_DIR);
  EXPECT_EQ(std::system(command.c_str()), 0);
  const std::string text = read_file(out);
  EXPECT_NE(text.find("\"Debug, Test 1\""), std::string::npos);
  const std::size_t begin = text.find('"', text.find("commit()")) + 1;
  return text.substr(begin, text.find('"', begin) - begin);
}

TEST(BuiltFrom, TheCommitAndWhetherFilesHadChanged) {
  if (std::system("git --version > /dev/null && cmake --version > /dev/null") != 0)
    GTEST_SKIP() << "no git or cmake";
  const TemporaryFolder temporary;
  const fs::path tree = temporary / "tree";
  fs::create_directories(tree / "part");
  EXPECT_EQ(built_commit(tree), "unknown") << "outside git";
  const auto git = [&](const std::string& arguments) {
    const std::string command =
        fmt::format("git -C {} -c user.name=a -c user.email=a {} > /dev/null", tree.string(), arguments);
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  };
  const auto spill = [&](const char* text) { std::ofstream(tree / "file") << text; };
  git("init -q");
  spill("one");
  git("add file");
  git("commit -q -m one");
  const std::string first = built_commit(tree);
  EXPECT_EQ(first.size(), 10u) << first;
  EXPECT_EQ(first.find_first_not_of("0123456789abcdef"), std::string::npos) << first;
  EXPECT_EQ(built_commit(tree / "part"), "unknown") << "a tree inside another's";
  spill("two");
  EXPECT_EQ(built_commit(tree), first + "-dirty");
  git("commit -q -a -m two");
  const std::string second = built_commit(tree);
  EXPECT_EQ(second.size(), 10u);
  EXPECT_NE(second, first);
  // What is right already is not written again, so that nothing is compiled.
  const auto written = fs::last_write_time(temporary / "commit.cpp");
  built_commit(tree);
  EXPECT_EQ(fs::last_write_time(temporary / "commit.cpp"), written);
}

TEST_F(RunTest, VersionNamesCommitAndBuild) {
  EXPECT_EQ(run({"--version"}).output,
            fmt::format("filigree {}\ncommit {}\nbuild {}\n", version(), commit(), build()));
  EXPECT_NE(build().find(", GNU "), std::string::npos) << build();
  EXPECT_NE(run({"doctor"}).output.find("commit        " + commit()), std::string::npos);
}

TEST_F(RunTest, RunsKeepEveryCommandThatWorkedOnThem) {
  Process process = start({"train", "config.yaml", "train.steps=100000"});
  ASSERT_TRUE(process.wait_for("4/100000"));
  process.send(SIGTERM);
  EXPECT_EQ(process.finish().exit_code, 75);
  const Json stopped = Json::parse(read_file(path("full/run.json")));
  EXPECT_EQ(stopped["status"], "unfinished");
  EXPECT_TRUE(stopped["commands"][0].contains("end")) << stopped;
  EXPECT_FALSE(stopped["commands"][0].contains("error"));
  // A kill leaves no end.
  Process killed = start({"train", "config.yaml", "train.steps=100000"});
  ASSERT_TRUE(killed.wait_for("resume    "));
  ASSERT_TRUE(killed.wait_for("step "));
  killed.send(SIGKILL);
  killed.finish();
  const Json run_file = Json::parse(read_file(path("full/run.json")));
  ASSERT_EQ(run_file["commands"].size(), 2u);
  EXPECT_EQ(run_file["commands"][0], stopped["commands"][0]);
  EXPECT_FALSE(run_file["commands"][1].contains("end"));
  EXPECT_EQ(run_file["commands"][1]["commit"], commit());
}

TEST_F(RunTest, ThePageSaysHowTheRunsWereMade) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=4", "threads=1"}).exit_code, 0);
  ASSERT_EQ(run({"report", "full", "-o", "page.html"}).exit_code, 0);
  const Json command = Json::parse(read_file(path("full/run.json")))["commands"][0];
  const std::string text =
      fmt::format("Trained on {} ({}, threads: 1) from {} to {} by filigree {}, commit {}, build {}.",
                  host_name(), device_name(Device::cpu()), command["start"].get<std::string>(),
                  command["end"].get<std::string>(), version(), commit(), build());
  EXPECT_EQ(Json::parse(read_file(path("page.json"))).at("made"), text);
  // A run of an older version did not say.
  write("full/run.json", "{\"status\": \"finished\", \"commands\": [{\"command\": \"x\"}]}");
  EXPECT_EQ(read_run(path("full")).made.at("commit"), "unknown");
}

}  // namespace
}  // namespace filigree
