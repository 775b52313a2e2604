# Run at each build, with SOURCE, OUT, BUILD: writes OUT, the one source that knows the commit and the build, where
# they have changed. A tree that is not the top of a git repository has no commit, though it may lie in another's.
execute_process(COMMAND git -C ${SOURCE} rev-parse --show-toplevel OUTPUT_VARIABLE top ERROR_QUIET RESULT_VARIABLE failed
                OUTPUT_STRIP_TRAILING_WHITESPACE)
set(commit unknown)
if(failed EQUAL 0)
  file(REAL_PATH ${SOURCE} source)
  file(REAL_PATH ${top} top)
  if(top STREQUAL source)
    execute_process(COMMAND git -C ${SOURCE} --no-optional-locks describe --always --dirty --exclude=* --abbrev=10
                    OUTPUT_VARIABLE described ERROR_QUIET RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(failed EQUAL 0)
      set(commit ${described})
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT [[
// Written by core/commit.cmake.
#include "core/build_info.h"

namespace filigree {

std::string commit() {
  return "@commit@";
}
std::string build() {
  return "@BUILD@";
}

}  // namespace filigree
]])
