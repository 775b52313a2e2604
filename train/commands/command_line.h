// The whole program behind main().
#pragma once

namespace filigree {

// Runs the command and returns the process's exit code (README: exit codes). Errors go to stderr, one line
// and a hint.
int run_command_line(int argc, char** argv);

}  // namespace filigree
