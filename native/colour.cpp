#include "colour.h"

#include <algorithm>
#include <cstring>

#include "processor.h"

#define INLINE inline __attribute__((always_inline))

namespace eighteen {
namespace {

// Written once, plainly, for the compiler to make vectors of: within AVX2 functions, those of AVX2.

INLINE void smooth(const uint8_t* row, int num, uint8_t* __restrict out) {
  for (int i = 0; i < num; ++i) {
    out[2 * i] = static_cast<uint8_t>((3 * row[i] + row[i - 1] + 1) >> 2);
    out[2 * i + 1] = static_cast<uint8_t>((3 * row[i] + row[i + 1] + 2) >> 2);
  }
}

INLINE void smooth_both(const uint8_t* near, const uint8_t* far, int num, uint8_t* __restrict out) {
  const auto sum = [&](int i) __attribute__((always_inline)) { return static_cast<uint16_t>(3 * near[i] + far[i]); };
  for (int i = 0; i < num; ++i) {
    out[2 * i] = static_cast<uint8_t>((3 * sum(i) + sum(i - 1) + 8) >> 4);
    out[2 * i + 1] = static_cast<uint8_t>((3 * sum(i) + sum(i + 1) + 7) >> 4);
  }
}

constexpr int fixed(double value) { return static_cast<int>(value * (1 << 16) + 0.5); }

INLINE void from_ycbcr(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int num, uint8_t* __restrict out) {
  constexpr int HALF = 1 << 15;
  for (int i = 0; i < num; ++i) {
    const int blue = cb[i] - 128, red = cr[i] - 128;
    const int r = y[i] + ((fixed(1.40200) * red + HALF) >> 16);
    const int g = y[i] + ((-fixed(0.34414) * blue - fixed(0.71414) * red + HALF) >> 16);
    const int b = y[i] + ((fixed(1.77200) * blue + HALF) >> 16);
    const int pixel = std::clamp(r, 0, 255) | std::clamp(g, 0, 255) << 8 | std::clamp(b, 0, 255) << 16;
    std::memcpy(out + 4 * i, &pixel, 4);
  }
}

void smooth_portable(const uint8_t* row, int num, uint8_t* out) { smooth(row, num, out); }
void smooth_both_portable(const uint8_t* near, const uint8_t* far, int num, uint8_t* out) { smooth_both(near, far, num, out); }
void from_ycbcr_portable(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int num, uint8_t* out) {
  from_ycbcr(y, cb, cr, num, out);
}

#if defined(AVX2)
AVX2 void smooth_avx2(const uint8_t* row, int num, uint8_t* out) { smooth(row, num, out); }
AVX2 void smooth_both_avx2(const uint8_t* near, const uint8_t* far, int num, uint8_t* out) { smooth_both(near, far, num, out); }
AVX2 void from_ycbcr_avx2(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int num, uint8_t* out) {
  from_ycbcr(y, cb, cr, num, out);
}
#endif

}  // namespace

const ColourKernels& ColourKernels::here() {
  static constexpr ColourKernels portable{smooth_portable, smooth_both_portable, from_ycbcr_portable};
#if defined(AVX2)
  static constexpr ColourKernels avx2{smooth_avx2, smooth_both_avx2, from_ycbcr_avx2};
  if (has_avx2()) return avx2;
#endif
  return portable;
}

void repeat_samples(const uint8_t* row, int num, uint8_t* out) {
  for (int i = 0; i < num; ++i) out[2 * i] = out[2 * i + 1] = row[i];
}

void from_gray(const uint8_t* y, int num, uint8_t* out) {
  for (int i = 0; i < num; ++i, out += 4) out[0] = out[1] = out[2] = y[i], out[3] = 0;
}

}  // namespace eighteen
