// Comments and documents name files that are there.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace filigree {
namespace {

namespace fs = std::filesystem;

const char* const kMade[] = {"results.md", "CHECK.py"};  // by the program; a stand-in for any of several

const std::set<std::string> kSources = {".md", ".h", ".cpp", ".cu", ".cuh", ".inc", ".py", ".sh"};

std::vector<fs::path> source_files() {
  std::vector<fs::path> files;
  const fs::path root = FILIGREE_SOURCE_DIR;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::recursive_directory_iterator();
       ++entry) {
    const std::string name = entry->path().filename().string();
    const bool hidden = name.starts_with('.'), made = name == "build" || name == "runs";
    if (entry->is_directory() && (hidden || made)) entry.disable_recursion_pending();
    if (entry->is_regular_file()) files.push_back(fs::relative(entry->path(), root));
  }
  return files;
}

// The part of a line that is for people; all of a document's.
std::string_view for_people(std::string_view line, const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".md") return line;
  const bool code = extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh" ||
                    extension == ".inc";
  const std::size_t begin = line.find(code ? "//" : "#");
  return begin == std::string_view::npos ? "" : line.substr(begin + 1);
}

// Names of files of ours in a line: sources and documents by their ending, configs by their folder.
std::vector<std::string> names_in(std::string_view line) {
  const auto part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_./-").find(c) != std::string_view::npos;
  };
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < line.size();) {
    if (!part(line[begin])) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < line.size() && part(line[end])) ++end;
    std::string word(line.substr(begin, end - begin));
    while (word.ends_with('.')) word.pop_back();
    const bool plain = word.find('.') == std::string::npos, made = word.starts_with("runs/");
    const auto odd = [&](std::size_t at) {
      return at < line.size() && std::string_view("*<>{}$~").find(line[at]) != std::string_view::npos;
    };
    const std::string ending = plain || made ? "" : fs::path(word).extension().string();
    const bool source = kSources.contains(ending);
    const bool config = ending == ".yaml" && word.starts_with("configs/");
    if ((source || config) && word != ending && !(begin > 0 && odd(begin - 1)) && !odd(end))
      names.push_back(word);
    begin = end;
  }
  return names;
}

TEST(Docs, NameFilesThatAreThere) {
  const std::vector<fs::path> files = source_files();
  std::set<std::string> known(std::begin(kMade),
                              std::end(kMade));  // a file by its whole path or the end of it
  for (const fs::path& file : files)
    for (std::string path = file.string();;) {
      known.insert(path);
      const std::size_t slash = path.find('/');
      if (slash == std::string::npos) break;
      path = path.substr(slash + 1);
    }
  int seen = 0;
  for (const fs::path& file : files) {
    const std::string extension = file.extension().string();
    if (extension == ".json" || extension == ".svg" || file.filename() == "LICENSE") continue;
    std::ifstream in(fs::path(FILIGREE_SOURCE_DIR) / file);
    int number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      for (const std::string& name : names_in(for_people(line, file))) {
        ++seen;
        EXPECT_TRUE(known.contains(name.starts_with("./") ? name.substr(2) : name))
            << file.string() << ":" << number << " names " << name;
      }
    }
  }
  EXPECT_GT(seen, 100) << "the search finds nothing";
}

}  // namespace
}  // namespace filigree
