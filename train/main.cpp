// filigree: trains long-sequence transformers with sparse attention.
#include "train/commands/command_line.h"

int main(int argc, char** argv) {
  return filigree::run_command_line(argc, argv);
}
