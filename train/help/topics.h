// The reference that `filigree help TOPIC` prints: each topic is a text file beside this one, embedded by
// CMake. Its first line, without "# ", is what the list of topics says of it. A line {{name}} stands for a
// part that is made from the program's own tables, so that it cannot fall behind them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace filigree {

struct HelpTopic {
  std::string_view name;     // of the file, without .md
  std::string_view summary;  // one line
  std::string_view text;     // what follows it, as in the file
};

const std::vector<HelpTopic>& help_topics();  // sorted by name

// The topic's whole text with its tables filled in.
std::string help_text(const HelpTopic& topic);

}  // namespace filigree
