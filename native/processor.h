#pragma once

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,bmi2")))
#endif

namespace eighteen {

// Whether functions marked AVX2 may run here. The variable EIGHTEEN_INSTRUCTIONS=portable, for tests, says no.
bool has_avx2();

const char* instructions();  // "avx2" or "portable"

}  // namespace eighteen
