#pragma once

#include <cstdint>

namespace eighteen {

// Rows of samples -> rows of pixels, as libjpeg-turbo makes them, to the bit. Pixels have 4 bytes: red, green, blue, 0.
//
// The first three make 2 * num samples of `num`; the smooth ones also read a sample before these and one after.
struct ColourKernels {
  void (*smooth)(const uint8_t* row, int num, uint8_t* out);
  // Smooth down, too. near, far: the rows a quarter and three quarters of a sample away from the row that is made
  void (*smooth_both)(const uint8_t* near, const uint8_t* far, int num, uint8_t* out);
  void (*from_ycbcr)(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int num, uint8_t* out);

  static const ColourKernels& here();  // those for this processor
};

void repeat_samples(const uint8_t* row, int num, uint8_t* out);
void from_gray(const uint8_t* y, int num, uint8_t* out);

}  // namespace eighteen
