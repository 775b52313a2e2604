// How filigree reads YAML scalars; shared by the files of core/yaml.h only.
#pragma once

#include <string_view>

namespace filigree {

// True if the text has the form of a decimal number: -3, 0.1, .5, 1e-3. Not 017, 0x1f, 1_000, inf or nan.
bool is_decimal(std::string_view text);

// True if plain `text` would be a number, a boolean or null to any YAML 1.2 reader, so that a string of this
// text must be quoted.
bool has_implicit_type(std::string_view text);

}  // namespace filigree
