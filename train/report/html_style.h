#pragma once

namespace filigree {

// The page's style sheet.
const char* report_style();

}  // namespace filigree
