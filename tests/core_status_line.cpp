// The status line: what fits a terminal of any width, and how it is redrawn.
#include <gtest/gtest.h>

#include <thread>

#include "core/status_line.h"
#include "tests/terminal.h"

namespace filigree {
namespace {

const Status kStatus{0.5, {"120/240", "ETA 0:12", "13.1 k tok/s", "loss 2.3123"}};

void wait_until_due(const StatusLine& line) {
  while (!line.due()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(StatusText, CountsColumnsNotBytes) {
  EXPECT_EQ(text_columns("loss 2.3"), 8);
  EXPECT_EQ(text_columns("█░"), 2);
  EXPECT_EQ(text_columns("窓"), 2) << "wide";
  EXPECT_EQ(text_columns("e\u0301"), 1) << "a combining accent";
  EXPECT_EQ(text_columns("\xff\xff"), 2) << "no UTF-8";
}

TEST(StatusText, LeavesOutTheBarThenWhatMattersLeast) {
  EXPECT_EQ(status_text(kStatus, 79),
            "███████████████░░░░░░░░░░░░░░░ 120/240 | ETA 0:12 | 13.1 k tok/s | loss 2.3123");
  EXPECT_EQ(status_text(kStatus, 57), "████░░░░░ 120/240 | ETA 0:12 | 13.1 k tok/s | loss 2.3123");
  EXPECT_EQ(status_text(kStatus, 49), "120/240 | ETA 0:12 | 13.1 k tok/s | loss 2.3123");
  EXPECT_EQ(status_text(kStatus, 40), "120/240 | ETA 0:12 | 13.1 k tok/s");
  EXPECT_EQ(status_text(kStatus, 18), "120/240 | ETA 0:12");
  EXPECT_EQ(status_text(kStatus, 6), "120/..");
}

TEST(StatusText, FitsEveryWidth) {
  const Status wide{
      0.3,
      {"窓の大きさ=64 in a long name, as cells of a sweep have", "ETA 1:02:03", "e\u0301\u0301 3.2 k tok/s"}};
  for (const Status& status : {kStatus, wide, Status{{}, {"only this"}}, Status{2.0, {}}})
    for (std::int64_t columns = 1; columns < 200; ++columns)
      EXPECT_LE(text_columns(status_text(status, columns)), columns);
}

TEST(StatusLine, IsRedrawnInOneLineOfANarrowTerminal) {
  for (const unsigned short columns : {50, 80}) {
    const Terminal terminal(columns);
    std::FILE* out = ::fdopen(::dup(terminal.slave()), "w");
    {
      StatusLine line(out);
      ASSERT_TRUE(line.on_terminal());
      for (int i = 0; i < 3; ++i) {
        wait_until_due(line);
        line.draw(kStatus);
        line.draw(kStatus);  // too early
      }
      const std::string output = terminal.read();
      EXPECT_EQ(redraws(output).size(), 3u);
      EXPECT_EQ(output.find('\n'), output.npos);
      EXPECT_LT(widest(redraws(output)), columns) << "the last column stays free";
      EXPECT_GT(widest(redraws(output)), columns - 4);
    }
    EXPECT_EQ(terminal.read(), "\r\x1b[K") << "nothing is left of it";
    std::fclose(out);
  }
}

TEST(StatusLine, FollowsTheTerminalsSize) {
  const Terminal terminal(80);
  std::FILE* out = ::fdopen(::dup(terminal.slave()), "w");
  StatusLine line(out);
  line.draw(kStatus);
  EXPECT_EQ(widest(redraws(terminal.read())), 78);
  terminal.resize(30);
  wait_until_due(line);
  line.draw(kStatus);
  EXPECT_EQ(redraws(terminal.read()), std::vector<std::string>{"█████░░░░░ 120/240 | ETA 0:12"});
  line.note("a line");
  EXPECT_EQ(terminal.read(), "\r\x1b[Ka line\n");
  line.leave();
  EXPECT_EQ(terminal.read(), "\n") << "after the terminal's ^C";
  std::fclose(out);
}

TEST(StatusLine, IsPlainLinesElsewhere) {
  std::FILE* out = std::tmpfile();
  StatusLine silent(out), line(out, 0.02);
  silent.draw(kStatus);
  silent.leave();
  line.draw(kStatus);
  EXPECT_EQ(std::ftell(out), 0) << "what is short prints nothing";
  wait_until_due(line);
  line.draw(kStatus);
  std::rewind(out);
  char text[200] = "";
  ASSERT_TRUE(std::fgets(text, sizeof text, out));
  EXPECT_STREQ(text, "120/240 | ETA 0:12 | 13.1 k tok/s | loss 2.3123\n");
  std::fclose(out);
}

}  // namespace
}  // namespace filigree
