#include "processor.h"

#include <cstdlib>
#include <cstring>

namespace eighteen {

bool has_avx2() {
#if defined(__x86_64__)
  static const bool has = [] {
    const char* forced = std::getenv("EIGHTEEN_INSTRUCTIONS");
    const bool portable = forced && !std::strcmp(forced, "portable");
    return !portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  }();
  return has;
#else
  return false;
#endif
}

const char* instructions() { return has_avx2() ? "avx2" : "portable"; }

}  // namespace eighteen
