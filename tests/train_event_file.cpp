// TensorBoard's event files: sums, framing, fields, and those that runs leave.
// tests/peers/check_tensorboard.py reads them with TensorBoard itself.
#include <bit>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/run_fixture.h"
#include "train/record/event_file.h"

namespace filigree {
namespace {

template <class T>
T number_at(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

struct Event {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string file_version;
  std::map<std::string, float> scalars;
  std::int64_t session_status = 0;
};

// A reader of just these messages, field by field.
class WireFields {
 public:
  explicit WireFields(std::string message) : bytes_(std::move(message)) {}
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::uint64_t key = varint();
    number = static_cast<int>(key >> 3);
    switch (key & 7) {
      case 0:
        integer = static_cast<std::int64_t>(varint());
        break;
      case 1:
        take(8);
        break;
      case 2:
        take(varint());
        break;
      case 5:
        take(4);
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
        return false;
    }
    return true;
  }
  int number = 0;
  std::int64_t integer = 0;
  std::string bytes;

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_.at(at_++));
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  void take(std::size_t n) {
    bytes = bytes_.substr(at_, n);
    EXPECT_EQ(bytes.size(), n);
    at_ += n;
  }
  std::string bytes_;
  std::size_t at_ = 0;
};

Event parse_event(const std::string& record) {
  Event event;
  for (WireFields fields(record); fields.next();) {
    if (fields.number == 1) event.wall_time = number_at<double>(fields.bytes, 0);
    if (fields.number == 2) event.step = fields.integer;
    if (fields.number == 3) event.file_version = fields.bytes;
    if (fields.number == 7)
      for (WireFields session(fields.bytes); session.next();) event.session_status = session.integer;
    if (fields.number != 5) continue;
    for (WireFields values(fields.bytes); values.next();) {
      std::string tag;
      float value = 0;
      for (WireFields one(values.bytes); one.next();) {
        if (one.number == 1) tag = one.bytes;
        if (one.number == 2) value = number_at<float>(one.bytes, 0);
      }
      event.scalars[tag] = value;
    }
  }
  return event;
}

std::vector<Event> read_events(const fs::path& file) {
  const std::string bytes = slurp(file);
  std::vector<Event> events;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = number_at<std::uint64_t>(bytes, at);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 8), masked_crc32c(bytes.substr(at, 8)));
    const std::string record = bytes.substr(at + 12, length);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 12 + length), masked_crc32c(record));
    events.push_back(parse_event(record));
    at += 16 + length;
  }
  return events;
}

std::vector<fs::path> event_files(const fs::path& folder) {
  std::vector<fs::path> files;
  if (fs::exists(folder))
    for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

// RFC 3720, appendix B.4, and the check value of the CRC catalogues.
TEST(EventFile, SumsAreCrc32c) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(masked_crc32c(""), 0xA282EAD8u);
  EXPECT_EQ(masked_crc32c("123456789"), ((0xE3069283u >> 15) | (0xE3069283u << 17)) + 0xA282EAD8u);
}

TEST(EventFile, RecordsAreFramed) {
  const std::string record = framed("123456789");
  ASSERT_EQ(record.size(), 8 + 4 + 9 + 4u);
  EXPECT_EQ(record.substr(0, 8), std::string("\x09\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 9), "123456789");
  EXPECT_EQ(number_at<std::uint32_t>(record, 21), masked_crc32c("123456789"));
}

TEST(EventFile, HoldsWhatWasAppended) {
  const TemporaryFolder folder;
  {
    EventFile file(folder / "events", 0);
    file.append(1, {{"loss", 2.5}, {"lr", 1e-3}});
    file.append(std::int64_t{1} << 40, {{"val_loss", -0.25}});
    EventFile second(folder / "events", 300);
    second.append(301, {{"loss", NAN}});
  }
  const auto files = event_files(folder / "events");
  ASSERT_EQ(files.size(), 2u);
  const auto first = read_events(files[0]), second = read_events(files[1]);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0].file_version, "brain.Event:2");
  EXPECT_GT(first[0].wall_time, 1.7e9);
  EXPECT_EQ(first[1].step, 1);
  EXPECT_EQ(first[1].scalars, (std::map<std::string, float>{{"loss", 2.5f}, {"lr", 1e-3f}}));
  EXPECT_EQ(first[2].step, std::int64_t{1} << 40);
  ASSERT_EQ(second.size(), 3u);
  EXPECT_EQ(second[1].session_status, 1);
  EXPECT_EQ(second[1].step, 301) << "what is said of this step and later ones before is void";
  EXPECT_TRUE(std::isnan(second[2].scalars.at("loss")));
  spill(folder / "blocked", "a file");
  EXPECT_NE(error_text(ErrorKind::disk, [&] { EventFile(folder / "blocked", 0); }).find("blocked"),
            std::string::npos);
}

class EventRunTest : public RunTest {};

// The events of all files, as a reader that knows session logs takes them.
std::map<std::int64_t, std::map<std::string, float>> scalars_of(const fs::path& folder) {
  std::map<std::int64_t, std::map<std::string, float>> all;
  for (const fs::path& file : event_files(folder))
    for (const Event& event : read_events(file)) {
      if (event.session_status == 1) all.erase(all.lower_bound(event.step), all.end());
      for (const auto& [tag, value] : event.scalars) {
        EXPECT_FALSE(all[event.step].contains(tag)) << tag << " twice at " << event.step;
        all[event.step][tag] = value;
      }
    }
  return all;
}

TEST_F(EventRunTest, ARunAndItsResumptionSayWhatTheMetricsSay) {
  const std::vector<std::string> command = {"train", "config.yaml", "log.tensorboard=true"};
  Process process = start(command);
  ASSERT_TRUE(process.wait_for("step 12/24")) << process.output();
  process.send(SIGKILL);
  process.finish();
  const Outcome outcome = run(command);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(event_files(path("full/tensorboard")).size(), 2u);
  const auto events = scalars_of(path("full/tensorboard"));
  EXPECT_EQ(events.size(), 24u);
  for (const std::string& line : metrics("full")) {
    const auto values = nlohmann::json::parse(line);
    const auto& at = events.at(values.at("step").get<std::int64_t>());
    for (const char* tag : {"loss", "grad_norm", "lr", "val_loss", "val_bits_per_byte"}) {
      if (!values.contains(tag)) continue;
      EXPECT_EQ(at.at(tag), values.at(tag).get<float>()) << tag << " " << line;
    }
    EXPECT_GT(at.at("tokens_per_second"), 0);
  }
  ASSERT_EQ(run({"train", "config.yaml", "--overwrite", "train.steps=8"}).exit_code, 0);
  EXPECT_TRUE(event_files(path("full/tensorboard")).empty()) << "of the run that was overwritten";
}

}  // namespace
}  // namespace filigree
