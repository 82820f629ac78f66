#pragma once

#include <cstddef>
#include <cstdint>

namespace eighteen {

// Coefficients of a block -> its samples, or a shrunk block of fewer samples. The arithmetic is that of libjpeg-turbo's
// "slow integer" transforms to the bit, as its vector code has it where values leave the range of real pictures.
//
// block: [64], natural order      quants: [64], natural order      out: rows of the block's size, `stride` bytes apart
using InverseDct = void (*)(const int16_t* block, const int16_t* quants, uint8_t* out, ptrdiff_t stride);

InverseDct inverse_dct(int size);  // size: 8, 4 or 2
// The same where all coefficients but the first are zero. size: 8, 4, 2 or 1
void inverse_dct_flat(int size, int coefficient, int quant, uint8_t* out, ptrdiff_t stride);

}  // namespace eighteen
