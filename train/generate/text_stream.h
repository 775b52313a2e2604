// Bytes of a text as they are made, to text that can be shown: whole characters, and no part of a stop
// string.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace filigree {

// Cuts a stream of bytes before the first stop string, at whatever place the pieces are cut.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // none of them empty

  // Appends to `out` what cannot be part of a stop string any more. True once a stop string is complete; what
  // comes after is dropped.
  bool push(std::string_view bytes, std::string& out);
  std::string finish();  // what was still held back, if no stop string came

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

// Holds back the bytes of a character that is not whole yet. What is not UTF-8 becomes U+FFFD, one for each
// byte of it.
class WholeCharacters {
 public:
  std::string push(std::string_view bytes);
  std::string finish();  // U+FFFD for a character that never came to its end

 private:
  std::string held_;
};

// Both in turn, to `sink`.
class TextStream {
 public:
  TextStream(std::vector<std::string> stops, std::function<void(const std::string&)> sink)
      : stops_(std::move(stops)), sink_(std::move(sink)) {}
  bool push(std::string_view bytes);  // false: a stop string came
  void finish();

 private:
  StopStrings stops_;
  WholeCharacters characters_;
  std::function<void(const std::string&)> sink_;
};

}  // namespace filigree
