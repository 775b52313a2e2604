// How byte-level BPE cuts text into words, which are then encoded one by one. Two rules, each the work of a
// regular expression that the HF `tokenizers` library runs, done by hand: linear in the text, whatever it
// holds.
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//   ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
//           |\s+(?!\S)|\s+
#pragma once

#include <cstddef>
#include <string_view>

namespace filigree {

enum class Splitting { gpt2, llama3 };

// The pattern above, as tokenizer.json files write it.
std::string_view llama3_pattern();

// The end of the word that begins at `begin` < text.size(); words follow each other without gaps.
std::size_t word_end(Splitting rule, std::string_view text, std::size_t begin);

// True if a word ends at `at` (0 < at < size), whichever rule, whatever text comes before or after, so that
// text may be cut there. Most borders of words depend on what follows and do not count.
bool is_certain_border(std::string_view text, std::size_t at);

}  // namespace filigree
