// A description of the settings of a config, as text for people and as a schema for editors. Both follow the
// lines that read and print them (core/fields.h).
#pragma once

#include <string>

#include "core/fields.h"

namespace filigree {

// Every key by section, with its default, range, unit, meaning and where it is used; at most 110 columns.
std::string config_reference();

// A JSON schema (draft 2020-12) of config files. No key is required: a file may take it from one it extends.
std::string config_schema();

// The same of any settings.
std::string reference_text(const FieldList& list);
std::string json_schema(const FieldList& list, const std::string& title);

}  // namespace filigree
