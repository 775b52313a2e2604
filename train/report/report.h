// Results of runs as files: tables for machines and people, one page, and the page's figures.
#pragma once

#include <filesystem>
#include <string>

#include "train/report/collect.h"

namespace filigree {

inline constexpr const char* kReportFiles[] = {"results.csv", "results.json", "results.md", "report.html",
                                               "report.json"};

// Writes these in a sweep's folder, from its runs that are finished. Returns what was found, for the
// terminal. Error(data) if none is, Error(disk).
std::string write_sweep_report(const std::filesystem::path& sweep_folder);

// The page and its figures alone, of runs that `collect` found; likewise.
std::string write_report(const Collection& collection, const std::filesystem::path& page);

// The file beside a page that holds its figures: report.json beside report.html. Empty for a page that is a
// stream.
std::filesystem::path figures_beside(std::filesystem::path page);

// "2.6690 bits per byte, 18.5 k tokens/s, peak 352 MiB, 0:41": of a finished run, for the terminal.
std::string one_line_result(const std::filesystem::path& run_folder);

}  // namespace filigree
